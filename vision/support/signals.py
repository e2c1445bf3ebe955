"""SIGTERM and Ctrl-C: noted, so that a long command can save what it has and end.

While nothing is worth saving, a program may leave at once instead, even if its main thread is in
the middle of a long call of a library, such as a compilation.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from vision.support import progress
from vision.support.processes import kill_children

STOPPING = (signal.SIGTERM, signal.SIGINT)


class Interrupted(BaseException):
    """The work was broken off because a signal has come.

    No `Exception`, so that nothing that handles failures takes it for one.
    """


class Terminated(KeyboardInterrupt):
    """A SIGTERM has come to a command that nobody has told what to do with it."""


class Signals:
    """Notes a SIGTERM or a Ctrl-C; a second Ctrl-C raises `KeyboardInterrupt`.

    Attributes:
        received: whether one has come.
    """

    def __init__(self) -> None:
        self.received = False
        self._previous: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._farewell: str | None = None
        self._wakeup: tuple[int, int] | None = None  # of the pipe, and of what woke before

    def install(self) -> None:
        """Takes the signals, in the main thread: elsewhere, as in some notebooks, none come."""
        for number in STOPPING:
            with contextlib.suppress(ValueError):
                self._previous[number] = signal.signal(number, self._note)

    def watch(self) -> None:
        """Lets `leave_at_once` work: only for a program, as it ends the process."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self._wakeup = writing, before
        threading.Thread(target=self._watch, args=(reading,), daemon=True).start()

    def leave_at_once(self, farewell: str) -> None:
        """Lets a signal end the program with a line of text and exit code 0, until `stay`.

        Does nothing without `watch`.
        """
        with self._lock:
            self._farewell = farewell

    def stay(self) -> None:
        """Lets a signal be noted only, from now on."""
        with self._lock:
            self._farewell = None

    def ignore(self) -> None:
        """Lets signals change nothing once they are given back: the program's work is done."""
        for number in self._previous:
            self._previous[number] = signal.SIG_IGN

    def close(self) -> None:
        """Gives the signals back, and no longer leaves at once; called in the main thread."""
        self.stay()
        self.release(*STOPPING)
        if self._wakeup is not None:
            writing, before = self._wakeup
            signal.set_wakeup_fd(before)
            os.close(writing)  # which ends the thread
            self._wakeup = None

    def release(self, *numbers: int) -> None:
        """Gives signals back to whom they belonged before."""
        for number in numbers:
            if number in self._previous:
                handler = self._previous.pop(number)
                # None: the handler was not set from Python.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

    def _watch(self, reading: int) -> None:
        """Leaves, if that is wanted; a thread, since the main one may be busy for minutes."""
        while wakeup := os.read(reading, 1):
            if wakeup[0] not in STOPPING:
                continue
            with self._lock:
                if self._farewell is not None:
                    # Not through sys.stdout, which the main thread may have locked.
                    with contextlib.suppress(OSError):
                        os.write(2, progress.erasing().encode())
                        os.write(1, f"{self._farewell}\n".encode())
                    kill_children()
                    os._exit(0)
        os.close(reading)


_current: Signals | None = None


@contextlib.contextmanager
def listening() -> Iterator[Signals]:
    """Notes signals, in the `Signals` that is active already or else in a new one."""
    global _current
    if _current is not None:
        yield _current
        return
    _current = Signals()
    _current.install()
    try:
        yield _current
    finally:
        _current.close()
        _current = None


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Lets a SIGTERM end the command as Ctrl-C does, so that it cleans up; see `Terminated`.

    A handler that is installed already stays.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated

    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # set while modules were imported
            signal.signal(signal.SIGINT, signal.default_int_handler)
        is_free = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        if is_free:
            signal.signal(signal.SIGTERM, end)
    except ValueError:  # not in the main thread
        is_free = False
    try:
        yield
    finally:
        if is_free and signal.getsignal(signal.SIGTERM) is end:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def received() -> bool:
    """Returns whether a signal has come; False if nobody listens."""
    return _current is not None and _current.received


def raise_if_received() -> None:
    """Raises `Interrupted` if a signal has come."""
    if received():
        raise Interrupted
