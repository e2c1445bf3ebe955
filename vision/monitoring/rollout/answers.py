"""Guardrails from the prediction log: accuracy if labels have come, and disagreement."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vision.errors import UserError, shown
from vision.monitoring.abtest.comparisons import Difference, two_proportions
from vision.monitoring.abtest.moments import Moments, of_counts, of_units
from vision.monitoring.abtest.sequential import always_valid_p
from vision.monitoring.label_files import SUFFIXES
from vision.monitoring.labels import Labels, join, no_labels, read_labels
from vision.monitoring.log import Log, open_log
from vision.monitoring.rollout.plan import Plan
from vision.monitoring.rollout.readings import SCALE, worse
from vision.monitoring.rollout.rules import Reading
from vision.reference.log_format import PATTERN


class Logged(NamedTuple):
    """What the log says of a step.

    Attributes:
        requests: of the new version that are in it.
        labels: of the new version's answers that have one.
        readings: of disagreement and accuracy.
        doubts: why it cannot be trusted, a clause each.
        labeled: the shares of (the old, the new) version's answers that have a label.
        labeled_p: p-value of these being equal, right at every look together.
    """

    requests: int
    labels: int
    readings: list[Reading]
    doubts: list[str]
    labeled: tuple[float, float] = (0.0, 0.0)
    labeled_p: float = 1.0


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of the two versions since a step began.

    Attributes:
        request: integers (N,), equal for rows of one request.
        image: integers (N,), the image's index in the request.
        is_new: bool (N,), whether the new version answered.
        shadow: bool (N,), whether the answer was only logged.
        predicted: integers (N,), places of the classes.
        is_right: float64 (N,): 1 or 0, NaN without a label.
    """

    request: np.ndarray
    image: np.ndarray
    is_new: np.ndarray
    shadow: np.ndarray
    predicted: np.ndarray
    is_right: np.ndarray

    def part(self, chosen: np.ndarray) -> "Rows":
        """Returns the rows that are chosen, bool (N,)."""
        columns = (getattr(self, field.name) for field in dataclasses.fields(self))
        return Rows(*(column[chosen] for column in columns))


def check_log(directory: pathlib.Path, model: str) -> None:
    """Raises `UserError` if a log has rows, and none of them is of the model."""
    if not directory.is_dir():
        raise UserError(f"there is no directory --log {directory}")
    if not any(directory.glob(PATTERN)):  # the server writes the first file after minutes
        return
    models: set[str] = set()
    for batch in open_log(directory).batches(["model"]):
        models |= set(batch.column("model").dictionary.to_pylist())
        if model in models:
            return
    if models:
        names = ", ".join(sorted(models)[:5])
        raise UserError(f"--log {directory} has no row of model {model}: its rows are of {names}")


def read_step(
    directory: pathlib.Path,
    plan: Plan,
    classes: Sequence[str],
    labels: pathlib.Path | None,
    since: float,
) -> Logged:
    """Returns what the log says of a step.

    Args:
        directory: of the log.
        plan: of the rollout.
        classes: names of the classes of both versions.
        labels: file or folder of labels, which need not have any yet; None without.
        since: when the step began, seconds since the epoch.

    Raises:
        UserError: a file is damaged or has a label of an unknown class.
    """
    if not any(directory.glob(PATTERN)):
        return Logged(0, 0, [], [])
    log = open_log(directory)
    recent = [file for file in log.files if _written_at(file) >= since]
    log = dataclasses.replace(log, files=recent)
    truth = read_labels(labels, classes) if labels and has_labels(labels) else no_labels(classes)
    rows = _rows(log, plan, truth, since)
    given = rows.part(~rows.shadow)
    readings = []
    if "disagreement" in plan.guards:
        readings.append(_disagreement(rows, truth.classes, plan.limits.disagreement))
    if "accuracy" in plan.guards:
        readings.append(_accuracy(given, plan.limits.accuracy))
    doubts = [
        f"the server's clock went back by {step:.0f} s in {name}"
        for name, step in log.steps_back.items()
    ]
    requests = len(np.unique(given.request[given.is_new]))
    labeled = int((given.is_new & ~np.isnan(given.is_right)).sum())
    return Logged(requests, labeled, readings, doubts, *_labeled_alike(given))


def files_of_step(
    directory: pathlib.Path, labels: pathlib.Path | None, since: float
) -> tuple[tuple[str, float], ...]:
    """Returns the files that `read_step` reads, with the times of their writing."""
    files = [file for file in directory.glob(PATTERN) if _written_at(file) >= since]
    if labels and has_labels(labels):
        files += list(labels.iterdir()) if labels.is_dir() else [labels]
    return tuple(sorted((str(file), _written_at(file)) for file in files))


def has_labels(path: pathlib.Path) -> bool:
    """Returns whether a file of labels, or one in the folder, is there."""
    if path.is_dir():
        return any(file.suffix.lower() in SUFFIXES for file in path.iterdir())
    return path.exists()


def _rows(log: Log, plan: Plan, labels: Labels, since: float) -> Rows:
    """Returns the rows of both versions since a time."""
    parts = []
    for answers in join(log, no_labels(labels.classes), features=()):
        is_new = answers.versions == plan.new
        is_wanted = is_new | (answers.versions == plan.old)
        is_wanted &= (answers.models == plan.model) & (answers.seconds >= since)
        if is_wanted.any():
            parts.append(_labeled(answers.part(is_wanted), is_new[is_wanted], labels))
    if not parts:
        nothing = np.zeros(0, int)
        return Rows(nothing, nothing, nothing > 0, nothing > 0, nothing, np.zeros(0))
    ids, *columns = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Rows(np.unique(ids, return_inverse=True)[1], *columns)


def _labeled(answers, is_new, labels):
    """Returns the columns of `Rows`, with the identifiers in the place of `request`."""
    import pyarrow

    ids = pyarrow.array(answers.ids.astype(str))
    places = labels.places_of(ids, pyarrow.array(answers.images))
    truth = np.append(labels.truth, -1)[places]
    is_right = np.where(truth < 0, np.nan, truth == answers.predicted)
    ids = answers.ids.astype(str)
    return ids, answers.images, is_new, answers.shadow, answers.predicted, is_right


def _accuracy(given: Rows, limit: float) -> Reading:
    """Compares the shares of right answers, by request."""
    judged = given.part(~np.isnan(given.is_right))
    if not judged.is_new.any() or judged.is_new.all():
        return Reading("accuracy")
    old = judged.part(~judged.is_new)
    new = judged.part(judged.is_new)
    difference = two_proportions(_by_request(old, old.is_right), _by_request(new, new.is_right))
    return Reading(
        "accuracy",
        float(difference.old),
        float(difference.new),
        float(-limit - difference.difference),
        float(difference.units),
        float(worse(difference, -limit)),
        f"of {len(new.image):,} labeled answers",
    )


def _labeled_alike(given: Rows) -> tuple[tuple[float, float], float]:
    """Returns the versions' shares of labeled answers, and the p-value of their being equal.

    If they are not, labels may have been chosen by the answer, and accuracy says nothing.
    """
    if not given.is_new.any() or given.is_new.all():
        return (0.0, 0.0), 1.0
    old, new = (
        _by_request(given.part(side), ~np.isnan(given.is_right[side]))
        for side in (~given.is_new, given.is_new)
    )
    difference = two_proportions(old, new)
    shares = (float(difference.old), float(difference.new))
    return shares, float(always_valid_p(difference, SCALE))


def _by_request(rows: Rows, values: np.ndarray) -> Moments:
    """Returns the moments of values of rows (N,), whose units are requests."""
    _, unit = np.unique(rows.request, return_inverse=True)
    return of_units(np.bincount(unit), np.bincount(unit, values))


def _disagreement(rows: Rows, classes: Sequence[str], limit: float) -> Reading:
    """Compares the two versions' answers to the same images or, without a shadow, the shares of
    classes."""
    pairs = _pairs(rows)
    if len(pairs[0]):
        return _pair_reading(rows, pairs[0], pairs[1], limit)
    # images of one request are alike: the first speaks for all
    first = rows.part(~rows.shadow & (rows.image == 0) & (rows.predicted >= 0))
    if not first.is_new.any() or first.is_new.all():
        return Reading("disagreement")
    difference = two_proportions(
        _class_moments(first.part(~first.is_new), len(classes)),
        _class_moments(first.part(first.is_new), len(classes)),
    )
    p = np.minimum(worse(difference, limit), worse(difference, -limit))
    changes = np.abs(difference.difference)
    place = int(np.argmax(changes))
    return Reading(
        "disagreement",
        float(np.asarray(difference.old)[place]),
        float(np.asarray(difference.new)[place]),
        float(changes[place] - limit),
        float(np.min(difference.units)),
        float(min(1.0, p.min() * 2 * len(classes))),  # Bonferroni: up and down, for every class
        shown(classes[place]),
    )


def _class_moments(rows: Rows, classes: int) -> Moments:
    """Returns the moments of each class's share of the answers, arrays (C,)."""
    counts = np.bincount(rows.predicted, minlength=classes)
    return of_counts(counts, np.full(classes, counts.sum()))


def _pairs(rows):
    """Returns (rows that were given, rows of a shadow), places of the same images."""
    keys = rows.request.astype(np.int64) << 31 | rows.image
    given = []
    shadows = []
    for shadow_is_new in (True, False):
        shadow = np.flatnonzero(rows.shadow & (rows.is_new == shadow_is_new))
        other = np.flatnonzero(~rows.shadow & (rows.is_new != shadow_is_new))
        _, first, second = np.intersect1d(keys[other], keys[shadow], return_indices=True)
        given.append(other[first])
        shadows.append(shadow[second])
    return np.concatenate(given), np.concatenate(shadows)


def _pair_reading(rows, given, shadows, limit):
    """Compares pairs of answers to the same image."""
    differs = rows.predicted[given] != rows.predicted[shadows]
    _, unit = np.unique(rows.request[given], return_inverse=True)
    moments = of_units(np.bincount(unit), np.bincount(unit, differs))
    count = float(moments.effective_rows)
    share = float(moments.mean)
    adjusted = (share * count + 1) / (count + 2)  # never 0 or 1: Agresti and Coull 1998
    error = float(np.sqrt(adjusted * (1 - adjusted) / (count + 2)))
    difference = Difference(0.0, share, share, error, np.inf, moments.units, 1.0, 0.0, 0.0)
    return Reading(
        "disagreement",
        np.nan,
        share,
        share - limit,
        float(moments.units),
        float(worse(difference, limit)),
        f"of {len(given):,} images that both answered",
    )


def _written_at(file):
    try:
        return file.stat().st_mtime
    except FileNotFoundError:  # deleted by the server, which keeps the latest
        return 0.0
