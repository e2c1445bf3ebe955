"""Trains a model, then measures the best checkpoint on the test split.

    python -m vision.main photos/ --workdir runs/pets   # picks a config, and says which and why
    python -m vision.main --config configs/vit_cifar10.py
    python -m vision.main --config configs/resnet_cifar10.py:56 --workdir runs/r56 --config.seed=1

    python -m vision.main --workdir runs/r56   # continues with the run's own config

A source, such as a folder with one subfolder of images per class, replaces the config's data.
Without --config, the command picks one: transfer learning if published weights are available, else
a ResNet. It writes that config into the run as config.py. If --workdir contains a run, training
resumes. `python -m vision.config` prints every key that a config or --config.KEY=VALUE can set.
"""

import functools
import shlex
import time
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict

from vision import cli, recipe
from vision.config.flags import parse_stage
from vision.errors import UserError
from vision.run.directory import new_workdir, workdir_for
from vision.support import signals
from vision.support.memory import (
    collect_as_usual,
    collect_seldom,
    keep_freed_memory,
    use_one_arena,
)
from vision.training.run import check_single, run

NO_CONFIG = (
    "train on what? Give a folder with one folder of images per class, or --config FILE, for "
    "example --config configs/vit_mnist5k.py, or a run's --workdir"
)
STARTED = time.perf_counter()  # JAX is imported later, so that its import counts as start-up time


def main(argv: Sequence[str]) -> None:
    """Runs the command with its arguments, without the program's name."""
    collect_seldom()
    try:
        chosen: list[recipe.Recipe] = []
        fallback = functools.partial(recipe.config_without_file, argv, chosen)
        config, values, words = parse_stage(argv, __doc__, define_flags, fallback)
        if config is None:
            raise UserError(NO_CONFIG)
        source = recipe.source_of(words)
        config.data.source = source or config.data.source
        check_single(config)
        if config.parallel.keep_memory:
            keep_freed_memory()
        _train(config, values.workdir, argv, source, chosen)
    finally:
        collect_as_usual()  # also where no step was reached: another command may follow


def _train(
    config: ConfigDict,
    workdir: str,
    argv: Sequence[str],
    source: str,
    chosen: Sequence[recipe.Recipe],
) -> None:
    """Trains; if a source was given, says first what was chosen, and then what can follow."""
    has_file = any(word.partition("=")[0] == "--config" for word in argv)
    title = recipe.title(source)
    workdir = workdir or str(new_workdir(argv) if has_file else workdir_for(title))
    files = {}
    for choice in chosen:
        command = f"python -m vision.main {shlex.join(argv)}"
        files = {recipe.NAME: choice.text(command)}
        cli.show(*choice.lines(workdir))
    result = run(config, workdir, STARTED, files=files)
    if source and result is not None:
        cli.show(*recipe.next_commands(workdir, title))


def define_flags(values: flags.FlagValues) -> None:
    """Adds the command's flags."""
    flags.DEFINE_string(
        "workdir", "", "run directory; default: a new one under runs/", flag_values=values
    )


if __name__ == "__main__":
    use_one_arena()  # before any thread is started
    with signals.listening() as listener:
        listener.watch()
        listener.leave_at_once("interrupted before training began")
        cli.run(main, outlives_output=True)
        listener.ignore()  # Python still takes a moment to end
