"""How far a long pass is: a bar on a terminal, a line now and then elsewhere."""

import sys
import time

import tqdm

EVERY = 10.0  # seconds between lines


def track(items, total, what):
    """Yields the items of an iterable, and shows on stderr how many of `total` have come."""
    if sys.stderr.isatty():
        yield from tqdm.tqdm(items, what, total, dynamic_ncols=True, leave=False)
        return
    shown = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() - shown > EVERY:
            shown = time.monotonic()
            print(f"{what}: {done:,} of {total:,}", file=sys.stderr, flush=True)
