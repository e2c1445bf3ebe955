"""Which workers are alive: each says who it is, and shows a sign of life on the shared disk.

A storage does not tell: a trial whose worker was killed stays RUNNING in it. On its own machine a
worker counts as dead as soon as its process is gone; on another one, once its file in `workers/`
has not changed for `LEASE` seconds of the watching machine's clock, so that no two clocks need
agree.
"""

import os
import pathlib
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from vision.support.files import write_json

FOLDER = "workers"
BEAT = 5.0  # seconds between signs of life
LEASE = 120.0  # seconds without one after which a worker on another machine counts as dead
ORPHAN = 15.0  # seconds after which a running trial must have a worker


class Lease:
    """A worker's sign of life, while the block runs.

    Args:
        out: the study's directory.

    Attributes:
        worker: who it is: {"host", "machine", "pid", "started", "file"}.
    """

    def __init__(self, out: pathlib.Path):
        host = socket.gethostname()
        self.worker: dict[str, Any] = {
            "host": host,
            "machine": machine(),
            "pid": os.getpid(),
            "started": start_time(os.getpid()),
            "file": f"{host}-{os.getpid()}-{secrets.token_hex(2)}.json",
        }
        self._path = out / FOLDER / self.worker["file"]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Lease":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path, self.worker)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                os.utime(self._path)
            except OSError:  # a disk that is away for a while
                continue


class Watch:
    """Finds out which workers are dead.

    Args:
        out: the study's directory.
        lease: seconds without a sign of life.
        orphan: seconds after which a running trial must have a worker.
    """

    def __init__(self, out: pathlib.Path, lease: float = LEASE, orphan: float = ORPHAN):
        self._out = out
        self._lease = lease
        self._orphan = orphan
        self._changes: dict[str, tuple[float, float]] = {}  # file: (its time, when we saw it)
        self._orphans: dict[int, float] = {}  # trial: when we first saw it without a worker

    def is_dead(self, trial: int, worker: Mapping[str, Any] | None) -> bool:
        """Returns whether the worker of a running trial is gone.

        Args:
            trial: the trial's number in the storage.
            worker: what `Lease.worker` is; None if the trial names none, because its worker was
                killed between taking it and saying so.
        """
        now = time.monotonic()
        if worker is None:
            return now - self._orphans.setdefault(trial, now) > self._orphan
        if worker["machine"] == machine():
            return start_time(worker["pid"]) != worker["started"]
        name = str(worker["file"])
        try:
            changed = os.stat(self._out / FOLDER / name).st_mtime
        except OSError:
            changed = -1.0
        seen = self._changes.get(name)
        if seen is None or seen[0] != changed:
            self._changes[name] = changed, now
            return False
        return now - seen[1] > self._lease


def machine() -> str:
    """Returns what two processes share only if each can see the other's process number."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def start_time(pid: int) -> str:
    """Returns when a process began, in ticks since the boot; "" if there is none.

    A zombie has ended. Together with the number it tells a process from a later one of the number.
    """
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "" if pathlib.Path("/proc/self/stat").exists() else _asked(pid)
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def _asked(pid: int) -> str:
    """As `start_time`, on a system without /proc: only whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "alive"
