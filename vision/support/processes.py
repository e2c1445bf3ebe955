"""A pass over data on all cores: the same results in the same order as a plain loop, in bounded
memory."""

import collections
import concurrent.futures
import multiprocessing
import os
import signal
import threading

_state = None  # of a worker process


def cores():
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered(function, tasks, workers, state):
    """Yields `function(state, task)` for each task, in their order, computed in worker processes.

    Workers start afresh, and are gone when this process is, however it ends. Only a few results
    wait for their turn.

    Args:
        function: of a module, so that workers can import it.
        tasks: a list of small picklable things, each worth some milliseconds of work.
        workers: how many processes; with 1, or too few tasks, it is done in this one.
        state: picklable; sent to each worker once.
    """
    if min(workers, len(tasks) // 4) <= 1:  # a process takes a second to start
        yield from (function(state, task) for task in tasks)
        return
    # a fork would copy the threads' locks as they happen to be
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _begin, (state,))
    waiting = collections.deque()
    rest = iter(tasks)
    try:
        for task in rest:
            waiting.append(pool.submit(_call, function, task))
            if len(waiting) > 3 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(state):
    global _state
    _state = state
    import cv2

    cv2.setNumThreads(1)  # there are as many processes as cores
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _call(function, task):
    return function(_state, task)
