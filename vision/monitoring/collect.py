"""Which of the server's kept images are worth labeling? Also turns the labels into a source.

    python -m vision.monitoring.collect --bundle models/pets/3 --log predictions --out to_label
    python -m vision.monitoring.collect --bundle models/pets/3 --log predictions --out to_label \\
        --count 500 --per-class 50
    python -m vision.monitoring.collect --bundle models/pets/3 --log predictions --out more \\
        --earlier to_label
    python -m vision.monitoring.collect --labeled annotations.xml --out to_label
    python -m vision.main --config configs/incremental.py:runs/pets:csv:to_label/labeled.csv

The first three choose from the images that the server's --keep-images kept: those on which versions
disagree, that are far from what the model was validated on, that have drifted, or of which the
model is unsure. The choice has a quota for each predicted class, no near duplicates, and images as
different as possible. With --random 50, 50 of them are drawn at random instead, which is best if
all traffic has changed. --earlier names collections whose images, and near duplicates of these, are
not collected again. --out gets images/, images.csv, report.html, and tasks for CVAT and Label
Studio with the model's classes filled in.

--labeled reads the answers: images.csv with its column "label" filled in, CVAT's export "for images
1.1", or Label Studio's JSON. The same --out gets labeled.csv, which the trainer opens as
csv:to_label/labeled.csv, and labels.csv, by request, for quality in production.

If anything fails, --out keeps its old contents.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from vision import cli
from vision.config.flags import parse_stage
from vision.errors import UserError, check_count
from vision.support.extras import require_stage

MOST_IMAGES = 100_000
MOST_WINDOWS = 10_000
CHOOSING = ("count", "window", "per-class", "history", "random", "seed", "earlier")  # flags


def main(argv: Sequence[str]) -> None:
    _, values, words = parse_stage(argv, __doc__, _flags)
    if words:
        raise UserError(f"unexpected argument '{words[0]}': flags start with --")
    if not values.out:
        raise UserError("give --out DIRECTORY to write to")
    out = pathlib.Path(values.out)
    if values.labeled:
        if values.bundle or values.log:
            raise UserError("give --labeled FILE, or --bundle and --log, not both")
        if useless := [f"--{name}" for name in CHOOSING if values[name].present]:
            raise UserError(f"leave out {', '.join(useless)}: with --labeled no images are chosen")
        from vision.monitoring.labeling.answers import take_back

        lines = take_back(pathlib.Path(values.labeled), out)
        cli.show(*lines, f"wrote {out}/labeled.csv, labels.csv, answers.json")
        return
    _check(values)
    require_stage("collecting", "collect")
    from vision.monitoring.labeling.collecting import Request, collect
    from vision.monitoring.windows import parse_span

    request = Request(
        bundle=pathlib.Path(values.bundle),
        log=pathlib.Path(values.log),
        out=out,
        count=values.count,
        per_class=int(values["per-class"].value or 0),
        window=values.window,
        span=parse_span(values.window),
        history=values.history,
        random=values.random,
        seed=values.seed,
        earlier=_earlier(values.earlier, out),
    )
    cli.show(*collect(request, cli.show))


def _earlier(text, out):
    """Returns the directories that --earlier names."""
    directories = [pathlib.Path(name.strip()) for name in text.split(",") if name.strip()]
    if out.resolve() in [directory.resolve() for directory in directories]:
        raise UserError(f"--out {out} is in --earlier too, and would be replaced: name another one")
    return directories


def _check(values):
    """Raises `UserError` if a flag is missing or out of range."""
    for name, meaning in (
        ("bundle", "DIRECTORY, the bundle that was served"),
        ("log", "DIRECTORY, the server's --prediction-log"),
    ):
        if not values[name].value:
            raise UserError(f"give --{name} {meaning}, or --labeled FILE")
    check_count("--count", values.count, 1, MOST_IMAGES)
    check_count("--per-class", values["per-class"].value, 0, MOST_IMAGES)
    check_count("--random", values.random, 0, values.count)
    check_count("--history", values.history, 1, MOST_WINDOWS)
    check_count("--seed", values.seed, 0, 2**32 - 1)


def _flags(values):
    def text(name, default, meaning):
        flags.DEFINE_string(name, default, meaning, flag_values=values)

    def number(name, default, meaning):
        flags.DEFINE_integer(name, default, meaning, flag_values=values)

    text("bundle", "", "directory of the bundle that was served")
    text("log", "", "directory of the server's --prediction-log")
    text("out", "", "directory to write to, or whose images were labeled")
    text("labeled", "", "file of answers: CSV, CVAT's XML or Label Studio's JSON")
    text("earlier", "", "DIR,...: collections whose images are not collected again")
    text("window", "1000", "rows in a window of drift, or a time such as 30m, 1h or 7d")
    number("count", 200, "maximum number of images to choose")
    number(
        "per-class",
        0,
        "maximum images of a predicted class; 0 = twice an equal share, or more if none is left",
    )
    number("history", 50, "number of latest windows to compare with the reference")
    number("random", 0, "how many of these to draw at random from all kept images")
    number("seed", 0, "seed that orders equally good images and draws at random")


if __name__ == "__main__":
    cli.run(main, outlives_output=True)
