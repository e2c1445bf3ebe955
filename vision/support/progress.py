"""How far long work is, on stderr: nothing that a user starts is silent for more than five seconds.

    with Progress("scanning", 10_000, "images") as work:
        for part in work.over(parts, size=128):  # scanning: 3,072 of 10,000 images, 412/s, ...
            ...
    with waiting("compiling the train step"):  # compiling the train step: 00:12
        ...

On a terminal it is one line, which is rewritten and leaves nothing behind; in a log or a pipe a
plain line, after 2 s and then every 4.5 s. Of nested work the line has all levels. Nothing is ever
written to stdout. `vision.cli.run` opens the outermost level, `command`, which speaks if nothing
else does and clears what is left before an error is printed.

tqdm, which the training needs anyway, draws and trims the bar and formats the times. Its own
objects would not do: they redraw only when they are advanced, so one slow item is silent; each has
a line of its own; and in a log they write a file of carriage returns. rich has a thread that
redraws, but its console takes stdout too, and prints nothing at all to a log.
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
LINE_EVERY = 4.5  # seconds between two lines of a log: below 5 with what a busy machine adds
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
        board: where it is shown; the process's by default.
    """

    def __init__(
        self,
        title: str,
        total: int | None = None,
        unit: str = "",
        *,
        done: int = 0,
        board: "Board | None" = None,
    ):
        self.title = printable(title)
        self.total = total
        self.began = 0.0
        self.was_shown = False  # in a log
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
        details = [self._note] if self._note else []
        if self._first is not None:
            first, since = self._first
            rate = (self._done - first) / max(now - since, 1e-9)
            if rate > 0:
                if not self._note:
                    details.append(f"{text.number(rate)}/s")
                details.append(f"{text.interval((self.total - self._done) / rate)} left")
        return head, ", ".join(details)

    def row(self, outer: str, now: float, columns: int) -> str:
        """Returns the line of a terminal, with a bar if the work is counted and there is room."""
        head, tail = self.parts(now)
        if not self.total or columns < text.NARROWEST_BAR:
            return text.cut(outer + text.line(head, tail, self.total is not None), columns)
        return text.bar(outer + head, tail, self._done, self.total, columns)

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

    Args:
        items: the items of the pass.
        total: how much they count together.
        title: name of the pass, such as "scanning".
        unit: what is counted, such as "images".
        size: how much an item counts; the last one may count less.
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
        self._muted = 0
        self._said = clock()
        self._idle_since = self._said
        self._drawn = 0  # columns of the line on the terminal
        self._changing = threading.RLock()  # held for moments, never while something is written
        self._writing = threading.RLock()
        self._is_own = False  # what is being written, by the thread that has `_writing`
        self._stop: threading.Event | None = None
        self._thread: threading.Thread | None = None

    def add(self, work: Progress) -> None:
        """Shows a piece of work, inside of those that are shown."""
        with self._changing:
            if not self._works:  # the time without any work is no silence
                self._said += self.clock() - self._idle_since
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
        self._finish(thread)
        if all(other.is_base for other in self._works):
            self._erase()

    @contextlib.contextmanager
    def command(self) -> Iterator[None]:
        """Shows a command whenever none of its work speaks; ends all of it at the end.

        Inside, the line goes to stderr as it is now: also if the output of a part goes to a file.
        """
        with self._changing:
            works = self._works
            stream = self._stream
            self._stream = stream or sys.stderr
        base = Progress(STARTING, board=self)
        base.is_base = True
        try:
            base.begin()
            yield
        finally:
            with self._changing:
                self._works = works
                thread = self._end_if_idle()
            self._finish(thread)
            self._erase()
            self._stream = stream

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Shows nothing inside."""
        self.silence()
        try:
            yield
        finally:
            with self._changing:
                self._muted -= 1
                if self._works:
                    self._begin_thread()

    def silence(self) -> None:
        """Shows nothing from now on."""
        with self._changing:
            self._muted += 1
            thread = self._end_thread()
        self._finish(thread)

    @contextlib.contextmanager
    def above(self) -> Iterator[None]:
        """Keeps the line away while something else is printed to the terminal, also to stdout."""
        with self._writing:
            self._erase()
            self._said = self.clock()
            yield

    def erasing(self) -> str:
        """Returns the text that removes the line from the terminal; "" if there is none."""
        return f"\r{' ' * self._drawn}\r" if self._drawn else ""

    def show(self) -> None:
        """Renews the line, or writes one to the log if it is time."""
        works = self._works
        if not works or self._muted:
            return
        now = self.clock()
        stream = self._stream or sys.stderr
        with self._own_writing():
            if stream.isatty():
                self._draw(stream, works, now)
            elif self._is_due(works[-1], now):
                self._said = now
                works[-1].was_shown = True
                stream.write(works[-1].line(self._outer(works), now) + "\n")
                stream.flush()

    @contextlib.contextmanager
    def _own_writing(self) -> Iterator[None]:
        """Lets the line itself be written; what cannot be written is dropped."""
        with self._writing, contextlib.suppress(OSError, ValueError):  # it was closed
            self._is_own = True
            try:
                yield
            finally:
                self._is_own = False

    def _is_due(self, work: Progress, now: float) -> bool:
        silence = now - self._said
        if silence >= LINE_EVERY:
            return True
        is_new = not (work.is_base or work.was_shown)
        return is_new and min(silence, now - work.began) >= FIRST_LINE

    def _draw(self, stream: TextIO, works: tuple[Progress, ...], now: float) -> None:
        work = works[-1]
        if work.is_base and now - self._said < FIRST_LINE:
            return
        if now - work.began < FIRST_DRAWN:
            return
        if not work.is_base:
            self._said = now
        row = work.row(self._outer(works), now, text.columns_of(stream) - 1)
        width = text.width(row)
        stream.write(f"\r{row}{' ' * max(0, self._drawn - width)}")
        stream.flush()
        self._drawn = width

    def _outer(self, works: tuple[Progress, ...]) -> str:
        """Returns what the line begins with: the work around the innermost."""
        return "".join(f"{work.brief()}: " for work in works[:-1] if not work.is_base)

    def _erase(self) -> None:
        if not self._drawn or self._is_own:
            return
        stream = self._stream or sys.stderr
        with self._own_writing():
            stream.write(self.erasing())
            stream.flush()
        self._drawn = 0

    def _renew(self, stop: threading.Event) -> None:
        while not stop.wait(REDRAWN_EVERY):
            self.show()

    def _begin_thread(self) -> None:
        if self._thread is None and not self._muted:
            self._stop = threading.Event()
            self._thread = threading.Thread(
                target=self._renew, args=(self._stop,), name="progress", daemon=True
            )
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
        if self._stop is not None:
            self._stop.set()
        self._stop = None
        self._thread = None
        return thread

    def _finish(self, thread: threading.Thread | None) -> None:
        """Waits for a thread that ends, if one does, and removes the line from the terminal."""
        if thread is not None:
            thread.join(LONGEST_JOIN)
            self._erase()


def print_line(words: str) -> None:
    """Prints a line to stderr, above the line of progress if there is one."""
    with above():
        print(words, file=sys.stderr, flush=True)


_board = Board()
above = _board.above
command = _board.command
erasing = _board.erasing
quiet = _board.quiet
silence = _board.silence
