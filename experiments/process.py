"""Runs a command as a process that can be told to stop, and go on another day."""

import pathlib
import subprocess
import sys
from collections.abc import Sequence

from vision.errors import UserError
from vision.support import progress
from vision.support.signals import listening

PERIOD = 0.5  # seconds between looks at the signals


def run_module(words: Sequence[str], name: str) -> bool:
    """Runs `python WORDS` as `run_program` does."""
    return run_program([sys.executable, *words], name)


def run_program(words: Sequence[str | pathlib.Path], name: str) -> bool:
    """Runs a program, which shows its own progress, and hands on a SIGTERM or Ctrl-C.

    Args:
        words: the program and its arguments.
        name: of what is run, for messages.

    Returns:
        False if a signal has come: the command has then saved what it had.

    Raises:
        UserError: the command failed.
    """
    with listening() as signals, progress.quiet(beside=True):
        process = subprocess.Popen(words)
        told = False
        while True:
            try:
                code = process.wait(timeout=PERIOD)
                break
            except subprocess.TimeoutExpired:
                # Ctrl-C reaches the whole group; SIGTERM may have come to this process only.
                if signals.received and not told:
                    process.terminate()
                    told = True
        if code and not signals.received:
            raise UserError(f"{name}: the command above failed")
        return not signals.received
