"""How progress is written: times, rates, and a line with a bar, by tqdm's own functions.

Its objects would not do: they redraw only when they are advanced, so one slow item is silent; each
has a line of its own; and in a log they write carriage returns. rich redraws in a thread, but takes
stdout too, and writes nothing to a log.
"""

import contextlib
import io
import os
import select
import time
from typing import TextIO

COLUMNS = 80  # of a terminal that does not tell
NARROWEST_BAR = 60  # columns of a terminal below which there is no bar
PATIENCE = 1.0  # seconds to wait for a terminal


def interval(seconds: float) -> str:
    """Returns "00:12" or "1:02:03"."""
    from tqdm import tqdm  # when it is needed: small commands start quickly

    return tqdm.format_interval(int(seconds))


def number(rate: float) -> str:
    """Returns a rate with two digits or more."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def details(note: str, rate: float, remaining: int) -> str:
    """Returns a note, or else the rate; and how long the remaining ones take at this rate."""
    parts = [note or f"{number(rate)}/s"] if note or rate > 0 else []
    if rate > 0:
        parts.append(f"{interval(remaining / rate)} left")
    return ", ".join(parts)


def line(head: str, tail: str, is_counted: bool) -> str:
    """Returns a plain line: what is done, and how fast or for how long."""
    return (", " if is_counted else ": ").join(text for text in (head, tail) if text)


def row(head: str, tail: str, done: int, total: int | None, columns: int) -> str:
    """Returns a line of a terminal of so many columns, with a bar if it is counted and fits."""
    from tqdm import tqdm
    from tqdm.utils import disp_trim

    if not total or columns < NARROWEST_BAR:
        return disp_trim(line(head, tail, total is not None), columns)
    return tqdm.format_meter(
        done,
        total,
        0,
        ncols=columns,
        prefix=head,
        bar_format="{desc} |{bar}| {tail}",
        tail=tail,
    )


def width(text: str) -> int:
    """Returns how many columns of a terminal a text takes."""
    from tqdm.utils import disp_len

    return disp_len(text)


def columns_of(stream: TextIO) -> int:
    """Returns the width of the terminal that a stream is."""
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(stream.fileno()).columns or COLUMNS
    return COLUMNS


def write(stream: TextIO, words: str) -> None:
    """Writes to a stream's descriptor, past the stream's buffer and its lock.

    What a terminal does not take within `PATIENCE` is dropped. Streams without a descriptor, such
    as a notebook's, are written to as they are.

    Raises:
        OSError: the descriptor was closed.
        ValueError: the stream was closed.
    """
    descriptor = _descriptor(stream)
    if descriptor is None:
        stream.write(words)
        stream.flush()
        return
    data = words.encode(stream.encoding, "replace")  # a row keeps its width
    deadline = time.monotonic() + PATIENCE
    while data and (left := deadline - time.monotonic()) > 0:
        if not select.select([], [descriptor], [], left)[1]:
            return  # it hangs
        with contextlib.suppress(BlockingIOError):  # a program that shares it has asked for this
            data = data[os.write(descriptor, data) :]


def _descriptor(stream: TextIO) -> int | None:
    if not isinstance(stream, io.TextIOWrapper):  # its own idea of where the text goes
        return None
    try:
        return stream.fileno()
    except io.UnsupportedOperation:  # of memory, as in a test
        return None
