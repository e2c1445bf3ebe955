"""Several workers on one machine, which divide its cores and its GPUs."""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess

from vision import cli
from vision.errors import RunError, UserError
from vision.search.request import Request
from vision.support import progress, signals
from vision.support.memory import keep_freed_memory
from vision.support.processes import bound, describe_death, prepare_worker

PATIENCE = 60.0  # seconds for workers to save and end, before they are killed
COUNT = 3.0  # seconds between two looks at how many trials have ended
POLL = 0.5  # seconds between two looks at the processes
MOST_DEATHS = 5  # of workers in a row, each within `SOON` of its start
SOON = 30.0  # seconds


@dataclasses.dataclass(frozen=True)
class Share:
    """A worker's part of the machine.

    Attributes:
        cores: the numbers of its cores.
        gpus: the numbers of its GPUs; () if the machine has none.
    """

    cores: tuple[int, ...]
    gpus: tuple[str, ...]


def shares(workers: int, cores: Sequence[int], gpus: Sequence[str]) -> list[Share]:
    """Returns the parts of a machine, as even as possible.

    Args:
        workers: number of processes.
        cores: the machine's cores; if they are fewer, several workers share one.
        gpus: its GPUs.

    Raises:
        UserError: there are GPUs, but fewer than workers.
    """
    if gpus and len(gpus) < workers:
        raise UserError(
            f"--workers {workers}, but there are {len(gpus)} GPUs, and two trials do not fit on "
            f"one: give --workers {len(gpus)}, or JAX_PLATFORMS=cpu"
        )

    def part(things: Sequence, number: int) -> tuple:
        first = number * len(things) // workers
        last = (number + 1) * len(things) // workers
        return tuple(things[first:last]) or (things[first],)

    return [Share(part(cores, i), part(gpus, i) if gpus else ()) for i in range(workers)]


def run_workers(request: Request, count: Callable[[], int], total: int) -> bool:
    """Works on a study in several processes, until it is done.

    A process that is killed is replaced; the study goes on with its trial.

    Args:
        request: the search.
        count: returns how many trials have ended; an error of it ends all workers.
        total: number of trials.

    Returns:
        False if interrupted.

    Raises:
        RunError: a worker has failed, or they die as soon as they start.
    """
    parts = shares(request.workers, own_cores(), own_gpus())
    # The command has put failed trials back; each worker would do so once more.
    request = dataclasses.replace(request, retry=False)
    counted = time.monotonic()
    with signals.listening(), contextlib.ExitStack() as stack:
        work = stack.enter_context(progress.Progress("searching", total, "trials", done=count()))
        crew = {number: _start(request, part) for number, part in enumerate(parts)}
        stack.callback(lambda: _stop(list(crew.values())))
        deaths: list[float] = []
        told = False
        while crew:
            if signals.received() and not told:
                told = True
                for process in crew.values():
                    process.terminate()  # each saves what it has, and ends
            for number, process in list(crew.items()):
                if process.exitcode is None:
                    continue
                del crew[number]
                if process.exitcode > 0 and not told:
                    raise SystemExit(process.exitcode)  # it has said why
                if process.exitcode < 0 and not told:
                    how = describe_death(process.exitcode)
                    cli.show(f"worker {number + 1} {how}: another one continues its trial")
                    _count(deaths)
                    crew[number] = _start(request, parts[number])
            if time.monotonic() - counted > COUNT:
                work.reach(count())
                counted = time.monotonic()
            time.sleep(POLL)
        return not told


def own_cores() -> list[int]:
    """Returns the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def own_gpus() -> list[str]:
    """Returns the GPUs that this process may use; [] without NVIDIA GPUs, or with JAX on CPUs."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return []
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return [name for name in visible.split(",") if name.strip()]
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(bound(command), capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split() if done.returncode == 0 else []


def _count(deaths: list[float]) -> None:
    """Notes a death; raises `RunError` if there were many within a short time."""
    now = time.monotonic()
    deaths.append(now)
    recent = [moment for moment in deaths if now - moment < MOST_DEATHS * SOON]
    if len(recent) > MOST_DEATHS:
        raise RunError(
            f"{len(recent)} workers were killed within {now - recent[0]:.0f} s, probably because "
            "memory runs out: start fewer with --workers, or make batches smaller"
        )


def _start(request: Request, share: Share) -> BaseProcess:
    # A fork would copy the threads' locks in whatever state they are.
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(request, share))
    # A Ctrl-C goes to all processes of a terminal; this one passes it on as a SIGTERM.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def _stop(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.terminate()  # saves what it has, and ends
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()


def _work(request: Request, share: Share) -> None:
    """Runs in a worker process."""
    if request.config.parallel.keep_memory:
        keep_freed_memory()  # before a thread is started
    prepare_worker()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, share.cores)  # before JAX makes as many threads as cores
    if share.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(share.gpus)

    def work(_: list[str]) -> None:
        from vision.search.storage import explained
        from vision.search.worker import Worker

        with explained():
            Worker(request).search()

    # the process that started the workers counts the trials of all
    with signals.listening(), progress.quiet(beside=True):
        cli.run(work, [], outlives_output=True)
