"""Processes that are killed or hang, or whose parent is killed: one line, and nothing is left."""

import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from vision.errors import RunError
from vision.support.processes import bound, ordered, prepare_worker


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


def compute(connection):
    """Answers once, then computes without ever giving way to another thread."""
    prepare_worker()
    connection.send(connection.recv() + 1)
    connection.recv()
    print("computing", flush=True)
    re.match("(a+)+$", "a" * 60 + "b")


def start_worker(by_thread):
    """Starts a worker from a thread that ends, or the main one, and waits to be killed."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=compute, args=(theirs,))
    if by_thread:
        thread = threading.Thread(target=process.start)
        thread.start()
        thread.join()
    else:
        process.start()
    ours.send(1)
    assert ours.recv() == 2
    time.sleep(0.5)  # the end of the thread has not ended the worker
    assert process.is_alive()
    if not by_thread:
        ours.send(None)
    else:
        print("idle", flush=True)
    time.sleep(600)


def run_command():
    """Waits for a command that says its number and sleeps."""
    subprocess.run(bound(["sh", "-c", "echo $$; exec sleep 600"]))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part is Linux's")
@pytest.mark.parametrize("call", ["run_command()", "start_worker(False)", "start_worker(True)"])
def test_nothing_outlives_a_parent_that_is_killed(call):
    """Whatever still runs holds the pipe open."""
    command = [sys.executable, "-c", f"from tests.support.test_workers import *; {call}"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        assert parent.stdout.readline().strip()
        parent.kill()  # as kill -9 does
        reader = threading.Thread(target=parent.stdout.read, daemon=True)
        reader.start()
        reader.join(60)
        assert not reader.is_alive()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
        parent.wait()
