"""Trains a model, then measures the best checkpoint on the test split.

    python -m vision.main --config configs/vit_cifar10.py
    python -m vision.main --config configs/resnet_cifar10.py:56 --workdir runs/r56 --config.seed=1

    python -m vision.main --workdir runs/r56   # continues with the run's own config

A --workdir that contains a run resumes it. `python -m vision.config` prints every key that a config
or --config.KEY=VALUE can set.
"""

import time
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict

from vision import cli
from vision.config.flags import parse
from vision.config.packages import check_packages
from vision.errors import UserError
from vision.run.directory import new_workdir, own_config
from vision.support import signals
from vision.support.memory import (
    collect_as_usual,
    collect_seldom,
    keep_freed_memory,
    use_one_arena,
)
from vision.training.run import run

STARTED = time.perf_counter()  # JAX is imported later, so that its import counts as start-up time


def main(argv: Sequence[str]) -> None:
    """Runs the command with its arguments, without the program's name."""
    collect_seldom()
    try:
        config, values = parse(argv, __doc__, define_flags, lambda: _config_of_run(argv))
        check_packages(config)
        if config.continual.tasks:
            raise UserError(
                "continual.tasks names several trainings: run python -m vision.continual with the "
                "same arguments"
            )
        if config.parallel.keep_memory:
            keep_freed_memory()
        run(config, values.workdir or new_workdir(argv), STARTED)
    finally:
        collect_as_usual()  # also where no step was reached: another command may follow


def define_flags(values: flags.FlagValues) -> None:
    """Adds the command's flags."""
    flags.DEFINE_string(
        "workdir", "", "directory of the run; default: a new one under runs/", flag_values=values
    )


def _config_of_run(argv: Sequence[str]) -> ConfigDict | None:
    """Returns the config of the run that --workdir names, None if it names none."""
    config = own_config(argv)
    if config is not None and config.imbalance.retrain_head:
        raise UserError(
            "this run consists of two trainings, and its directory has only the config of the "
            "last: give --config FILE"
        )
    return config


if __name__ == "__main__":
    use_one_arena()  # before `watch` starts a thread
    with signals.listening() as listener:
        listener.watch()
        listener.leave_at_once("interrupted before it had begun to train")
        cli.run(main, outlives_output=True)
        listener.ignore()  # Python still takes a moment to end
