"""Shows the runs below one or more directories, side by side.

    python -m vision.runs runs
    python -m vision.runs runs --filter model.name=vit --filter 'accuracy>0.9' --sort=-accuracy
    python -m vision.runs runs --group           # mean ± deviation over the seeds of each config
    python -m vision.runs runs --format csv      # or json; also with --group and --diff
    python -m vision.runs runs --out report      # a page: report/report.html
    python -m vision.runs runs --watch           # follows running trainings, until Ctrl-C
    python -m vision.runs --diff runs/a runs/b   # how they differ

Reads config.json, result.json and metrics.jsonl, never a checkpoint. A condition is KEY, one of =,
!=, <, <=, >, >= and ~ (contains), and a value. Keys are those of the config, and name, state,
ended, model, data, steps, best_step, images_per_second, seconds, date, accuracy (on the test split,
like every measure without val/), val/accuracy and the other measures of the log.
"""

import pathlib
import shutil
import sys
from collections.abc import Sequence

from absl import flags

from vision import cli
from vision.config.flags import parse_stage
from vision.errors import UserError, check_choice
from vision.runs import formats, table
from vision.runs.query import check_keys, grouped, ordered, parse_condition, select
from vision.runs.reader import Reader, check_directories
from vision.runs.record import Run
from vision.support.extras import require
from vision.support.lock import locked

FORMATS = ("table", *formats.FORMATS)
# Flags that mean nothing beside another one.
EXCLUSIVE = {
    "diff": ("filter", "sort", "group", "out", "watch"),
    "watch": ("group", "format", "out"),
}


def main(argv: Sequence[str]) -> None:
    config, values, words = parse_stage(argv, __doc__, _flags)
    check_choice("--format", values.format, FORMATS)
    if config is not None or not words:
        raise UserError("which runs? Give directories that have runs below them, such as runs")
    _check_pairs(values)
    check_directories(words)
    reader = Reader()
    if values.diff:
        _show_difference(words, reader, values.format)
        return
    conditions = [parse_condition(text) for text in values.filter]
    check_keys(conditions, values.sort, reader.read_below(words))

    def read() -> list[Run]:
        return ordered(select(reader.read_below(words), conditions), values.sort)

    if values.watch:
        from vision.runs.watch import watch

        watch(read)
    _show(read(), values, words)


def _flags(values):
    text = "condition such as model.name=vit or 'accuracy>0.9'; if repeated, all must hold"
    flags.DEFINE_multi_string("filter", [], text, flag_values=values)
    text = "key to sort by; -KEY: highest first; default: newest first"
    flags.DEFINE_string("sort", "-date", text, flag_values=values)
    text = "one line for runs whose configs differ only in seed, with mean ± deviation"
    flags.DEFINE_boolean("group", False, text, flag_values=values)
    flags.DEFINE_boolean("diff", False, "show how the named runs differ", flag_values=values)
    flags.DEFINE_string(
        "format", "table", "table, csv or json (one object per line)", flag_values=values
    )
    flags.DEFINE_string("out", "", "directory to write a page to", flag_values=values)
    flags.DEFINE_boolean("watch", False, "follow the runs until Ctrl-C", flag_values=values)


def _check_pairs(values: flags.FlagValues) -> None:
    """Raises `UserError` if a flag is given beside another one that leaves it without effect."""
    for name, others in EXCLUSIVE.items():
        for other in others:
            if values[name].value and values[other].value != values[other].default:
                raise UserError(f"--{name} and --{other} cannot be used together: leave one out")


def _show(runs: Sequence[Run], values: flags.FlagValues, words: Sequence[str]) -> None:
    """Prints the runs, and writes the page if one is wanted."""
    if values.out:
        require("the page of the runs", "evaluation", only=("jinja2",))
    if values.format in formats.FORMATS and values.group:
        formats.write_groups(grouped(runs), values.format, sys.stdout)
    elif values.format in formats.FORMATS:
        formats.write_runs(runs, values.format, sys.stdout)
    elif not runs:
        cli.show("no runs")
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
        rows = table.group_rows(grouped(runs)) if values.group else table.rows(runs)
        cli.show(*table.lines(rows, width))
    if values.out:
        from vision.runs.page import write

        with locked(values.out):
            write(pathlib.Path(values.out), runs, " ".join(words))
        print(f"{values.out}/report.html, runs.json", file=sys.stderr)


def _show_difference(words: Sequence[str], reader: Reader, form: str) -> None:
    """Prints how some runs differ, which are named one by one, in one of `FORMATS`."""
    if len(words) < 2:
        raise UserError("--diff compares runs: name at least two, such as runs/a runs/b")
    runs = [reader.read(word, pathlib.Path(word)) for word in words]
    for run in runs:
        if run.state == "unreadable":
            raise UserError(f"{run.name}: {run.reason}")
    if form in formats.FORMATS:
        formats.write_difference(runs, form, sys.stdout)
    else:
        cli.show(*table.lines(table.difference_rows(runs)))


if __name__ == "__main__":
    cli.run(main)
