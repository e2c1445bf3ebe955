"""Compares evaluated runs, image by image, with the first of them.

    python -m vision.evaluation.compare.__main__ runs/resnet runs/vit                    # prints a
    table and a verdict
    python -m vision.evaluation.compare.__main__ runs/resnet runs/vit --out comparison   # and
    writes files

Each run has been evaluated, by `python -m vision.evaluation`, on the same images; a directory that
itself holds predictions.parquet is taken too. --out DIR writes comparison.html, comparison.json and
flipped.csv: the images that one run gets right and another wrong. Which is better is told from the
images where they differ, by McNemar's exact test, of several runs corrected after Holm.
"""

import csv
import os

import numpy as np
from absl import flags

from vision import cli
from vision.config.flags import parse_stage
from vision.errors import UserError, check_choice
from vision.evaluation.compare.comparison import align, change_of, compare, load, table, titles
from vision.evaluation.compare.page import page
from vision.evaluation.data import SPLITS
from vision.evaluation.report.words import METRICS
from vision.support.files import make_directory, replacing, write_json

CLASSES = 10  # in the printed table of classes that lose most


def main(argv):
    config, values, words = parse_stage(argv, __doc__, _flags)
    if config is not None:
        raise UserError("--config says nothing about runs that are trained: give their directories")
    if len(words) < 2:
        raise UserError("compare what? Give two evaluated runs or more: RUN_A RUN_B")
    check_choice("--split", values.split, ("", *SPLITS))
    runs, left_out = align(
        [load(path, title, values.split) for path, title in zip(words, titles(words), strict=True)]
    )
    found = compare(runs, left_out)
    print(text(found))
    if values.out:
        write(values.out, runs, found)
        print(f"wrote {values.out}: comparison.html, comparison.json, flipped.csv")


def _flags(values):
    flags.DEFINE_string(
        "out", "", "directory to write files to; without it nothing is written", flag_values=values
    )
    flags.DEFINE_string(
        "split", "", "the split that they were evaluated on, to be sure", flag_values=values
    )


def text(found):
    """Returns the comparison as printed."""
    lines = [f"{found['images']:,} images: {found['source']}, {found['split']}"]
    if found["left_out"]:
        lines.append(
            f"{found['left_out']:,} images that not all runs could read are left out of the differences"
        )
    lines.append("")
    wide = max(len(title) for title, _ in METRICS.values())
    width = max(len(run["title"]) for run in found["runs"])
    for row in table(found):
        for i, (run, cell) in enumerate(zip(found["runs"], row["cells"], strict=True)):
            title = "" if i else row["title"]
            lines.append(
                f"{title:<{wide}}  {run['title']:<{width}}  {cell['value']:<26}  {cell['change']}".rstrip()
            )
    for pair in found["comparisons"]:
        lost = [one for one in pair["per_class"] if one["high"] < 0][:CLASSES]
        lines += ["", pair["verdict"]]
        lines += [
            f"  loses on {one['class']}: {change_of(one, True)} of {one['images']:,} images"
            for one in lost
        ]
    return "\n".join(lines)


def write(out, runs, found):
    """Writes comparison.html, comparison.json and flipped.csv into a directory, which it makes.

    Raises:
        UserError: it cannot be written to.
    """
    out = make_directory(out)
    try:
        write_json(out / "comparison.json", found)
        with replacing(out / "flipped.csv", newline="") as file:
            write_flipped(file, runs)
        with replacing(out / "comparison.html") as file:
            file.write(page(runs, found))
    except OSError as error:
        raise UserError(f"cannot write to {out}: {os.strerror(error.errno or 0)}") from error


def write_flipped(file, runs):
    """Writes the images that one run gets right and another wrong, as CSV."""
    correct = np.stack([run.columns["correct"] for run in runs])
    writer = csv.writer(file, lineterminator="\n")
    each = [
        f"{run.title} {what}" for run in runs for what in ("correct", "predicted", "confidence")
    ]
    writer.writerow(("row", "name", "label", *each))
    for i in np.flatnonzero(correct.any(0) & ~correct.all(0)):
        cells = [runs[0].columns[name][i] for name in ("row", "name", "label")]
        for run in runs:
            c = run.columns
            cells += [
                str(bool(c["correct"][i])).lower(),
                c["predicted"][i],
                f"{c['confidence'][i]:.6f}",
            ]
        writer.writerow(cells)


if __name__ == "__main__":
    cli.run(main)
