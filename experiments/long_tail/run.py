"""Trains every method against a long tail and writes a table of them.

    python -m experiments.long_tail.run                      # mnist5k, ratio 50: mnist5k.csv; an
    hour on two cores
    python -m experiments.long_tail.run --data cifar10       # CIFAR-10-LT, ratio 100: cifar10.csv;
    on a GPU
    python -m experiments.long_tail.run --only plain,ldam_drw --seeds 0

Each run is the command that a user would give, in a directory of its own below --workdir; one that
has ended is not run again. The table has a row for each method, of all its seeds that have ended,
and is written anew after each run.
"""

import argparse
import csv
import datetime
import json
import pathlib
import statistics
import subprocess
import sys

from configs.longtail_cifar10 import METHODS

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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=("mnist5k", "cifar10"), default="mnist5k")
    parser.add_argument(
        "--ratio",
        type=int,
        default=0,
        help="of the largest class to the smallest; 0 = 50, cifar10 100",
    )
    parser.add_argument("--only", default=",".join(METHODS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/long_tail"))
    a = parser.parse_args()
    a.ratio = a.ratio or {"mnist5k": 50, "cifar10": 100}[a.data]
    for seed in a.seeds.split(","):  # a whole table early on
        for method in a.only.split(","):
            run(a, method, seed)
            write(a)


def directory(a, method, seed):
    return a.workdir / f"{a.data}-{a.ratio}-{method}-{seed}"


def run(a, method, seed):
    """Trains one, unless it is there."""
    workdir = directory(a, method, seed)
    if (workdir / "result.json").is_file():
        return
    command = [
        sys.executable,
        "-m",
        "vision.main",
        "--config",
        f"configs/longtail_{a.data}.py:{method}:{a.ratio}",
    ]
    command += [f"--workdir={workdir}", f"--config.seed={seed}", "--config.log.progress=false"]
    print(" ".join(command), flush=True)
    subprocess.run(command, check=True)


def write(a):
    """Writes a row for each method that has ended runs."""
    rows = []
    for method in METHODS:
        files = [directory(a, method, seed) / "result.json" for seed in range(100)]
        results = [json.loads(file.read_text()) for file in files if file.is_file()]
        if not results:
            continue
        accuracies = [100 * r["balanced_accuracy"] for r in results]
        spread = statistics.stdev(accuracies) if len(results) > 1 else 0.0
        # The recall of the three classes with the most images, and of the three with the fewest.
        head, tail = (
            statistics.mean(100 * x for r in results for x in r["recall"][part]) for part in PARTS
        )
        seconds = statistics.mean(r["train_seconds"] for r in results)
        row = (
            method,
            a.ratio,
            len(results),
            *(round(x, 2) for x in (statistics.mean(accuracies), spread, head, tail)),
        )
        rows.append((*row, round(seconds), results[0]["device"], datetime.date.today().isoformat()))
    with (HERE / f"{a.data}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)


PARTS = (slice(0, 3), slice(-3, None))

if __name__ == "__main__":
    main()
