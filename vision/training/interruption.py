"""When a training ends before its time: all its processes at the same point."""

from vision import parallel
from vision.support import signals


def is_agreed() -> bool:
    """Returns whether to stop now, because a signal has come.

    Every process must ask equally often, and gets the same answer.
    """
    return parallel.stop_is_agreed(signals.received())


def raise_if_agreed() -> None:
    """Raises `Interrupted` on every process, if a signal has come to one of them."""
    if is_agreed():
        raise signals.Interrupted
