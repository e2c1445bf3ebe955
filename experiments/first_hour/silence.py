"""How long a command is silent: it runs under a pseudo-terminal, or with a pipe, as in a log.

    python -m experiments.first_hour.silence [--terminal] COMMAND ...

prints the command's output as it comes, then its exit code, seconds, CPU seconds and longest gap.
"""

import contextlib
import dataclasses
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

SIZE = (40, 100)  # rows and columns of the pseudo-terminal
BLOCK = 1 << 16
LOOK = 0.2  # seconds between two looks at whether the command has ended


@dataclasses.dataclass(frozen=True)
class Observation:
    """A command that has ended.

    Attributes:
        exit_code: its exit code; minus the signal's number if one has killed it.
        seconds: that it took.
        cpu_seconds: of its processes, those included that it has waited for.
        longest_gap: most seconds without a byte on stdout or stderr, the time to the first one and
            after the last one included.
        before_gap: the last line before that gap, "" at the beginning.
        output: stdout and stderr, in the order in which they came.
    """

    exit_code: int
    seconds: float
    cpu_seconds: float
    longest_gap: float
    before_gap: str
    output: str


def observe(
    command: Sequence[str],
    *,
    terminal: bool = False,
    timeout: float = 3600,
    cwd: Path | str | None = None,
    env: Mapping[str, str] | None = None,
    echo: Callable[[bytes], object] | None = None,
) -> Observation:
    """Runs a command to its end, and measures its longest silence.

    Args:
        command: the program and its arguments.
        terminal: whether stdout and stderr are a terminal of 40 rows and 100 columns, else a pipe.
        timeout: seconds after which it is killed.
        cwd: its working directory; None = this process's.
        env: its environment variables; None = this process's.
        echo: called with each piece of output as it comes.
    """
    reading, writing = pty.openpty() if terminal else os.pipe()
    if terminal:
        fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
    began = time.monotonic()
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=writing,
        cwd=cwd,
        env=None if env is None else dict(env),
        start_new_session=True,
    )
    os.close(writing)
    watch = _Watch(began, echo)
    try:
        status, usage = watch.until_end(process.pid, reading, began + timeout)
    finally:
        os.close(reading)
    process.returncode = os.waitstatus_to_exitcode(status)  # it is waited for: Popen must not
    ended = time.monotonic()
    watch.note_gap(ended)
    return Observation(
        exit_code=process.returncode,
        seconds=ended - began,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        longest_gap=watch.longest_gap,
        before_gap=watch.before_gap,
        output=watch.output.decode(errors="replace"),
    )


class _Watch:
    """What a command has written so far, and its longest gap."""

    def __init__(self, began: float, echo: Callable[[bytes], object] | None):
        self.output = bytearray()
        self.longest_gap = 0.0
        self.before_gap = ""
        self._latest = began
        self._echo = echo

    def until_end(self, process: int, reading: int, deadline: float) -> tuple[int, Any]:
        """Reads until the process has ended; returns its wait status and resource usage."""
        is_open = True
        while True:
            ready = select.select([reading] if is_open else [], [], [], LOOK)[0]
            if ready:
                is_open = self._read(reading)
                continue
            ended, status, usage = os.wait4(process, os.WNOHANG)
            if ended:
                return status, usage
            if time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process, 9)

    def note_gap(self, now: float) -> None:
        """Ends a gap."""
        if now - self._latest > self.longest_gap:
            self.longest_gap = now - self._latest
            lines = self.output.replace(b"\r", b"\n").split(b"\n")
            line = next((line for line in reversed(lines) if line.strip()), b"")
            self.before_gap = line.decode(errors="replace").strip()
        self._latest = now

    def _read(self, reading: int) -> bool:
        """Takes a piece of output; returns whether more can come."""
        try:
            data = os.read(reading, BLOCK)
        except OSError:  # EIO: the last process has closed the terminal
            return False
        if data:
            self.note_gap(time.monotonic())
            self.output += data
            if self._echo is not None:
                self._echo(data)
        return bool(data)


def main(argv: Sequence[str]) -> None:
    """Measures the command that the arguments are."""
    terminal = list(argv[:1]) == ["--terminal"]

    def echo(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    seen = observe(argv[terminal:], terminal=terminal, echo=echo)
    print(
        f"exit code {seen.exit_code}, {seen.seconds:.1f} s, {seen.cpu_seconds:.1f} CPU s, "
        f"longest gap {seen.longest_gap:.1f} s, after: {seen.before_gap or 'the beginning'}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
