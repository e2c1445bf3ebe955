"""Renames, merges or splits the classes of a finished run, without training.

    python -m vision.run.classes --workdir runs/pets --out runs/renamed --rename cat=Cat \\
        --rename dog=Dog
    python -m vision.run.classes --workdir runs/cars --out runs/merged --merge vehicle=car,truck
    python -m vision.run.classes --workdir runs/cars --out runs/split --split car=sedan,van

The result is an ordinary run; the old one does not change. You can repeat and combine --rename,
--merge and --split; all refer to the classes of the old run. In a name, write %2C for a comma, %3D
for "=" and %25 for "%".

A merged class takes the place of its first member, and its probability is exactly the sum of its
members'. The parts of a split class share its probability equally, so they are predicted alike
until a training from the new run (model.pretrained) tells them apart.
"""

import pathlib
from collections.abc import Sequence

from absl import flags, logging

from vision import cli
from vision.config.flags import parse_stage
from vision.errors import UserError
from vision.run.class_changes import FORMS, ClassChanges, read_changes
from vision.run.directory import read_run


def main(argv: Sequence[str]) -> None:
    config, values, words = parse_stage(argv, __doc__, _flags)
    if config is not None or words or not values.workdir:
        raise UserError("which run? Give --workdir RUN" + (f", not '{words[0]}'" if words else ""))
    if not values.out:
        raise UserError("where to? Give --out DIRECTORY")
    workdir = pathlib.Path(values.workdir)
    out = pathlib.Path(values.out)
    _, data = read_run(workdir)
    changes = read_changes(data["classes"], {kind: values[kind].value or [] for kind in FORMS})
    if out.exists():
        raise UserError(f"--out {out} exists already: name a new directory")
    from vision.run.reclassed import RESULT, reclass, write

    if not (workdir / RESULT).is_file():
        raise UserError(
            f"{workdir} is not finished, so it has no {RESULT}: train it to its end first, "
            f"python -m vision.main --workdir {workdir}"
        )
    logging.set_verbosity(logging.ERROR)  # libraries' chatter
    reclassed = reclass(workdir, changes)
    write(reclassed, workdir, out)
    cli.show(*describe(changes, out, bool(reclassed.config.model.head_groups)))


def _flags(values):
    flags.DEFINE_string("workdir", "", "directory of a finished run", flag_values=values)
    flags.DEFINE_string("out", "", "directory of the new run; must not exist", flag_values=values)
    meanings = {
        "rename": "another name for a class",
        "merge": "one class from several",
        "split": "several classes from one",
    }
    for kind, meaning in meanings.items():
        help_text = f"{FORMS[kind]}: {meaning}; may be repeated"
        flags.DEFINE_multi_string(kind, [], help_text, flag_values=values)


def describe(changes: ClassChanges, out: pathlib.Path, has_groups: bool) -> list[str]:
    """Returns the lines that the command prints.

    Args:
        changes: what became of the classes.
        out: directory of the new run.
        has_groups: whether its config has `model.head_groups`.
    """
    lines = [f"{out}: {len(changes.old)} classes -> {len(changes.new)}"]
    lines += [f"{change.kind}: {change}" for change in changes.changes]
    for change in changes.of_kind("split"):
        (old,) = change.old
        lines.append(
            f"note: {', '.join(change.new)} each get 1/{len(change.new)} of the probability of "
            f"{old!r}, until a training on new labels starts from this run"
        )
        if old not in change.new:
            lines.append(
                f"note: the data and splits.csv.gz still call these images {old!r}: relabel "
                "them before you evaluate this run on them"
            )
    if not changes.keeps_outputs:
        lines.append("note: the measurements and the temperature of the old classes are left out")
    if has_groups:
        lines.append(
            f"note: a training that starts from this run keeps its head if its config has the keys "
            f"model.head, head_scale, head_groups and head_shares of {out / 'config.json'}"
        )
    return [*lines, f"evaluate it: python -m vision.evaluation --workdir {out}"]


if __name__ == "__main__":
    cli.run(main, outlives_output=True)
