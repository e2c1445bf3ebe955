"""MLflow: a run of an experiment, in a database such as sqlite:///mlflow.db or on a server."""

import logging
import pathlib
import time
from collections.abc import Mapping

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from vision.training.trackers.tracking import TrackedRun

LONGEST = 6000  # characters of a parameter's value
AT_ONCE = 100  # parameters in a request
DIRECTORY = "run_directory"  # a tag


class MlflowTracker:
    """See `vision.training.trackers.tracking.Tracker`."""

    def __init__(self, client: MlflowClient, run_id: str, is_resumed: bool):
        self._client = client
        self._run_id = run_id
        self._is_resumed = is_resumed
        self._steps: dict[str, set[int]] = {}  # of each metric, what an earlier process recorded

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        now = round(1000 * time.time())
        metrics = [
            Metric(name, value, now, step)
            for name, value in scalars.items()
            if step not in self._earlier_steps(name)
        ]
        self._client.log_batch(self._run_id, metrics=metrics)

    def finish(self, scalars: Mapping[str, float], files: list[pathlib.Path]) -> None:
        self.scalars(0, scalars)
        for file in files:
            self._client.log_artifact(self._run_id, str(file))
        self._client.set_terminated(self._run_id, "FINISHED")

    def stop(self, failed: bool) -> None:
        self._client.set_terminated(self._run_id, "FAILED" if failed else "KILLED")

    def _earlier_steps(self, name: str) -> set[int]:
        """Returns the steps of a metric that the run had when it was resumed."""
        if not self._is_resumed:
            return set()
        if name not in self._steps:
            history = self._client.get_metric_history(self._run_id, name)
            self._steps[name] = {metric.step for metric in history}
        return self._steps[name]


def open(run: TrackedRun) -> MlflowTracker:
    """Creates a run with the config as its parameters, or continues one."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they announce a database's tables
    client = MlflowClient(tracking_uri=run.options["uri"] or None)
    place = str(run.workdir.resolve())
    if run.id:
        client.update_run(run.id, status="RUNNING")
        client.set_tag(run.id, DIRECTORY, place)
        return MlflowTracker(client, run.id, is_resumed=True)
    name = run.options["experiment"]
    experiment = client.get_experiment_by_name(name)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
    run_id = client.create_run(experiment_id, run_name=run.name).info.run_id
    run.keep_id(run_id)
    params = [Param(key, str(value)[:LONGEST]) for key, value in run.values.items()]
    for first in range(0, len(params), AT_ONCE):
        client.log_batch(run_id, params=params[first : first + AT_ONCE])
    client.log_batch(run_id, tags=[RunTag(DIRECTORY, place)])
    return MlflowTracker(client, run_id, is_resumed=False)
