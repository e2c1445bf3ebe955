"""Writes synthetic training images, which a run of the objective `gan` draws.

    python -m vision.synthesize --workdir runs/gan --out synthetic --balance
    python -m vision.synthesize --workdir runs/gan --out synthetic --count 500 --truncation 1.5
    python -m vision.main --config configs/resnet_folder.py:photos \\
        --config.data.synthetic=csv:synthetic/synthetic.csv

--balance fills every class of the run's training split up to its largest class; --count N draws N
images of each class, or of those of --classes. DIR is a new directory: images/, synthetic.csv, a
source whose images are all of the split train and marked in the column `synthetic`,
synthesis.json, and report.html. That compares them with the real training images, in the embedding
of the run's own classifier or of --embedding RUN, and shows some beside their nearest real ones, so
that copies can be seen.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from vision import cli
from vision.config.flags import parse_stage
from vision.errors import UserError, check_count, check_range
from vision.support.extras import require_stage
from vision.support.memory import keep_freed_memory

MOST = 1_000_000  # images of a class
WIDEST = 10.0  # standard deviations; farther out lies nothing


def main(argv: Sequence[str]) -> None:
    """Runs the command with its arguments, without the program's name."""
    _, values, words = parse_stage(argv, __doc__, _flags)
    _check(values, words)
    require_stage("the report", "synthesize")
    keep_freed_memory()
    from vision.synthesize import synthesize

    request = synthesize.Request(
        workdir=pathlib.Path(values.workdir),
        out=pathlib.Path(values.out),
        count=values.count or 0,
        classes=tuple(filter(None, values.classes.split(","))),
        truncation=values.truncation,
        seed=values.seed,
        embedding=values.embedding,
    )
    cli.show(*synthesize.synthesize(request))


def _check(values: flags.FlagValues, words: Sequence[str]) -> None:
    """Raises `UserError` if the flags do not fit each other."""
    if words:
        raise UserError(f"unexpected argument '{words[0]}': flags start with --")
    if not values.workdir or not values.out:
        raise UserError("give --workdir RUN, a run of the objective gan, and --out DIR, a new one")
    if values.balance == (values.count is not None):
        raise UserError("how many images? Give --balance, or --count N for each class")
    if values.balance and values.classes:
        raise UserError("--balance fills every class: give --classes with --count N only")
    if values.count is not None:
        check_count("--count", values.count, 1, MOST)
    check_count("--seed", values.seed, 0, 2**32 - 1)
    if values.truncation is not None:
        rule = f"above 0 and at most {WIDEST:g}"
        check_range("--truncation", values.truncation, 0 < values.truncation <= WIDEST, rule)
    if pathlib.Path(values.out).exists():
        raise UserError(f"--out {values.out} exists: name a new directory")


def _flags(values: flags.FlagValues) -> None:
    def text(name: str, meaning: str) -> None:
        flags.DEFINE_string(name, "", meaning, flag_values=values)

    text("workdir", "directory of a run of the objective gan")
    text("out", "directory to write; it must not exist")
    flags.DEFINE_bool("balance", False, "fill classes up to the largest", flag_values=values)
    flags.DEFINE_integer("count", None, "images of each class", flag_values=values)
    text("classes", "with --count, names of the classes, joined by commas; default: all")
    flags.DEFINE_float(
        "truncation",
        None,
        "draw noise beyond this many standard deviations again: fewer failures, less variety; "
        "default: never",
        flag_values=values,
    )
    flags.DEFINE_integer("seed", 0, "seed of the noise", flag_values=values)
    text("embedding", "run whose embedding judges the images; default: --workdir")


if __name__ == "__main__":
    cli.run(main, outlives_output=True)
