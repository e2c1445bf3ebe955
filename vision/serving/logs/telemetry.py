"""What the server reports about itself: Prometheus metrics, an access log and a prediction log.

Nothing here waits for a disk on the event loop: callers leave a line or a row, and a thread writes
what has gathered.
"""

import collections
import json
import math
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any, Protocol

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.process_collector import ProcessCollector

from vision.errors import UserError, first_line
from vision.serving.errors import Refused, TooMany
from vision.serving.logs import prediction_log
from vision.serving.logs.collectors import LostEntries, Models, VersionStates
from vision.serving.logs.drift_metrics import DriftMetrics
from vision.serving.logs.prediction_log import PredictionLog
from vision.serving.request import Answer, Request
from vision.serving.settings import Settings
from vision.version import __version__

# Seconds between writes: a thread that woke for each line would take the event loop's time.
PERIOD = 0.1
LINES = 20_000  # waiting, at most; a reader of stdout that hangs must not fill the memory
PATIENCE = 5.0  # seconds for each log to be written at the end
REPORT_EVERY = 60.0  # seconds between reports of the same problem
KINDS = 100  # of errors that are told apart
# each about twice the one before: 0.0005, 0.001, ... 0.256, 0.5, 1, ... 32
SECONDS = (*(0.0005 * 2**i for i in range(10)), *(2.0**i for i in range(-1, 6)))
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class NamedVersion(Protocol):
    """What telemetry reads of a `vision.serving.models.loaded.LoadedVersion`."""

    model: str
    name: str


class AccessLog:
    """Writes JSON lines; `put` is for the event loop, `write` for one thread.

    It appends whole lines to a file, so that logrotate's `copytruncate` may truncate it.

    Args:
        path: the file; "-" is stdout.

    Attributes:
        lost: lines that were not written because the reader or the disk did not keep up.

    Raises:
        UserError: the file cannot be opened.
    """

    def __init__(self, path: str):
        self._waiting: collections.deque[Mapping[str, Any]] = collections.deque()
        self.lost = 0
        try:
            self._file = sys.stdout if path == "-" else open(path, "a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise UserError(
                f"--access-log {path} cannot be written to: {error.strerror}"
            ) from error

    def put(self, entry: Mapping[str, Any]) -> None:
        """Takes an entry; never waits."""
        if len(self._waiting) >= LINES:
            self.lost += 1
        else:
            self._waiting.append(entry)

    def write(self, everything: bool = False) -> None:
        """Writes the lines that `put` has left; with `everything`, for the last time."""
        entries = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            self._file.write("".join(json.dumps(entry, default=str) + "\n" for entry in entries))
            self._file.flush()
        except Exception:
            self.lost += len(entries)
            raise
        if everything and self._file is not sys.stdout:
            self._file.close()


class FailureReports:
    """Shows internal errors to the operator, the same one once in `REPORT_EVERY` seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # {kind: (when one was shown, how many were not shown since)}
        self._kinds: dict[tuple | None, tuple[float, int]] = {}

    def show(self, error: BaseException) -> None:
        """Prints an error's traceback on stderr, or counts it.

        It never waits: see `vision.serving.logs.stderr`.
        """
        now = time.monotonic()
        kind: tuple | None = (type(error), str(error)[:200], type(error.__cause__))
        with self._lock:
            if len(self._kinds) >= KINDS:
                self._kinds = {
                    recent: (shown, hidden)
                    for recent, (shown, hidden) in self._kinds.items()
                    if now - shown < REPORT_EVERY
                }
                if len(self._kinds) >= KINDS and kind not in self._kinds:
                    kind = None  # all others count as one kind
            shown, hidden = self._kinds.get(kind, (-math.inf, 0))
            if now - shown < REPORT_EVERY:
                self._kinds[kind] = (shown, hidden + 1)
                return
            self._kinds[kind] = (now, 0)
        text = "".join(traceback.format_exception(error))
        if hidden:
            text += (
                f"{hidden} more like it were not shown in the {now - shown:.0f} seconds before\n"
            )
        print(text, end="", file=sys.stderr)


class Telemetry:
    """Counts, measures and logs; its methods may be called on the event loop or in a thread.

    Series are labeled by model and version, but not by models that do not exist, and are removed
    with their version: requests for unknown models, and versions that come and go, would create
    series without end.

    Args:
        settings: the server's settings.

    Raises:
        UserError: a log cannot be written to.
    """

    def __init__(self, settings: Settings):
        self._registry = CollectorRegistry()
        self._series: dict[tuple, Any] = {}
        self._repository: Models | None = None
        self._failures = FailureReports()
        self._define_metrics(settings)
        self._logs: dict[str, AccessLog | PredictionLog] = {}
        self._access_log = None
        self._prediction_log = None
        self._drift: DriftMetrics | None = None
        if settings.access_log:
            self._access_log = AccessLog(settings.access_log)
            self._logs["access"] = self._access_log
        if settings.prediction_log:
            if settings.drift_window:
                self._drift = DriftMetrics(settings.drift_window)
                self._registry.register(self._drift)
            self._prediction_log = prediction_log.open_log(settings, self._drift)
            self._logs["prediction"] = self._prediction_log
        self._registry.register(LostEntries(self._logs))
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(name, log), name=f"{name} log", daemon=True)
            for name, log in self._logs.items()
        ]
        for thread in self._threads:
            thread.start()

    def follow(self, repository: Models) -> None:
        """Shows the versions of a repository, and labels errors by its models."""
        self._repository = repository
        self._registry.register(VersionStates(repository))

    def loaded(self, version: NamedVersion, written: float) -> None:
        """Shows how old a version is that was loaded; `written` is in seconds since the epoch."""
        self._get_series(self._written, version.model, version.name).set(written)

    def answered(self, request: Request, answer: Answer, shadow: bool = False) -> None:
        """Counts and logs an answer; a shadow's separately, since no client has seen it."""
        labels = (answer.model, answer.version)
        if shadow:
            self._get_series(self._shadows, *labels, "answered").inc()
        else:
            code = "OK" if request.protocol == "grpc" else "200"
            self._get_series(self._requests, *labels, request.protocol, code).inc()
            self._get_series(self._images, *labels).inc(len(answer.probabilities))
            if answer.unsure is not None:
                self._get_series(self._unsure, *labels).inc(int(answer.unsure.sum()))
        for stage, seconds in answer.seconds.items():
            self._get_series(self._stages, *labels, stage).observe(seconds)
        if self._prediction_log is not None:
            self._prediction_log.put(request, answer, shadow)

    def shadow_failed(self, version: NamedVersion, error: Exception) -> None:
        """Counts a request that a shadow did not answer."""
        self._get_series(self._shadows, version.model, version.name, type(error).__name__).inc()

    def unanswered(self, version: NamedVersion, error: BaseException) -> None:
        """Counts a request that a version did not answer, unless that is the client's mistake."""
        is_mistake = isinstance(error, Refused) and error.status < 500
        if not is_mistake or isinstance(error, TooMany):
            self._get_series(self._failed, version.model, version.name, type(error).__name__).inc()

    def refused(self, protocol: str, model: str, error: Refused) -> None:
        """Counts a refused request."""
        code = error.code if protocol == "grpc" else str(error.status)
        self._count_error(protocol, model, code)

    def failed(self, protocol: str, model: str, error: BaseException) -> None:
        """Counts an internal error and shows it to the operator, the only one who may see its
        traceback."""
        self._count_error(protocol, model, "INTERNAL" if protocol == "grpc" else "500")
        self._failures.show(error)

    def batch(self, model: str, version: str, size: int, waiting: int) -> None:
        """Counts a batch of `size` images for a version, while `waiting` images remain in its
        queue."""
        self._get_series(self._batches, model, version).observe(size)
        self._get_series(self._queue, model, version).set(waiting)

    def access(self, entry: Mapping[str, Any]) -> None:
        """Logs a request's entry, which holds no image and no key.

        Its keys include "model", "version" and "seconds".
        """
        if entry["version"]:
            stage = self._get_series(self._stages, entry["model"], entry["version"], "total")
            stage.observe(entry["seconds"])
        if self._access_log is not None:
            self._access_log.put(entry)

    def exposition(self) -> tuple[bytes, str]:
        """Returns (metrics, content type) for Prometheus."""
        self._remove_stale_series()
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def close(self) -> None:
        """Writes what the logs still hold, but does not wait for a disk or a reader that hangs."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _define_metrics(self, settings):
        registry = self._registry
        labels = ("model", "version")
        self._requests = Counter(
            "vision_requests", "Requests", (*labels, "protocol", "code"), registry=registry
        )
        self._images = Counter(
            "vision_images", "Images in requests that were answered", labels, registry=registry
        )
        self._unsure = Counter(
            "vision_unsure_images",
            "Images whose answer was unsure; only of requests with a rule for that",
            labels,
            registry=registry,
        )
        self._shadows = Counter(
            "vision_shadow_requests",
            "Answers that were only logged",
            (*labels, "outcome"),
            registry=registry,
        )
        self._failed = Counter(
            "vision_failures",
            "Requests that a version got and did not answer",
            (*labels, "error"),
            registry=registry,
        )
        self._stages = Histogram(
            "vision_stage_seconds",
            "Seconds of a request in decode, queue and compute, and in total, with the network's",
            (*labels, "stage"),
            buckets=SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "vision_batch_images", "Images in a batch", labels, buckets=IMAGES, registry=registry
        )
        self._queue = Gauge(
            "vision_queue_images",
            "Images that waited when the last batch began",
            labels,
            registry=registry,
        )
        limit = Gauge(
            "vision_queue_limit_images", "Images that may wait for each version", registry=registry
        )
        limit.set(settings.max_queue)
        self._written = Gauge(
            "vision_version_written_seconds",
            "When the bundle.json of a version was written, since the epoch",
            labels,
            registry=registry,
        )
        build = Gauge("vision_build_info", "The server's version", ("release",), registry=registry)
        build.labels(__version__).set(1)
        ProcessCollector(registry=registry)

    def _get_series(self, metric, model, version, *labels):
        """Returns a metric's series; kept, since finding it takes longer than counting."""
        key = (metric, model, version, *labels)
        series = self._series.get(key)
        if series is None:
            self._remove_stale_series()  # here too: the metrics may never be asked for
            series = self._series[key] = metric.labels(model, version, *labels)
        return series

    def _remove_stale_series(self):
        """Removes the series of versions that are gone, even if their last requests made them
        again."""
        if self._repository is None:
            return
        states = self._repository.states()
        if self._drift is not None:
            self._drift.keep(
                [(model, name) for model, state in states.items() for name in state["versions"]]
            )
        for key in list(self._series):
            metric, model, version, *labels = key
            is_gone = model and model not in states
            if model and version and not is_gone:
                is_gone = version not in states[model]["versions"]
            if is_gone and self._series.pop(key, None) is not None:
                metric.remove(model, version, *labels)

    def _count_error(self, protocol, model, code):
        exists = self._repository is not None and model in self._repository.models()
        self._get_series(self._requests, model if exists else "", "", protocol, code).inc()

    def _write(self, name, log):
        """Writes a log until the telemetry is closed; the target of the log's thread."""
        is_last = False
        reported = -math.inf
        while not is_last:
            is_last = self._stop.wait(PERIOD)
            try:
                log.write(everything=is_last)
            except Exception as error:  # a full disk must end neither the thread nor the server
                if time.monotonic() - reported < REPORT_EVERY:
                    continue
                reported = time.monotonic()
                print(f"the {name} log cannot be written: {first_line(error)}", file=sys.stderr)
