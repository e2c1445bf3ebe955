"""Compares evaluated runs with the first one, image by image.

    # prints a table and a verdict
    python -m vision.evaluation.compare runs/resnet runs/vit
    # also writes files
    python -m vision.evaluation.compare runs/resnet runs/vit --out comparison

First evaluate each run on the same images with `python -m vision.evaluation`; instead of a run
directory, you can give the directory that holds its predictions.parquet. --out DIR writes
comparison.html, comparison.json and flipped.csv: the images that one run gets right and another
wrong. McNemar's exact test on the images where the runs differ decides which is better, with Holm's
correction for several runs.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np
from absl import flags

from vision import cli
from vision.config.flags import parse_stage
from vision.errors import UserError, check_choice
from vision.evaluation.compare.changes import change_text, table
from vision.evaluation.compare.comparison import Run, align, compare, load, titles
from vision.evaluation.compare.page import page
from vision.evaluation.data import SPLITS
from vision.support.cells import Writer
from vision.support.extras import require_stage
from vision.support.files import filling, replacing, write_json
from vision.support.lock import locked

CLASSES = 10  # in the printed list of classes that lose most


def main(argv: Sequence[str]) -> None:
    config, values, words = parse_stage(argv, __doc__, _flags)
    if config is not None:
        raise UserError("--config has no effect on trained runs: give their directories")
    if len(words) < 2:
        raise UserError("give at least two evaluated runs to compare: RUN_A RUN_B")
    check_choice("--split", values.split, ("", *SPLITS))
    require_stage("the comparison", "compare")
    runs, left_out = align(
        [load(path, title, values.split) for path, title in zip(words, titles(words), strict=True)]
    )
    comparison = compare(runs, left_out)
    cli.show(*text(comparison).splitlines())
    if values.out:
        write(values.out, runs, comparison)
        cli.show(f"wrote {values.out}: comparison.html, comparison.json, flipped.csv")


def _flags(values):
    flags.DEFINE_string(
        "out", "", "directory to write files to; nothing is written without it", flag_values=values
    )
    flags.DEFINE_string(
        "split", "", "the split that the runs must have been evaluated on", flag_values=values
    )


def text(comparison: Mapping[str, Any]) -> str:
    """Returns the comparison as printed."""
    lines = [f"{comparison['images']:,} images: {comparison['source']}, {comparison['split']}"]
    if comparison["left_out"]:
        lines.append(
            f"{comparison['left_out']:,} images that not all runs could read are left out of the "
            "differences"
        )
    lines.append("")
    runs = comparison["runs"]
    rows = table(comparison)
    title_width = max(len(row["title"]) for row in rows)
    run_width = max(len(run["title"]) for run in runs)
    for row in rows:
        for i, (run, cell) in enumerate(zip(runs, row["cells"], strict=True)):
            title = "" if i else row["title"]
            line = f"{title:<{title_width}}  {run['title']:<{run_width}}  "
            line += f"{cell['value']:<26}  {cell['change']}"
            lines.append(line.rstrip())
    for pair in comparison["comparisons"]:
        lines += ["", pair["verdict"]]
        losses = [row for row in pair["per_class"] if row["high"] < 0]
        for row in losses[:CLASSES]:
            change = change_text(row, True)
            lines.append(f"  loses on {row['class']}: {change} of {row['images']:,} images")
    return "\n".join(lines)


def write(out: pathlib.Path | str, runs: Sequence[Run], comparison: Mapping[str, Any]) -> None:
    """Writes comparison.html, comparison.json and flipped.csv into a directory, which it makes.

    Raises:
        UserError: if it cannot be written to.
    """
    with locked(out), filling(out) as folder:
        write_json(folder / "comparison.json", comparison)
        with replacing(folder / "flipped.csv", newline="") as file:
            write_flipped(file, runs)
        with replacing(folder / "comparison.html") as file:
            file.write(page(runs, comparison))


def write_flipped(file: IO[str], runs: Sequence[Run]) -> None:
    """Writes the images that one run gets right and another wrong, as CSV."""
    correct = np.stack([run.columns["correct"] for run in runs])
    writer = Writer(file)
    header = ["row", "name", "label"]
    for run in runs:
        header += [f"{run.title} {column}" for column in ("correct", "predicted", "confidence")]
    writer.writerow(header)
    for i in np.flatnonzero(correct.any(0) & ~correct.all(0)):
        cells = [runs[0].columns[name][i] for name in ("row", "name", "label")]
        for run in runs:
            columns = run.columns
            cells.append(str(bool(columns["correct"][i])).lower())
            cells.append(columns["predicted"][i])
            cells.append(f"{columns['confidence'][i]:.6f}")
        writer.writerow(cells)


if __name__ == "__main__":
    cli.run(main, outlives_output=True)
