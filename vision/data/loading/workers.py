"""Batches from Grain's worker processes, which may be killed, fail or hang."""

import concurrent.futures
import contextlib
import errno
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

from vision.data.loading.loader import DataFailed
from vision.errors import UserError, brief
from vision.support import signals
from vision.support.processes import (
    MORE_FILES,
    describe_death,
    exit_code_in,
    require_files,
    without_signals,
)

SHARED_MEMORY = "/dev/shm"
BUFFER = 2  # finished batches that wait for their turn, for each worker
LONGEST_CLOSE = 10.0  # seconds to wait for a thread that is in the middle of a batch
POLL = 0.1  # seconds after which a wait looks for signals
FILES = 128  # files that a run has open, about, and more for each worker
FILES_PER_WORKER = 48


class Batches:
    """An iterator over what Grain loads, whose waits end.

    Args:
        open: opens Grain's iterator, which starts processes, or threads of this process.
        timeout: seconds to wait for a batch; 0 = forever.
    """

    def __init__(self, open: Callable[[], Iterator[Any]], timeout: float):
        self._open = open
        self._timeout = timeout
        self._iterator: Any = None
        self._others = set(multiprocessing.active_children())
        # A thread, so that the main one can wait no longer than it wants to. Grain's own threads
        # and processes descend from it, so none of them gets signals.
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "batches")
        self._next: concurrent.futures.Future[Any] | None = None

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Any:
        """Returns the next batch.

        Raises:
            DataFailed: a worker was killed, has failed or hangs.
            Interrupted: a signal has come while there was no batch.
            UserError: from the dataset.
        """
        self._next = self._next or self._thread.submit(self._load)
        began = time.monotonic()
        while True:
            with contextlib.suppress(concurrent.futures.TimeoutError):
                batch = self._result(POLL)
                self._next = None
                return batch
            signals.raise_if_received()
            if self._timeout and time.monotonic() - began > self._timeout:
                raise DataFailed(
                    f"no batch for data.worker_timeout = {self._timeout:g} s: is the disk or "
                    "network drive of the images stuck?\nIf a batch does take that long, raise "
                    "data.worker_timeout or data.workers"
                )

    def close(self) -> None:
        """Ends the workers, which takes seconds; kills them if the process is to end soon."""
        is_waiting = self._next is not None and not self._next.done()
        if is_waiting or signals.received():
            # Their shared memory is freed when this process ends.
            for process in set(multiprocessing.active_children()) - self._others:
                process.kill()
        if self._next is not None:
            concurrent.futures.wait([self._next], LONGEST_CLOSE)
        self._thread.shutdown(wait=False)
        if self._iterator is not None:
            self._iterator.close()

    def _result(self, timeout: float) -> Any:
        assert self._next is not None
        done, _ = concurrent.futures.wait([self._next], timeout)
        if not done:
            raise concurrent.futures.TimeoutError
        try:
            return self._next.result()
        except (UserError, StopIteration):
            raise
        except Exception as error:  # whatever a dataset, Grain or the system raises
            raise DataFailed(_explain(error)) from error

    def _load(self) -> Any:
        if self._iterator is None:
            with without_signals():
                self._iterator = self._open()
                return next(self._iterator)
        return next(self._iterator)


def shared_memory(workers: int, batch_bytes: int) -> int:
    """Returns how many bytes of shared memory batches of a size need on their way from workers.

    Each worker has its finished ones, one that it hands over, and all together two that this
    process takes and uses.
    """
    return (workers * (BUFFER + 1) + 2) * batch_bytes if workers else 0


def check_limits(needed: int, workers: int) -> None:
    """Raises `UserError` if workers would die of too little shared memory, or too few files.

    Args:
        needed: bytes of shared memory; 0 without workers.
        workers: `config.data.workers`.
    """
    if needed:
        _check_shared_memory(needed, workers)
        purpose = f"loading with data.workers = {workers}"
        require_files(FILES + FILES_PER_WORKER * workers, purpose, ", or set data.workers=0")


def _check_shared_memory(needed: int, workers: int) -> None:
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:  # another system than Linux
        return
    free = status.f_bavail * status.f_frsize
    if needed > free:
        gib = math.ceil(1.25 * needed / 2**30)
        raise UserError(
            f"data.workers = {workers} needs {needed / 2**20:,.0f} MiB of shared memory for "
            f"batches, but {SHARED_MEMORY} has {free / 2**20:,.0f} MiB free.\nStart the container "
            f"with --shm-size={gib}g, or set data.workers=0, or a smaller train.batch_size"
        )


def _explain(error: Exception) -> str:
    """Returns why no batch has come, and what to set."""
    exit_code = exit_code_in(str(error)) if isinstance(error, RuntimeError) else None
    number = error.errno if isinstance(error, OSError) else None
    if exit_code is not None:
        cause = f"a process that loads images {describe_death(exit_code)}"
        advice = "Set a smaller data.workers or train.batch_size, or free memory"
        if exit_code == -signal.SIGBUS:
            advice = "Start the container with a larger --shm-size, or set data.workers=0"
    elif number in (errno.EMFILE, errno.ENFILE):
        cause = "too many open files"
        advice = f"{MORE_FILES}, or set a smaller data.workers"
    elif number == errno.ENOSPC:
        cause = f"{SHARED_MEMORY} is full"
        advice = "Start the container with a larger --shm-size, or set data.workers=0"
    elif isinstance(error, MemoryError) or number == errno.ENOMEM:
        cause = "memory ran out while loading images"
        advice = "Set a smaller data.workers or train.batch_size, or free memory"
    else:
        cause = f"cannot load images: {type(error).__name__}: {brief(error)}"
        advice = "--traceback shows where"
    return f"{cause}.\n{advice}"
