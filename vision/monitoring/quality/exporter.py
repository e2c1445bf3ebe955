"""Shows Prometheus the quality: looks again and again, and serves what was seen last."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vision.errors import RunError, UserError, brief, printable
from vision.support import progress

LABELS = ["model", "version"]
# {metric: what it is}; all of the latest window with enough labels, but the number of labels
GAUGES = {
    "accuracy": "Accuracy",
    "accuracy_low": "Lower end of the accuracy's 95 % interval",
    "accuracy_high": "Upper end of the accuracy's 95 % interval",
    "accuracy_expected": "Accuracy on the bundle's own validation images",
    "calibration_error": "Expected calibration error",
    "alarm": "1 if the accuracy or a recall has decayed",
    "window_end_seconds": "When the window ended, since the epoch",
    "labels": "Labels of the window; of the latest one if none has enough",
}


class QualityMetrics(Collector):
    """Collects the latest record of `vision.monitoring.quality.analysis` as metrics."""

    def __init__(self) -> None:
        self._record: dict[str, Any] | None = None
        self._looked = 0.0
        self._failures = 0

    def update(self, record: dict[str, Any]) -> None:
        """Takes a record, which is not changed afterwards."""
        self._record = record
        self._looked = time.time()

    def fail(self) -> None:
        """Counts a look that gave no record; the metrics are those of the one before."""
        self._failures += 1

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics."""
        gauges = {
            name: GaugeMetricFamily(f"vision_quality_{name}", text, labels=LABELS)
            for name, text in GAUGES.items()
        }
        recall = GaugeMetricFamily(
            "vision_quality_recall", "Recall of a class that has labels", labels=[*LABELS, "class"]
        )
        record = self._record
        for version in record["versions"] if record else ():
            key = [version["model"], version["version"]]
            for name, value in _values(version).items():
                gauges[name].add_metric(key, value)
            if version["latest"] is not None:
                window = version["windows"][version["latest"]]
                for name, share in window["recall"].items():
                    recall.add_metric([*key, name], share["value"])
        looked = GaugeMetricFamily(
            "vision_quality_looked_seconds", "When the log was last read, since the epoch"
        )
        if record is not None:
            looked.add_metric([], self._looked)
        failures = CounterMetricFamily(
            "vision_quality_failed_looks", "Looks that gave nothing, such as at a damaged file"
        )
        failures.add_metric([], self._failures)
        yield from (*gauges.values(), recall, looked, failures)


def _values(version):
    """Returns {name of `GAUGES`: value} of a version."""
    windows = version["windows"]
    if version["latest"] is None:
        return {"labels": windows[-1]["labels"]}
    window = windows[version["latest"]]
    return {
        "accuracy": window["accuracy"]["value"],
        "accuracy_low": window["accuracy"]["low"],
        "accuracy_high": window["accuracy"]["high"],
        "accuracy_expected": window["accuracy"]["expected"],
        "calibration_error": window["calibration"]["error"]["value"],
        "alarm": float(version["alarm"]),
        "window_end_seconds": window["end_seconds"],
        "labels": window["labels"],
    }


def parse_address(text: str) -> tuple[str, int]:
    """Returns (address, port) that --listen gives: "127.0.0.1:9109" or "[::1]:9109".

    Raises:
        UserError: it is neither.
    """
    address, _, port = text.rpartition(":")
    is_number = port.isascii() and port.isdigit() and len(port) <= 5
    if not address or not is_number or int(port) > 65_535:
        raise UserError(f"--listen must be ADDRESS:PORT, such as 127.0.0.1:9109, got {text!r}")
    return address.removeprefix("[").removesuffix("]"), int(port)


def listen(
    address: tuple[str, int],
    every: float,
    look: Callable[[], dict[str, Any]],
    show: Callable[[str], object],
) -> None:
    """Serves metrics until the process gets a signal.

    A look that fails is reported on stderr, the same reason once in a row, and the next one may
    succeed: a log appears some minutes after its server, a table of labels is being written.

    Args:
        address: (address, port) to serve at; port 0 is any that is free.
        every: seconds between the beginnings of looks.
        look: returns the record of an analysis.
        show: called with a line of text that says where the metrics are.

    Raises:
        UserError: the address cannot be opened.
    """
    metrics = QualityMetrics()
    registry = CollectorRegistry()
    registry.register(metrics)
    host, port = address
    try:
        server, _ = start_http_server(port, host, registry)
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(f"--listen {host}:{port} cannot be opened: {brief(error)}") from error
    shown = f"[{host}]" if ":" in host else host
    show(f"quality at http://{shown}:{server.server_port}/metrics, every {every:g} s")
    try:
        with progress.quiet():  # for days
            _look_again(metrics, every, look)
    finally:
        server.shutdown()
        server.server_close()


def _look_again(metrics, every, look):
    """Updates the metrics until the process gets a signal; see `listen`."""
    reported = ""
    while True:
        begun = time.monotonic()
        try:
            metrics.update(look())
            reported = ""
        except (UserError, RunError) as error:
            metrics.fail()
            if str(error) != reported:
                reported = str(error)
                print(f"error: {printable(reported, lines=True)}", file=sys.stderr, flush=True)
        time.sleep(max(0.0, every - (time.monotonic() - begun)))
