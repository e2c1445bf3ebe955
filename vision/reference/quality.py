"""How good a model is on the validation images that its bundle's reference is of, and estimates of
how good it is if nobody knows the truth.

The estimates read only the confidence of each answer, and assume that a confidence means what it
meant for the reference. They see images that have become harder, but not a model that is sure and
wrong: a new class, or a label whose meaning has changed. So they stand beside the truth and do not
replace it.

cbpe  the mean of the calibrated confidence: the share of the reference's images of such a
      confidence that were right, by isotonic regression. Confidence-based performance estimation
      as in NannyML, whose documentation describes it; for the accuracy only the probability of the
      predicted class counts.
atc   the share of the answers above a threshold, that of the confidence above which as many of the
      reference's images lie as were right. Average thresholded confidence with maximum confidence
      (Garg et al. 2022, arXiv:2201.04234, equations 1 and 2).
doc   the reference's accuracy, plus the difference of the mean confidences. Difference of
      confidences (Guillory et al. 2021, arXiv:2107.03315) with slope 1: to fit one takes labeled
      data of other shifts.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vision.errors import UserError
from vision.reference.calibration import bin_of, calibration_error, interval
from vision.support.schema import NATURAL, check, damaged, filled, numbers_within

FORMAT = 1
KEY = "quality"  # of a bundle's `reference`
BINS = 15  # of the calibration error, as an evaluation's
DRAWS = 200  # of the bootstrap of its interval
ESTIMATORS = {"cbpe": "CBPE", "atc": "ATC", "doc": "DoC"}
EXPORT_AGAIN = "export it again"
_SHARE = numbers_within(0, 1)
SCHEMA: dict[str, Any] = {
    "format": int,
    "images": filled(NATURAL),
    "right": filled(NATURAL),
    "mean_confidence": _SHARE,
    "calibration": {
        "error": {"value": _SHARE, "low": _SHARE, "high": _SHARE},
        "images": filled(NATURAL),
        "right": filled(NATURAL),
        "confidence": filled(_SHARE),
    },
    "cbpe": {"confidence": filled(_SHARE), "accuracy": filled(_SHARE)},
    "atc": {"threshold": numbers_within(0, 2)},
}


@dataclasses.dataclass(frozen=True)
class Bins:
    """Reliability, in `BINS` bins of equal width.

    Attributes:
        images, right: int64 (B,), images of each bin and those that were right.
        confidence: float64 (B,), their mean confidence; 0 of an empty bin.
    """

    images: np.ndarray
    right: np.ndarray
    confidence: np.ndarray


@dataclasses.dataclass(frozen=True)
class Quality:
    """What a bundle's reference says of its quality.

    Attributes:
        images, right: int64 (C,), images of each true class and those that were right.
        mean_confidence: of all images.
        error: {"value", "low", "high"}, the expected calibration error with its 95 % interval.
        bins: its reliability.
        knots: float64 (2, K), confidences, and the accuracy that they mean.
        threshold: of ATC.
    """

    images: np.ndarray
    right: np.ndarray
    mean_confidence: float
    error: Mapping[str, float]
    bins: Bins
    knots: np.ndarray
    threshold: float

    @property
    def accuracy(self) -> float:
        return float(self.right.sum() / self.images.sum())


class Estimate:
    """The estimates of some answers, whose number may be any.

    Args:
        quality: what the bundle's reference says.

    Attributes:
        rows: answers so far.
    """

    def __init__(self, quality: Quality):
        self._quality = quality
        self.rows = 0
        self._calibrated = 0.0
        self._above = 0
        self._confidence = 0.0

    def add(self, confidence: np.ndarray) -> None:
        """Adds answers.

        Args:
            confidence: float (N,), the probabilities of the predicted classes.
        """
        exact = np.asarray(confidence, np.float64)
        self.rows += len(exact)
        self._calibrated += float(np.interp(exact, *self._quality.knots).sum())
        self._above += int((exact >= self._quality.threshold).sum())
        self._confidence += float(exact.sum())

    def accuracies(self) -> dict[str, float]:
        """Returns {name of `ESTIMATORS`: the accuracy that it estimates}; there must be answers."""
        gained = self._confidence / self.rows - self._quality.mean_confidence
        estimates = (
            self._calibrated / self.rows,
            self._above / self.rows,
            min(max(self._quality.accuracy + gained, 0.0), 1.0),
        )
        return dict(zip(ESTIMATORS, estimates, strict=True))


def bins_of(confidence: np.ndarray, right: np.ndarray) -> Bins:
    """Returns the reliability of some answers.

    Args:
        confidence: float (N,), the probabilities of the predicted classes.
        right: bool (N,), whether they are the true ones.
    """
    place = bin_of(confidence, BINS)
    images = np.bincount(place, minlength=BINS)
    totals = np.bincount(place, np.asarray(confidence, np.float64), BINS)
    hits = np.bincount(place[np.asarray(right, bool)], minlength=BINS)
    return Bins(images, hits, totals / np.maximum(images, 1))


def error_of(confidence: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """Returns {"value", "low", "high"}, the calibration error of some answers, N at least 1, and
    its 95 % percentile-bootstrap interval; see `bins_of`."""
    value, _ = calibration_error(confidence, right, BINS)
    low, high = interval(confidence, right, BINS, DRAWS) or (value, value)
    return {"value": value, "low": low, "high": high}


def describe(probabilities: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Returns the quality as it stands in bundle.json, with lists in the place of arrays.

    Needs SciPy.

    Args:
        probabilities: float32 (N, C), of images that the model was not fitted to, N at least 1.
        truth: integers (N,), their classes.
    """
    from scipy.optimize import isotonic_regression

    classes = probabilities.shape[1]
    right = probabilities.argmax(1) == truth
    confidence = np.minimum(probabilities.max(1).astype(np.float64), 1)
    # one point for each confidence: equal ones mean the same accuracy
    levels, place, images = np.unique(confidence, return_inverse=True, return_counts=True)
    accuracies = np.bincount(place, right) / images
    fitted = np.clip(isotonic_regression(accuracies, weights=images).x, 0, 1)
    ends = np.flatnonzero(np.diff(fitted, prepend=-1) + np.abs(np.diff(fitted, append=-1)))
    bins = bins_of(confidence, right)
    return {
        "format": FORMAT,
        "images": np.bincount(truth, minlength=classes).tolist(),
        "right": np.bincount(truth[right], minlength=classes).tolist(),
        "mean_confidence": float(confidence.mean()),
        "calibration": {
            "error": error_of(confidence, right),
            "images": bins.images.tolist(),
            "right": bins.right.tolist(),
            "confidence": bins.confidence.tolist(),
        },
        "cbpe": {"confidence": levels[ends].tolist(), "accuracy": fitted[ends].tolist()},
        "atc": {"threshold": _threshold(confidence, int(right.sum()))},
    }


def _threshold(confidence, right):
    """Returns the confidence that `right` images reach, as nearly as equal ones allow."""
    levels, counts = np.unique(confidence, return_counts=True)
    reaching = np.append(np.cumsum(counts[::-1])[::-1], 0)  # levels[i] and more
    return float(np.append(levels, 2.0)[np.abs(reaching - right).argmin()])


def parse(contents: Mapping[str, Any] | None, classes: Sequence[str], file: Any) -> Quality:
    """Returns the `Quality` in a bundle's `reference`.

    Args:
        contents: the bundle's `reference`; None if it has none.
        classes: names of the bundle's classes.
        file: where it was read, for messages.

    Raises:
        UserError: there is none, or it is of another format, or damaged.
    """
    quality = (contents or {}).get(KEY)
    if quality is None:
        raise UserError(
            f"{file} does not say how good its model was: {EXPORT_AGAIN} with this version, on a "
            "machine that has the run's validation images"
        )
    version = quality.get("format") if isinstance(quality, dict) else None
    if version != FORMAT:
        raise UserError(
            f"{file} has a reference.{KEY} of format {version}, this version reads {FORMAT}: "
            f"{EXPORT_AGAIN}, or update"
        )
    check(quality, SCHEMA, file, EXPORT_AGAIN, f"reference.{KEY}")
    return _checked(quality, len(classes), file)


def _checked(quality, classes, file):
    """Returns the `Quality` of contents whose kinds are right, if they belong together."""
    calibration = quality["calibration"]
    counts = {
        "": (quality["images"], quality["right"], classes),
        ".calibration": (calibration["images"], calibration["right"], BINS),
    }
    for key, (images, right, length) in counts.items():
        is_right = len(images) == len(right) == length and sum(images) > 0
        if not is_right or any(hit > n for n, hit in zip(images, right, strict=True)):
            reason = (
                f"reference.{KEY}{key} must have {length} counts, at most as many right as images"
            )
            raise damaged(file, reason, EXPORT_AGAIN)
    knots = quality["cbpe"]["confidence"], quality["cbpe"]["accuracy"]
    is_even = len(knots[0]) == len(knots[1]) and len(calibration["confidence"]) == BINS
    if not is_even or (np.diff(knots[0]) <= 0).any():
        raise damaged(file, f"reference.{KEY}.cbpe must have increasing confidences", EXPORT_AGAIN)
    return Quality(
        np.array(quality["images"], np.int64),
        np.array(quality["right"], np.int64),
        float(quality["mean_confidence"]),
        calibration["error"],
        Bins(
            np.array(calibration["images"], np.int64),
            np.array(calibration["right"], np.int64),
            np.array(calibration["confidence"]),
        ),
        np.array(knots, np.float64),
        float(quality["atc"]["threshold"]),
    )
