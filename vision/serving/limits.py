"""How much the server holds in memory at a time: bytes of request bodies, and decoded pixels."""

import contextlib
import threading
from collections.abc import Iterator

from vision.serving.errors import TooMany

BODIES = 8  # bodies of the largest size that all requests together may hold
# bytes of a body that is accepted even so: a few slow clients with large bodies must not lock out
# the others
SMALL = 65_536


class BodyBudget:
    """Counts the bytes of bodies that all requests hold, and refuses large ones beyond a limit.

    Args:
        max_body: bytes of the largest body.

    Attributes:
        used: bytes of the bodies in memory.
    """

    def __init__(self, max_body: int):
        self._max_body = max_body
        self.used = 0

    def add(self, count: int) -> None:
        """Counts bytes that have arrived."""
        self.used += count

    def check(self, received: int) -> None:
        """Raises `TooMany` if the limit is exceeded, unless the request itself is small.

        Args:
            received: bytes of the request's body that have arrived.
        """
        if self.used > BODIES * self._max_body and received > SMALL:
            raise TooMany("too many large requests at once: try again later", 1.0)

    def release(self, count: int) -> None:
        """Subtracts the bytes of a request that has been answered."""
        self.used -= count


class PixelBudget:
    """Lets threads decode images only as far as their pixels fit into memory together.

    A photo of 50 megapixels takes 0.3 GB while it is decoded, and a second one in another thread as
    much again. Small images are decoded side by side.

    Args:
        limit: pixels of the images that are decoded at a time; a larger image waits until it is
            alone.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._used = 0
        self._released = threading.Condition()
        self._turn = threading.Lock()  # or many small images would keep a large one waiting

    @contextlib.contextmanager
    def reserve(self, pixels: int) -> Iterator[None]:
        """Waits until there is room for an image; it is released at the end."""
        with self._turn, self._released:
            self._released.wait_for(lambda: not self._used or self._used + pixels <= self._limit)
            self._used += pixels
        try:
            yield
        finally:
            with self._released:
                self._used -= pixels
                self._released.notify()
