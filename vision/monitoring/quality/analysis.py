"""From a log, a bundle and late labels to how good the model is, in which windows, since when."""

import collections
import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from vision.bundle.directory import MANIFEST, Manifest, read_manifest
from vision.errors import UserError
from vision.monitoring.analysis import (
    check_clock,
    describe_sources,
    report_skipped,
    too_few,
)
from vision.monitoring.cutting import Cutter, Span
from vision.monitoring.labels import Answers, Labels, join, no_labels, read_labels
from vision.monitoring.log import Log, moment, open_log
from vision.monitoring.quality.decay import Limits, assess
from vision.reference.log_format import PATTERN
from vision.reference.quality import ESTIMATORS, Estimate, Quality, parse
from vision.support.progress import waiting

FORMAT = 1  # of quality.json


@dataclasses.dataclass(frozen=True)
class Request:
    """What to look at.

    Attributes:
        bundle: directory of the bundle.
        log: directory of the prediction log.
        labels: file or folder of labels; None for estimates only.
        window: as --window gives it, for the record.
        span: the same, parsed.
        history: windows to look at, the latest.
        limits: when a window alarms.
        new_classes: names of classes that labels may have and the bundle does not: its answers to
            their images are wrong.
    """

    bundle: pathlib.Path
    log: pathlib.Path
    labels: pathlib.Path | None
    window: str
    span: Span
    history: int
    limits: Limits
    new_classes: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What was seen.

    Attributes:
        record: the contents of quality.json.
        quality: the bundle's own.
        classes: names of its classes.
    """

    record: dict[str, Any]
    quality: Quality
    classes: Sequence[str]


class Period:
    """The answers of a window: those with labels, and the estimates of all.

    Args:
        quality: the bundle's own.
        number: of the window.
    """

    def __init__(self, quality: Quality, number: int):
        self.number = number
        self.estimate = Estimate(quality)
        self.start = math.inf
        self.end = -math.inf
        self._labeled: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, answers: Answers) -> None:
        """Adds answers, at least one."""
        self.estimate.add(answers.confidence)
        self.start = min(self.start, float(answers.seconds.min()))
        self.end = max(self.end, float(answers.seconds.max()))
        labeled = answers.labeled()
        self._labeled.append((labeled.predicted, labeled.truth, labeled.confidence))

    def labeled(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns (predicted, truth, confidence) of the answers that have labels."""
        predicted, truth, confidence = zip(*self._labeled, strict=True)
        return np.concatenate(predicted), np.concatenate(truth), np.concatenate(confidence)


class Versions:
    """The windows of each (model, version) that a bundle was served as.

    Args:
        quality: the bundle's own.
        span: how long a window is.
        history: windows that are remembered, the latest.
        labels: number of labels.

    Attributes:
        rows, labels: {(model, version): rows, and those that have a label}.
        repeated: {(model, version): rows that have the same label as an earlier one}.
    """

    def __init__(self, quality: Quality, span: Span, history: int, labels: int):
        self._quality = quality
        self._span = span
        self._history = history
        self._cutters: dict[tuple[str, str], Cutter[Period]] = {}
        self.rows: collections.Counter = collections.Counter()
        self.labels: collections.Counter = collections.Counter()
        self.repeated: collections.Counter = collections.Counter()
        self._is_used: dict[tuple[str, str], np.ndarray] = {}  # of each label
        self._label_count = labels

    def add(self, answers: Answers) -> None:
        """Adds answers.

        Raises:
            UserError: a class is not one of the bundle's.
        """
        if (answers.predicted < 0).any():
            raise UserError(
                "the log has classes for the bundle's model that bundle.json does not: was it "
                "changed? Give the bundle that was served"
            )
        for key in sorted(set(zip(answers.models, answers.versions, strict=True))):
            own = answers.part((answers.models == key[0]) & (answers.versions == key[1]))
            if key not in self._cutters:
                self._cutters[key] = Cutter(
                    self._span,
                    self._history,
                    lambda number: Period(self._quality, number),
                    lambda period, rows, chosen: period.add(rows.part(chosen)),
                )
            self._cutters[key].add(own, own.seconds)
            self.rows[key] += len(own.seconds)
            self._count_labels(key, own.labels[own.labels >= 0])

    def _count_labels(self, key, places):
        """Counts the labels of a version's rows, given by their places."""
        is_used = self._is_used.setdefault(key, np.zeros(self._label_count, bool))
        fresh = np.unique(places)
        fresh = fresh[~is_used[fresh]]
        is_used[fresh] = True
        self.labels[key] += len(places)
        self.repeated[key] += len(places) - len(fresh)

    def late(self, key: tuple[str, str]) -> int:
        """Returns the rows of a version's windows that were forgotten already."""
        return self._cutters[key].late

    def full(self, now: float) -> Iterator[tuple[tuple[str, str], list[Period]]]:
        """Yields ((model, version), its windows that are over), most rows first, at least one."""
        for key, _ in self.rows.most_common():
            periods = self._cutters[key].full(now)[-self._history :]
            if periods:
                yield key, periods


def analyze(request: Request, report: Callable[[str], object] = print) -> Analysis:
    """Measures or estimates the accuracy of a bundle's answers, window by window.

    Args:
        request: what to look at.
        report: called with a line of text for each oddity of the log.

    Raises:
        UserError: the bundle does not say how good it was; the log or the labels cannot be read, do
            not belong together or are too few; the log's clock went back, and windows are times.
    """
    manifest, quality = read_quality(request.bundle)
    labels = no_labels(manifest.classes)
    if request.labels is not None:
        labels = read_labels(request.labels, manifest.classes, request.new_classes)
    log = open_log(request.log)
    report_skipped(log, report)
    versions = Versions(quality, request.span, request.history, len(labels))
    others: collections.Counter = collections.Counter()
    for answers in join(log, labels, manifest.fingerprint, (), others):
        versions.add(answers)
    check_clock(log, request.span, report)
    with waiting("estimating the accuracy of each window"):
        full = list(versions.full(time.time()))
    if not full:
        raise too_few(request, versions.rows.total(), others)
    record = _record(request, manifest, quality, log)
    record |= {
        "labels": _describe_labels(request, labels),
        "rows": versions.rows.total(),
        "other_rows": others.total(),
        "versions": [
            {
                "model": key[0],
                "version": key[1],
                "rows": versions.rows[key],
                "rows_of_forgotten_windows": versions.late(key),
                "labels": versions.labels[key],
                "repeated_labels": versions.repeated[key],
                **_outcome(periods, quality, manifest.classes, request.limits),
            }
            for key, periods in full
        ],
    }
    record["alarm"] = any(version["alarm"] for version in record["versions"])
    return Analysis(record, quality, manifest.classes)


def read_quality(bundle: pathlib.Path) -> tuple[Manifest, Quality]:
    """Returns a bundle's manifest and what it says of its own quality.

    Raises:
        UserError: it cannot be read, or does not say it.
    """
    manifest = read_manifest(bundle)
    return manifest, parse(manifest.reference, manifest.classes, bundle / MANIFEST)


def signature(request: Request) -> tuple:
    """Returns a value that differs if another analysis may give another result: of the files of
    the log and of the labels, and, of windows that are times, of which of them are over."""
    files: list[pathlib.Path] = []
    with contextlib.suppress(OSError):  # what is wrong with them, the analysis will say
        files += request.log.glob(PATTERN)
        if request.labels is not None:
            files += request.labels.iterdir() if request.labels.is_dir() else [request.labels]
    states = []
    for file in sorted(files):
        with contextlib.suppress(OSError):  # deleted since
            status = file.stat()
            states.append((str(file), status.st_size, status.st_mtime_ns))
    over = time.time() // request.span.seconds if request.span.seconds else 0
    return over, tuple(states)


def _record(request: Request, manifest: Manifest, quality: Quality, log: Log) -> dict[str, Any]:
    own = {
        "images": int(quality.images.sum()),
        "accuracy": quality.accuracy,
        "calibration_error": dict(quality.error),
        "mean_confidence": quality.mean_confidence,
    }
    return {
        "format": FORMAT,
        **describe_sources(request, manifest.fingerprint, log),
        "limits": dataclasses.asdict(request.limits),
        "reference": own,
    }


def _describe_labels(request: Request, labels: Labels) -> dict[str, Any] | None:
    if request.labels is None:
        return None
    return {
        "source": str(request.labels),
        "images": len(labels),
        "not_in_log": labels.unmatched,
        "empty": labels.blank,
        "of_new_classes": int(np.isin(labels.truth, _new_places(request, labels)).sum()),
    }


def _new_places(request, labels):
    """Returns the places of the new classes among all."""
    return np.arange(len(labels.classes) - len(request.new_classes), len(labels.classes))


def _outcome(periods, quality, classes, limits):
    """Returns {"alarm", "alarms", "latest", "estimators", "windows"} of a version."""
    windows = [
        {
            "number": period.number,
            "start": moment(period.start),
            "end": moment(period.end),
            "end_seconds": period.end,
            "rows": period.estimate.rows,
            **assess(quality, classes, period.labeled(), limits),
            "estimates": period.estimate.accuracies(),
        }
        for period in periods
    ]
    judged = [place for place, window in enumerate(windows) if window["labels"] >= limits.labels]
    latest = judged[-1] if judged else None
    alarms = [] if latest is None else _alarms([windows[place] for place in judged])
    return {
        "alarm": bool(alarms),
        "alarms": alarms,
        "latest": latest,
        "estimators": _errors(quality, [periods[place].labeled() for place in judged]),
        "windows": windows,
    }


def _alarms(windows):
    """Returns what alarms in the last of some windows that have enough labels, and since when."""
    last = windows[-1]
    names = [None] if last["accuracy"]["alarm"] else []
    names += [name for name, share in last["recall"].items() if share.get("alarm")]
    alarms = []
    for name in names:
        first = last
        for window in reversed(windows):
            share = _share(window, name)
            if "alarm" not in share:  # too few images of the class to tell
                continue
            if not share["alarm"]:
                break
            first = window
        measure = "accuracy" if name is None else "recall"
        alarms.append({"measure": measure, "class": name, "since": first["start"]})
        alarms[-1] |= _share(last, name)
    return sorted(alarms, key=lambda alarm: (alarm["measure"], -alarm["drop"]))


def _share(window, name):
    """Returns a class's recall, {} without labels; of no name, the accuracy."""
    return window["accuracy"] if name is None else window["recall"].get(name, {})


def _errors(quality, periods):
    """Returns {estimator: mean absolute difference from the accuracy of labeled answers, from the
    confidence of the same ones}; {} without any.

    Args:
        quality: the bundle's own.
        periods: (predicted, truth, confidence) of each window.
    """
    if not periods:
        return {}
    differences: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    for predicted, truth, confidence in periods:
        estimate = Estimate(quality)
        estimate.add(confidence)
        accuracy = float((predicted == truth).mean())
        for name, value in estimate.accuracies().items():
            differences[name].append(abs(value - accuracy))
    return {name: float(np.mean(values)) for name, values in differences.items()}
