"""`python -m vision.runs --watch`: what it prints while runs go on, and how it ends."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.runs.made import make_run
from vision.runs.watch import SECONDS

COMMAND = [sys.executable, "-m", "vision.runs"]


def test_a_line_for_each_change_where_there_is_no_terminal(tmp_path):
    run = make_run(tmp_path / "one")
    command = [*COMMAND, str(tmp_path), "--watch"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    table = [process.stdout.readline() for _ in range(3)]
    assert table[1].startswith("one") and "20/40" in table[1] and "1 interrupted" in table[2]
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 30, "train/loss": 0.125}) + "\n")
    assert process.stdout.readline().startswith("one: interrupted, step 30/40, loss 0.125")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")


def test_a_run_that_comes_to_match_later(tmp_path):
    """Until then one line says that there is none; the key is one that the run has only later."""
    run = make_run(tmp_path / "one", None, ())
    command = [*COMMAND, str(tmp_path), "--watch", "--filter", "val/accuracy>0.5"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "no runs\n"
    time.sleep(2.5 * SECONDS)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 30, "val/accuracy": 0.75}) + "\n")
    assert process.stdout.readline().startswith("one: interrupted, step 30/40")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")


@pytest.mark.parametrize("width", [80, 20])
def test_the_table_in_place_on_a_terminal(tmp_path, width):
    make_run(tmp_path / "one")
    outer, inner = pty.openpty()
    environment = os.environ | {"COLUMNS": str(width), "LINES": "24"}
    command = [*COMMAND, str(tmp_path), "--watch"]
    process = subprocess.Popen(command, stdout=inner, stderr=subprocess.PIPE, env=environment)
    shown = ""
    begun = time.monotonic()
    while shown.count("1 interrupted") < 2 and time.monotonic() - begun < 60:
        shown += os.read(outer, 4096).decode()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    assert "\x1b[3F\x1b[J" in shown  # up by the three lines of the first table
    plain = re.sub(r"\x1b\[\d*[A-Z]", "", shown)
    assert max(map(len, plain.splitlines())) <= width
