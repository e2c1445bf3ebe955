"""SIGTERM and Ctrl-C, noted so that the loop can save and end."""

import contextlib
import signal
from types import FrameType
from typing import Any

from vision import parallel


class Signals:
    """Notes a SIGTERM or a Ctrl-C; a second Ctrl-C ends the process at once.

    Attributes:
        received: whether one has come.
    """

    def __enter__(self) -> "Signals":
        self.received = False
        self._previous: dict[int, Any] = {}
        # Several processes must all stop at one step: JAX's runtime then takes SIGTERM, and Ctrl-C
        # just ends them.
        for number in (signal.SIGTERM, signal.SIGINT) if parallel.is_single_process() else ():
            # Outside of the main thread, as in some notebooks, signals cannot be handled.
            with contextlib.suppress(ValueError):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            # None: the handler was not set from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
