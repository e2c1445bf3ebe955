"""The progress of commands: processes under a pseudo-terminal, or with pipes."""

import subprocess
import sys

import pytest

from experiments.first_hour.silence import observe
from tests.support.test_progress import Terminal

COMMAND = """
import time
from vision import cli
from vision.errors import UserError
from vision.support.progress import track

def main(argv):
    cli.show("begins")
    for _ in track(range(8), 8, "counting", "numbers"):
        time.sleep(0.4)
        if argv and _ == 6:
            raise UserError("the disk\\nis full")
    cli.show("ends")

cli.run(main)
"""


@pytest.mark.parametrize(("terminal", "fails"), [(True, False), (True, True), (False, True)])
def test_the_lines_of_a_command(terminal, fails):
    """Of a process: under a pseudo-terminal no row is left half overwritten."""
    seen = observe([sys.executable, "-c", COMMAND, *(["fail"] if fails else [])], terminal=terminal)
    assert seen.exit_code == (2 if fails else 0)
    screen = Terminal()
    screen.write(seen.output.replace("\r\n", "\n"))
    end = ["error: the disk", "is full", ""] if fails else ["ends", ""]
    rows = screen.rows()
    if not terminal:
        assert rows.pop(1).startswith("counting: ")
    assert rows == ["begins", *end]
    assert ("counting: 6 of 8 numbers |███" in seen.output) is terminal


def test_stdout_stays_clean():
    done = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True)
    assert done.stdout == "begins\nends\n"
    assert done.stderr.startswith("counting: ") and done.stderr.count("\n") == 1


TALKATIVE = """
import logging, sys, threading, time, warnings
from vision import cli
from vision.support import progress

progress.REDRAWN_EVERY = 0.0001
progress.FIRST_DRAWN = 0

def talk(number):
    for i in range(300):
        print(f"plain {number} {i}", file=sys.stderr)
        warnings.warn(f"warning {number} {i}")
        logging.error(f"logged {number} {i}")
        print(f"result {number} {i}", flush=True)
        cli.show(f"shown {number} {i}")
        progress.print_line(f"told {number} {i}")

def main(argv):
    logging.basicConfig()  # to the stream of the command
    with progress.Progress("counting", 300, "numbers") as work:
        while not progress.erasing():  # until the line is shown
            time.sleep(0.01)
        threads = [threading.Thread(target=talk, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

cli.run(main)
"""


def test_whatever_prints_to_a_terminal_meets_neither_an_error_nor_a_deadlock():
    command = [sys.executable, "-W", "always", "-c", TALKATIVE]
    seen = observe(command, terminal=True, timeout=60)
    assert seen.exit_code == 0, seen.output[-2000:]
    # print itself writes a line and its end apart, so that lines of two threads may share a row
    for kind in ("plain", "warning", "logged", "result", "shown", "told"):
        assert all(f"{kind} {thread} 299" in seen.output for thread in range(2))
        assert seen.output.count(f"{kind} ") == 600
    screen = Terminal()
    screen.write(seen.output.replace("\r\n", "\n"))
    assert screen.rows()[-1] == "" and not any("counting" in row for row in screen.rows())


WAITS = """
import time
from vision import cli
from vision.support import progress

progress.FIRST_LINE = 0.5
progress.REDRAWN_EVERY = 0.1
cli.run(lambda argv: time.sleep(1.7))
"""


def test_on_a_terminal_a_command_that_waits_is_renewed_as_often_as_work():
    seen = observe([sys.executable, "-c", WAITS], terminal=True)
    assert seen.exit_code == 0 and seen.output.count("\rstarting: ") >= 5
