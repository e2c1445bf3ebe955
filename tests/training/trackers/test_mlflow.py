"""Runs in a database of MLflow's, read back through MLflow."""

import dataclasses
import json
import math
import threading

import pytest

pytest.importorskip("mlflow", reason="needs the extra mlflow")
pytest.importorskip("alembic", reason="needs the extra mlflow")

from mlflow.tracking import MlflowClient

from vision.training.trackers import mlflow as tracker
from vision.training.trackers.tracking import TrackedRun


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # artifacts are written below the working directory
    return f"sqlite:///{tmp_path}/mlflow.db"


def test_a_run_is_recorded_and_goes_on_after_an_interruption(begin, place):
    with begin("mlflow", uri=place, experiment="pets") as interrupted:
        interrupted.scalars(10, {"train/loss": 2.0, "train/grad_norm": math.nan})
        interrupted.scalars(20, {"val/accuracy": 0.25})
    run_id = json.loads((begin.workdir / "tracker.json").read_text())["mlflow"]
    client = MlflowClient(tracking_uri=place)
    assert client.get_run(run_id).info.status == "KILLED"
    (begin.workdir / "curves.png").write_bytes(b"a picture")
    with begin("mlflow", uri=place, experiment="pets") as resumed:
        resumed.scalars(20, {"val/accuracy": 0.25})  # comes again
        resumed.scalars(30, {"train/loss": 1.0})
        resumed.finish({"accuracy": 0.5})
    assert begin.lines == []
    experiment = client.get_experiment_by_name("pets")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == run_id and run.info.status == "FINISHED"
    assert run.info.run_name == "pets"
    history = {
        name: [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]
        for name in run.data.metrics
    }
    assert history == {
        "train/loss": [(10, 2.0), (30, 1.0)],
        "val/accuracy": [(20, 0.25)],
        "test/accuracy": [(0, 0.5)],
    }
    assert run.data.params["seed"] == "3" and run.data.params["model.name"]
    assert run.data.tags["run_directory"] == str(begin.workdir)
    names = {file.path for file in client.list_artifacts(run_id)}
    assert names == {"config.json", "result.json", "curves.png"}


def test_a_failed_training_is_marked(begin, place):
    def fail():
        with begin("mlflow", uri=place) as tracking:
            tracking.scalars(1, {"train/loss": 1.0})
            raise ZeroDivisionError

    pytest.raises(ZeroDivisionError, fail)
    run_id = json.loads((begin.workdir / "tracker.json").read_text())["mlflow"]
    assert MlflowClient(tracking_uri=place).get_run(run_id).info.status == "FAILED"
    assert begin.lines == []


def test_the_config_is_completed_if_a_kill_has_cut_it_off(begin, place, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(client, run_id, *args, **kwargs):
        raise Killed

    client = MlflowClient(tracking_uri=place)
    experiment_id = client.create_experiment("pets")
    ids = []
    run = TrackedRun(
        workdir=begin.workdir,
        values={f"key{number}": number for number in range(150)},
        options={"uri": place, "experiment": "pets", "name": ""},
        id="",
        keep_id=ids.append,
        patience=1.0,
    )
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", kill)
        with pytest.raises(Killed):
            tracker.open(run)
    (begun,) = client.search_runs([experiment_id])
    assert ids == [begun.info.run_id] and begun.data.params == {}
    # A value that may differ, such as log.every, keeps what was recorded.
    client.log_param(begun.info.run_id, "key7", "before")
    tracker.open(dataclasses.replace(run, id=ids[0]))
    params = client.get_run(ids[0]).data.params
    assert params == {f"key{number}": str(number) for number in range(150)} | {"key7": "before"}


def test_workers_of_a_search_create_one_experiment(place, monkeypatch):
    """Both see that there is none before either creates it."""
    barrier = threading.Barrier(2)
    look_up = MlflowClient.get_experiment_by_name
    looked = threading.local()

    def look_up_together(client, name):
        experiment = look_up(client, name)
        if not hasattr(looked, "once"):
            looked.once = True
            barrier.wait(60)
        return experiment

    def work():
        client = MlflowClient(tracking_uri=place)
        ids.append(tracker._experiment_id(client, "pets"))

    ids = []
    client = MlflowClient(tracking_uri=place)
    assert client.get_experiment_by_name("pets") is None
    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", look_up_together)
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(ids) == 2 and set(ids) == {look_up(client, "pets").experiment_id}


def test_a_deleted_experiment_is_a_line_with_the_remedy(begin, place):
    client = MlflowClient(tracking_uri=place)
    experiment_id = client.create_experiment("pets")
    client.delete_experiment(experiment_id)
    with begin("mlflow", uri=place, experiment="pets") as tracking:
        tracking.scalars(1, {"train/loss": 1.0})
        tracking.finish({"accuracy": 0.5})
    assert begin.lines == [
        "note: mlflow no longer follows this run: its experiment 'pets' is deleted: restore it "
        f"with 'mlflow experiments restore --experiment-id {experiment_id}', or set another "
        f"log.tracker_options.experiment; {begin.workdir} has all numbers"
    ]
    assert not (begin.workdir / "tracker.json").exists()
