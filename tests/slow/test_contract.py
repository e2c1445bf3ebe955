"""A research module that uses every part of the objective's contract, killed with -9."""

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.objectives.conftest import folder
from tests.objectives.runs import assert_near, checkpoint, everything, have_same_bits, untimed
from vision.training.run import run

__all__ = ["folder"]  # the fixture


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("place", ["resident", "loaded"])
def test_everything_resumes_after_kill_9(devices, place, folder, tmp_path):
    """To the same bits as without an interruption, whatever the devices and the place of data."""
    c = everything(folder, checkpoint__every=1, parallel__devices=devices)
    c.checkpoint.keep_latest = 20
    if place == "loaded":
        c.data.resident_gib = 0.0
        c.data.workers = 0
    else:
        c.train.steps_per_dispatch = 2
        c.checkpoint.every = 2
    file = tmp_path / "config.json"
    file.write_text(json.dumps(c.to_dict()))
    workdir = tmp_path / "killed"
    code = (
        "import json, sys\n"
        "from vision.config.load import from_dict\n"
        "from vision.training.run import run\n"
        "run(from_dict(json.load(open(sys.argv[1]))), sys.argv[2])"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(file), str(workdir)])
    deadline = time.monotonic() + 240
    while not list(workdir.glob("checkpoints/[0-9]")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for name in ("killed", "whole"):
        assert run(c, tmp_path / name)["steps"] == 8
    assert have_same_bits(checkpoint(workdir, 8), checkpoint(tmp_path / "whole", 8))
    assert untimed(workdir)[-1] == untimed(tmp_path / "whole")[-1]


def test_everything_on_eight_devices(folder, tmp_path):
    """The same numbers as on one, up to rounding."""
    reference = tmp_path / "one"
    run(everything(folder), reference)
    run(everything(folder, parallel__devices=8), tmp_path / "run")
    assert_near(reference, tmp_path / "run", 5e-3)
