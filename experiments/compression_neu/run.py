"""Prunes and quantizes a classifier of NEU's steel defects, and writes results.csv.

    python -m experiments.compression_neu.run ../shared/data/neu_det.tar     # the table: 3 seeds
    python -m experiments.compression_neu.run neu_det.tar --seeds 0 --image-size 224    # on a GPU

Trains EfficientNet-Lite0 as `experiments.transfer_neu` does, removes channels, trains the rest for
the same time again, makes INT8 bundles of both, and compares the four with
`vision.compression.report`. Each step is the command that a user would run, in a directory of its
own below --workdir; existing results are kept. Rows are means over all seeds.
"""

import argparse
import csv
import datetime
import json
import pathlib
import statistics

from experiments.commands import call
from experiments.neu import sort_by_class
from experiments.seeds import read_seeds
from experiments.transfer_neu import run as transfer
from vision import cli

HERE = pathlib.Path(__file__).parent
MODELS = ("float", "float-int8", "pruned", "pruned-int8")
COLUMNS = (
    "model",
    "image_size",
    "seeds",
    "megabytes",
    "smaller",
    "parameters",
    "mmacs",
    "accuracy",
    "spread",
    "change",
    "change_spread",
    "faster_1",
    "faster_32",
    "ms_32",
    "cpu",
    "date",
)


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tar", type=pathlib.Path)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument(
        "--ratio", type=float, default=0.6, help="share of the multiply-adds to remove"
    )
    parser.add_argument("--seeds", type=read_seeds, default="0,1,2")
    parser.add_argument(
        "--workdir", type=pathlib.Path, default=pathlib.Path("runs/compression_neu")
    )
    a = parser.parse_args(argv)
    photos = sort_by_class(a.tar, a.workdir / "neu")
    for seed in a.seeds:
        train(photos, a, seed)
    for seed in a.seeds:  # separately, since nothing else should run at the same time
        compare(a, seed)
    with (HERE / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(table(a))


def directory(a, stage, seed):
    return a.workdir / f"{stage}-{a.image_size}-{seed}"


def train(photos, a, seed):
    """Makes the four models of a seed."""
    transfer.run(photos, a, "full", 0, seed)
    trained = transfer.directory(a, "full", 0, seed)
    pruned = directory(a, "run", seed)
    words = (f"--workdir={trained}", f"--out={pruned}", f"--ratio={a.ratio}")
    words += ("--importance=taylor", "--target=flops")
    batch = {"train.eval_batch_size": 59}
    call("vision.compression.prune", *words, config=batch, output=pruned)
    call("vision.main", f"--workdir={pruned}", output=pruned / "result.json")
    for name, run in (("float", trained), ("pruned", pruned)):
        bundle = directory(a, name, seed)
        small = directory(a, f"{name}-int8", seed)
        call("vision.export", f"--workdir={run}", f"--out={bundle}", output=bundle)
        call("vision.compression.quantize", f"--bundle={bundle}", f"--out={small}", output=small)


def compare(a, seed):
    out = directory(a, "report", seed)
    bundles = [str(directory(a, name, seed)) for name in MODELS]
    call("vision.compression.report", *bundles, f"--out={out}", output=out)


def table(a):
    """Returns a row for each of the four models."""
    files = [directory(a, "report", seed) / "report.json" for seed in range(100)]
    reports = [json.loads(file.read_text()) for file in files if file.is_file()]
    cpu = reports[0]["cpu"]
    today = datetime.date.today().isoformat()
    for i, name in enumerate(MODELS):
        numbers = [round(number, 2) for number in _numbers(reports, i)]
        yield (name, a.image_size, len(reports), *numbers, cpu, today)


def _numbers(reports, i):
    """Returns the numbers of model `i`, means over the reports of all seeds."""
    rows = [report["models"][i] for report in reports]
    ratios = [report["models"][0]["bytes"] / report["models"][i]["bytes"] for report in reports]
    return (
        mean([row["bytes"] for row in rows])[0] / 1e6,
        mean(ratios)[0],
        mean([row["parameters"] for row in rows])[0],
        reports[0]["models"][i - i % 2]["macs"] / 1e6,  # INT8 has the same number
        *mean([100 * row["accuracy"]["value"] for row in rows]),
        *mean([100 * row["change"]["difference"] if i else 0.0 for row in rows]),
        mean([row["latency_1"]["speedup"] for row in rows])[0],
        mean([row["latency_32"]["speedup"] for row in rows])[0],
        mean([row["latency_32"]["p50"] for row in rows])[0],
    )


def mean(values):
    """Returns (mean, standard deviation)."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    cli.run(main)
