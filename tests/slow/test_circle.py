"""The circle on digits: from a server's log to labels, a better model, and all of the traffic."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

COMMANDS = [
    "vision.main",
    "vision.export",
    "vision.serving",
    "vision.monitoring.drift",
    "vision.monitoring.collect",
    "vision.monitoring.collect",
    "vision.main",
    "vision.evaluation.gate",
    "vision.export",
    "vision.monitoring.rollout",
]


def test_the_light_changes_and_a_better_model_takes_over(tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("XLA_")}
    command = [sys.executable, "-m", "experiments.circle.run", "digits", f"--workdir={tmp_path}"]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=environment | {"PYTHONPATH": "."},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.findall(r"^\$ python -m (\S+)", done.stdout, re.MULTILINE) == COMMANDS
    folder = tmp_path / "digits"
    record = json.loads((folder / "circle.json").read_text())
    # the first window is from before the light changed
    assert record["alarms"] == record["windows"] - 1 > 0
    assert record["labeled"] == 200
    assert record["new accuracy after"] > record["new accuracy before"] + 0.2
    assert record["old accuracy after"] >= record["old accuracy before"] - 0.01
    assert record["rollout"] == "done" and record["weight"] == 100
    assert record["failed"] == 0
    # what clients see in the end is what the gate has measured: both are of the same images
    assert record["served after"] == pytest.approx(record["new accuracy after"], abs=0.01)
    again = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert again.returncode == 0 and "$ python" not in again.stdout  # nothing is done twice
