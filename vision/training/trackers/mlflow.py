"""MLflow: a run of an experiment, in a database such as sqlite:///mlflow.db or on a server."""

import logging
import pathlib
import time
from collections.abc import Mapping

from mlflow.entities import LifecycleStage, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.tracking import MlflowClient

from vision.errors import UserError
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
        run_id = run.id
        client.update_run(run_id, status="RUNNING")
        recorded = client.get_run(run_id).data.params
    else:
        experiment_id = _experiment_id(client, run.options["experiment"])
        run_id = client.create_run(experiment_id, run_name=run.name).info.run_id
        run.keep_id(run_id)
        recorded = {}
    # Of a resumed run those that a kill has kept from being recorded; MLflow lets none change.
    params = [
        Param(key, str(value)[:LONGEST]) for key, value in run.values.items() if key not in recorded
    ]
    for first in range(0, len(params), AT_ONCE):
        client.log_batch(run_id, params=params[first : first + AT_ONCE])
    client.set_tag(run_id, DIRECTORY, place)
    return MlflowTracker(client, run_id, is_resumed=bool(run.id))


def _experiment_id(client: MlflowClient, name: str) -> str:
    """Returns the id of the experiment of a name, which is created if there is none.

    Raises:
        UserError: it was deleted; MLflow keeps its name.
    """
    if client.get_experiment_by_name(name) is None:
        try:
            client.create_experiment(name)
        except MlflowException as error:  # another worker of a search may have been faster
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
    experiment = client.get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage != LifecycleStage.ACTIVE:
        number = experiment.experiment_id if experiment else "ID"
        raise UserError(
            f"its experiment {name!r} is deleted: restore it with 'mlflow experiments restore "
            f"--experiment-id {number}', or set another log.tracker_options.experiment"
        )
    return experiment.experiment_id
