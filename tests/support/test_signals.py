"""Signals that come when a program has done its work."""

import subprocess
import sys

PROGRAM = """
import os, signal
from vision.support import signals
with signals.listening() as listener:
    {done}
os.kill(os.getpid(), signal.SIGTERM)
print("ended")
"""


def ending_of(done):
    command = [sys.executable, "-c", PROGRAM.format(done=done)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return finished.returncode, finished.stdout


def test_a_signal_after_the_work_changes_nothing():
    assert ending_of("listener.ignore()") == (0, "ended\n")
    assert ending_of("pass") == (-15, "")
