"""Images that occur more than once: exact and near duplicates.

Exact duplicates share the SHA-256 of their decoded pixels. Near duplicates are resized, re-encoded,
cropped by a few percent or brightened: `vision.data.alike.pairs` finds them.
"""

import dataclasses

import numpy as np
from ml_collections import ConfigDict

from vision.audit.images import Images
from vision.audit.issues import Issue
from vision.audit.scan import Scan
from vision.data.alike.pairs import alike_pairs

KINDS = ("duplicate", "near_duplicate")
_SPLITS_TO_KEEP = ("test", "val", "train")  # a leak is fixed by dropping the training copy


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
    alike = alike_pairs(images, distinct, scan.hashes[distinct], scan.thumbnail[distinct], c.near)
    near_pairs = alike.pairs
    groups = _keep_first(images, scan, _join(first, near_pairs))
    issues = _issues(images, groups, first, near_pairs)
    return Duplicates(
        issues=issues,
        groups=groups,
        leaks=sum(is_leak(images, issue) for issue in issues),
        conflicts=sum(len(set(images.labels[group].tolist())) > 1 for group in groups),
        near=alike.near,
        skipped=alike.skipped,
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
