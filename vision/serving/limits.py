"""How many bytes of request bodies the server holds in memory at a time."""

from vision.serving.errors import TooMany

BODIES = 16  # bodies of the largest size that all requests together may hold
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
            raise TooMany("too many large requests at a time: try again later", 1.0)

    def release(self, count: int) -> None:
        """Subtracts the bytes of a request that has been answered."""
        self.used -= count
