"""The progress of a long pass: a bar on a terminal, an occasional line elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import tqdm

SECONDS_BETWEEN_LINES = 10.0

Item = TypeVar("Item")


def track(items: Iterable[Item], total: int, title: str) -> Iterator[Item]:
    """Yields the items, and shows on stderr how many of `total` have been handed out.

    Args:
        items: the items of the pass.
        total: their number.
        title: name of the pass, such as "scanning".
    """
    if sys.stderr.isatty():
        yield from tqdm.tqdm(items, title, total, dynamic_ncols=True, leave=False)
        return
    shown = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() - shown > SECONDS_BETWEEN_LINES:
            shown = time.monotonic()
            print(f"{title}: {done:,} of {total:,}", file=sys.stderr, flush=True)
