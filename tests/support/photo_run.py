"""A folder of noise and a finished run on it, for tests of what a run knows about its images."""

import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from vision import cli, main
from vision.data.division import read_division

REPOSITORY = pathlib.Path(__file__).parents[2]
TINY = {
    "model.name": "vit",
    "model.variant": "mu/4",
    "model.dropout": 0.0,
    "parallel.devices": 1,
    "train.steps": 4,
    "train.epochs": 0.0,
    "train.batch_size": 8,
    "train.eval_every": 2,
    "checkpoint.every": 2,
    "model.batch_norm_groups": None,
    "model.stochastic_depth": None,
    "augment.affine": False,
    "log.tensorboard": False,
    "log.progress": False,
}


def draw(root, label, number):
    noise = np.random.RandomState([label == "dog", number]).randint(0, 255, (8, 8, 3))
    path = root / label / f"{number:03}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise.astype(np.uint8)).save(path)


def train(workdir, photos, *flags):
    argv = [f"--config={REPOSITORY}/configs/digits.py:smoke", f"--workdir={workdir}"]
    values = TINY | {"data.source": f"folder:{photos}", "data.image_size": 8, "data.channels": 3}
    argv += [f"--config.{key}={value}" for key, value in (values | {"data.limit": 0}).items()]
    cli.run(main.main, [*argv, *(f"--config.{flag}" for flag in flags)])


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The directory of a folder, `photos`, and of a finished run on it, `run`."""
    root = tmp_path_factory.mktemp("original")
    for label in ("cat", "dog"):
        for number in range(30):
            draw(root / "photos", label, number)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        train("run", "photos")
    return root


@pytest.fixture
def here(original, tmp_path, monkeypatch):
    """A copy of `original`, which is the current directory; returns the run's division too."""
    shutil.copytree(original, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return read_division("run/splits.csv.gz")
