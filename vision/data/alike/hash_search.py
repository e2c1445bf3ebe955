"""Finds pairs of images whose perceptual hashes differ in few bits, without comparing all pairs."""

import functools
import itertools

import numpy as np

# Most bits in which the hashes of two full images, or of a crop and a full image, may differ.
BITS = 11
CROP_BITS = 7


def candidates(hashes: np.ndarray, bits: int = BITS, crop_bits: int = CROP_BITS) -> np.ndarray:
    """Finds all pairs of images whose hashes differ in few bits, crops included.

    By multi-index hashing, Norouzi et al. 2012 (arXiv:1307.2982): hashes that differ in at most 11
    of 64 bits differ in at most 2 bits of one of four parts of 16, and those that differ in at most
    7, in at most 1. So only images that nearly share a part are compared, some 500 of 60,000 for
    each.

    Args:
        hashes: uint64 (N, 6), of each image and its crops.
        bits, crop_bits: most bits in which two full images, or a crop and a full image, may differ;
            at most 11 and 7.

    Returns:
        int64 (M, 3): (a, b, crop), where crop number `crop` of a is nearest to the full image b;
            each pair once.
    """
    parts = _parts(hashes)
    pairs = [
        pairs
        for part in range(4)
        for pairs in _candidates_by_part(hashes, parts, part, bits, crop_bits)
    ]
    if not pairs:
        return np.zeros((0, 3), np.int64)
    return _nearest_crop_of_each_pair(np.concatenate(pairs, 1), len(hashes))


def _candidates_by_part(hashes, parts, part, bits, crop_bits):
    """Yields int64 (4, M): (a, b, crop, distance) of the images that nearly share a part."""
    full_hashes = np.ascontiguousarray(hashes[:, 0])
    keys = parts[:, 0, part]
    order = np.argsort(keys, kind="stable")
    starts = np.searchsorted(keys[order], np.arange(2**16 + 1))
    for crop in range(hashes.shape[1]):
        for mask in _masks(1 if crop else 2):
            key = (parts[:, crop, part] ^ mask).astype(np.int64)
            for a, b in _pairs_in_buckets(starts[key], starts[key + 1], order):
                distance = np.bitwise_count(hashes[a, crop] ^ full_hashes[b])
                near = distance <= crop_bits if crop else distance <= bits
                near &= a != b if crop else a < b
                if near.any():
                    a = a[near]
                    b = b[near]
                    yield np.stack([a, b, np.full_like(a, crop), distance[near].astype(np.int64)])


def _pairs_in_buckets(begins, ends, order, limit=2**21):
    """Yields (a, b), int64 (M,) each: every query and the images order[begin:end] in its bucket."""
    counts = ends - begins
    queries = np.flatnonzero(counts)
    sizes = np.cumsum(counts[queries])
    for begin, end in itertools.pairwise(_slices(sizes, limit)):
        a = queries[begin:end]
        n = counts[a]
        place_in_bucket = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        b = order[place_in_bucket + np.repeat(begins[a], n)]
        yield np.repeat(a, n), b


def _nearest_crop_of_each_pair(pairs, n):
    """Returns int64 (M, 3), (a, b, crop), of (a, b, crop, distance) with repeated pairs."""
    a, b, crop, distance = pairs
    low = np.minimum(a, b)
    high = np.maximum(a, b)
    best = np.lexsort((crop, distance, high, low))
    _, unique = np.unique(low[best] * n + high[best], return_index=True)
    return np.stack([a, b, crop], 1)[best[unique]]


def _parts(hashes):
    """Returns uint16 (N, 6, 4): every fourth bit of each hash, as neighbors are dependent."""
    bits = np.unpackbits(hashes[..., None].view(np.uint8), axis=-1)
    parts = [
        np.packbits(np.ascontiguousarray(bits[..., i::4]), axis=-1).view(np.uint16)[..., 0]
        for i in range(4)
    ]
    return np.stack(parts, -1)


@functools.cache
def _masks(radius):
    """Returns the 16-bit numbers of which at most `radius` bits are set."""
    bit_sets = itertools.chain.from_iterable(
        itertools.combinations(range(16), r) for r in range(radius + 1)
    )
    return [np.uint16(sum(1 << bit for bit in bits)) for bits in bit_sets]


def _slices(sizes, limit):
    """Returns where to cut so that each slice adds about `limit` to the cumulative sizes."""
    cuts = [0]
    while cuts[-1] < len(sizes):
        done = sizes[cuts[-1] - 1] if cuts[-1] else 0
        cuts.append(max(int(np.searchsorted(sizes, done + limit, "right")), cuts[-1] + 1))
    return cuts
