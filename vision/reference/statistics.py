"""The reference of a bundle: statistics of the images that its model was made with.

The images' own numbers are those of training images. What the model says of them is not: it has
fitted its training images and is surer of them than of any new one, so that every server would seem
to drift. So confidence, entropy, predicted classes and embeddings are those of validation images.
"""

import base64
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from vision.errors import UserError
from vision.reference import appearance
from vision.reference.distances import bandwidth
from vision.reference.features import NAMES, OUTPUTS, bin_edges, count, outputs
from vision.reference.sketch import DIMENSIONS, SKETCH, sketch
from vision.support.schema import NATURAL, Rule, check, damaged, filled

FORMAT = 1
KEY = "drift"  # of a bundle's `reference`
SAMPLE = 1000  # sketches that are kept
EXPORT_AGAIN = "export it again"
_FEATURE = {"edges": filled(float), "counts": filled(NATURAL)}
_ROW = Rule(f"{DIMENSIONS} numbers", lambda value: _is_finite(value, (DIMENSIONS,)))
_SQUARE = Rule(
    f"{DIMENSIONS} lists of {DIMENSIONS} numbers",
    lambda value: _is_finite(value, (DIMENSIONS, DIMENSIONS)),
)
SCHEMA: dict[str, Any] = {
    "format": int,
    "features": dict.fromkeys(NAMES, _FEATURE),
    "classes": filled(NATURAL),
    "sketch": {"kind": str, "mean": _ROW, "covariance": _SQUARE, "sample": str},
}


@dataclasses.dataclass(frozen=True)
class Feature:
    """A feature's bins and how many images of the reference lie in each.

    Attributes:
        edges: float32 (K - 1,), as `vision.reference.features.bin_edges` returns them.
        counts: int64 (K,).
    """

    edges: np.ndarray
    counts: np.ndarray


@dataclasses.dataclass(frozen=True)
class Reference:
    """The statistics that windows are compared with.

    Attributes:
        features: {name: its `Feature`}, in the order of `vision.reference.features.NAMES`.
        class_counts: int64 (C,), images of each predicted class.
        mean, covariance: float64 (16,) and (16, 16), of the sketches of the embeddings.
        sample: float16 (n, 16), some of these sketches, in random order: a data set's own is often
            by class, and tests take the first rows.
        bandwidth: of a Gaussian kernel for sketches: the median of their squared distances.
    """

    features: Mapping[str, Feature]
    class_counts: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    sample: np.ndarray

    @functools.cached_property
    def bandwidth(self) -> float:
        return bandwidth(self.sample)


def _is_finite(value, shape):
    """Whether a value is lists of finite numbers of a shape."""
    array = np.asarray(value, np.float64)
    return array.shape == shape and bool(np.isfinite(array).all())


def describe(
    looks: np.ndarray, probabilities: np.ndarray, embeddings: np.ndarray
) -> dict[str, Any]:
    """Returns a reference as it stands in bundle.json, with lists in the place of arrays.

    Args:
        looks: float32 (N, 7), `vision.reference.appearance.measure` of training images.
        probabilities: float32 (M, C), of validation images.
        embeddings: float32 (M, D), of the same.
    """
    best, numbers = outputs(probabilities)
    columns = dict(zip(appearance.NAMES, looks.T, strict=True))
    columns |= dict(zip(OUTPUTS, numbers.T, strict=True))
    features = {}
    for name, values in columns.items():
        edges = bin_edges(values)
        features[name] = {"edges": edges.tolist(), "counts": count(values, edges).tolist()}
    sketches = sketch(embeddings)
    exact = sketches.astype(np.float64)
    centered = exact - exact.mean(0)
    return {
        "format": FORMAT,
        "features": features,
        "classes": np.bincount(best, minlength=probabilities.shape[1]).tolist(),
        "sketch": {
            "kind": SKETCH,
            "mean": exact.mean(0).tolist(),
            "covariance": (centered.T @ centered / max(len(exact) - 1, 1)).tolist(),
            "sample": base64.b64encode(sketches[:SAMPLE].astype("<f2").tobytes()).decode(),
        },
    }


def parse(contents: Mapping[str, Any] | None, classes: int, file: Any) -> Reference:
    """Returns the `Reference` in a bundle's `reference`.

    Args:
        contents: the bundle's `reference`; None if it has none.
        classes: number of the bundle's classes.
        file: where it was read, for messages.

    Raises:
        UserError: there is none, or it is of another format, or damaged.
    """
    drift = (contents or {}).get(KEY)
    if drift is None:
        raise UserError(
            f"{file} has no reference to measure drift from: {EXPORT_AGAIN} with this version, on "
            "a machine that has the run's own images"
        )
    version = drift.get("format") if isinstance(drift, dict) else None
    if version != FORMAT:
        raise UserError(
            f"{file} has a reference of format {version}, this version reads {FORMAT}: "
            f"{EXPORT_AGAIN}, or update"
        )
    key = f"reference.{KEY}"
    check(drift, SCHEMA, file, EXPORT_AGAIN, key)
    if drift["sketch"]["kind"] != SKETCH:
        reason = f"its sketches are of kind {drift['sketch']['kind']}, this version's {SKETCH}"
        raise damaged(file, reason, EXPORT_AGAIN)
    if len(drift["classes"]) != classes:
        raise damaged(file, f"{key}.classes must have {classes} numbers", EXPORT_AGAIN)
    features = {name: _feature(drift["features"][name]) for name in NAMES}
    for name, feature in features.items():
        is_increasing = bool((np.diff(feature.edges) > 0).all())
        if len(feature.counts) != len(feature.edges) + 1 or not is_increasing:
            reason = f"{key}.features.{name} must have increasing edges, and one more count"
            raise damaged(file, reason, EXPORT_AGAIN)
    return Reference(
        features,
        np.array(drift["classes"], np.int64),
        np.array(drift["sketch"]["mean"]),
        np.array(drift["sketch"]["covariance"]),
        _sample(drift["sketch"]["sample"], f"{key}.sketch.sample", file),
    )


def _feature(contents):
    edges = np.array(contents["edges"], np.float32)
    return Feature(edges, np.array(contents["counts"], np.int64))


def _sample(text, key, file):
    try:
        numbers = np.frombuffer(base64.b64decode(text, validate=True), "<f2")
        sample = numbers.reshape(-1, DIMENSIONS)
    except ValueError as error:
        reason = f"{key} must be base64 of rows of {DIMENSIONS} float16"
        raise damaged(file, reason, EXPORT_AGAIN) from error
    if not np.isfinite(sample).all():
        raise damaged(file, f"{key} must be finite", EXPORT_AGAIN)
    return np.random.default_rng(0).permutation(sample.astype(np.float16))
