"""Trains every method of transfer on NEU's steel defects and writes results.csv.

    python -m experiments.transfer_neu.run ../shared/data/neu_det.tar --image-size 224    # on a GPU
    python -m experiments.transfer_neu.run neu_det.tar --image-size 96 --only head,full --seeds 0

The tar file holds neu_det/images/CLASS_NUMBER.jpg. Each run is the command that a user would give,
in a directory of its own below --workdir; finished runs are not repeated. Rows summarize the
finished runs of all seeds.
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
from vision import cli
from vision.errors import check_choice

HERE = pathlib.Path(__file__).parent
COLUMNS = (
    "way",
    "images_a_class",
    "image_size",
    "seeds",
    "accuracy",
    "spread",
    "seconds",
    "learning",
    "device",
    "date",
)
EPOCHS = {  # on all images, on a few per class
    "head": (60, 100),
    "partial": (6, 40),
    "full": (6, 40),
    "lora": (6, 40),
    "scratch": (12, 80),
}


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tar", type=pathlib.Path)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--only", default=",".join(EPOCHS))
    parser.add_argument(
        "--few", type=int, default=10, help="images per class in the second half of the table"
    )
    parser.add_argument("--seeds", type=read_seeds, default="0,1,2")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/transfer_neu"))
    a = parser.parse_args(argv)
    for name in a.only.split(","):
        check_choice("--only", name, EPOCHS)
    photos = sort_by_class(a.tar, a.workdir / "neu")
    for seed in a.seeds:  # so that the first table is complete early
        for way in a.only.split(","):
            for few in (0, a.few):
                run(photos, a, way, few, seed)
    rows = table(a)
    with (HERE / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def directory(a, way, few, seed):
    return a.workdir / f"{way}-{few or 'all'}-{a.image_size}-{seed}"


def run(photos, a, way, few, seed):
    """Trains one model, unless its result exists."""
    workdir = directory(a, way, few, seed)
    if (workdir / "result.json").is_file():
        return
    images = 6 * few if few else 1239
    epochs = EPOCHS[way][bool(few)]
    batch = 32
    steps = round(epochs * images / batch)
    flags = {
        "seed": seed,
        "data.image_size": a.image_size,
        "data.split_by": "position",  # as the table was measured
        "data.labels": f"{few}/class" if few else "",
        "data.labels_seed": seed,
        "train.steps": steps,
        "train.batch_size": batch,
        "train.eval_batch_size": 59,
        "train.eval_every": max(1, steps // 6),
    }
    config = f"configs/transfer_folder.py:{photos}:{way}"
    call("vision.main", f"--config={config}", f"--workdir={workdir}", config=flags)


def table(a):
    """Returns a row for each method and number of images."""
    rows = []
    for few in (0, a.few):
        for way in EPOCHS:
            files = [directory(a, way, few, seed) / "result.json" for seed in range(100)]
            results = [json.loads(file.read_text()) for file in files if file.is_file()]
            if not results:
                continue
            accuracies = [100 * r["accuracy"] for r in results]
            spread = statistics.stdev(accuracies) if len(results) > 1 else 0.0
            seconds = statistics.mean(r["train_seconds"] for r in results)
            row = (
                way,
                few or "all",
                a.image_size,
                len(results),
                round(statistics.mean(accuracies), 2),
                round(spread, 2),
                round(seconds),
                results[0]["parameters"]["learning"],
                results[0]["device"],
                datetime.date.today().isoformat(),
            )
            rows.append(row)
    return rows


if __name__ == "__main__":
    cli.run(main)
