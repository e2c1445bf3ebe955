"""How far estimates without labels are from the truth, and which decline alarms, on real images.

    python -m experiments.quality.run --fashion fashion-mnist
    python -m experiments.quality.run --power                   # no images needed, a minute

Writes results.csv and power.csv, and the tables of README.md.

The model, the images and their changes are those of `experiments.drift.run`: a `cnn:small` that
knows nine classes of Fashion-MNIST, whose bundle says how good it was on 1,000 validation images.
The bundle answers its own test images, as they are and changed, 1,500 of each change; CBPE, ATC and
DoC read its confidence, and the labels say the truth. New class: 5, 10, 20, 40, 80 % of a window
are images of the class that the model does not know, all of them wrong.
"""

import argparse
import csv
import pathlib

import numpy as np

from experiments.drift.run import (
    FASHION,
    KINDS,
    NEW_SHARES,
    SEVERITIES,
    changes,
    divide,
    read_fashion,
    train,
)
from experiments.readme import fill
from vision import cli
from vision.bundle.directory import MANIFEST, open_bundle
from vision.monitoring.quality.decay import Limits, p_values
from vision.reference.quality import ESTIMATORS, Estimate, parse
from vision.support.files import replacing

HERE = pathlib.Path(__file__).parent
IMAGES = 1500  # of each change
REFERENCE = 1000  # validation images
ACCURACY = 0.9  # of the bundle, for the power
DROPS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.1)
LABELS = (100, 300, 1000, 3000)
DRAWS = 20_000
COLUMNS = ("change", "severity", "accuracy", *ESTIMATORS)


def main(argv):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--fashion", type=pathlib.Path, help="folder of Fashion-MNIST's four files")
    p.add_argument("--power", action="store_true", help="simulate how often a decline alarms")
    p.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/drift"))
    a = p.parse_args(argv)
    if a.fashion is not None:
        rows = estimates(a.fashion, a.workdir / FASHION.name)
        write("results", COLUMNS, rows, ["change", "severity", "truth", "CBPE", "ATC", "DoC"])
    if a.power:
        heads = ["labels", *(f"{100 * drop:g}" for drop in DROPS)]
        write("power", ("labels", *DROPS), power(), heads)


def estimates(place, folder):
    """Returns the rows of results.csv."""
    images = read_fashion(place)
    tests, strangers = divide(FASHION, images, folder / "images")
    train(FASHION, folder)
    bundle = open_bundle(folder / "models" / FASHION.name / "1")
    quality = parse(bundle.reference, bundle.classes, MANIFEST)
    truth = truth_of(tests, images, bundle.classes)
    rows = []
    for change, severity, changed in changes(tests, strangers, IMAGES):
        prepared = np.stack([bundle.prepare(image) for image in changed])
        probabilities = bundle.probabilities_and_embeddings(prepared)[0]
        estimate = Estimate(quality)
        estimate.add(probabilities.max(1))
        right = probabilities.argmax(1) == truth[: len(changed)]
        accuracy = 0.0 if change == "left out" else float(right.mean())
        rows.append([change, severity, accuracy, *estimate.accuracies().values()])
        print(*rows[-1][:2], *(f"{value:.3f}" for value in rows[-1][2:]), flush=True)
    return arranged(rows)


def arranged(rows):
    """Returns the rows by change, with windows that strangers are mixed into."""
    (unknown,) = [row for row in rows if row[0] == "left out"]
    (own,) = [row for row in rows if row[0] == "none"]
    for severity, share in zip(SEVERITIES, NEW_SHARES, strict=True):
        # means of all images, so those of a mixture are the mixed means
        mixed = (1 - share) * np.array(own[2:]) + share * np.array(unknown[2:])
        rows.append(["new class", severity, *mixed.tolist()])
    order = ["none", *KINDS]
    return sorted((row for row in rows if row is not unknown), key=lambda row: order.index(row[0]))


def truth_of(tests, images, classes):
    """Returns the places of the classes of test images, which are some of `images` by class."""
    places = {
        image.tobytes(): classes.index(f"class {label}")
        for label, rows in images.items()
        if label != FASHION.left_out
        for image in rows[:1000]
    }
    return np.array([places[image.tobytes()] for image in tests])


def power():
    """Returns the rows of power.csv: the share of windows whose accuracy alarms, by its decline."""
    limits = Limits()
    random = np.random.default_rng(0)
    rows = []
    for labels in LABELS:
        row = [labels]
        for drop in DROPS:
            before = random.binomial(REFERENCE, ACCURACY, DRAWS)
            right = random.binomial(labels, ACCURACY - drop, DRAWS)
            p = p_values(right, np.full(DRAWS, labels), before, np.full(DRAWS, REFERENCE))
            is_large = before / REFERENCE - right / labels >= limits.effect
            row.append(float(((2 * p <= limits.alpha) & is_large).mean()))
        rows.append(row)
    return rows


def write(name, columns, rows, heads):
    """Writes a table as CSV and into README.md, shares in percent."""
    with replacing(HERE / f"{name}.csv", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([[_short(value, "{:.4f}") for value in row] for row in rows])
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = [_short(100 * v if isinstance(v, float) else v, "{:.1f}") for v in row]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    fill(HERE / "README.md", lines, name)


def _short(value, form):
    return form.format(value) if isinstance(value, float) else value


if __name__ == "__main__":
    cli.run(main)
