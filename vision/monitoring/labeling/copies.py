"""Copies among kept images, by the audit's own search: equal pixels, and near duplicates."""

import collections
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vision.config import default
from vision.data.alike.hashes import digest, hashes, thumbnail, to_common_size
from vision.data.alike.pairs import alike_pairs
from vision.data.decode import UnreadableImage, decode, to_channels
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
        """Returns them with further files behind."""
        return Pictures([*self.files, *files], self._bits)

    def image(self, row: int) -> np.ndarray:
        """Returns the pixels, uint8 (H, W, 1 or 3); raises `UnreadableImage`."""
        return decode(self.files[row], bits=self._bits)


def find_copies(pictures: Any) -> tuple[np.ndarray, dict[int, set[int]]]:
    """Returns which images can be read, bool (N,), and {place: places of its copies}.

    Args:
        pictures: N images, such as `Pictures`; sent to worker processes.

    How alike near duplicates must be is what `config.audit` has by default.
    """
    count = len(pictures)
    chunks = [range(i, min(i + _CHUNK, count)) for i in range(0, count, _CHUNK)]
    parts = ordered(_measure_all, chunks, cores(), pictures)
    measured = [numbers for part in parts for numbers in part]
    readable = np.array([numbers is not None for numbers in measured], bool)
    equal: dict[bytes, list[int]] = collections.defaultdict(list)
    for row in np.flatnonzero(readable).tolist():
        equal[measured[row][0]].append(row)
    copies: dict[int, set[int]] = collections.defaultdict(set)
    groups = {rows[0]: set(rows) for rows in equal.values()}
    for group in groups.values():
        _connect(copies, group, group)
    for a, b in _near(pictures, measured, list(groups)):
        _connect(copies, groups[a], groups[b])
    return readable, {row: others - {row} for row, others in copies.items()}


def _near(pictures, measured, rows):
    """Returns [(a, b)] of the near duplicates among some rows."""
    limits = default().audit
    rows = [row for row in rows if measured[row][3] >= limits.blank]  # blank ones are all alike
    if len(rows) < 2:
        return []
    hashed, thumbnails = (np.stack([measured[row][i] for row in rows]) for i in (1, 2))
    alike = alike_pairs(pictures, np.array(rows, np.int64), hashed, thumbnails, limits.near)
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
