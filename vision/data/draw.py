"""Splits drawn by the hash of a name: adding, removing or renaming a file moves no other.

Each unit, an image or a group of images, has a place in [0, 1) that follows from its name and the
seed. The splits' shares divide that interval, so a split's size is its share on average: of N
images, give or take sqrt(N share (1 - share)).

Only this moves an image: a class that has enough images for every split, but by chance none in one
of them, lends it the one whose place is nearest.
"""

import hashlib
from collections.abc import Sequence

import numpy as np


def draw(
    units: np.ndarray, labels: np.ndarray, fractions: Sequence[float], seed: int
) -> list[np.ndarray]:
    """Divides images by the names of their units.

    Args:
        units: texts, object (N,); images of one unit stay together.
        labels: (N,) integers >= 0.
        fractions: the splits' shares, with the sum 1. A share of 0 gets nothing.
        seed: an integer.

    Returns:
        A sorted (n,) int64 array of positions for each fraction.
    """
    numbers: dict[str, int] = {}
    unit_of = np.array([numbers.setdefault(unit, len(numbers)) for unit in units], np.int64)
    places = np.array([place(unit, seed) for unit in numbers])
    edges = np.cumsum(fractions)[:-1]
    split_of = np.searchsorted(edges, places, side="right")
    _lend(unit_of, np.asarray(labels), places, split_of, np.asarray(fractions, np.float64))
    return [np.flatnonzero(split_of[unit_of] == split) for split in range(len(fractions))]


def place(unit: str, seed: int) -> float:
    """Returns a unit's place in [0, 1), uniform over names and independent for each seed."""
    text = f"{seed % 2**32}\n{unit}".encode("utf-8", "surrogateescape")
    return (int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 11) / 2**53


def _pairs(labels, unit_of, count):
    """Returns int64 (P, 2), each class's label beside each of its units, of `count` in all."""
    codes = np.unique(labels.astype(np.int64) * count + unit_of)
    return np.stack(np.divmod(codes, max(count, 1)), 1)


def _lend(unit_of, labels, places, split_of, fractions):
    """Gives each class a unit in every split, if it has enough; changes `split_of` in place.

    A class with fewer units than splits needs one in the first only. Units that are the last of a
    class in a split that it needs are not lent.
    """
    needed_splits = np.flatnonzero(fractions > 0)
    pairs = _pairs(labels, unit_of, len(places))
    counts = np.zeros((int(labels.max(initial=-1)) + 1, len(fractions)), np.int64)
    np.add.at(counts, (pairs[:, 0], split_of[pairs[:, 1]]), 1)
    needed = np.zeros(counts.shape, bool)
    needed[counts.sum(1) > 0, needed_splits[0]] = True
    needed[np.ix_(counts.sum(1) >= len(needed_splits), needed_splits)] = True
    edges = np.cumsum([0, *fractions])
    for label in np.flatnonzero((needed & (counts == 0)).any(1)):
        own_units = pairs[pairs[:, 0] == label, 1]
        for split in needed_splits:
            if counts[label, split] or not needed[label, split]:
                continue
            low, high = edges[split : split + 2]
            distance = np.maximum(low - places[own_units], places[own_units] - high)
            for unit in own_units[np.argsort(distance, kind="stable")]:
                classes = np.unique(labels[unit_of == unit])
                lender = split_of[unit]
                if (needed[classes, lender] & (counts[classes, lender] < 2)).any():
                    continue
                split_of[unit] = split
                counts[classes, lender] -= 1
                counts[classes, split] += 1
                break
