"""Trainings that report to MLflow: really killed and resumed, and beside a server that hangs."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("mlflow", reason="needs the extra mlflow")
pytest.importorskip("alembic", reason="needs the extra mlflow")

from mlflow.tracking import MlflowClient

from tests.support import processes

REPOSITORY = Path(__file__).parents[2]
STEPS = 16_000
SAVED_EVERY = 8000  # a few seconds, in which MLflow reports what comes after a checkpoint
LOGGED_EVERY = 400  # seldom enough for MLflow to keep up
FLAGS = {
    "train.steps": STEPS,
    "train.eval_every": SAVED_EVERY,
    "log.every": LOGGED_EVERY,
    "log.tensorboard": False,
    "log.curves": False,
    "log.tracker": "mlflow",
    "log.tracker_options.experiment": "digits",
    "model.name": "mlp",
    "model.variant": "mu",
    "model.batch_norm_groups": None,
    "model.stochastic_depth": None,
    "parallel.devices": 1,
}


@pytest.fixture
def command(tmp_path):
    argv = [f"--config.{key}={value}" for key, value in FLAGS.items()]
    config = f"{REPOSITORY}/configs/digits.py"
    uri = f"--config.log.tracker_options.uri=sqlite:///{tmp_path}/mlflow.db"
    argv = ["--config", config, f"--workdir={tmp_path}/run", *argv, uri]
    return [sys.executable, "-m", "vision.main", *argv]


def start(command, folder):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    environment.pop("XLA_FLAGS", None)
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True
    )


def finish(command, folder):
    process = start(command, folder)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0 and "no longer follows" not in output, output
    return output


def histories(client, run_id):
    """{metric: [(step, value)]}, in the order of the steps."""
    names = client.get_run(run_id).data.metrics
    return {
        name: sorted((m.step, m.value) for m in client.get_metric_history(run_id, name))
        for name in names
    }


def wait_for_steps_after_a_checkpoint(process, workdir, client):
    """Until MLflow has steps that the resumed training will run again; returns the run's id."""
    ends = time.monotonic() + 300
    while time.monotonic() < ends:
        assert process.poll() is None, process.communicate()
        saved = [int(p.name) for p in workdir.glob("checkpoints/*") if p.name.isdigit()]
        if saved and (workdir / "tracker.json").is_file():
            run_id = json.loads((workdir / "tracker.json").read_text())["mlflow"]
            steps = [step for step, _ in histories(client, run_id).get("train/loss", ())]
            # Not just before the next checkpoint: what MLflow had not got by then would be lost.
            if steps and LOGGED_EVERY <= steps[-1] - max(saved) <= SAVED_EVERY // 2:
                return run_id
        time.sleep(0.01)
    pytest.fail("the training reported nothing after a checkpoint")


def test_a_killed_training_goes_on_as_the_same_run(command, tmp_path):
    workdir = tmp_path / "run"
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    process = start(command, tmp_path)
    run_id = wait_for_steps_after_a_checkpoint(process, workdir, client)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (workdir / "result.json").exists()
    assert client.get_run(run_id).info.status == "RUNNING"
    before = histories(client, run_id)

    finish(command, tmp_path)
    experiment = client.get_experiment_by_name("digits")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == run_id and run.info.status == "FINISHED"
    assert len(run.data.params) > 100
    for key, value in FLAGS.items():
        assert run.data.params[key] == str(value)

    at_end = histories(client, run_id)
    recorded = dict(at_end)
    for name, values in recorded.items():
        steps = [step for step, _ in values]
        assert len(steps) == len(set(steps)), name
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    logged = {}
    for line in lines:
        step = line.pop("step")
        for name, value in line.items():
            logged.setdefault(name, {})[step] = value
    result = json.loads((workdir / "result.json").read_text())
    assert dict(recorded.pop("test/accuracy")) == {0: pytest.approx(result["accuracy"])}
    assert set(logged) <= set(recorded)
    for name, values in logged.items():
        expected = values
        if name == "train/images_per_second":  # of the process that reported the step first
            expected = values | dict(before.get(name, ()))
        assert dict(recorded[name]) == pytest.approx(expected), name

    # As a kill just before the end was reported leaves it: the same command makes up for that.
    tracker = workdir / "tracker.json"
    assert json.loads(tracker.read_text()) == {"mlflow": run_id, "finished": ["mlflow"]}
    tracker.write_text(json.dumps({"mlflow": run_id}))
    client.update_run(run_id, status="RUNNING")
    assert "finished already" in finish(command, tmp_path)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED" and histories(client, run_id) == at_end
    assert json.loads(tracker.read_text())["finished"] == ["mlflow"]


def test_processes_of_a_run_end_though_the_server_hangs(tmp_path):
    """The first waits for it no longer than JAX lets the second wait for the first."""
    with socket.socket() as server:  # it takes connections, and never answers
        server.bind(("127.0.0.1", 0))
        server.listen(100)
        flags = FLAGS | {
            "train.steps": 20,
            "log.tracker_options.uri": f"http://127.0.0.1:{server.getsockname()[1]}",
        }
        del flags["parallel.devices"]
        argv = [f"--config.{key}={value}" for key, value in flags.items()]
        config = f"{REPOSITORY}/configs/digits.py"
        arguments = ["--config", config, f"--workdir={tmp_path}/run", *argv]
        ends = processes.finish(processes.start(2, arguments), timeout=400)
    assert [code for code, _ in ends] == [0, 0], ends
    assert "note: mlflow has not taken everything within 20 s: " in ends[0][1]
    assert (tmp_path / "run" / "result.json").is_file()
