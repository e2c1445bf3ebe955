"""How far the host may run ahead of the device."""

import collections
import time
from typing import Any

import jax

LEAST = 2  # calls that may be unfinished, however long one takes: the device is never idle
KEPT = 64  # newest finished calls that the time of a call is measured on


class Pace:
    """Holds the host back, so that what the device has still to do takes about a second.

    Whoever must stop can then do so soon: without a bound, a queue of slow steps takes minutes.

    Args:
        seconds: that more calls than `LEAST` may take.
    """

    def __init__(self, seconds: float = 1.0) -> None:
        self._seconds = seconds
        self._unfinished: collections.deque[Any] = collections.deque()
        self._ends: collections.deque[float] = collections.deque(maxlen=KEPT)

    def add(self, result: jax.Array) -> None:
        """Takes the result of a call that has begun; waits until few enough are unfinished.

        Args:
            result: an array that the call computes and no later call is given.
        """
        self._unfinished.append(result)
        while self._unfinished and self._unfinished[0].is_ready():
            self._finish()
        # The call that begins next is one of those that may be unfinished.
        while len(self._unfinished) >= self.limit():
            jax.block_until_ready(self._unfinished[0])
            self._finish()

    def limit(self) -> int:
        """Returns how many calls may be unfinished."""
        if len(self._ends) < 2:
            return LEAST
        seconds = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        return max(LEAST, int(self._seconds / max(seconds, 1e-4)))

    def restart(self) -> None:
        """Measures anew, after a pause."""
        self._ends.clear()

    def _finish(self) -> None:
        self._unfinished.popleft()
        self._ends.append(time.perf_counter())
