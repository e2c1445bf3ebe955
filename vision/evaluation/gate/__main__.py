"""May a new model replace an old one? Applies rules on named data, for CI.

    python -m vision.evaluation.gate runs/pets runs/next --data old=folder:pets \\
        --data new=csv:to_label/labeled.csv --out gate
    python -m vision.evaluation.gate models/pets/3 models/pets/4 --data old=folder:pets \\
        --max-loss old=0.02 --max-class-loss old=0.1 --decide interval --out gate

OLD and NEW are runs or bundles. Each --data NAME=SOURCE names a set of images; both models classify
those that neither has learned from. By default, NEW must gain at least 0 in accuracy on `new` and
lose at most 0.01 on `old`, if there are such data. --max-class-loss limits the recall lost by each
class with at least --class-images images, --max-calibration-loss the rise of the expected
calibration error. Rules compare the measured values or, with --decide interval, the worse end of
the 95 % interval. Then NEW must keep them for sure: too few images do not pass, nor does
--max-class-loss if no class has enough images. A class that only one model has counts as wrong for
the other.

Writes gate.json and gate.md, a comment for a pull request. Exits with 0 if NEW keeps all rules,
with 1 if not, with 2 for a mistake in the command or the data. Like any command, it also exits with
1 if it fails for another reason, such as a full disk; then there is no gate.json.
"""

import contextlib
import pathlib
from collections.abc import Sequence

from absl import flags

from vision import cli
from vision.config.flags import parse_stage
from vision.errors import RunError, UserError, check_choice, check_count
from vision.support.extras import require_stage
from vision.support.files import filling, write_json
from vision.support.lock import locked

DEFAULTS = {"min-gain": "new=0", "max-loss": "old=0.01"}


def main(argv: Sequence[str]) -> None:
    config, values, words = parse_stage(argv, __doc__, _flags)
    if config is not None:
        raise UserError("--config has no effect on trained models: give their directories")
    if len(words) != 2:
        raise UserError(f"give two runs or bundles, OLD and NEW, got {len(words)}")
    if not values.out:
        raise UserError("give --out DIRECTORY to write gate.json and gate.md to")
    class_images = int(values["class-images"].value or 0)
    check_count("--class-images", class_images, 1, 10**9)
    require_stage("the gate", "gate")
    from vision.evaluation.compare.comparison import titles
    from vision.evaluation.gate import judge, rules

    check_choice("--decide", values.decide, rules.DECISIONS)
    data = rules.parse_data(values.data)
    limits = [
        rule
        for kind in rules.TITLES
        for rule in rules.parse_rules(kind, _given(values, kind, data), data)
    ]
    if not limits:
        raise UserError(
            f"no rule covers {', '.join(data)}: give --min-gain or --max-loss, such as "
            f"--max-loss {next(iter(data))}=0.01"
        )
    request = judge.Request(words, titles(words), data, limits, values.decide, class_images)
    with locked(values.out), _no_old_verdict(pathlib.Path(values.out)):
        record = judge.judge(request, cli.show)
        with filling(values.out) as directory:
            pathlib.Path(directory, "gate.md").write_text(judge.markdown(record), "utf-8")
            write_json(directory / "gate.json", record)
    *lines, verdict = judge.lines(record)
    cli.show(*lines, f"wrote {values.out}: gate.json, gate.md")
    if not record["passed"]:
        raise RunError(verdict)
    cli.show(verdict)


@contextlib.contextmanager
def _no_old_verdict(out):
    """Removes gate.json and gate.md if the block fails with exit code 1, as on a full disk: with
    that code they would be taken for the verdict."""
    try:
        yield
    except UserError:
        raise
    except BaseException:
        for name in ("gate.json", "gate.md"):
            with contextlib.suppress(OSError):
                (out / name).unlink(missing_ok=True)
        raise


def _given(values, kind, data):
    """Returns the values of a rule's flag, and its default unless one of them is about its data."""
    given = values[kind].value or []
    default = DEFAULTS.get(kind, "")
    name = default.partition("=")[0]
    if name in data and not any(value.partition("=")[0] == name for value in given):
        return [*given, default]
    return given


def _flags(values):
    def rule(name, meaning):
        flags.DEFINE_multi_string(name, None, f"NAME=NUMBER: {meaning}", flag_values=values)

    flags.DEFINE_multi_string("data", [], "NAME=SOURCE, may be repeated", flag_values=values)
    rule("min-gain", "minimum gain in accuracy; default: new=0")
    rule("max-loss", "maximum loss of accuracy; default: old=0.01")
    rule("max-class-loss", "maximum loss of any class's recall")
    rule("max-calibration-loss", "maximum rise of the expected calibration error")
    flags.DEFINE_integer(
        "class-images", 20, "images that a class needs to be judged", flag_values=values
    )
    flags.DEFINE_string(
        "decide",
        "estimate",
        "estimate, or interval for its worse end",
        flag_values=values,
    )
    flags.DEFINE_string(
        "out", "", "directory to write gate.json and gate.md to", flag_values=values
    )


if __name__ == "__main__":
    cli.run(main, outlives_output=True)
