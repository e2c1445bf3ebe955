"""Pairs of pictures that show nearly the same: resized, re-encoded, cropped or brightened copies.

They are found in three steps, each of which leaves fewer pairs to the next: perceptual hashes, of
images and of their crops, that differ in few bits; thumbnails that correlate; and
`overlay.likeness` of the pictures themselves.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vision.data.alike.hash_search import candidates
from vision.data.alike.hashes import CROPS, THUMBNAIL
from vision.data.alike.overlay import likeness
from vision.data.decode import UnreadableImage
from vision.support.processes import cores, ordered
from vision.support.progress import track

_THUMBNAILS = 0.8  # correlation of thumbnails below which pictures are not compared
# Most pairs of pictures compared, or twice the number of images if that is more: if more thumbnails
# correlate, all images look alike, and only the likeliest pairs matter.
_PAIRS = 10_000
_CHUNK = 128  # pairs per task


class Alike(NamedTuple):
    """Pairs of near duplicates.

    Attributes:
        pairs: (a, b, likeness) of each.
        near: likeness from which pairs count.
        skipped: pairs whose thumbnails are alike but that were not compared, as there were too
            many.
    """

    pairs: list[tuple[int, int, float]]
    near: float
    skipped: int


def alike_pairs(
    images: Any,
    rows: np.ndarray,
    hashes: np.ndarray,
    thumbnails: np.ndarray,
    near: float,
    scores: dict[tuple[int, int, int], float] | None = None,
) -> Alike:
    """Returns the near duplicates among some images.

    Args:
        images: has `image(row)`, which returns uint8 (H, W, 1 or 3) or raises `UnreadableImage`;
            sent to worker processes.
        rows: int64 (N,), the images to compare.
        hashes: uint64 (N, 6), of each, from `vision.data.alike.hashes`.
        thumbnails: uint8 (N, 32, 32), of each.
        near: likeness from which pairs are near duplicates, at least; see `threshold`.
        scores: {(a, b, crop of a): likeness} of pairs that an earlier call has compared; those that
            this one compares are added.
    """
    pairs = candidates(hashes)
    correlations = thumbnail_correlations(thumbnails, pairs)
    pairs, skipped = _likeliest(pairs, correlations, len(rows))
    pairs[:, :2] = rows[pairs[:, :2]]
    scores = {} if scores is None else scores
    keys = list(map(tuple, pairs.tolist()))
    is_new = np.array([key not in scores for key in keys], bool)
    compared = compare(images, pairs[is_new]).tolist()
    scores.update(zip(itertools.compress(keys, is_new), compared, strict=True))
    near = threshold([scores[key] for key in keys], near)
    alike = [(*key[:2], scores[key]) for key in keys if scores[key] >= near]
    return Alike(alike, near, skipped)


def _likeliest(pairs, correlations, image_count):
    """Returns (the pairs whose pictures are to be compared, the number of pairs over the limit)."""
    alike = np.flatnonzero(correlations >= _THUMBNAILS)
    limit = max(_PAIRS, 2 * image_count)
    best = np.sort(alike[np.argsort(-correlations[alike], kind="stable")[:limit]])
    return pairs[best], len(alike) - len(best)


def thumbnail_correlations(
    thumbnails: np.ndarray, pairs: np.ndarray, chunk: int = 4096
) -> np.ndarray:
    """Returns float (M,): the correlation of the crop's thumbnail with the other, for each pair.

    Args:
        thumbnails: uint8 (N, 32, 32).
        pairs: int (M, 3), (a, b, crop of a).
        chunk: pairs that are computed at a time.
    """
    resamplers = [
        (_resampler(top, bottom), _resampler(left, right)) for top, bottom, left, right in CROPS
    ]
    correlations = np.zeros(len(pairs), np.float32)
    for crop, (rows, columns) in enumerate(resamplers):
        with_crop = np.flatnonzero(pairs[:, 2] == crop)
        for part in (with_crop[i : i + chunk] for i in range(0, len(with_crop), chunk)):
            a, b = (thumbnails[pairs[part, i]].astype(np.float32) for i in (0, 1))
            a, b = (_standardize(x.reshape(len(x), -1)) for x in (rows @ a @ columns.T, b))
            correlations[part] = np.einsum("md,md->m", a, b)
    return correlations


def _resampler(before, after):
    """Returns the float32 matrix that interpolates the rows of a crop from a thumbnail's."""
    position = (np.arange(THUMBNAIL) + 0.5) / THUMBNAIL * (1 - before - after) + before
    distance = np.abs(position[:, None] * THUMBNAIL - 0.5 - np.arange(THUMBNAIL))
    weights = np.maximum(1 - distance, 0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _standardize(x):
    x = x - x.mean(1, keepdims=True)
    return x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-6)


def compare(images: Any, pairs: np.ndarray) -> np.ndarray:
    """Returns float (M,): the `likeness` of pairs of rows (a, b, crop of a)."""
    chunks = [pairs[i : i + _CHUNK] for i in range(0, len(pairs), _CHUNK)]
    parts = ordered(_compare, chunks, cores(), images)
    compared = track(parts, len(pairs), "comparing near duplicates", "pairs", size=_CHUNK)
    return np.array([score for part in compared for score in part])


def _compare(images, pairs):
    """Returns the likeness of some pairs; -1 if a file has become unreadable since the scan."""
    load = functools.lru_cache(64)(images.image)
    scores = []
    for a, b, crop in pairs.tolist():
        try:
            scores.append(likeness(load(a), load(b), CROPS[crop]))
        except UnreadableImage:
            scores.append(-1.0)
    return scores


def threshold(scores: Sequence[float] | np.ndarray, near: float) -> float:
    """Returns the likeness from which pairs are near duplicates: `near` or more.

    It is more if all images of the dataset look alike.

    Among digits many pairs reach any likeness, and ever fewer a higher one, so there are more false
    pairs in the band just below a threshold than above it. The threshold rises until the band,
    which is as wide as the range above it, holds less than half as many pairs, or none is left.
    """
    scores = np.asarray(scores)
    while near < 0.9995:
        above = np.count_nonzero(scores >= near)
        below = np.count_nonzero(scores >= 2 * near - 1) - above
        if 2 * below <= above:
            break
        near = 1 - 0.8 * (1 - near)
    return near
