"""How right the audit is about wrong labels, by how well embeddings tell the classes apart.

    python -m experiments.label_noise.power --neu folder:neu/split --photos folder:photos \
        --cifar parquet:cifar10-test.parquet

Of each data set at most 600 images are drawn and embedded, once by pixels and once by the
pretrained weights. Then 5 % of the labels are replaced at random, and the audit questions labels
whatever its limit, five times. Few components make embeddings weak on purpose. Each row is printed
with the CPU seconds that a cross-validation took. If all three sources are given, power.csv and the
table of docs/audit.md are written, from which the default of audit.power follows: minutes on two
cores.
"""

import argparse
import csv
import pathlib
import time
from collections.abc import Iterator

import numpy as np

from experiments.readme import fill
from vision import cli
from vision.audit import power, wrong_labels
from vision.audit.embed import embed
from vision.audit.images import Images
from vision.config import default
from vision.data.changes import Relabeled, flip
from vision.data.sources import open_splits
from vision.data.subset import Subset
from vision.support.files import replacing

HERE = pathlib.Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "audit.md"
SHARE = 0.05  # of the labels
COMPONENTS = (12, 10, 8, 6, 3)  # of the pixels of digits
COLUMNS = (
    "data",
    "images",
    "embeddings",
    "draws",
    "kappa",
    "lower_end",
    "called",
    "precision",
    "recall",
)


def main(argv):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--neu", help="source of NEU's steel defects, see experiments/neu.py")
    p.add_argument("--cifar", help="source of CIFAR-10")
    p.add_argument("--photos", help="source of photos in few classes")
    p.add_argument("--images", type=int, default=600, help="the most images of each")
    p.add_argument("--draws", type=int, default=5, help="draws of wrong labels")
    a = p.parse_args(argv)
    sources = {
        "digits": "digits",
        "NEU steel defects": a.neu,
        "CIFAR-10 (JPEG q75)": a.cifar,
        "ImageNet photos": a.photos,
    }
    rows = []
    for name, spec in sources.items():
        if spec:
            source = draw(spec, a.images)
            for embeddings, vectors in embed_all(source, name == "digits"):
                measured, seconds = measure(source, vectors, a.draws)
                row = (name, len(source), embeddings, a.draws, *measured)
                print(*row, f"{seconds:.1f} s", sep=", ", flush=True)
                rows.append(row)
    if all(sources.values()):
        write(sorted(rows, key=lambda row: -row[COLUMNS.index("lower_end")]))


def draw(spec: str, most: int) -> Subset:
    """Returns at most that many images of a source: of all, or of those to train on."""
    splits = open_splits(spec)
    source = splits.get("all") or splits.get("train") or next(iter(splits.values()))
    return Subset(source, np.random.RandomState(0).permutation(len(source))[:most])


def embed_all(source: Subset, is_small: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, embeddings); of small images by few components instead of by a network."""
    images = Images({"train": source})
    readable = np.ones(len(source), bool)
    vectors = embed("pixels", images, default(), readable)
    yield "pixels", vectors
    if is_small:
        for count in COMPONENTS:
            yield f"pixels, {count} components", vectors[:, :count]
    else:
        yield "pretrained", embed("pretrained", images, default(), readable)


def measure(source: Subset, vectors: np.ndarray, draws: int) -> tuple[tuple[float, ...], float]:
    """Returns (the columns from kappa on, CPU seconds of a cross-validation).

    Kappas and counts are means over the draws; precision and recall are of all draws together.
    """
    config = default()
    kappas = []
    counts = np.zeros(3, int)  # called wrong, rightly so, wrong
    seconds = 0.0
    for seed in range(draws):
        labels = flip(source.labels, len(source.classes), SHARE, [seed])
        images = Images({"train": Relabeled(source, labels)})
        config.seed = seed
        started = time.process_time()
        probabilities = wrong_labels.predict(vectors, images, config)
        seconds += time.process_time() - started
        measured = power.measure(probabilities, images, config.audit)
        kappa = (measured.accuracy - measured.chance) / (1 - measured.chance)
        kappas.append((kappa, measured.kappa))
        issues = wrong_labels.find_wrong_labels(probabilities, images, config.audit)
        is_wrong = labels != source.labels
        counts += (len(issues), sum(is_wrong[issue.row] for issue in issues), is_wrong.sum())
    called, right, wrong = counts.tolist()
    columns = (
        *np.mean(kappas, axis=0).round(3).tolist(),
        round(called / draws, 1),
        round(right / max(1, called), 3),
        round(right / max(1, wrong), 3),
    )
    return columns, seconds / draws


def write(rows):
    """Writes power.csv and the table of the page."""
    with replacing(HERE / "power.csv", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    lines = [
        "| data | images | embeddings | kappa | lower end | called wrong | of these wrong | "
        "of the wrong found |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for data, images, embeddings, _, kappa, low, called, precision, recall in rows:
        lines.append(
            f"| {data} | {images} | {embeddings} | {kappa:.2f} | {low:.2f} | {called:.0f} | "
            f"{precision:.0%} | {recall:.0%} |".replace("%", " %")
        )
    fill(PAGE, lines, "power")


if __name__ == "__main__":
    cli.run(main)
