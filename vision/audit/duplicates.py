"""Images that come more than once: the same pixels, or resized, re-encoded, cropped by a few
percent or brightened.

Exact duplicates share the SHA-256 of their decoded pixels. Near ones are found in three steps, each
of which leaves fewer pairs to the next: perceptual hashes, of images and of their crops, that
differ in few bits; thumbnails that correlate; and `overlay.likeness` of the pictures themselves.
"""

import dataclasses
import functools
import itertools

import numpy as np

from vision.audit.issues import Issue
from vision.audit.overlay import likeness
from vision.audit.scan import CROPS, THUMBNAIL
from vision.data.decode import UnreadableImage
from vision.support.processes import cores, ordered
from vision.support.progress import track

KINDS = ("duplicate", "near_duplicate")
_KEPT_FIRST = ("test", "val", "train")  # a leak is mended by dropping the training copy
# in which hashes of wholes, and of a crop and a whole, may differ
_BITS = 11
_CROP_BITS = 7
_THUMBNAILS = 0.8  # correlation of thumbnails below which pictures are not compared
# or twice the images: where so many thumbnails correlate, all look alike, and only the likeliest
# count
_PAIRS = 10_000
_CHUNK = 128  # pairs a task


@dataclasses.dataclass(frozen=True)
class Found:
    """Duplicates of a data set.

    Attributes:
        issues: one for each image that is to be dropped, leaks first.
        groups: lists of rows that show the same, the kept one first.
        leaks: how many of the issues are of an image whose kept copy lies in another split.
        conflicts: how many groups have several labels.
        near: the likeness from which pairs were taken for near duplicates.
        skipped: pairs that look alike as thumbnails but were not compared, for there were too many.
    """

    issues: list
    groups: list
    leaks: int
    conflicts: int
    near: float
    skipped: int


def find(images, scan, c):
    """Finds exact and near duplicates.

    Of a group that shows the same picture one image is kept: of test before val before train, and
    within a split the largest, or the first of equals. The score of a near duplicate is its
    `likeness` to its nearest in the group; an exact one's is 1.

    Args:
        images: `vision.audit.images.Images`.
        scan: its `vision.audit.scan.Scan`.
        c: config.audit.

    Returns:
        `Found`.
    """
    # blank images are all alike, and are found as such
    shows = scan.readable & (scan.std >= c.blank)
    first = first_of_same(scan.digest, shows)
    distinct = np.flatnonzero((first == np.arange(len(scan))) & shows)
    pairs = candidates(scan.hashes[distinct])
    pairs, skipped = _likeliest(pairs, resemblance(scan.thumbnail[distinct], pairs), len(distinct))
    pairs[:, :2] = distinct[pairs[:, :2]]
    scores = compare(images, pairs)
    near = threshold(scores, c.near)
    alike = [
        (int(a), int(b), float(s)) for (a, b, _), s in zip(pairs, scores, strict=True) if s >= near
    ]
    groups = _join(first, alike)
    return _report(images, scan, groups, first, alike, near, skipped)


def first_of_same(digest, counted):
    """Returns int (N,): for each image that is counted the first one with its digest; for the
    others themselves."""
    _, inverse = np.unique(digest, return_inverse=True)
    rows = np.arange(len(digest))
    first = np.full(inverse.max(initial=-1) + 1, len(digest))
    np.minimum.at(first, inverse[counted], rows[counted])
    return np.where(counted, first[inverse], rows)


def candidates(hashes, bits=_BITS, crop_bits=_CROP_BITS):
    """Finds the pairs of images whose hashes, or one's crop's and the other's, differ in few bits:
    all of them.

    By multi-index hashing, Norouzi et al. 2012 (arXiv:1307.2982): hashes that differ in at most 11
    of 64 bits differ in at most 2 of one of four parts of 16, and those in at most 7, in at most 1.
    So only images that nearly share a part are compared, some 500 of 60,000 for each.

    Args:
        hashes: uint64 (N, 6), of each image and its `CROPS`.
        bits, crop_bits: the most that two wholes, or a crop and a whole, may differ in; at most 11
            and 7.

    Returns:
        int64 (M, 3): (a, b, crop), where crop number `crop` of a is nearest to b as a whole; each
            pair once.
    """
    n, crops = hashes.shape
    wholes = np.ascontiguousarray(hashes[:, 0])
    parts = _parts(hashes)
    found = []
    for part in range(4):
        keys = parts[:, 0, part]
        order = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[order], np.arange(2**16 + 1))
        for crop in range(crops):
            radius, most = (1, crop_bits) if crop else (2, bits)
            for mask in _masks(radius):
                key = (parts[:, crop, part] ^ mask).astype(np.int64)
                found += _compare_buckets(
                    hashes[:, crop], wholes, starts[key], starts[key + 1], order, most, crop
                )
    if not found:
        return np.zeros((0, 3), np.int64)
    a, b, crop, distance = np.concatenate(found, 1)
    low = np.minimum(a, b)
    high = np.maximum(a, b)
    best = np.lexsort((crop, distance, high, low))
    _, unique = np.unique(low[best] * n + high[best], return_index=True)
    return np.stack([a, b, crop], 1)[best[unique]]


def _parts(hashes):
    """Returns uint16 (N, 6, 4): every fourth bit of each hash, for neighboring bits depend on one
    another."""
    bits = np.unpackbits(hashes[..., None].view(np.uint8), axis=-1)
    parts = [
        np.packbits(np.ascontiguousarray(bits[..., i::4]), axis=-1).view(np.uint16)[..., 0]
        for i in range(4)
    ]
    return np.stack(parts, -1)


@functools.cache
def _masks(radius):
    """Returns the numbers of 16 bits of which at most `radius` are set."""
    chosen = itertools.chain.from_iterable(
        itertools.combinations(range(16), r) for r in range(radius + 1)
    )
    return [np.uint16(sum(1 << bit for bit in bits)) for bits in chosen]


def _compare_buckets(queries, wholes, begins, ends, order, most, crop, limit=2**21):
    """Yields int64 (4, M): (a, b, crop, distance) of each query and the wholes order[begin:end]
    near it."""
    counts = ends - begins
    asking = np.flatnonzero(counts)
    sizes = np.cumsum(counts[asking])
    for begin, end in itertools.pairwise(_slices(sizes, limit)):
        rows = asking[begin:end]
        n = counts[rows]
        a = np.repeat(rows, n)
        b = order[np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n) + np.repeat(begins[rows], n)]
        distance = np.bitwise_count(queries[a] ^ wholes[b])
        near = (distance <= most) & (a != b if crop else a < b)
        if near.any():
            a = a[near]
            b = b[near]
            yield np.stack([a, b, np.full_like(a, crop), distance[near].astype(np.int64)])


def _slices(sizes, limit):
    """Returns where to cut so that each slice's part of the cumulated sizes is about `limit` at
    most."""
    cuts = [0]
    while cuts[-1] < len(sizes):
        done = sizes[cuts[-1] - 1] if cuts[-1] else 0
        cuts.append(max(int(np.searchsorted(sizes, done + limit, "right")), cuts[-1] + 1))
    return cuts


def _likeliest(pairs, resemblance, images):
    """Returns (the pairs that are worth a look at the pictures, how many others there would have
    been)."""
    worth = np.flatnonzero(resemblance >= _THUMBNAILS)
    most = max(_PAIRS, 2 * images)
    best = np.sort(worth[np.argsort(-resemblance[worth], kind="stable")[:most]])
    return pairs[best], len(worth) - len(best)


def resemblance(thumbnails, pairs, chunk=4096):
    """Returns float (M,): the correlation of the thumbnails of pairs (a, b, crop), of the one's
    crop with the other."""
    ways = [(_sampling(top, bottom), _sampling(left, right)) for top, bottom, left, right in CROPS]
    found = np.zeros(len(pairs), np.float32)
    for crop, (rows, columns) in enumerate(ways):
        chosen = np.flatnonzero(pairs[:, 2] == crop)
        for part in (chosen[i : i + chunk] for i in range(0, len(chosen), chunk)):
            a, b = (thumbnails[pairs[part, i]].astype(np.float32) for i in (0, 1))
            a, b = (_standardize(x.reshape(len(x), -1)) for x in (rows @ a @ columns.T, b))
            found[part] = np.einsum("md,md->m", a, b)
    return found


def _sampling(before, after):
    """Returns the float32 matrix that takes a thumbnail's rows to those of its crop, by linear
    interpolation."""
    at = (np.arange(THUMBNAIL) + 0.5) / THUMBNAIL * (1 - before - after) + before
    distance = np.abs(at[:, None] * THUMBNAIL - 0.5 - np.arange(THUMBNAIL))
    weights = np.maximum(1 - distance, 0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _standardize(x):
    x = x - x.mean(1, keepdims=True)
    return x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-6)


def compare(images, pairs):
    """Returns float (M,): the `likeness` of pairs of rows (a, b, crop)."""
    chunks = [pairs[i : i + _CHUNK] for i in range(0, len(pairs), _CHUNK)]
    parts = ordered(_compare, chunks, cores(), images)
    return np.array(
        [
            s
            for part in track(parts, len(chunks), f"near duplicates, parts of {_CHUNK} pairs")
            for s in part
        ]
    )


def _compare(images, pairs):
    """Returns the likeness of some pairs; -1 where a file has become unreadable since the scan."""
    load = functools.lru_cache(64)(images.image)
    found = []
    for a, b, crop in pairs.tolist():
        try:
            found.append(likeness(load(a), load(b), CROPS[crop]))
        except UnreadableImage:
            found.append(-1.0)
    return found


def threshold(scores, near):
    """Returns the likeness that near duplicates have: `near`, or more where the images of the data
    all look alike.

    Of digits many pairs reach any likeness, and ever fewer a higher one. So there are more false
    pairs in the band just below a threshold than above it; it rises until the band, as wide as what
    is above, holds less than half as many pairs, or none is left.
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
    """Returns the groups of rows connected by same pixels or by pairs (a, b, score), each
    sorted."""
    parent = first.copy()

    def root(i):
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return int(i)

    for a, b, _ in pairs:
        a, b = sorted((root(a), root(b)))
        parent[b] = a
    groups = {}
    concerned = set(np.flatnonzero(first != np.arange(len(first))).tolist()) | {
        int(i) for p in pairs for i in p[:2]
    }
    concerned |= set(first[list(concerned)].tolist())
    for row in sorted(concerned):
        groups.setdefault(root(row), []).append(row)
    return list(groups.values())


def _report(images, scan, groups, first, pairs, near, skipped):
    """Returns `Found` of groups of rows."""
    best = {}
    for a, b, score in pairs:
        for i in (a, b):
            best[i] = max(best.get(i, 0.0), score)
    area = scan.height.astype(np.int64) * scan.width
    issues = []
    conflicts = 0
    ordered = []
    for group in groups:
        kept, *rest = sorted(
            group, key=lambda i: (_KEPT_FIRST.index(images.split_of(i)), -area[i], i)
        )
        ordered.append([kept, *rest])
        conflicts += len(set(images.labels[group].tolist())) > 1
        issues += [_issue(images, row, kept, first, best) for row in rest]
    # Leaks first, and those whose labels differ before others.
    leak = [is_leak(images, issue) for issue in issues]
    same = [images.labels[issue.row] == images.labels[issue.other] for issue in issues]
    order = sorted(range(len(issues)), key=lambda i: (not leak[i], same[i]))
    return Found([issues[i] for i in order], ordered, sum(leak), conflicts, near, skipped)


def is_leak(images, issue):
    """Whether an issue is of an image whose copy lies in another split."""
    return issue.kind in KINDS and images.split[issue.row] != images.split[issue.other]


def _issue(images, row, kept, first, best):
    same = first[row] == first[kept]
    split = images.split_of(row)
    other = images.split_of(kept)
    says = "the same pixels as" if same else "nearly the same picture as"
    where = "another one" if split == other else f"one of {other}, which {split} must not share"
    label = images.class_of(row)
    its = images.class_of(kept)
    differ = (
        ""
        if label == its
        else f"; the labels differ, {label!r} here and {its!r} there: look which is right"
    )
    score = 1.0 if same else best.get(first[row], best.get(row, 0.0))
    return Issue(row, KINDS[not same], score, f"{says} {where}{differ}", "drop", kept)
