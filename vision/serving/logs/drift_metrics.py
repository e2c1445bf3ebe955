"""Drift as server metrics: each version's latest window of answers against its bundle's reference,
and the accuracy that its confidence lets expect.

Rows come from the prediction log's thread, never from the event loop. A window ends when it has
`--drift-window` images and is a minute old, so that a busy server spends less than a hundredth of a
core on the tests of each version.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from vision.errors import UserError
from vision.reference import quality, statistics
from vision.reference.features import NAMES
from vision.reference.verdict import assess
from vision.reference.window import Window
from vision.serving.request import Answer

CONFIDENCE = NAMES.index("confidence")
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

    def __init__(self, fingerprint, reference, own_quality):
        self.fingerprint = fingerprint
        self.reference = reference
        self.quality = own_quality
        self.windows = 0
        self.accuracy: float | None = None  # estimated, of the latest full one
        self.verdict: dict[str, Any] | None = None
        self.ended = 0.0  # seconds since the epoch
        self.begin()

    def begin(self):
        self.begun = time.monotonic()
        self.window = None
        self.estimate = None
        if self.reference is not None:
            self.window = Window(self.reference, self.windows)
        if self.quality is not None:
            self.estimate = quality.Estimate(self.quality)


class DriftMetrics(Collector):
    """Compares windows and collects the results as metrics.

    Versions whose bundle has no reference have no series, and no estimate if it does not say how
    good its model was. Before its first window ends, a version only has the number of windows, 0.
    Answers that were only logged count as the version's others do. Series of versions that have not
    answered since they were replaced stay until the next scrape removes them: see `keep`.

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
        if version.estimate is not None:
            version.estimate.add(rows.values[:, CONFIDENCE])
        is_full = version.window.rows >= self._rows
        if is_full and time.monotonic() - version.begun >= PERIOD:
            seed = version.windows + 1
            version.verdict = assess(version.reference, version.window, seed=seed)
            version.windows = seed
            version.ended = version.window.end
            if version.estimate is not None:
                version.accuracy = version.estimate.accuracies()["cbpe"]
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
        estimated = GaugeMetricFamily(
            "vision_quality_estimated_accuracy",
            "Accuracy of the latest window as its confidence lets expect (CBPE), without labels",
            labels=LABELS,
        )
        for key, version in list(self._versions.items()):
            if version.window is not None:  # 0 says that there is a reference to compare with
                windows.add_metric(key, version.windows)
            if version.verdict is None:
                continue
            if version.accuracy is not None:
                estimated.add_metric(key, version.accuracy)
            for name, measures in version.verdict["features"].items():
                if "p" not in measures:
                    continue
                for measure in ("kl", "psi", "js", "effect"):
                    if measure in measures:
                        divergence.add_metric([*key, name, measure], measures[measure])
                p_value.add_metric([*key, name], measures["adjusted"])
                alarm.add_metric([*key, name], float(measures["alarm"]))
            ended.add_metric(key, version.ended)
        yield from (divergence, p_value, alarm, ended, windows, estimated)

    def _open(self, answer):
        description = answer.description
        place = f"{answer.model} {answer.version}"
        contents = description.reference
        # a bundle of before, or exported without images, is served as well
        reference = own_quality = None
        with contextlib.suppress(UserError):
            reference = statistics.parse(contents, len(answer.classes), place)
        with contextlib.suppress(UserError):
            own_quality = quality.parse(contents, answer.classes, place)
        return _Version(description.fingerprint, reference, own_quality)
