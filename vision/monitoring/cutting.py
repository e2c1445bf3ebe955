"""Cuts rows into windows, of equally many rows or of equally long times, and keeps the latest."""

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

Content = TypeVar("Content")


class Span(NamedTuple):
    """How long a window is: in rows, or in seconds; the other is 0."""

    rows: int
    seconds: float


@dataclasses.dataclass
class _Cut(Generic[Content]):
    content: Content
    rows: int = 0


class Cutter(Generic[Content]):
    """The latest windows of rows that come in the order of writing.

    Args:
        span: how long a window is.
        most: windows that are remembered, the latest, and one more, which may not be full.
        begin: returns the content of the window of a number, without rows.
        fill: adds rows to a window: its content, any rows as `add` was given them, and the places
            of those that are in the window, integers (M,).

    Attributes:
        late: rows of windows that were forgotten already.
    """

    def __init__(
        self,
        span: Span,
        most: int,
        begin: Callable[[int], Content],
        fill: Callable[[Content, Any, np.ndarray], object],
    ):
        self._span = span
        self._most = most
        self._begin = begin
        self._fill = fill
        self._cuts: dict[int, _Cut[Content]] = {}
        self._forgotten = -(2**62)  # number up to which windows are
        self._rows = 0
        self.late = 0

    def add(self, rows: Any, seconds: np.ndarray) -> None:
        """Adds rows.

        Args:
            rows: anything that `fill` takes.
            seconds: float64 (N,), their times since the epoch.
        """
        numbers = self.numbers(seconds)
        self._rows += len(numbers)
        for number in map(int, np.unique(numbers)):
            chosen = np.flatnonzero(numbers == number)
            if number <= self._forgotten:
                self.late += len(chosen)
                continue
            if number not in self._cuts:
                self._cuts[number] = _Cut(self._begin(number))
            self._cuts[number].rows += len(chosen)
            self._fill(self._cuts[number].content, rows, chosen)
        while len(self._cuts) > self._most + 1:
            oldest = min(self._cuts)
            del self._cuts[oldest]
            self._forgotten = oldest

    def numbers(self, seconds: np.ndarray) -> np.ndarray:
        """Returns the number of the window that each of the next rows belongs to, int64 (N,).

        Args:
            seconds: see `add`.
        """
        if self._span.rows:
            return (self._rows + np.arange(len(seconds))) // self._span.rows
        return np.floor(seconds / self._span.seconds).astype(np.int64)

    def full(self, now: float) -> list[Content]:
        """Returns the contents of the windows that are over, the earliest first.

        Args:
            now: seconds since the epoch.
        """
        if self._span.rows:
            numbers = [n for n, cut in self._cuts.items() if cut.rows == self._span.rows]
        else:
            numbers = [n for n in self._cuts if (n + 1) * self._span.seconds <= now]
        return [self._cuts[number].content for number in sorted(numbers)]
