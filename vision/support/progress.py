"""How far long work is, on stderr: nothing that a user starts is silent for more than five seconds.

    with Progress("scanning", 10_000, "images") as work:
        for part in work.over(parts, size=128):  # scanning: 3,072 of 10,000 images, 412/s, ...
            ...
    with waiting("compiling the train step"):  # compiling the train step: 00:12
        ...

On a terminal it is one line, which is rewritten and leaves nothing behind; in a log a plain line,
after 2 s and then every 4.5 s, once a command takes minutes every 30 s. Of nested work the line has
all levels. Nothing is ever written to stdout. `vision.cli.run` opens the outermost level, which
speaks if nothing else does, in a log after 3 s, and clears what is left before an error is printed.
Outside of it, in a notebook or a script, only the training speaks.

A thread that prints to a terminal holds the lock of Python's stream, and below it `above`: the line
is written past the stream, to its descriptor, or the two would wait for each other.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO, TypeVar

from vision.errors import printable
from vision.support import progress_text as text

STARTING = "starting"  # a command's title until its first work: packages are imported
WORKING = "still working"  # and then
FIRST_LINE = 2.0  # seconds after which work shows itself in a log
FIRST_BASE = 3.0  # after which a command does: it began before this module could be imported
LINE_EVERY = 4.5  # seconds between two lines of a log: below 5 with what a busy machine adds
FIRST_MINUTES = 120.0  # seconds of a command after which counted work is content with
LATER_EVERY = 30.0  # seconds between two lines: a training of days writes no book
FIRST_DRAWN = 0.3  # seconds after which work shows itself on a terminal
REDRAWN_EVERY = 0.25  # seconds
LONGEST_JOIN = 1.0  # seconds that the end of the work waits for a thread whose terminal hangs

Item = TypeVar("Item")


class Progress:
    """A piece of work, shown from `begin` (or `with`) to `close`.

    Args:
        title: what is done, such as "scanning".
        total: how much there is to do; None if that is unknown, as while waiting.
        unit: what is counted, such as "images".
        done: how much of it was done before, as by a run that is resumed.
        always: whether it is also shown outside of a command, as in a notebook.
        board: where it is shown; the process's by default.
    """

    def __init__(
        self,
        title: str,
        total: int | None = None,
        unit: str = "",
        *,
        done: int = 0,
        always: bool = False,
        board: "Board | None" = None,
    ):
        self.title = printable(title)
        self.total = total
        self.began = 0.0
        self.was_shown = False  # in a log
        self.is_always = always
        self.is_base = False  # of a whole command: speaks only if nothing else does
        self._unit = unit
        self._done = done
        self._note = ""
        self._board = board or _board
        self._first: tuple[int, float] | None = None  # from which the rate counts: after compiling
        self._counting = threading.Lock()

    def begin(self) -> "Progress":
        """Shows the work from now on."""
        self.began = self._board.clock()
        self._board.add(self)
        return self

    def advance(self, count: int = 1) -> None:
        """Notes that `count` more are done; called by any thread."""
        with self._counting:
            self._reach(self._done + count)

    def reach(self, done: int) -> None:
        """Notes that `done` of the total are done; called by any thread."""
        with self._counting:
            self._reach(done)

    def note(self, words: str) -> None:
        """Shows words in place of the rate, such as the loss."""
        self._note = printable(words)

    def over(self, items: Iterable[Item], size: int = 1) -> Iterator[Item]:
        """Yields the items, each of which counts as `size`, and notes when the next is asked for.

        To be used inside of `with`, which ends the work also if the body of the loop fails.
        """
        for item in items:
            yield item
            self.advance(size)

    def close(self) -> None:
        """Ends the work: its line disappears from a terminal."""
        self._board.remove(self)

    def __enter__(self) -> "Progress":
        return self.begin()

    def __exit__(self, *_: object) -> None:
        self.close()

    def brief(self) -> str:
        """Returns how far it is, as the beginning of the line of work within it."""
        if self.total is None:
            return self.title
        return f"{self.title} {self._done:,} of {self.total:,}"

    def parts(self, now: float) -> tuple[str, str]:
        """Returns what is done and how much of it; and how fast and how long, or ""."""
        if self.total is None:
            elapsed = text.interval(now - self.began)
            return self.title, ", ".join(filter(None, (elapsed, self._note)))
        head = f"{self.title}: {self._done:,} of {self.total:,} {self._unit}".rstrip()
        first, since = self._first or (self._done, now)
        rate = (self._done - first) / max(now - since, 1e-9)
        return head, text.details(self._note, rate, self.total - self._done)

    def row(self, outer: str, now: float, columns: int) -> str:
        """Returns the line of a terminal, with a bar if the work is counted and there is room."""
        head, tail = self.parts(now)
        return text.row(outer + head, tail, self._done, self.total, columns)

    def line(self, outer: str, now: float) -> str:
        """Returns the line of a log."""
        return outer + text.line(*self.parts(now), self.total is not None)

    def _reach(self, done: int) -> None:
        self._done = done if self.total is None else min(done, self.total)
        if self._first is None:
            self._first = (self._done, self._board.clock())


def waiting(title: str) -> Progress:
    """Returns work without a count, such as compiling: shown with the time that it has taken."""
    return Progress(title)


def library(title: str) -> contextlib.AbstractContextManager[object]:
    """Leaves a terminal to a library that draws bars of its own there, and waits for it elsewhere.

    Args:
        title: what it does, such as "downloading weights".
    """
    return quiet() if sys.stderr.isatty() else waiting(title)


def track(
    items: Iterable[Item], total: int, title: str, unit: str = "", size: int = 1
) -> Iterator[Item]:
    """Yields the items, and shows how far they are.

    For items that are handed on, as to `list`. A loop whose body may fail takes `Progress.over`.
    The title, the total and the unit are those of `Progress`; each item counts as `size`.
    """
    with Progress(title, total, unit) as work:
        yield from work.over(items, size)


class Board:
    """The line of a process, and the thread that renews it as long as there is work.

    Args:
        clock: returns seconds.
        stream: where the line is written; None for stderr as it is at that moment.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, stream: TextIO | None = None
    ) -> None:
        self.clock = clock
        self._stream = stream
        self._works: tuple[Progress, ...] = ()  # the outermost first; replaced, never changed
        self._commands = 0
        self._is_beside = False  # another process's line, which printing then erases
        self._muted = 0
        self._said = clock()
        self._idle_since = self._said
        self._began = self._said
        self._drawn = 0  # columns of the line on the terminal; changed with `_writing`
        self._changing = threading.RLock()  # held for moments, never while something is written
        self._writing = threading.RLock()  # who has it takes no lock of a stream that takes it
        self._stop = threading.Event()  # of the latest thread
        self._thread: threading.Thread | None = None

    def add(self, work: Progress) -> None:
        """Shows a piece of work, inside of those that are shown."""
        with self._changing:
            if not self._works:  # the time without any work is no silence
                self._began = self.clock()
                self._said += self._began - self._idle_since
            for other in self._works:
                if other.is_base:
                    other.title = WORKING
            self._works = (*self._works, work)
            self._begin_thread()

    def remove(self, work: Progress) -> None:
        """Shows a piece of work no longer."""
        with self._changing:
            if work not in self._works:
                return
            self._works = tuple(other for other in self._works if other is not work)
            thread = self._end_if_idle()
        self._tidy(thread)

    @contextlib.contextmanager
    def command(self) -> Iterator[None]:
        """Shows a command whenever none of its work speaks; ends all of it at the end.

        Inside, the line goes to stderr as it is now: also if the output of a part goes to a file.
        """
        with self._changing:
            works = self._works
            stream = self._stream
            self._stream = stream or sys.stderr
            self._commands += 1
        base = Progress(STARTING, board=self)
        base.is_base = True
        try:
            base.begin()
            yield
        finally:
            with self._changing:
                self._works = works
                self._commands -= 1
                thread = self._end_if_idle()
            self._tidy(thread)
            self._stream = stream

    @contextlib.contextmanager
    def quiet(self, beside: bool = False) -> Iterator[None]:
        """Shows nothing inside, where `beside` another process may have a line on the terminal."""
        self.silence()
        before = self._is_beside
        self._is_beside = before or beside
        try:
            yield
        finally:
            self._is_beside = before
            with self._changing:
                self._muted -= 1
                if self._works:
                    self._begin_thread()

    def silence(self) -> None:
        """Shows nothing from now on."""
        with self._changing:
            self._muted += 1
            thread = self._end_thread()
        self._tidy(thread)

    @contextlib.contextmanager
    def above(self) -> Iterator[None]:
        """Keeps the line away while something else is printed to the terminal, also to stdout."""
        with self._writing:
            self._erase()
            self._said = self.clock()
            yield

    def erasing(self) -> str:
        """Returns the text that removes the line from the terminal; "" if there is none."""
        stream = self._stream or sys.stderr
        if self._is_beside and not stream.closed and stream.isatty():
            return f"\r{' ' * (text.columns_of(stream) - 1)}\r"
        return f"\r{' ' * self._drawn}\r" if self._drawn else ""

    def show(self) -> None:
        """Renews the line, or writes one to the log if it is time."""
        works = self._shown()
        if not works:
            return
        stream = self._stream or sys.stderr
        with contextlib.suppress(OSError, ValueError):  # it was closed
            if stream.isatty():
                self._draw(stream, works, self.clock())
            else:
                self._log(stream, works, self.clock())

    def _shown(self) -> tuple[Progress, ...]:
        """Returns the work that may be shown, the outermost first."""
        if self._muted:
            return ()
        works = self._works
        return works if self._commands else tuple(work for work in works if work.is_always)

    def _log(self, stream: TextIO, works: tuple[Progress, ...], now: float) -> None:
        if not self._is_due(works[-1], now):
            return
        line = works[-1].line(self._outer(works), now)
        with self._writing:
            if works == self._shown():  # it may have ended meanwhile
                self._said = now
                works[-1].was_shown = True
                text.write(stream, line + "\n")

    def _is_due(self, work: Progress, now: float) -> bool:
        silence = now - self._said
        is_long = work.total is not None and now - self._began >= FIRST_MINUTES
        if silence >= (LATER_EVERY if is_long else LINE_EVERY):
            return True
        first = FIRST_BASE if work.is_base else FIRST_LINE
        return not work.was_shown and min(silence, now - work.began) >= first

    def _draw(self, stream: TextIO, works: tuple[Progress, ...], now: float) -> None:
        work = works[-1]
        if now - work.began < FIRST_DRAWN or (work.is_base and now - self._said < FIRST_LINE):
            return
        row = work.row(self._outer(works), now, text.columns_of(stream) - 1)
        width = text.width(row)
        with self._writing:
            if works == self._shown():  # it may have ended meanwhile
                self._said = self._said if work.is_base else now
                text.write(stream, f"\r{row}{' ' * max(0, self._drawn - width)}")
                self._drawn = width

    def _outer(self, works: tuple[Progress, ...]) -> str:
        """Returns what the line begins with: the work around the innermost."""
        return "".join(f"{work.brief()}: " for work in works[:-1] if not work.is_base)

    def _erase(self) -> None:
        """Removes the line from the terminal; called with `_writing`."""
        if erasing := self.erasing():
            with contextlib.suppress(OSError, ValueError):
                text.write(self._stream or sys.stderr, erasing)
            self._drawn = 0

    def _renew(self, stop: threading.Event) -> None:
        while not stop.wait(REDRAWN_EVERY):
            with contextlib.suppress(Exception):  # a line that fails must not end those after it
                self.show()

    def _begin_thread(self) -> None:
        if self._thread is None and not self._muted:
            self._stop = threading.Event()
            arguments = (self._stop,)
            self._thread = threading.Thread(None, self._renew, "progress", arguments, daemon=True)
            self._thread.start()

    def _end_if_idle(self) -> threading.Thread | None:
        """Tells the thread to end if there is no work left, and returns it then."""
        if self._works:
            return None
        self._idle_since = self.clock()
        return self._end_thread()

    def _end_thread(self) -> threading.Thread | None:
        """Tells the thread to end; returns it."""
        thread = self._thread
        self._stop.set()
        self._thread = None
        return thread

    def _tidy(self, thread: threading.Thread | None) -> None:
        """Waits for a thread that ends, if one does, and removes the line if no work has one."""
        if thread is not None and thread is not threading.current_thread():
            thread.join(LONGEST_JOIN)
        if self._writing.acquire(timeout=LONGEST_JOIN):  # else the terminal hangs
            try:
                if self._drawn and all(work.is_base for work in self._shown()):
                    self._erase()
            finally:
                self._writing.release()


def print_above(words: str, stream: TextIO) -> None:
    """Prints a line, above the line of progress if there is one.

    A stream that sees to this itself does it below its own lock: the order of the locks.
    """
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    with contextlib.nullcontext() if getattr(raw, "is_above", False) else above():
        print(words, file=stream, flush=True)


def print_line(words: str) -> None:
    """Prints a line to stderr, above the line of progress if there is one."""
    print_above(words, sys.stderr)


_board = Board()
above = _board.above
command = _board.command
erasing = _board.erasing
quiet = _board.quiet
silence = _board.silence
