"""What the server says of itself: metrics for Prometheus, a log of requests and one of predictions.

Nothing here waits for a disk on the event loop: it leaves a line or a row, and a thread writes what
has gathered.
"""

import collections
import json
import math
import sys
import threading
import time
import traceback

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.process_collector import ProcessCollector

from vision import __version__
from vision.errors import UserError, first_line
from vision.serving.logs.prediction_log import PredictionLog

# seconds between writes: a thread that woke for each line would take the event loop's time
PERIOD = 0.1
LINES = 20_000  # that wait, at most; a reader of stdout that hangs must not fill the memory
# seconds: for a log to be written at the end; between words on the same trouble
PATIENCE = 5.0
TELL = 60.0
KINDS = 100  # of errors, that are told apart
SECONDS = (
    0.0005,
    0.001,
    0.002,
    0.004,
    0.008,
    0.016,
    0.032,
    0.064,
    0.128,
    0.256,
    0.5,
    1,
    2,
    4,
    8,
    16,
    32,
)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class AccessLog:
    """Writes JSON lines; `put` on the event loop, `write` in one thread.

    A file is appended to, line by line whole, so that logrotate's `copytruncate` may cut it.

    Args:
        path: of the file; - = stdout.

    Attributes:
        lost: lines that were not written since the reader or the disk did not keep up.

    Raises:
        UserError: the file cannot be opened.
    """

    def __init__(self, path):
        self._waiting = collections.deque()
        self.lost = 0
        try:
            self._file = sys.stdout if path == "-" else open(path, "a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise UserError(
                f"--access-log {path} cannot be written to: {error.strerror}"
            ) from error

    def put(self, entry):
        """Takes a dict; never waits."""
        if len(self._waiting) >= LINES:
            self.lost += 1
        else:
            self._waiting.append(entry)

    def write(self, everything=False):
        """Writes all lines that `put` has left."""
        taken = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            self._file.write("".join(json.dumps(entry, default=str) + "\n" for entry in taken))
            self._file.flush()
        except Exception:
            self.lost += len(taken)
            raise
        if everything and self._file is not sys.stdout:
            self._file.close()


class Failures:
    """Shows errors of ours to the operator, the same one once in `TELL` seconds, however many
    clients meet with it."""

    def __init__(self):
        # {kind: (when one was shown, how many were not since)}
        self._lock = threading.Lock()
        self._seen = {}

    def show(self, error):
        """Prints an error's traceback on stderr, or counts it; it never waits: see
        `vision.serving.logs.stderr`."""
        now = time.monotonic()
        kind = (type(error), str(error)[:200], type(error.__cause__))
        with self._lock:
            if len(self._seen) >= KINDS:
                self._seen = {
                    known: seen for known, seen in self._seen.items() if now - seen[0] < TELL
                }
                # one of too many
                kind = kind if len(self._seen) < KINDS or kind in self._seen else None
            shown, more = self._seen.get(kind, (-math.inf, 0))
            if now - shown < TELL:
                self._seen[kind] = shown, more + 1
                return
            self._seen[kind] = now, 0
        since = (
            f"{more} more like it were not shown, in the {now - shown:.0f} seconds before\n"
            if more
            else ""
        )
        print("".join(traceback.format_exception(error)) + since, end="", file=sys.stderr)


class Telemetry:
    """Counts, measures and logs; its methods may be called on the event loop or in a thread.

    Series are named by model and version, but not by models that do not exist, and go with the
    version: there would be series without end, of requests for such models and of versions that
    come and go.

    Args:
        settings: `vision.serving.settings.Settings`.

    Raises:
        UserError: a log cannot be written to.
    """

    def __init__(self, settings):
        self._registry = CollectorRegistry()
        self._series = {}
        self._repository = None
        self._failures = Failures()
        self._define()
        self._logs = {}
        if settings.access_log:
            self._logs["access"] = AccessLog(settings.access_log)
        if settings.prediction_log:
            seconds = settings.prediction_minutes * 60
            rotation = (settings.prediction_rows, seconds, settings.prediction_files)
            self._logs["prediction"] = PredictionLog(
                settings.prediction_log, *rotation, hashes=settings.log_hashes
            )
        self._registry.register(_Lost(self._logs))
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=one, name=f"{one[0]} log", daemon=True)
            for one in self._logs.items()
        ]
        for thread in self._threads:
            thread.start()

    def follow(self, repository):
        """Shows the versions of a `vision.serving.models.repository.Repository`, and names errors
        by its models."""
        self._repository = repository
        self._registry.register(_Versions(repository))

    def answered(self, request, answer, shadow=False):
        """Counts and logs an `Answer` to a `Request`; a shadow's counts apart, since no client has
        seen it."""
        name = (answer.model, answer.version)
        count = len(answer.probabilities)
        if shadow:
            self._of(self._shadows, *name, "answered").inc()
        else:
            self._of(
                self._requests,
                *name,
                request.protocol,
                "OK" if request.protocol == "grpc" else "200",
            ).inc()
            self._of(self._images, *name).inc(count)
        for stage, seconds in answer.seconds.items():
            self._of(self._stages, *name, stage).observe(seconds)
        if "prediction" in self._logs:
            self._logs["prediction"].put(request, answer, shadow)

    def shadow_failed(self, version, error):
        """Counts a `Version` that was asked beside the one that serves and gave no answer."""
        self._of(self._shadows, version.model, version.name, type(error).__name__).inc()

    def refused(self, protocol, model, error):
        """Counts a `vision.serving.errors.Refused`."""
        self._error(protocol, model, error.code if protocol == "grpc" else str(error.status))

    def failed(self, protocol, model, error):
        """Counts an error of ours, and shows it to the operator, who alone may see where it came
        from."""
        self._error(protocol, model, "INTERNAL" if protocol == "grpc" else "500")
        self._failures.show(error)

    def batch(self, model, version, size, waiting):
        """Counts a batch of `size` images that goes to a version, while `waiting` images stay
        behind."""
        self._of(self._batches, model, version).observe(size)
        self._of(self._queue, model, version).set(waiting)

    def access(self, entry):
        """Logs a request's dict, which holds no image and no key; "model", "version" and "seconds"
        are among it."""
        if entry["version"]:
            self._of(self._stages, entry["model"], entry["version"], "total").observe(
                entry["seconds"]
            )
        if "access" in self._logs:
            self._logs["access"].put(entry)

    def exposition(self):
        """Returns (bytes, content type) for Prometheus."""
        self._forget()
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def close(self):
        """Writes what the logs still hold; a disk, or a reader of stdout, that hangs is not waited
        for."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _define(self):
        registry = self._registry
        names = ("model", "version")
        of = {"registry": registry}
        self._requests = Counter("vision_requests", "Requests", (*names, "protocol", "code"), **of)
        self._images = Counter(
            "vision_images", "Images in requests that were answered", names, **of
        )
        self._shadows = Counter(
            "vision_shadow_requests", "Answers that were only logged", (*names, "outcome"), **of
        )
        self._stages = Histogram(
            "vision_stage_seconds",
            "Seconds of a request in decode, queue and compute, and in total, with the network's",
            (*names, "stage"),
            buckets=SECONDS,
            **of,
        )
        self._batches = Histogram(
            "vision_batch_images", "Images in a batch", names, buckets=IMAGES, **of
        )
        self._queue = Gauge(
            "vision_queue_images", "Images that waited when the last batch began", names, **of
        )
        Gauge("vision_build_info", "The server's version", ("release",), **of).labels(
            __version__
        ).set(1)
        ProcessCollector(registry=registry)

    def _of(self, metric, model, version, *labels):
        """Returns a metric's series; finding it takes longer than counting, so it is kept."""
        key = (metric, model, version, *labels)
        series = self._series.get(key)
        if series is None:
            self._forget()  # here too, since there may be nobody who asks for the metrics
            series = self._series[key] = metric.labels(model, version, *labels)
        return series

    def _forget(self):
        """Drops the series of versions that are gone, those too that their last requests have made
        again."""
        if self._repository is None:
            return
        there = {model: known["versions"] for model, known in self._repository.states().items()}
        for key in list(self._series):
            metric, model, version, *labels = key
            gone = model and (model not in there or version and version not in there[model])
            if gone and self._series.pop(key, None) is not None:
                metric.remove(model, version, *labels)

    def _error(self, protocol, model, code):
        known = self._repository is not None and model in self._repository.models()
        self._of(self._requests, model if known else "", "", protocol, code).inc()

    def _write(self, name, log):
        """What a log's thread does."""
        last = False
        told = -math.inf
        while not last:
            last = self._stop.wait(PERIOD)
            try:
                log.write(everything=last)
            except Exception as error:  # a full disk must not end the thread, nor the server
                if time.monotonic() - told < TELL:
                    continue
                told = time.monotonic()
                reason = first_line(error)
                print(f"the {name} log cannot be written: {reason}", file=sys.stderr)


class _Lost:
    """Collects how much each log has lost."""

    def __init__(self, logs):
        self._logs = logs

    def collect(self):
        found = GaugeMetricFamily(
            "vision_log_lost", "Lines and rows that a log has lost since the start", labels=["log"]
        )
        for name, log in self._logs.items():
            found.add_metric([name], log.lost)
        yield found


class _Versions:
    """Collects the repository's versions and their states."""

    def __init__(self, repository):
        self._repository = repository

    def collect(self):
        yield GaugeMetricFamily(
            "vision_ready", "Whether requests are to be sent here", float(self._repository.ready)
        )
        found = GaugeMetricFamily(
            "vision_version_state",
            "1 for the state of a version",
            labels=["model", "version", "state"],
        )
        serving = GaugeMetricFamily(
            "vision_version_serving",
            "1 for the version with most requests",
            labels=["model", "version"],
        )
        for model, known in self._repository.states().items():
            for version, state in known["versions"].items():
                found.add_metric([model, version, state["state"]], 1)
            if known["serving"]:
                serving.add_metric([model, known["serving"]], 1)
        yield from (found, serving)
