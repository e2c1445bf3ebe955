"""Workers that are killed, fail or hang, and limits that are too low: one line each."""

import errno
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest

from vision import parallel
from vision.data.loading.dataset import Dataset, Unreadable
from vision.data.loading.loader import DataFailed
from vision.data.loading.sampler import Sampler
from vision.data.loading.worker_loader import WorkerLoader
from vision.data.loading.workers import Batches, check_limits, shared_memory
from vision.data.sources._arrays import ArraySource
from vision.errors import UserError
from vision.support import processes, signals

DEAD = "Worker process was terminated unexpectedly with exit code {}. Search the logs above"


def failing(error):
    def iterate():
        yield "a batch"
        raise error

    return Batches(iterate, 10)


@pytest.mark.parametrize(
    ("error", "cause", "advice"),
    [
        (RuntimeError(DEAD.format(-9)), "was killed, probably because memory", "data.workers"),
        (RuntimeError(DEAD.format(-7)), "ran out of shared memory", "--shm-size"),
        (RuntimeError(DEAD.format(3)), "ended with exit code 3", "data.workers"),
        (OSError(errno.EMFILE, "Too many open files"), "too many open files", "ulimit -n"),
        (OSError(errno.ENOSPC, "No space left on device"), "/dev/shm is full", "--shm-size"),
        (MemoryError(), "memory ran out", "train.batch_size"),
        (KeyError("x\ny"), "cannot load images: KeyError", "--traceback"),
    ],
)
def test_failures_say_what_to_do(error, cause, advice):
    batches = failing(error)
    assert next(batches) == "a batch"
    with pytest.raises(DataFailed) as raised:
        next(batches)
    lines = str(raised.value).splitlines()
    assert len(lines) == 2 and cause in lines[0] and advice in lines[1]
    batches.close()


def test_errors_of_the_user_stay_what_they_are():
    batches = failing(UserError("too many images are unreadable"))
    next(batches)
    with pytest.raises(UserError, match="too many images are unreadable"):
        next(batches)
    batches.close()


def test_a_signal_ends_a_wait():
    release = threading.Event()

    def iterate():
        release.wait(30)
        yield "a batch"

    batches = Batches(iterate, 60)
    began = time.monotonic()
    with signals.listening():
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(signals.Interrupted):
            next(batches)
    assert time.monotonic() - began < 10
    release.set()
    batches.close()


@pytest.fixture
def loader():
    """Returns a loader with two workers, whose waits end after 3 s once they have started."""
    images = np.arange(40 * 4 * 4 * 3, dtype=np.uint8).reshape(40, 4, 4, 3)
    source = ArraySource(images, np.arange(40) % 2, ("a", "b"), "numbers")
    dataset = Dataset(source, 4, 3, 1.0, (), True, Sampler(0, source.labels))
    return WorkerLoader(dataset, Unreadable(40, 0.0), 2, parallel.make_mesh(1), timeout=60)


def start(loader):
    """Returns (batches, worker processes), once the workers have given the first batches."""
    before = set(multiprocessing.active_children())
    batches = loader.train_batches(((step, 1) for step in range(1000)), 4)
    next(batches)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    return batches, workers


def test_workers_ignore_signals_and_one_that_is_killed_is_an_error(loader):
    batches, workers = start(loader)
    for number in (signal.SIGINT, signal.SIGTERM):
        for worker in workers:
            os.kill(worker.pid, number)
    for _ in range(20):
        next(batches)
    os.kill(next(iter(workers)).pid, signal.SIGKILL)
    with pytest.raises(DataFailed, match=r"was killed, probably because memory ran out.\nSet a sm"):
        list(batches)
    assert not any(worker.is_alive() for worker in workers)


def test_a_worker_that_hangs_is_an_error(loader, monkeypatch):
    batches, workers = start(loader)
    monkeypatch.setattr(batches.gi_frame.f_locals["batches"], "_timeout", 1)
    os.kill(next(iter(workers)).pid, signal.SIGSTOP)
    with pytest.raises(DataFailed, match=r"no batch for data.worker_timeout = 1 s: is the disk"):
        list(batches)
    assert not any(worker.is_alive() for worker in workers)


def test_limits_are_checked_before_the_start(loader, monkeypatch):
    assert shared_memory(0, 100) == 0
    check_limits(0, 0)
    assert loader.shared_memory(4) == 8 * (4 * 4 * 4 * 3 + 4 * 4 + 4 * 4)
    with pytest.raises(UserError, match=r"data.workers = 2 needs 1,099,511,627,776 MiB .*\n.*shm"):
        check_limits(2**60, 2)
    monkeypatch.setattr(processes, "allow_files", lambda: 64)
    with pytest.raises(UserError, match=r"open 64 files, but .* needs about 224.\n.*ulimit -n"):
        check_limits(1, 2)


def test_the_limit_of_files_is_raised():
    limit = processes.allow_files()
    assert limit is None or limit >= 1024
