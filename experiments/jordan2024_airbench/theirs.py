"""Whole runs of the author's code on the images of our rows, on the CPU in float32.

    python -m experiments.jordan2024_airbench.theirs --theirs airbench94.py --torch-python PATH
    python -m experiments.jordan2024_airbench.theirs ... --seeds 0      # one of them
    python -m experiments.jordan2024_airbench.theirs --table            # only fill the table

airbench94.py is https://github.com/KellerJordan/cifar10-airbench, legacy/airbench94.py, and PATH an
interpreter with torch; by default the one that runs this. theirs.csv keeps a row for each seed, and
README gets the table. A run that was stopped goes on after the last whole pass over the images.
"""

import argparse
import json
import pathlib
import statistics
import sys

import numpy as np

from experiments.keep import PATIENCE
from experiments.process import run_program
from experiments.readme import fill
from experiments.row import HERE
from experiments.seeds import read_seeds
from experiments.table import mean_and_spread, read_rows, write_rows
from vision import cli
from vision.data.sources import open_splits
from vision.errors import UserError
from vision.support.files import replacing
from vision.support.lock import locked

FOLDER = HERE / "jordan2024_airbench"
FILE = FOLDER / "theirs.csv"
COLUMNS = ("seed", "accuracy", "one_view", "minutes", "threads", "torch", "date")
SEEDS = [0, 1, 2]


def main(argv):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--theirs", type=pathlib.Path, help="the author's file")
    p.add_argument("--torch-python", default=sys.executable, help="an interpreter with torch")
    p.add_argument("--data", default="tfds:cifar10", help="source of the images")
    p.add_argument("--seeds", type=read_seeds, default=SEEDS, help="such as 0,1,2")
    p.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs"))
    p.add_argument("--table", action="store_true", help="fill the table, run nothing")
    a = p.parse_args(argv)
    if not a.table:
        if a.theirs is None:
            raise UserError("--theirs must name the author's airbench94.py")
        if not a.theirs.is_file():
            raise UserError(f"--theirs: no file {a.theirs}")
        for seed in a.seeds:
            if not _run(a, seed):
                print(f"seed {seed}: stopped; run the same command to continue")
                return
    with locked(FOLDER, "the folder", patience=PATIENCE):
        fill(FOLDER / "README.md", table(read_rows(FILE)), "theirs")


def _run(a, seed):
    """Runs a seed, or what is left of it. Returns False if a signal has come."""
    folder = a.workdir / f"theirs-{seed}"
    result = folder / "result.json"
    if not result.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        images = a.workdir / "theirs-images.npz"
        if not images.is_file():
            _write_images(a.data, images)
        side = FOLDER / "torch_whole.py"
        words = [a.torch_python, side, a.theirs, images, str(seed), folder]
        if not run_program(words, f"seed {seed}"):
            return False
    numbers = json.loads(result.read_text())
    for name in ("accuracy", "one_view"):
        numbers[name] = round(100 * numbers[name], 2)
    numbers["minutes"] = round(numbers["minutes"], 1)
    with locked(FOLDER, "the folder", patience=PATIENCE):
        rows = {row["seed"]: row for row in read_rows(FILE)}
        rows[str(seed)] = {"seed": str(seed)} | numbers
        write_rows(FILE, COLUMNS, [rows[name] for name in sorted(rows, key=int)])
    return True


def _write_images(spec, target):
    """Writes {SPLIT/images: uint8 (N, 32, 32, 3), SPLIT/labels: int32 (N,)}."""
    splits = open_splits(spec)
    arrays = {}
    for split in ("train", "test"):
        source = splits[split]
        arrays[f"{split}/images"] = np.stack([source[i]["image"] for i in range(len(source))])
        arrays[f"{split}/labels"] = np.asarray(source.labels, np.int32)
    with replacing(target, binary=True) as file:
        np.savez(file, **arrays)


def table(rows):
    """Returns the lines of README's table.

    Args:
        rows: of theirs.csv, {column: text}.
    """
    titles = ["code", "six views", "one view", "minutes", "where"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    name = "`legacy/airbench94.py`, edited"
    if not rows:
        return [*lines, f"| {name} | not run | | | |"]
    views = ("accuracy", "one_view")
    cells = [name, *(mean_and_spread([float(row[view]) for row in rows]) for view in views)]
    minutes = statistics.mean(float(row["minutes"]) for row in rows)
    last = rows[-1]
    cells.append(f"{minutes:.0f}")
    threads = "/".join(dict.fromkeys(row["threads"] for row in rows))
    cells.append(f"CPU, threads: {threads}, torch {last['torch']}, {last['date']}")
    return [*lines, "| " + " | ".join(cells) + " |"]


if __name__ == "__main__":
    cli.run(main)
