"""What the server's metrics collect when they are asked for: lost entries and versions' states."""

from collections.abc import Iterator
from typing import Any, Protocol

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from vision.serving.logs.prediction_log import PredictionLog


class Models(Protocol):
    """What telemetry reads of a `vision.serving.models.repository.Repository`."""

    @property
    def ready(self) -> bool: ...

    def models(self) -> dict[str, list[str]]: ...

    def states(self) -> dict[str, dict[str, Any]]: ...


class LostEntries(Collector):
    """Collects how much each log has lost."""

    def __init__(self, logs):
        self._logs = logs

    def collect(self) -> Iterator[GaugeMetricFamily]:
        lost = GaugeMetricFamily(
            "vision_log_lost", "Lines and rows that a log has lost since the start", labels=["log"]
        )
        for name, log in self._logs.items():
            lost.add_metric([name], log.lost)
            if isinstance(log, PredictionLog):
                lost.add_metric(["images"], log.images_lost)
        yield lost


class VersionStates(Collector):
    """Collects the repository's versions and their states."""

    def __init__(self, repository):
        self._repository = repository

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily(
            "vision_ready", "Whether requests are to be sent here", float(self._repository.ready)
        )
        states = GaugeMetricFamily(
            "vision_version_state",
            "1 for the state of a version",
            labels=["model", "version", "state"],
        )
        serving = GaugeMetricFamily(
            "vision_version_serving",
            "1 for the version with most requests",
            labels=["model", "version"],
        )
        for model, model_state in self._repository.states().items():
            for version, version_state in model_state["versions"].items():
                states.add_metric([model, version, version_state["state"]], 1)
            if model_state["serving"]:
                serving.add_metric([model, model_state["serving"]], 1)
        yield from (states, serving)
