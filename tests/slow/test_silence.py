"""The README's main path on photos: no command is silent for more than five seconds.

A starved process is silent whatever it does, so the test needs quiet cores, and as few devices as
its user has: with the tests' eight, a command takes minutes and so comes to the log's slower pace.
"""

import os
import shutil
import sys
import tarfile

import pytest

from experiments.first_hour.silence import observe
from tests.conftest import REPOSITORY
from vision.support.processes import cores

LONGEST = 5.0  # seconds
ANIMALS = 398  # of ImageNet's classes: the first; names of the files begin with the number

if os.getloadavg()[0] > cores() / 2:
    pytest.skip(
        f"other processes use the cores (load {os.getloadavg()[0]:.1f}): what a command has to "
        "wait for them would count as its silence",
        allow_module_level=True,
    )


@pytest.fixture(scope="module")
def photos(shared_data, tmp_path_factory):
    """200 photos in the folders `animal` and `thing`."""
    root = tmp_path_factory.mktemp("first_hour")
    with tarfile.open(shared_data / "imagenet_samples.tar") as archive:
        archive.extractall(root / "all", filter="data")
    for photo in sorted((root / "all").rglob("*.jpg")):
        label = "animal" if int(photo.name.partition("_")[0]) < ANIMALS else "thing"
        (root / "photos" / label).mkdir(parents=True, exist_ok=True)
        shutil.move(photo, root / "photos" / label)
    return root


@pytest.mark.parametrize("terminal", [True, False])
def test_no_command_is_silent_for_long(photos, terminal):
    run = f"run-{terminal}"
    commands = [
        ["data", "info", "photos"],
        ["audit", "--data", "photos", "--out", f"audit-{terminal}"],
        ["train", "photos", "--workdir", run, "--config.train.epochs=2"],
        ["evaluate", "--workdir", run],
        ["predict", "--workdir", run, "photos"],
        ["export", "--workdir", run, "--out", f"models-{terminal}/photos/1"],
    ]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "TERM": "xterm", "XLA_FLAGS": ""}
    gaps = {}
    for command in commands:
        seen = observe(
            [sys.executable, "-m", "vision", *command],
            terminal=terminal,
            cwd=photos,
            env=environment,
        )
        assert seen.exit_code == 0, seen.output
        gaps[command[0]] = (round(seen.longest_gap, 1), seen.before_gap)
    too_long = {name: gap for name, gap in gaps.items() if gap[0] > LONGEST}
    assert not too_long, too_long
