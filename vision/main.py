"""Trains a model, then measures the best checkpoint on the test split.

    python -m vision.main --config configs/vit_cifar10.py
    python -m vision.main --config configs/resnet_cifar10.py:56 --workdir runs/r56 --config.seed=1

    python -m vision.main --workdir runs/r56                 # goes on with the config that the run
    has

A --workdir that holds a run resumes it. Every key that a config or --config.KEY=VALUE can set is in
printed by `python -m vision.config`.
"""

import datetime
import pathlib
import time

from absl import flags

from vision import cli
from vision.config.flags import parse
from vision.errors import UserError
from vision.run.directory import own_config
from vision.support.memory import keep_freed_memory
from vision.training.run import run

STARTED = time.perf_counter()  # JAX is imported later, so that its import counts as start-up time


def main(argv):
    config, values = parse(argv, __doc__, _flags, lambda: _of_run(argv))
    if config.parallel.keep_memory:
        keep_freed_memory()
    run(config, values.workdir or _fresh_workdir(argv), STARTED)


def _flags(values):
    flags.DEFINE_string(
        "workdir", "", "directory of the run; default: a new one under runs/", flag_values=values
    )


def _of_run(argv):
    """Returns the config of the run that --workdir names; None where it names none."""
    config = own_config(argv)
    if config is not None and config.imbalance.retrain_head:
        raise UserError(
            "this run is of two trainings, and its directory has the config of the last: give --config FILE"
        )
    return config


def _fresh_workdir(argv):
    name = next((a.removeprefix("--config=") for a in argv if a.startswith("--config=")), None)
    spec = name or argv[argv.index("--config") + 1]
    stem = "-".join([pathlib.Path(spec.split(":")[0]).stem, *spec.split(":")[1:]]).replace("/", "_")
    now = datetime.datetime.now()
    return pathlib.Path("runs") / f"{stem}-{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03d}"


if __name__ == "__main__":
    cli.run(main)
