"""Writes the tables of a run that DVC compares and draws.

    python -m scripts.dvc.plots RUN OUT

It writes OUT/train.csv and OUT/val.csv (a row per step in metrics.jsonl), OUT/confusion.csv (a row
per test image: actual, predicted) and OUT/test.json (the numbers of result.json).
"""

import csv
import json
import os
import pathlib

from vision import cli
from vision.errors import UserError


def main(argv):
    if len(argv) != 2:
        raise UserError("usage: python -m scripts.dvc.plots RUN OUT")
    run, out = map(pathlib.Path, argv)
    try:
        result = json.loads((run / "result.json").read_text())
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{run} is not a finished run: {error}") from error
    out.mkdir(parents=True, exist_ok=True)
    # In one file, a step that lacks a number of the other split would be drawn as 0.
    for split in ("train", "val"):
        _write_table(out / f"{split}.csv", *curve(lines, split))
    _write_table(
        out / "confusion.csv",
        ("actual", "predicted"),
        pairs(result),
    )
    (out / "test.json").write_text(json.dumps(numbers(result), indent=1))


def curve(lines, split):
    """Returns (columns, rows) of one split's numbers in the lines of metrics.jsonl, a row per
    step."""
    rows = [line for line in lines if f"{split}/loss" in line]
    columns = sorted({name for row in rows for name in row if name.startswith(f"{split}/")})
    short = [name.removeprefix(f"{split}/") for name in columns]
    return ["step", *short], [
        [row["step"], *(row.get(name, "") for name in columns)] for row in rows
    ]


def pairs(result):
    """Yields (actual, predicted) for each image counted in the confusion matrix of a result.json,
    which has its table or, with many classes, its cells that are not 0."""
    cells = result.get("confusion_cells")
    if cells is None:
        cells = [
            (actual, predicted, count)
            for actual, row in enumerate(result["confusion"])
            for predicted, count in enumerate(row)
        ]
    classes = result["classes"]
    for actual, predicted, count in cells:
        yield from [(classes[actual], classes[predicted])] * count


def numbers(result):
    """Returns {name: number} of the measurements on the test split in a result.json."""
    return {
        name: value
        for name, value in result.items()
        if isinstance(value, float) and "second" not in name
    }


def _write_table(path, columns, rows):
    part = path.with_name(f"{path.name}.part")
    with open(part, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    os.replace(part, path)


if __name__ == "__main__":
    cli.run(main)
