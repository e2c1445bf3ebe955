"""Trains every method for long-tailed data on mnist5k and writes a table of the results.

    python -m experiments.long_tail.run                 # mnist5k, ratio 50: an hour on two cores
    python -m experiments.long_tail.run --only plain,ldam_drw --seeds 0

Each run is the command that a user would give, in a directory of its own below --workdir; finished
runs are not repeated. The table, mnist5k.csv, has a row for each method with all of its finished
seeds, and is rewritten after each run. CIFAR-10-LT: `python -m experiments.run long_tail`.
"""

import argparse
import csv
import datetime
import json
import pathlib
import statistics

from configs.longtail_cifar10 import METHODS
from experiments.commands import call
from experiments.seeds import read_seeds
from vision import cli
from vision.errors import check_choice

HERE = pathlib.Path(__file__).parent
COLUMNS = (
    "method",
    "ratio",
    "seeds",
    "balanced_accuracy",
    "spread",
    "head",
    "tail",
    "seconds",
    "device",
    "date",
)


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--ratio",
        type=int,
        default=50,
        help="size of the largest class relative to the smallest",
    )
    parser.add_argument("--only", default=",".join(METHODS))
    parser.add_argument("--seeds", type=read_seeds, default="0,1,2")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/long_tail"))
    a = parser.parse_args(argv)
    for name in a.only.split(","):
        check_choice("--only", name, METHODS)
    for seed in a.seeds:  # so that the first table is complete early
        for method in a.only.split(","):
            run(a, method, seed)
            write(a)


def directory(a, method, seed):
    return a.workdir / f"mnist5k-{a.ratio}-{method}-{seed}"


def run(a, method, seed):
    """Trains one model, unless its result exists."""
    workdir = directory(a, method, seed)
    config = f"configs/longtail_mnist5k.py:{method}:{a.ratio}"
    words = (f"--config={config}", f"--workdir={workdir}", f"--config.seed={seed}")
    call("vision.main", *words, output=workdir / "result.json")


def write(a):
    """Writes a row for each method that has finished runs."""
    rows = []
    for method in METHODS:
        files = [directory(a, method, seed) / "result.json" for seed in range(100)]
        results = [json.loads(file.read_text()) for file in files if file.is_file()]
        if not results:
            continue
        accuracies = [100 * r["balanced_accuracy"] for r in results]
        spread = statistics.stdev(accuracies) if len(results) > 1 else 0.0
        head = _mean_recall(results, slice(0, 3))  # the three classes with the most images
        tail = _mean_recall(results, slice(-3, None))  # the three with the fewest
        seconds = statistics.mean(r["train_seconds"] for r in results)
        numbers = (statistics.mean(accuracies), spread, head, tail)
        row = (
            method,
            a.ratio,
            len(results),
            *(round(number, 2) for number in numbers),
            round(seconds),
            results[0]["device"],
            datetime.date.today().isoformat(),
        )
        rows.append(row)
    with (HERE / "mnist5k.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def _mean_recall(results, classes):
    """Returns the mean recall, in percent, over the runs and a slice of the classes."""
    return statistics.mean(
        100 * recall for result in results for recall in result["recall"][classes]
    )


if __name__ == "__main__":
    cli.run(main)
