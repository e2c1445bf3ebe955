"""What is looked at before images are chosen: which can be read, are new, and are copies of others.

Copies are found by the audit's own search: equal pixels, and near duplicates. How alike these must
be is what `config.audit` has by default.
"""

import collections
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vision.config import default
from vision.data.alike.hashes import digest, hashes, thumbnail, to_common_size
from vision.data.alike.pairs import alike_pairs
from vision.data.decode import UnreadableImage, decode, to_channels
from vision.monitoring.labeling.earlier import NOTHING, Earlier, has_name
from vision.monitoring.labeling.reasons import NONE
from vision.support.processes import cores, ordered

_CHUNK = 64  # images per task


class Pictures:
    """Image files by their place.

    Args:
        files: N paths.
        bits: significant bits of 16-bit images, as `vision.data.decode.decode` takes them.

    Attributes:
        files: the paths.
    """

    def __init__(self, files: Sequence[pathlib.Path], bits: int = 0):
        self.files = files
        self._bits = bits

    def __len__(self) -> int:
        return len(self.files)

    def part(self, rows: np.ndarray) -> "Pictures":
        """Returns some of them, at places int64 (M,)."""
        return Pictures([self.files[row] for row in rows], self._bits)

    def with_others(self, files: Sequence[pathlib.Path]) -> "Pictures":
        """Returns them followed by other files."""
        return Pictures([*self.files, *files], self._bits)

    def image(self, row: int) -> np.ndarray:
        """Returns the pixels, uint8 (H, W, 1 or 3); raises `UnreadableImage`."""
        return decode(self.files[row], bits=self._bits)


class Screening:
    """Looks at more and more of N images, and at earlier collections: at each image once.

    Args:
        pictures: the images, such as `Pictures`; sent to worker processes.
        earlier: what earlier collections had.

    Attributes:
        pictures: the images.
        is_unreadable: bool (N,), of the images looked at, those that cannot be read.
        is_again: bool (N,), those that an earlier collection had, or a near duplicate of.
        copies: {place: places of its copies} among the images looked at.
    """

    def __init__(self, pictures: Any, earlier: Earlier = NOTHING):
        self.pictures = pictures
        self.is_unreadable = np.zeros(len(pictures), bool)
        self.is_again = np.zeros(len(pictures), bool)
        self.copies: dict[int, set[int]] = {}
        self._names = earlier.names
        self._has_name = np.zeros(len(pictures), bool)
        self._all = pictures.with_others(earlier.files) if earlier.files else pictures
        # In the order in which they were looked at; those of earlier collections from N on.
        self._rows: list[int] = []
        self._measured: list[tuple | None] = []
        self._scores: dict[tuple[int, int, int], float] = {}

    @property
    def is_out(self) -> np.ndarray:
        """Whether an image that was looked at cannot be chosen, bool (N,)."""
        return self.is_unreadable | self.is_again

    def look(self, rows: np.ndarray) -> None:
        """Looks at the images at some places, int64 (M,), unless it has done so before."""
        new = np.setdiff1d(rows, self._rows).tolist()
        if not new:
            return
        for row in new:
            self._has_name[row] = bool(self._names) and has_name(
                self.pictures.files[row], self._names
            )
        if not self._rows:
            new += range(len(self.pictures), len(self._all))
        chunks = [range(i, min(i + _CHUNK, len(new))) for i in range(0, len(new), _CHUNK)]
        parts = ordered(_measure_all, chunks, cores(), self._all.part(np.array(new)))
        measured = [numbers for part in parts for numbers in part]
        self._rows += new
        self._measured += measured
        for row, numbers in zip(new, measured, strict=True):
            if row < len(self.pictures):
                self.is_unreadable[row] = numbers is None
        self._compare()

    def _compare(self):
        """Finds the copies among all images that were looked at."""
        count = len(self.pictures)
        copies = _find_copies(self._all.part(np.array(self._rows)), self._measured, self._scores)
        by_row = {
            self._rows[place]: {self._rows[other] for other in others}
            for place, others in copies.items()
        }
        self.is_again = self._has_name.copy()
        self.copies = {}
        for row, others in by_row.items():
            if row < count:
                self.is_again[row] |= max(others, default=0) >= count
                self.copies[row] = {other for other in others if other < count}


def draw(screening: Screening, count: int, seed: int) -> np.ndarray:
    """Returns the score of "random", float64 (N,): 0 for `count` of N images, -inf for others.

    They are the first ones of a random order, without those that cannot be chosen and without
    copies of images before them; fewer if no others are left.

    Args:
        screening: of the N images; it looks at those that are drawn.
        count: how many.
        seed: of the order.
    """
    values = np.full(len(screening.pictures), NONE)
    order = np.random.default_rng([seed, 1]).permutation(len(values))
    end = count
    while True:
        screening.look(order[:end])
        drawn = _without_copies(order[:end], screening)[:count]
        if len(drawn) == count or end >= len(order):
            values[drawn] = 0
            return values
        # At least a quarter more, so that there are few passes even if nearly all are copies.
        end += max(count - len(drawn), end // 4)


def _without_copies(rows, screening):
    """Returns the places that can be chosen, in their order, without copies of ones before."""
    chosen: list[int] = []
    taken: set[int] = set()
    is_out = screening.is_out
    for row in rows.tolist():
        if not is_out[row] and row not in taken:
            chosen.append(row)
            taken |= screening.copies.get(row, set())
    return chosen


def _find_copies(pictures, measured, scores):
    """Returns {place: places of its copies} among N images that `_measure_all` has measured.

    Args:
        pictures: the images.
        measured: what was measured of each.
        scores: see `alike_pairs`.
    """
    equal: dict[bytes, list[int]] = collections.defaultdict(list)
    for row, numbers in enumerate(measured):
        if numbers is not None:
            equal[numbers[0]].append(row)
    copies: dict[int, set[int]] = collections.defaultdict(set)
    groups = {rows[0]: set(rows) for rows in equal.values()}
    for group in groups.values():
        _connect(copies, group, group)
    for a, b in _near(pictures, measured, list(groups), scores):
        _connect(copies, groups[a], groups[b])
    return {row: others - {row} for row, others in copies.items()}


def _near(pictures, measured, rows, scores):
    """Returns [(a, b)] of the near duplicates among some rows."""
    limits = default().audit
    rows = [row for row in rows if measured[row][3] >= limits.blank]  # blank ones are all alike
    if len(rows) < 2:
        return []
    hashed, thumbnails = (np.stack([measured[row][i] for row in rows]) for i in (1, 2))
    places = np.array(rows, np.int64)
    alike = alike_pairs(pictures, places, hashed, thumbnails, limits.near, scores)
    return [(a, b) for a, b, _ in alike.pairs]


def _connect(copies, rows, others):
    """Makes each of some rows a copy of each of others."""
    for row in rows:
        copies[row] |= others
    for row in others:
        copies[row] |= rows


def _measure_all(pictures, rows):
    """Returns [(digest, hashes, thumbnail, standard deviation)]; None for an unreadable image."""
    measured = []
    for row in rows:
        try:
            image = pictures.image(row)
        except UnreadableImage:
            measured.append(None)
            continue
        gray = to_channels(image, 1)[..., 0]
        common = to_common_size(gray)
        measured.append((digest(image), hashes(common), thumbnail(common), float(gray.std())))
    return measured
