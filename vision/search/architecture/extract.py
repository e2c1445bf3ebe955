"""Extracts a network from a supernet as a separate run, which you can train further.

    python -m vision.search.architecture.extract --workdir runs/all --out runs/best \\
        --variant c16s2-w16k5e2-w32d2e4s2se1-w48e4s2se1-h192 \\
        --config.train.epochs=5 --config.optimizer.learning_rate=0.02
    python -m vision.main --workdir runs/best                    # fine-tunes it
    python -m vision.evaluation --workdir runs/best

It has its part of the supernet's weights, with BatchNorm's averages recomputed on training images.
The run has the supernet's config with the changes of --config.KEY=VALUE, learns from labels, and
has the same images in its splits. `model.pretrained=runs/best` starts another run from it.
"""

import pathlib
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict

from vision import cli
from vision.config.flags import parse_stage
from vision.config.validate import validate
from vision.errors import UserError, check_count
from vision.run.directory import own_config

RECORD = "subnet.json"


def main(argv: Sequence[str]) -> None:
    """Runs the command with its arguments, without the program's name."""
    config, values, words = parse_stage(argv, __doc__, _flags, lambda: own_config(argv))
    if words:
        raise UserError(f"unexpected argument '{words[0]}': flags start with --")
    for name, meaning in (("workdir", "RUN"), ("variant", "NETWORK"), ("out", "DIRECTORY")):
        if not values[name].value:
            raise UserError(f"give --{name} {meaning}: see --help")
    check_count("--images", values.images, 2, 10_000_000)
    out = pathlib.Path(values.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} exists already: give a new or empty directory")
    cli.show(*extract(config, values.workdir, values.variant, out, values.images))


def _flags(values: flags.FlagValues) -> None:
    def text(name: str, meaning: str) -> None:
        flags.DEFINE_string(name, "", meaning, flag_values=values)

    text("workdir", "a run of the objective supernet")
    text("variant", "name of a network in its space")
    text("out", "directory of the new run")
    meaning = "training images for BatchNorm's averages"
    flags.DEFINE_integer("images", 2048, meaning, flag_values=values)


def extract(
    config: ConfigDict | None, workdir: str, variant: str, out: pathlib.Path, images: int = 2048
) -> list[str]:
    """Writes the run, and returns lines that describe it.

    Args:
        config: the config to train it with: the supernet's own, possibly changed; None for that.
        workdir: the supernet's run.
        variant: the network.
        out: directory to write, new or empty.
        images: training images for BatchNorm's averages.

    Raises:
        UserError: the run is not a supernet, or has no such network.
    """
    from vision.compression.cut import Pruned, write
    from vision.models.layers.variants import choice_of, spell
    from vision.search.architecture.costs import Task, count
    from vision.search.architecture.networks import Shared

    choice = choice_of(variant, "--variant")
    shared = Shared(workdir, calibration=images)
    arrays = shared.cut(choice)
    task = shared.task
    name = spell(choice)
    changed = Task(config or task.config, task.classes, task.image_size, task.channels)
    own = changed.config_of(name)
    validate(own)
    accuracy = shared.accuracy(choice)
    record = {"supernet": workdir, "variant": name, "accuracy": accuracy}
    record |= {"macs": count(choice, task)}
    write(Pruned(own, arrays, record), workdir, out, RECORD)
    return [
        f"{name}: {record['macs']:,} multiply-adds, {100 * accuracy:.2f} % on the validation split",
        f"train it: python -m vision.main --workdir {out}",
    ]


if __name__ == "__main__":
    cli.run(main, outlives_output=True)
