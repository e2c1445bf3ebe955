"""A pass over data on all cores: the results of a plain loop, in order and in bounded memory."""

import collections
import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_state = None  # the `state` of `ordered`, in a worker process


def cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ordered(
    function: Callable[[Any, Any], Any], tasks: Sequence[Any], workers: int, state: Any
) -> Iterator[Any]:
    """Yields `function(state, task)` for each task, in their order, computed in worker processes.

    Workers start afresh, and end when this process does, however it ends. Only a few results wait
    for their turn.

    Args:
        function: a function at the top level of a module, so that workers can import it.
        tasks: small picklable objects, each worth some milliseconds of work.
        workers: number of processes; with 1, or too few tasks, this process does the work.
        state: any picklable object; sent to each worker once.
    """
    if min(workers, len(tasks) // 4) <= 1:  # a process takes a second to start
        yield from (function(state, task) for task in tasks)
        return
    # a fork would copy the threads' locks in whatever state they are
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _begin, (state,))
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(_call, function, task))
            if len(waiting) > 3 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(state):
    """Prepares a worker process."""
    global _state
    _state = state
    import cv2

    cv2.setNumThreads(1)  # there are as many processes as cores
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent process
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _call(function, task):
    return function(_state, task)
