"""Flips labels, trains on them, lets the audit find them, and trains on what it leaves; writes
results.csv.

    python -m experiments.label_noise.run                  # mnist5k, 5 % flipped, three seeds: an
                                                           hour on two cores
    python -m experiments.label_noise.run --share 0.2 --epochs 10     # shorter trainings:
    results-10-epochs.csv

For each seed, three trainings by `configs/vit_mnist5k.py`: on the clean labels, on the flipped
ones, and on the table that `python -m vision.audit --embeddings RUN --apply` writes with the run on
the flipped ones. Train and val are flipped, test is clean. Each step is the command that a user
would give; one that has ended is not run again. The table has a row for each seed and is written
anew after each training.
"""

import argparse
import csv
import datetime
import json
import pathlib
import subprocess
import sys

import numpy as np

from vision.config import default
from vision.data.pipeline import named_splits
from vision.data.sources import open_splits

HERE = pathlib.Path(__file__).parent
CONFIG = "configs/vit_mnist5k.py"
COLUMNS = (
    "share",
    "seed",
    "flipped",
    "found",
    "right",
    "precision",
    "recall",
    "recall_train",
    "recall_val",
)
COLUMNS += ("clean", "noisy", "cleaned", "clean_loss", "noisy_loss", "cleaned_loss", "date")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--share", type=float, default=0.05, help="of the labels of train and val that are flipped"
    )
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument(
        "--epochs", type=float, default=0.0, help="of each training; 0 = the config's"
    )
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/label_noise"))
    a = parser.parse_args()
    a.results = HERE / (f"results-{a.epochs:g}-epochs.csv" if a.epochs else "results.csv")
    a.workdir /= f"{a.epochs:g}-epochs" if a.epochs else ""
    for seed in map(int, a.seeds.split(",")):
        noisy = f"mnist5k?flip_labels={a.share:g}&seed={seed}"
        train(a, "clean", seed, "mnist5k")
        train(a, "noisy", seed, noisy)
        audit(a, seed, noisy)
        train(a, "cleaned", seed, f"csv:{directory(a, 'audit', seed) / 'cleaned.csv'}")
        write(a)


def directory(a, what, seed):
    return a.workdir / (f"clean-{seed}" if what == "clean" else f"{what}-{a.share:g}-{seed}")


def train(a, what, seed, source):
    """Trains one, unless it is there."""
    workdir = directory(a, what, seed)
    if not (workdir / "result.json").is_file():
        _python("vision.main", f"--workdir={workdir}", source, seed, *_flags(a))


def _flags(a):
    return (
        "--config.log.progress=false",
        *([f"--config.train.epochs={a.epochs:g}"] if a.epochs else []),
    )


def audit(a, seed, source):
    """Audits the flipped labels with the run on them, and cleans them."""
    out = directory(a, "audit", seed)
    run = directory(a, "noisy", seed)
    if not (out / "cleaned.csv").is_file():
        _python("vision.audit", f"--out={out}", source, seed, f"--embeddings={run}", "--apply")


def _python(module, place, source, seed, *flags):
    command = [
        sys.executable,
        "-m",
        module,
        "--config",
        CONFIG,
        place,
        f"--config.data.source={source}",
    ]
    command += [f"--config.seed={seed}", *flags]
    print(" ".join(command), flush=True)
    subprocess.run(command, check=True)


def measure(a, seed):
    """Returns (flipped, found, right) as sets of (split, image): what was done, and what the audit
    says of it."""
    c = default().data
    c.source = f"mnist5k?flip_labels={a.share:g}&seed={seed}"
    truth = open_splits("mnist5k")["all"].labels
    flipped = set()
    for split, source in named_splits(c, seed)[0].items():
        names = [source.name(i) for i in range(len(source))]
        wrong = truth[[_index(name) for name in names]] != source.labels
        flipped |= {(split, name) for name, is_wrong in zip(names, wrong, strict=True) if is_wrong}
    with (directory(a, "audit", seed) / "issues.csv").open(newline="") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["kind"] == "wrong_label" and row["split"] != "test"
        ]
    found = {(row["split"], row["file"]) for row in rows}
    right = {
        (row["split"], row["file"])
        for row in rows
        if row["action"] == f"relabel:{truth[_index(row['file'])]}"
    }
    return flipped, found, right


def _index(name):
    return int(name.removeprefix("mnist5k[").removesuffix("]"))


def write(a):
    """Writes a row for each seed that has ended, and keeps those of other shares."""
    rows = []
    if a.results.is_file():
        with a.results.open(newline="") as file:
            rows = [
                tuple(row[c] for c in COLUMNS)
                for row in csv.DictReader(file)
                if float(row["share"]) != a.share
            ]
    for seed in range(100):
        results = [
            directory(a, what, seed) / "result.json" for what in ("clean", "noisy", "cleaned")
        ]
        if not all(file.is_file() for file in results):
            continue
        flipped, found, right = measure(a, seed)
        hits = flipped & found
        recalls = [_share(hits, flipped, split) for split in ("train", "val")]
        figures = (len(hits) / max(1, len(found)), len(hits) / max(1, len(flipped)), *recalls)
        tests = [json.loads(file.read_text()) for file in results]
        tested = [round(100 * test["accuracy"], 2) for test in tests] + [
            round(test["loss"], 4) for test in tests
        ]
        row = (
            a.share,
            seed,
            len(flipped),
            len(found),
            len(right),
            *(round(x, 4) for x in figures),
            *tested,
        )
        rows.append((*row, datetime.date.today().isoformat()))
    with a.results.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(sorted(rows, key=lambda row: (float(row[0]), int(row[1]))))


def _share(hits, flipped, split):
    of_split = {image for image in flipped if image[0] == split}
    return float(np.mean([image in hits for image in of_split])) if of_split else 0.0


if __name__ == "__main__":
    main()
