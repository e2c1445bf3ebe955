"""Worker processes: a pass over data on all cores, in order and in bounded memory; their signals,
deaths and limits."""

import collections
import concurrent.futures
import contextlib
import errno
import math
import multiprocessing
import os
import pathlib
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from typing import Any

from vision.errors import RunError, UserError
from vision.support import parent_death
from vision.support.cgroup import cpu_limit

LONGEST_WAIT = 600.0  # seconds without any result after which the processes count as stuck
MOST_FILES = 65536
MORE_FILES = "Allow more with `ulimit -n 4096` (docker: --ulimit nofile=4096)"
TRACKER = b"multiprocessing.resource_tracker"

_state = None  # the `state` of `ordered`, in a worker process


def cores(root: pathlib.Path | str = "/") -> int:
    """Returns how many cores this process may use: by its affinity and its container's CPU limit.

    Args:
        root: the directory that stands for the root of the file system.
    """
    count = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    return max(1, math.floor(min(count, cpu_limit(root))))


def ordered(
    function: Callable[[Any, Any], Any],
    tasks: Sequence[Any],
    workers: int,
    state: Any,
    longest_wait: float = LONGEST_WAIT,
) -> Iterator[Any]:
    """Yields `function(state, task)` for each task, in their order, computed in worker processes.

    Workers start afresh, and end when this process does, however it ends. Only a few results wait
    for their turn.

    Args:
        function: a function at the top level of a module, so that workers can import it.
        tasks: small picklable objects, each worth some milliseconds of work.
        workers: number of processes; with 1, or too few tasks, this process does the work.
        state: any picklable object; sent to each worker once.
        longest_wait: seconds to wait for a result.

    Raises:
        RunError: a process was killed, or gives no result.
    """
    if min(workers, len(tasks) // 4) <= 1:  # a process takes a second to start
        yield from (function(state, task) for task in tasks)
        return
    # a fork would copy the threads' locks in whatever state they are
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _begin, (state,))
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    try:
        with without_signals():
            waiting.append(pool.submit(_call, function, tasks[0]))  # starts the processes
        for task in tasks[1:]:
            waiting.append(pool.submit(_call, function, task))
            if len(waiting) > 3 * workers:
                yield waiting.popleft().result(longest_wait)
        while waiting:
            yield waiting.popleft().result(longest_wait)
    except BrokenProcessPool as error:
        _kill(set(multiprocessing.active_children()) - others)
        raise RunError(
            "a process that reads images was killed, probably because memory ran out: see the "
            "kernel's log (dmesg), free memory, or allow fewer processes (taskset -c 0,1 COMMAND)"
        ) from error
    except TimeoutError as error:
        stuck = set(multiprocessing.active_children()) - others
        if not stuck or not waiting:
            raise
        _kill(stuck)
        raise RunError(
            f"the processes that read images have given no result for {longest_wait:g} s: is the "
            "disk or network drive of the images stuck?"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def bound(command: Sequence[str]) -> list[str]:
    """Returns a command that does what another one does, and is killed when this process ends.

    That is, even by a `kill -9`. The thread that starts it must wait for it. Without effect on
    systems other than Linux.

    Args:
        command: a program, looked up in PATH, and its arguments.

    Raises:
        FileNotFoundError: the program does not exist.
    """
    if sys.platform != "linux" or not sys.executable:
        return list(command)
    program = shutil.which(command[0])
    if program is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), command[0])
    # isolated, and without site-packages: it starts in 20 ms
    start = [sys.executable, "-I", "-S", parent_death.__file__, str(os.getpid())]
    return [*start, program, *command[1:]]


def prepare_worker() -> None:
    """Lets a worker process end when its parent does, and by nothing else that is meant for it.

    A signal to all processes of a terminal or a job is for the parent, which needs its workers to
    end well; it kills those that it no longer needs.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        if _is_started_by_main_thread(parent.pid):
            parent_death.end_with(parent.pid)
        # of other threads, whose end the kernel would take for the parent's; other systems
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _is_started_by_main_thread(parent: int) -> bool:
    """Whether the main thread of a living process has started this one; False if unknown."""
    children = pathlib.Path(f"/proc/{parent}/task/{parent}/children")  # Linux
    try:
        return str(os.getpid()) in children.read_text().split()
    except OSError:
        return False


def _end_with(parent):
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def without_signals() -> Iterator[None]:
    """Holds SIGTERM and Ctrl-C back in this thread.

    Processes and threads that are started meanwhile never get them: a worker would otherwise be
    ended by a signal to all before it could decide to ignore it.
    """
    start_tracker()  # which would let the signals through
    signals = {signal.SIGTERM, signal.SIGINT}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_tracker() -> None:
    """Starts Python's process that removes the shared memory of those that were killed.

    It does so without a warning: whoever killed them knows.
    """
    quiet = "ignore::UserWarning:multiprocessing.resource_tracker"
    sys.warnoptions.append(quiet)  # handed on to the process
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(quiet)


def kill_children() -> None:
    """Kills the processes that this one has started, even those that are just starting.

    They would complain if it were gone before it has told them what to do.
    """
    _kill(multiprocessing.active_children())
    for children in pathlib.Path("/proc/self/task").glob("*/children"):  # Linux
        with contextlib.suppress(OSError):
            for pid in map(int, children.read_text().split()):
                if TRACKER not in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)


def describe_death(exit_code: int) -> str:
    """Returns how a worker process ended, in words, with the likely cause."""
    if exit_code == -signal.SIGKILL:
        return "was killed, probably because memory ran out"
    if exit_code == -signal.SIGBUS:
        return "ran out of shared memory (/dev/shm)"
    if exit_code < 0:
        return f"was ended by {signal.Signals(-exit_code).name}"
    return f"ended with exit code {exit_code}"


def allow_files() -> int | None:
    """Raises the number of files that this process may open as far as it is allowed.

    Returns:
        The number; None on a system without a limit.
    """
    try:
        import resource
    except ImportError:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return None if soft == resource.RLIM_INFINITY else soft


def require_files(count: int, purpose: str, remedy: str = "") -> None:
    """Raises `UserError` if this process may open too few files.

    Args:
        count: how many it opens, about.
        purpose: what for.
        remedy: another way out than to allow more, such as ", or set data.workers=0".
    """
    limit = allow_files()
    if limit is not None and limit < count:
        raise UserError(
            f"this process may open {limit} files, but {purpose} needs about {count}.\n"
            f"{MORE_FILES}{remedy}"
        )


def exit_code_in(text: str) -> int | None:
    """Returns the exit code that a library's message about a dead worker names."""
    match = re.search(r"exit code (-?\d+)", text)
    return int(match.group(1)) if match else None


def _kill(processes):
    for process in processes:
        process.kill()


def _begin(state):
    """Prepares a worker process."""
    global _state
    _state = state
    import cv2

    cv2.setNumThreads(1)  # there are as many processes as cores
    prepare_worker()


def _call(function, task):
    return function(_state, task)
