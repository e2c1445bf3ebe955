"""Drift as server metrics: each version's latest window of answers against its bundle's reference.

Rows come from the prediction log's thread, never from the event loop. A window ends when it has
`--drift-window` images and is a minute old, so that a busy server spends less than a hundredth of a
core on the tests of each version.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from vision.errors import UserError
from vision.reference import statistics
from vision.reference.verdict import assess
from vision.reference.window import Window
from vision.serving.request import Answer

PERIOD = 60.0  # seconds that a window takes, at least
LABELS = ["model", "version"]


class Rows(NamedTuple):
    """Rows of the prediction log, of answers of one version.

    Attributes:
        values: float32 (N, 9), `vision.reference.features.NAMES`.
        classes: integers (N,).
        sketches: float16 (N, 16).
        seconds: float64 (N,), since the epoch.
    """

    values: np.ndarray
    classes: np.ndarray
    sketches: np.ndarray
    seconds: np.ndarray


class _Version:
    """A version's windows: the one that is filling, and what was said of the latest full one."""

    def __init__(self, fingerprint, reference):
        self.fingerprint = fingerprint
        self.reference = reference
        self.windows = 0
        self.verdict: dict[str, Any] | None = None
        self.ended = 0.0  # seconds since the epoch
        self.begin()

    def begin(self):
        self.begun = time.monotonic()
        self.window = None
        if self.reference is not None:
            self.window = Window(self.reference, self.windows)


class DriftMetrics(Collector):
    """Compares windows and collects the results as metrics.

    Versions whose bundle has no reference have no series. Series of versions that have not answered
    since they were replaced stay until the next scrape removes them: see `keep`.

    Args:
        rows: images in a window, at least.
    """

    def __init__(self, rows: int):
        self._rows = rows
        self._versions: dict[tuple[str, str], _Version] = {}

    def add(self, answer: Answer, rows: Rows) -> None:
        """Adds images, and compares the window if that completes it.

        Args:
            answer: one of the answers that the rows are of.
            rows: the rows.
        """
        key = (answer.model, answer.version)
        version = self._versions.get(key)
        description = answer.description
        if description is None:
            return
        if version is None or version.fingerprint != description.fingerprint:
            version = self._open(answer)
            self._versions[key] = version
        if version.window is None:
            return
        version.window.add(*rows)
        is_full = version.window.rows >= self._rows
        if is_full and time.monotonic() - version.begun >= PERIOD:
            version.windows += 1
            version.verdict = assess(version.reference, version.window, seed=version.windows)
            version.ended = version.window.end
            version.begin()

    def keep(self, versions: Sequence[tuple[str, str]]) -> None:
        """Forgets all but these (model, version)."""
        for key in tuple(self._versions):  # to which the log's thread may add one
            if key not in versions:
                self._versions.pop(key, None)

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Yields the metrics of the latest windows."""
        divergence = GaugeMetricFamily(
            "vision_drift_divergence",
            "Divergence of the latest window from the bundle's reference: kl and psi in nats, js "
            "in bits; effect is the size that the test's alarm depends on",
            labels=[*LABELS, "feature", "measure"],
        )
        p_value = GaugeMetricFamily(
            "vision_drift_p_value",
            "P-value of the latest window's test, corrected for the number of features",
            labels=[*LABELS, "feature"],
        )
        alarm = GaugeMetricFamily(
            "vision_drift_alarm",
            "1 if a feature of the latest window has drifted",
            labels=[*LABELS, "feature"],
        )
        ended = GaugeMetricFamily(
            "vision_drift_window_end_seconds",
            "When the latest window ended, since the epoch",
            labels=LABELS,
        )
        windows = CounterMetricFamily(
            "vision_drift_windows", "Windows that were compared", labels=LABELS
        )
        for key, version in list(self._versions.items()):
            if version.verdict is None:
                continue
            for name, measures in version.verdict["features"].items():
                if "p" not in measures:
                    continue
                for measure in ("kl", "psi", "js", "effect"):
                    if measure in measures:
                        divergence.add_metric([*key, name, measure], measures[measure])
                p_value.add_metric([*key, name], measures["adjusted"])
                alarm.add_metric([*key, name], float(measures["alarm"]))
            ended.add_metric(key, version.ended)
            windows.add_metric(key, version.windows)
        yield from (divergence, p_value, alarm, ended, windows)

    def _open(self, answer):
        description = answer.description
        try:
            reference = statistics.parse(
                description.reference, len(answer.classes), f"{answer.model} {answer.version}"
            )
        except UserError:  # a bundle of before, or exported without images: it is served as well
            reference = None
        return _Version(description.fingerprint, reference)
