"""Compares the recipe with the author's code: the same weights and batches, in float64.

    python -m experiments.jordan2024_airbench.compare --theirs airbench94.py --torch-python PATH
    python -m experiments.jordan2024_airbench.compare --theirs airbench94.py --updates 1 --noise

airbench94.py is https://github.com/KellerJordan/cifar10-airbench, legacy/airbench94.py, and PATH an
interpreter with torch; by default the one that runs this. 23 steps of 64 images are planned, with
the tiny widths 4, 8, 8 and without augmentation; --updates of them are made, after which each
variable and the loss of the next batch are compared. --noise draws the pixels at random: no two
values that a maximum is taken of are then equal.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from vision import cli, parallel
from vision.config.load import load
from vision.data.sources import open_splits
from vision.errors import UserError
from vision.models import airbench
from vision.objectives.supervised import Supervised
from vision.training.inputs import ImageInputs
from vision.training.optimizer import make_optimizer, make_schedule
from vision.training.state import StateSpec
from vision.training.step import TrainStep

IMAGES = 500
BATCH = 64
BATCHES = 5  # of a pass
STEPS = 23
WHITENING = 3 * BATCHES  # steps for which the whitening's bias learns


def main(argv):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--theirs", type=pathlib.Path, required=True, help="the author's file")
    p.add_argument("--torch-python", default=sys.executable, help="an interpreter with torch")
    p.add_argument("--data", default="tfds:cifar10", help="source of the images")
    p.add_argument("--noise", action="store_true", help="pixels at random")
    p.add_argument("--updates", type=int, default=STEPS - 1, help=f"below {STEPS}")
    a = p.parse_args(argv)
    if not 1 <= a.updates < STEPS:
        raise UserError(f"--updates must be from 1 to {STEPS - 1}, got {a.updates}")
    if not a.theirs.is_file():
        raise UserError(f"--theirs: no file {a.theirs}")
    jax.config.update("jax_enable_x64", True)
    images, labels = _images(a.data, a.noise)
    ours = run(images, labels, a.updates)
    for line in table(ours, _theirs(a, ours)):
        print(line)


def _images(source, noise):
    """Returns (uint8 (N, 32, 32, 3), int32 (N,)) of the first training images, or of noise."""
    random = np.random.RandomState(0)
    if noise:
        images = random.randint(0, 256, (IMAGES, 32, 32, 3)).astype(np.uint8)
        return images, random.randint(0, 10, IMAGES).astype(np.int32)
    train = open_splits(source)["train"]
    images = np.stack([train[i]["image"] for i in range(IMAGES)])
    return images, np.asarray(train.labels[:IMAGES], np.int32)


def run(images, labels, updates):
    """Returns what `torch_side.py` needs, our variables after some updates ("f/NAME") and losses.

    Args:
        images: uint8 (N, 32, 32, 3).
        labels: int32 (N,).
        updates: their number; one more loss is computed.
    """
    step, mesh = _step()
    state = step.initialize_from_data(step.initialize(), jnp.asarray(images))
    wide = [
        jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), state[part])
        for part in ("params", "rest")
    ]
    state = step.begin(*wide)
    start = {f"w/{name}": array for name, array in _variables(state).items()}
    random = np.random.RandomState(0)
    passes = -(-STEPS // BATCHES)
    order = [random.permutation(IMAGES)[: BATCH * BATCHES] for _ in range(passes)]
    order = np.concatenate(order).reshape(-1, BATCH)
    losses = []
    for rows in order[: updates + 1]:
        batch = parallel.put_batch({"image": images[rows], "label": labels[rows]}, mesh)
        last = _variables(state)
        state, scalars = step.update(state, batch, {})
        losses.append(float(scalars["loss"]))
    numbers = {"updates": updates, "batches": BATCHES, "epochs": STEPS / BATCHES}
    arrays = {"images": images, "labels": labels, "order": order, "losses": np.array(losses)}
    return numbers | arrays | start | {f"f/{name}": array for name, array in last.items()}


def _step():
    """Returns (the train step of the tiny network, its mesh)."""
    c = load("configs/airbench_cifar10.py")
    c.model.dtype = "float64"
    c.augment.pad_crop = 0
    c.augment.flip_alternating = False
    c.train.steps = STEPS
    c.optimizer.freeze_at = WHITENING / STEPS
    c.schedule.warmup = int(0.23 * STEPS) / STEPS

    def create():
        model = airbench.build("mu", 10, dtype=jnp.float64, rngs=nnx.Rngs(0))
        return Supervised(model, label_smoothing=c.objective.label_smoothing)

    spec = StateSpec(create)
    mesh = parallel.make_mesh(1)
    inputs = ImageInputs(c, {"train": ("image",)}, 10, {"train": IMAGES}, mesh)
    schedule = make_schedule(c.schedule, c.optimizer.learning_rate, STEPS)
    optimizers = {"": make_optimizer(c.optimizer, schedule, spec.abstract_params, STEPS)}
    return TrainStep(c, spec, inputs, schedule, optimizers, STEPS, mesh), mesh


def _variables(state):
    """Returns {name in the model: array} of parameters and statistics."""
    return {
        ".".join(path[1:]): np.array(array)
        for part in ("params", "rest")
        for path, array in traverse_util.flatten_dict(jax.device_get(state[part])).items()
    }


def _theirs(a, ours):
    """Returns what the author's code has computed, as `torch_side.py` writes it."""
    side = pathlib.Path(__file__).with_name("torch_side.py")
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder, "ours.npz")
        target = pathlib.Path(folder, "theirs.npz")
        np.savez(source, **ours)
        done = subprocess.run(
            [a.torch_python, side, a.theirs, source, target],
            stdout=subprocess.DEVNULL,  # its table of accuracies
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1]
            raise UserError(f"the author's code failed: {reason.removeprefix('error: ')}")
        with np.load(target) as arrays:
            return dict(arrays)


def table(ours, theirs):
    """Returns the lines of the table of differences."""
    lines = ["| | largest difference | largest value |", "|---|---|---|"]
    lines.append(f"| whitening, up to sign | {theirs['whitening']:.0e} | 1, relative |")
    for number, (mine, other) in enumerate(zip(ours["losses"], theirs["losses"], strict=True)):
        lines.append(f"| loss of step {number + 1} | {abs(mine - other):.0e} | {mine:.4f} |")
    for name in (name for name in ours if name.startswith("f/")):
        difference = np.abs(ours[name] - theirs[name]).max()
        lines.append(f"| {name[2:]} | {difference:.0e} | {np.abs(theirs[name]).max():.2g} |")
    return lines


if __name__ == "__main__":
    cli.run(main)
