"""Flips labels, trains on them, finds them with the audit, trains on the rest; writes results.csv.

    python -m experiments.label_noise.run      # mnist5k, 5 % flipped, 3 seeds: an hour on two cores
    python -m experiments.label_noise.run --share 0.2 --epochs 10    # shorter; its own results file

There are three trainings per seed with `configs/vit_mnist5k.py`: on the clean labels, on the
flipped ones, and on the table that `python -m vision.audit --embeddings RUN --apply` writes with
the run on the flipped ones. Train and val are flipped, test is clean. Each step is the command that
a user would give; finished ones are not repeated. The table has a row for each seed and is
rewritten after each training; with --epochs E it is results-E-epochs.csv.
"""

import argparse
import csv
import datetime
import json
import pathlib

import numpy as np

from experiments.commands import call
from experiments.seeds import read_seeds
from vision import cli
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
    "clean",
    "noisy",
    "cleaned",
    "clean_loss",
    "noisy_loss",
    "cleaned_loss",
    "date",
)


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--share", type=float, default=0.05, help="share of the labels of train and val to flip"
    )
    parser.add_argument("--seeds", type=read_seeds, default="0,1,2")
    parser.add_argument(
        "--epochs", type=float, default=0.0, help="epochs of each training; 0 = the config's"
    )
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/label_noise"))
    a = parser.parse_args(argv)
    a.results = HERE / (f"results-{a.epochs:g}-epochs.csv" if a.epochs else "results.csv")
    a.workdir /= f"{a.epochs:g}-epochs" if a.epochs else ""
    for seed in a.seeds:
        noisy = f"mnist5k?flip_labels={a.share:g}&seed={seed}"
        train(a, "clean", seed, "mnist5k")
        train(a, "noisy", seed, noisy)
        audit(a, seed, noisy)
        train(a, "cleaned", seed, f"csv:{directory(a, 'audit', seed) / 'cleaned.csv'}")
        write(a)


def directory(a, stage, seed):
    name = f"clean-{seed}" if stage == "clean" else f"{stage}-{a.share:g}-{seed}"
    return a.workdir / name


def train(a, stage, seed, source):
    """Trains one model, unless its result exists."""
    workdir = directory(a, stage, seed)
    if (workdir / "result.json").is_file():
        return
    flags = []
    if a.epochs:
        flags.append(f"--config.train.epochs={a.epochs:g}")
    _python("vision.main", f"--workdir={workdir}", source, seed, *flags)


def audit(a, seed, source):
    """Audits the flipped labels with the run trained on them, and cleans them."""
    out = directory(a, "audit", seed)
    run = directory(a, "noisy", seed)
    if not (out / "cleaned.csv").is_file():
        # so many labels may be wrong that few are predicted, which audit.power would not allow
        flags = (f"--embeddings={run}", "--apply", "--config.audit.power=0.0")
        _python("vision.audit", f"--out={out}", source, seed, *flags)


def _python(module, output_flag, source, seed, *flags):
    config = {"data.source": source, "seed": seed}
    call(module, f"--config={CONFIG}", output_flag, *flags, config=config)


def measure(a, seed):
    """Compares the audit's findings with the flipped labels.

    Returns:
        Sets of (split, image): the flipped ones, those that the audit reported, and those for which
        it suggested the right label.
    """
    c = default().data
    c.source = f"mnist5k?flip_labels={a.share:g}&seed={seed}"
    truth = open_splits("mnist5k")["all"].labels
    flipped = set()
    for split, source in named_splits(c, seed)[0].items():
        names = [source.name(i) for i in range(len(source))]
        is_flipped = truth[[_index(name) for name in names]] != source.labels
        flipped |= {(split, name) for name, flip in zip(names, is_flipped, strict=True) if flip}
    with (directory(a, "audit", seed) / "issues.csv").open(newline="") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["kind"] == "wrong_label" and row["split"] != "test"
        ]
    reported = {(row["split"], row["file"]) for row in rows}
    corrected = {
        (row["split"], row["file"])
        for row in rows
        if row["action"] == f"relabel:{truth[_index(row['file'])]}"
    }
    return flipped, reported, corrected


def _index(name):
    return int(name.removeprefix("mnist5k[").removesuffix("]"))


def write(a):
    """Writes a row for each finished seed, and keeps those of other shares."""
    rows = []
    if a.results.is_file():
        with a.results.open(newline="") as file:
            rows = [
                tuple(row[column] for column in COLUMNS)
                for row in csv.DictReader(file)
                if float(row["share"]) != a.share
            ]
    for seed in range(100):
        files = [
            directory(a, stage, seed) / "result.json" for stage in ("clean", "noisy", "cleaned")
        ]
        if all(file.is_file() for file in files):
            rows.append(_row(a, seed, [json.loads(file.read_text()) for file in files]))
    with a.results.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(sorted(rows, key=lambda row: (float(row[0]), int(row[1]))))


def _row(a, seed, results):
    flipped, reported, corrected = measure(a, seed)
    hits = flipped & reported
    rates = (
        len(hits) / max(1, len(reported)),
        len(hits) / max(1, len(flipped)),
        _recall(hits, flipped, "train"),
        _recall(hits, flipped, "val"),
    )
    return (
        a.share,
        seed,
        len(flipped),
        len(reported),
        len(corrected),
        *(round(rate, 4) for rate in rates),
        *(round(100 * result["accuracy"], 2) for result in results),
        *(round(result["loss"], 4) for result in results),
        datetime.date.today().isoformat(),
    )


def _recall(hits, flipped, split):
    """Returns the share of a split's flipped images that were hit."""
    images = [image for image in flipped if image[0] == split]
    return float(np.mean([image in hits for image in images])) if images else 0.0


if __name__ == "__main__":
    cli.run(main)
