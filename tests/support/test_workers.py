"""Processes of a pass over data that are killed or hang: one line, and nothing is left."""

import multiprocessing
import os
import signal
import time

import pytest

from vision.errors import RunError
from vision.support.processes import ordered


def work(state, task):
    """Does what the state says at task 5."""
    if task == 5 and state == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == 5 and state == "stuck":
        time.sleep(1000)
    if task == 5 and state == "signals":
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    return task


@pytest.mark.parametrize(
    ("state", "seconds", "message"),
    [
        ("killed", 60, "was killed, probably because memory ran out"),
        ("stuck", 8, "have given no result for 8 s"),
    ],
)
def test_a_process_that_gives_no_result(state, seconds, message):
    before = set(multiprocessing.active_children())
    results = []
    with pytest.raises(RunError, match=message):
        for result in ordered(work, range(40), 2, state, longest_wait=seconds):
            results.append(result)
    assert results == list(range(len(results)))
    assert set(multiprocessing.active_children()) <= before


def test_signals_are_for_the_parent():
    assert list(ordered(work, range(12), 2, "signals")) == list(range(12))
