"""Exports models for every target and precision, runs each file, and compares it with JAX.

    python -m experiments.edge.targets mnist5k=runs/mnist5k neu=runs/neu \\
        lite0=configs/efficientnet_lite_imagenet.py,folder:PHOTOS --bundles bundles

A model is NAME=RUN, measured on the run's test images, or NAME=CONFIG,SOURCE for pretrained
weights, measured on all images of the source. Each file is written by `vision.export`, below
--bundles, and gets one image at a time. targets.csv has a row for each file, and README.md the
table between `<!-- targets -->` and `<!-- end -->`; what has a row already is not repeated, nor is
an export whose bundle is there.
"""

import argparse
import dataclasses
import datetime
import functools
import importlib
import importlib.metadata
import pathlib
import statistics
import time

import numpy as np

from experiments import readme
from experiments.edge.mediapipe_photos import truth_of
from experiments.table import read_rows, write_rows
from vision import cli, inference
from vision.bundle.runtimes import RUNTIMES, batched, open_model
from vision.config.flags import parse_stage
from vision.data.loading.sampler import spread
from vision.data.pipeline import named_splits
from vision.data.sources import open_splits
from vision.data.splits import Joined, split_seed
from vision.errors import RunError, UserError, first_line
from vision.export import web
from vision.export.__main__ import main as export
from vision.export.program import served

HERE = pathlib.Path(__file__).parent
PRECISIONS = ("float32", "float16", "int8")
# {target: (flags of its export, precisions, what runs it, the package of that)}
TARGETS = {
    "onnx": (
        "--format=onnx,web --web-runtime=onnxruntime",
        PRECISIONS,
        "ONNX Runtime",
        "onnxruntime",
    ),
    "tflite": ("--format=tflite,web", PRECISIONS, "LiteRT", "ai-edge-litert"),
    "coreml": ("--format=coreml", PRECISIONS, "our interpreter", ""),
    "stablehlo": ("--format=stablehlo", PRECISIONS[:1], "JAX", "jax"),
    "saved_model": ("--format=saved_model", PRECISIONS[:1], "TensorFlow", "tensorflow"),
}
INTERPRETED = "coreml"
JAX_BATCH = 25  # images
ROUNDS = 2
TIMED_IMAGES = 50
FIELDS = (
    "model",
    "target",
    "precision",
    "runtime",
    "images",
    "right",
    "right_in_jax",
    "other_class",
    "largest_difference",
    "bytes",
    "download_bytes",
    "ms",
    "date",
    "note",
)
TITLES = (
    "model",
    "target",
    "precision",
    "run by",
    "images",
    "accuracy",
    "JAX's",
    "other class",
    "largest difference",
    "file, MB",
    "page, MB",
    "ms",
)


def main(argv):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("models", nargs="*", help="NAME=RUN or NAME=CONFIG,SOURCE")
    p.add_argument("--bundles", type=pathlib.Path, default=pathlib.Path("bundles"))
    p.add_argument("--targets", default=",".join(TARGETS), help="those to measure now")
    p.add_argument("--interpreted", type=int, default=200, help="images for Core ML, at most")
    p.add_argument("--csv", type=pathlib.Path, default=HERE / "targets.csv")
    p.add_argument("--readme", type=pathlib.Path, default=HERE / "README.md")
    a = p.parse_args(argv)
    targets = a.targets.split(",")
    for word in a.models:
        model = Model.named(word)
        for target in targets:
            for precision in TARGETS[target][1]:
                key = (model.name, target, precision)
                if key not in {of(row) for row in read_rows(a.csv) if not row["note"]}:
                    count = a.interpreted if target == INTERPRETED else 0
                    write(a.csv, attempt(model, target, precision, a.bundles, count))
                    fill(a.readme, read_rows(a.csv))
    fill(a.readme, read_rows(a.csv))


@dataclasses.dataclass(frozen=True)
class Model:
    """A model that is exported.

    Attributes:
        name: what it is called in the table.
        flags: those of `vision.export` that say which it is.
        source: of the images to measure on; "" for the run's test images.
    """

    name: str
    flags: tuple[str, ...]
    source: str

    @classmethod
    def named(cls, word):
        """Returns the model that an argument names."""
        name, _, rest = word.partition("=")
        place, _, source = rest.partition(",")
        if not place:
            raise UserError(f"'{word}' names no model: give NAME=RUN or NAME=CONFIG,SOURCE")
        if source:
            return cls(name, ("--config", place, "--data", source), source)
        return cls(name, ("--workdir", place), "")

    @functools.cached_property
    def classifier(self):
        if not self.source:
            return inference.from_run(self.flags[1])
        config, _, _ = parse_stage(list(self.flags[:2]), "", lambda values: None)
        return inference.from_config(config)

    @functools.cached_property
    def images(self):
        """(uint8 images as the model takes them, the places of their classes)."""
        config = self.classifier.config.copy_and_resolve_references()
        classes = self.classifier.classes
        if self.source:
            source = Joined(list(open_splits(self.source, config.data.bits).values()))
            names = [truth_of(pathlib.Path(source.name(i)), classes) for i in range(len(source))]
        else:
            past = self.classifier.past
            splits, _ = named_splits(config.data, split_seed(config), past=past)
            source = splits["test"]
            names = [source.classes[label] for label in source.labels]
        prepared = [self.classifier.prepare(source[i]["image"]) for i in range(len(source))]
        return np.stack(prepared), np.array([classes.index(name) for name in names])

    @functools.cached_property
    def expected(self):
        """Probabilities of the images by JAX, float32 (N, C)."""
        images, _ = self.images
        return batched(served(self.classifier), min(JAX_BATCH, len(images)))(images)[0]


def attempt(model, target, precision, bundles, count):
    """Returns a row of the table, whose note says why if nothing could be measured."""
    row = dict.fromkeys(FIELDS, "") | {
        "model": model.name,
        "target": target,
        "precision": precision,
        "date": datetime.date.today().isoformat(),
    }
    print(f"{model.name}, {target}, {precision}", flush=True)
    bundle = bundles / f"{model.name}-{target}-{precision}"
    flags, _, runner, package = TARGETS[target]
    _ = model.images  # a model that cannot be opened ends the command
    try:
        if not (bundle / "bundle.json").is_file():
            words = [*model.flags, *flags.split(), "--precision", precision, "--out", str(bundle)]
            print("python -m vision.export", *words, flush=True)
            export(words)
        row["runtime"] = f"{runner} {importlib.metadata.version(package)}" if package else runner
        row |= measure(model, target, bundle, count)
    except (UserError, RunError) as error:
        row["note"] = first_line(error)
    print(*(f"{name}: {value}" for name, value in row.items() if value != ""), flush=True)
    return row


def measure(model, target, bundle, count):
    """Returns the columns on one written file.

    Args:
        model: the model.
        target: one of `TARGETS`.
        bundle: the directory of its bundle.
        count: images to run it on, from all over the model's; 0 for all.
    """
    path = bundle / importlib.import_module(f"vision.export.{target}").NAME
    images, labels = model.images
    chosen = spread(count or len(images), len(images))
    probabilities, milliseconds = answers(target, path, images[chosen])
    expected = model.expected[chosen]
    classes = probabilities.argmax(1)
    files = path.rglob("*") if path.is_dir() else [path]
    page = bundle / "web"
    return {
        "images": len(chosen),
        "right": int((classes == labels[chosen]).sum()),
        "right_in_jax": int((expected.argmax(1) == labels[chosen]).sum()),
        "other_class": int((classes != expected.argmax(1)).sum()),
        "largest_difference": f"{np.abs(probabilities - expected).max():.1e}",
        "bytes": size(files),
        "download_bytes": size(web.loaded_files(page)) if page.is_dir() else "",
        "ms": "" if target == INTERPRETED else f"{milliseconds:.3g}",
    }


def answers(target, path, images):
    """Runs a file on images, one at a time.

    Returns:
        (probabilities, float64 (N, C); the median of the milliseconds that an image takes).
    """
    if path.suffix in RUNTIMES:  # on busy cores a second thread costs time
        run = open_model(path, threads=1).run
    else:
        run = importlib.import_module(f"vision.export.{target}").load(path)
    if target != INTERPRETED:
        run(images[:1])  # it may compile
    probabilities = []
    shortest = []
    for place in range(len(images)):
        times = []
        for _ in range(ROUNDS if place < TIMED_IMAGES and target != INTERPRETED else 1):
            begun = time.perf_counter()
            result = run(images[place : place + 1])[0][0]
            times.append(1000 * (time.perf_counter() - begun))
        probabilities.append(result)
        shortest.append(min(times))
    return np.array(probabilities, np.float64), statistics.median(shortest[:TIMED_IMAGES])


def size(files):
    """Returns the bytes of files."""
    return sum(file.stat().st_size for file in files if file.is_file())


def of(row):
    """Returns what a row is about."""
    return row["model"], row["target"], row["precision"]


def write(path, row):
    """Adds a row to the file, in place of one about the same."""
    rows = [other for other in read_rows(path) if of(other) != of(row)] + [row]
    models = list(dict.fromkeys(row["model"] for row in rows))
    rows.sort(key=lambda r: (models.index(r["model"]), list(TARGETS).index(r["target"])))
    write_rows(path, FIELDS, rows)


def fill(path, rows):
    """Writes the table into README.md."""
    measured = {of(row): row for row in rows}
    lines = ["| " + " | ".join(TITLES) + " |", "|---" * len(TITLES) + "|"]
    for model in dict.fromkeys(row["model"] for row in rows):
        for target, (_, precisions, _, _) in TARGETS.items():
            for precision in precisions:
                key = (model, target, precision)
                lines.append("| " + " | ".join([*key, *cells(measured.get(key))]) + " |")
    readme.fill(path, lines, "targets")


def cells(row):
    """Returns the cells of a row after what it is about."""
    if row is None or row["note"]:
        reason = ": " + row["note"].partition(": pip ")[0] if row else ""
        return [f"not run{reason}", *[""] * (len(TITLES) - 4)]
    images = int(row["images"])
    return [
        row["runtime"],
        row["images"],
        f"{int(row['right']) / images:.1%}",
        f"{int(row['right_in_jax']) / images:.1%}",
        row["other_class"],
        row["largest_difference"],
        f"{int(row['bytes']) / 1e6:.2f}",
        f"{int(row['download_bytes']) / 1e6:.1f}" if row["download_bytes"] else "",
        row["ms"],
    ]


if __name__ == "__main__":
    cli.run(main)
