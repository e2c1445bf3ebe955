"""Images that occur more than once: exact and near duplicates.

Exact duplicates share the SHA-256 of their decoded pixels. Near duplicates are resized, re-encoded,
cropped by a few percent or brightened. They are found in three steps, each of which leaves fewer
pairs to the next: perceptual hashes, of images and of their crops, that differ in few bits;
thumbnails that correlate; and `overlay.likeness` of the pictures themselves.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from vision.audit.hash_search import candidates
from vision.audit.images import Images
from vision.audit.issues import Issue
from vision.audit.overlay import likeness
from vision.audit.scan import CROPS, THUMBNAIL, Scan
from vision.data.decode import UnreadableImage
from vision.support.processes import cores, ordered
from vision.support.progress import track

KINDS = ("duplicate", "near_duplicate")
_SPLITS_TO_KEEP = ("test", "val", "train")  # a leak is fixed by dropping the training copy
_THUMBNAILS = 0.8  # correlation of thumbnails below which pictures are not compared
# Most pairs of pictures compared, or twice the number of images if that is more: if more thumbnails
# correlate, all images look alike, and only the likeliest pairs matter.
_PAIRS = 10_000
_CHUNK = 128  # pairs per task


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """The duplicates in a dataset.

    Attributes:
        issues: one for each image to drop, leaks first.
        groups: lists of rows that show the same picture, the kept one first.
        leaks: number of issues whose kept copy is in another split.
        conflicts: number of groups with several labels.
        near: likeness from which pairs count as near duplicates.
        skipped: number of pairs whose thumbnails are alike but that were not compared, as there
            were too many.
    """

    issues: list[Issue]
    groups: list[list[int]]
    leaks: int
    conflicts: int
    near: float
    skipped: int


def find_duplicates(images: Images, scan: Scan, c: ConfigDict) -> Duplicates:
    """Finds exact and near duplicates.

    Of a group that shows the same picture one image is kept: test is preferred to val and val to
    train; within a split the largest, or the first of equals. The score of a near duplicate is its
    `likeness` to the most similar image of the group; that of an exact one is 1.

    Args:
        images: the images.
        scan: their scan.
        c: config.audit.
    """
    # Blank images are all alike; they are reported as blank.
    compared = scan.readable & (scan.std >= c.blank)
    first = first_of_same(scan.digest, compared)
    distinct = np.flatnonzero((first == np.arange(len(scan))) & compared)
    pairs = candidates(scan.hashes[distinct])
    correlations = thumbnail_correlations(scan.thumbnail[distinct], pairs)
    pairs, skipped = _likeliest(pairs, correlations, len(distinct))
    pairs[:, :2] = distinct[pairs[:, :2]]
    scores = compare(images, pairs)
    near = threshold(scores, c.near)
    near_pairs = [
        (int(a), int(b), float(score))
        for (a, b, _), score in zip(pairs, scores, strict=True)
        if score >= near
    ]
    groups = _keep_first(images, scan, _join(first, near_pairs))
    issues = _issues(images, groups, first, near_pairs)
    return Duplicates(
        issues=issues,
        groups=groups,
        leaks=sum(is_leak(images, issue) for issue in issues),
        conflicts=sum(len(set(images.labels[group].tolist())) > 1 for group in groups),
        near=near,
        skipped=skipped,
    )


def first_of_same(digest: np.ndarray, compared: np.ndarray) -> np.ndarray:
    """Returns int (N,): the first image with the digest of each image.

    Images that are not `compared`, bool (N,), have no equals but themselves.
    """
    _, inverse = np.unique(digest, return_inverse=True)
    rows = np.arange(len(digest))
    first = np.full(inverse.max(initial=-1) + 1, len(digest))
    np.minimum.at(first, inverse[compared], rows[compared])
    return np.where(compared, first[inverse], rows)


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


def compare(images: Images, pairs: np.ndarray) -> np.ndarray:
    """Returns float (M,): the `likeness` of pairs of rows (a, b, crop of a)."""
    chunks = [pairs[i : i + _CHUNK] for i in range(0, len(pairs), _CHUNK)]
    parts = ordered(_compare, chunks, cores(), images)
    progress = track(parts, len(chunks), f"near duplicates, parts of {_CHUNK} pairs")
    return np.array([score for part in progress for score in part])


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


def _join(first, pairs):
    """Returns the groups of rows, each sorted, that are connected by equal pixels or by pairs.

    Args:
        first: result of `first_of_same`.
        pairs: list of (a, b, score).
    """
    parent = first.copy()

    def root(i):
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return int(i)

    for a, b, _ in pairs:
        a, b = sorted((root(a), root(b)))
        parent[b] = a
    members = set(np.flatnonzero(first != np.arange(len(first))).tolist())
    members |= {int(row) for pair in pairs for row in pair[:2]}
    members |= set(first[list(members)].tolist())
    groups = {}
    for row in sorted(members):
        groups.setdefault(root(row), []).append(row)
    return list(groups.values())


def _keep_first(images, scan, groups):
    """Returns the groups with the image to keep first, then the next best."""
    area = scan.height.astype(np.int64) * scan.width

    def preference(row):
        return _SPLITS_TO_KEEP.index(images.split_of(row)), -area[row], row

    return [sorted(group, key=preference) for group in groups]


def _issues(images, groups, first, pairs):
    """Returns an issue for each image to drop: leaks first, then different labels before equal."""
    best_score = {}
    for a, b, score in pairs:
        for row in (a, b):
            best_score[row] = max(best_score.get(row, 0.0), score)
    issues = [
        _issue(images, row, kept, first, best_score) for kept, *rest in groups for row in rest
    ]

    def urgency(issue):
        same_label = images.labels[issue.row] == images.labels[issue.other]
        return not is_leak(images, issue), same_label

    return sorted(issues, key=urgency)


def is_leak(images: Images, issue: Issue) -> bool:
    """Returns whether an issue is about an image whose copy is in another split."""
    return issue.kind in KINDS and bool(images.split[issue.row] != images.split[issue.other])


def _issue(images, row, kept, first, best_score):
    is_exact = first[row] == first[kept]
    split = images.split_of(row)
    kept_split = images.split_of(kept)
    relation = "the same pixels as" if is_exact else "nearly the same picture as"
    place = f"one of {kept_split}, which must not be in {split} too"
    if split == kept_split:
        place = "another one"
    label = images.class_of(row)
    kept_label = images.class_of(kept)
    suggestion = f"{relation} {place}"
    if label != kept_label:
        suggestion += (
            f"; the labels differ, {label!r} here and {kept_label!r} there: check which is right"
        )
    score = 1.0 if is_exact else best_score.get(first[row], best_score.get(row, 0.0))
    return Issue(row, KINDS[not is_exact], score, suggestion, "drop", kept)
