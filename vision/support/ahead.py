"""Work in threads on what is needed next, so that it is ready when it is."""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from vision.support.processes import cores

AHEAD = 2  # batches loaded while the last one is used

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


def load_ahead(
    items: Iterable[Item],
    load: Callable[[Item], Loaded],
    batch_size: int,
    ahead: int = AHEAD,
) -> Iterator[list[tuple[Item, Loaded]]]:
    """Yields batches of (item, `load(item)`), in order, loaded while earlier ones are used.

    Memory does not grow with the number of items, which are taken as they are needed. All batches
    have the same size, except for the last one.

    Args:
        items: anything that can be iterated over once.
        load: called in threads.
        batch_size: items in a batch.
        ahead: batches that are loaded before they are asked for.
    """
    remaining = iter(items)
    pending: collections.deque = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(cores()) as pool:

        def submit_batch():
            chunk = list(itertools.islice(remaining, batch_size))
            if chunk:
                pending.append([(item, pool.submit(load, item)) for item in chunk])

        for _ in range(ahead):
            submit_batch()
        while pending:
            loaded = [(item, future.result()) for item, future in pending.popleft()]
            submit_batch()
            yield loaded
