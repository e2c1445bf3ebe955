"""How progress is written: times, rates, and a line with a bar, by tqdm's own functions."""

import contextlib
import os
from typing import TextIO

COLUMNS = 80  # of a terminal that does not tell
NARROWEST_BAR = 60  # columns of a terminal below which there is no bar


def interval(seconds: float) -> str:
    """Returns "00:12" or "1:02:03"."""
    from tqdm import tqdm  # when it is needed: small commands start quickly

    return tqdm.format_interval(int(seconds))


def number(rate: float) -> str:
    """Returns a rate with two digits or more."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def line(head: str, tail: str, is_counted: bool) -> str:
    """Returns a plain line: what is done, and how fast or for how long."""
    return (", " if is_counted else ": ").join(text for text in (head, tail) if text)


def cut(text: str, columns: int) -> str:
    """Returns a text that takes at most so many columns of a terminal."""
    from tqdm.utils import disp_trim

    return disp_trim(text, columns)


def bar(head: str, tail: str, done: int, total: int, columns: int) -> str:
    """Returns a line with a bar that fills so many columns of a terminal."""
    from tqdm import tqdm

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
