"""Runs in a database of MLflow's, read back through MLflow."""

import json
import math

import pytest

pytest.importorskip("mlflow", reason="needs the extra mlflow")
pytest.importorskip("alembic", reason="needs the extra mlflow")

from mlflow.tracking import MlflowClient


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # artifacts are written below the working directory
    return f"sqlite:///{tmp_path}/mlflow.db"


def test_a_run_is_recorded_and_goes_on_after_a_kill(begin, place):
    killed = begin("mlflow", uri=place, experiment="pets")
    killed.scalars(10, {"train/loss": 2.0, "train/grad_norm": math.nan})
    killed.scalars(20, {"val/accuracy": 0.25})
    killed.__exit__(None)  # as an interruption ends; a kill would leave it running
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
