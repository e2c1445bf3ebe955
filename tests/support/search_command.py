"""The search command on trainings of a second: a ViT of a few thousand parameters on digits."""

import os
import pathlib
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).parent.parent.parent
SPACE = str(pathlib.Path(__file__).with_name("search_space.py"))
KEYS = {
    "data.limit": 128,
    "model.name": "vit",
    "model.variant": "mu/4",
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 1e-4,
    "optimizer.nesterov": False,
    "augment.affine": False,
    "train.epochs": 4.0,
    "train.batch_size": 16,
    "train.eval_every": 8,
    "log.tensorboard": False,
    "parallel.devices": 1,
}


def arguments(out, *flags, **keys):
    """Returns the command's arguments; `keys` have a double underscore for the point."""
    changed = KEYS | {key.replace("__", "."): value for key, value in keys.items()}
    overrides = [f"--config.{key}={value}" for key, value in changed.items()]
    config = str(REPOSITORY / "configs/digits.py")
    return ["--config", config, f"--out={out}", *overrides, *map(str, flags)]


def start(out, *flags, **options):
    """Starts the command in a process of its own."""
    command = [sys.executable, "-m", "vision.search", *arguments(out, *flags)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, **options)
