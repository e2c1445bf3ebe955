"""Draws images, judges them, and writes them as a source: what the command does."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from ml_collections import ConfigDict

from vision import inference, parallel
from vision.data.decode import decode
from vision.data.loading.dataset import Dataset
from vision.data.pipeline import open_data
from vision.data.synthetic import SYNTHETIC
from vision.errors import UserError, check_choice, printable
from vision.objectives.gan import doubts
from vision.run.directory import read_run
from vision.run.splits import past_of
from vision.stages import as_called
from vision.support import disk
from vision.support.cells import Writer
from vision.support.files import new_directory, sync, write_json
from vision.support.lock import locked_beside
from vision.support.progress import Progress, print_line, waiting
from vision.synthesize import report
from vision.synthesize.copies import QUERIES, Matches, Pairs, describe, find_pairs
from vision.synthesize.drawing import Drawer, check_run
from vision.synthesize.quality import Embedded, embed, judge

TABLE = "synthetic.csv"
RECORD = "synthesis.json"
REPORT = "report.html"
NEAREST = "nearest.csv"
COLUMNS = ("path", "label", "split", SYNTHETIC)


@dataclasses.dataclass(frozen=True)
class Request:
    """What the command is asked for.

    Attributes:
        workdir: the run that draws.
        out: the directory to write.
        count: images of each class; 0 fills the classes up to the largest.
        classes: names of the classes; () for all.
        truncation: see `Drawer.images`.
        seed: seed of the noise.
        embedding: run whose embedding judges the images; "" for the first run's own.
    """

    workdir: pathlib.Path
    out: pathlib.Path
    count: int
    classes: tuple[str, ...]
    truncation: float | None
    seed: int
    embedding: str


class Generated:
    """The images that were drawn, in their files.

    Args:
        folder: the directory that they are in.
        files: their paths in it.
        labels: int64 (N,).
    """

    def __init__(self, folder: pathlib.Path, files: Sequence[str], labels: np.ndarray):
        self.folder = folder
        self.files = files
        self.labels = labels

    def __len__(self) -> int:
        return len(self.files)

    def image(self, index: int) -> np.ndarray:
        """Returns an image, uint8 (H, W, C)."""
        return decode(str(self.folder / self.files[index]))


def synthesize(request: Request) -> list[str]:
    """Writes the directory, and returns lines that describe it.

    Raises:
        UserError: the run has another objective or no such class, or nothing is to be done.
        RunError: the disk is full.
    """
    config, data = read_run(request.workdir)
    check_run(config, request.workdir)
    classes = data["classes"]
    for name in request.classes:
        check_choice("--classes", name, classes)
    parallel.keep_programs(config.compile_cache)
    splits = _real_images(config, data, request.workdir)
    real_counts = np.bincount(splits["train"].source.labels, minlength=len(classes))
    counts = count_wanted(request, classes, real_counts)
    drawer = Drawer(request.workdir)
    judging = inference.from_run(request.embedding or request.workdir)
    for line in doubts(classes, real_counts, counts > 0):
        print_line(f"note: {printable(as_called(line))}")
    record = {
        "workdir": str(request.workdir),
        "step": drawer.data["step"],
        "seed": request.seed,
        "truncation": request.truncation,
        "embedding": f"{judging.config.model.name} of {request.embedding or request.workdir}",
        "source": config.data.source,
        "images": dict(zip(classes, counts.tolist(), strict=True)),
        "real": dict(zip(classes, real_counts.tolist(), strict=True)),
    }
    with locked_beside(request.out), _writing(request.out) as folder:
        generated = _draw(drawer, request, counts, folder)
        _judge(record, splits, generated, judging, folder)
    return _describe(request.out, record)


def _judge(
    record: dict[str, Any],
    splits: Mapping[str, Dataset],
    generated: Generated,
    judging: inference.Classifier,
    folder: pathlib.Path,
) -> None:
    """Measures the generated images, adds that to the record, and writes all but the images."""
    classes = list(record["images"])
    real = {name: embed(judging, d, d.source.labels, name) for name, d in splits.items()}
    made = embed(judging, generated, generated.labels, SYNTHETIC)
    with waiting("measuring the quality"):
        record["quality"] = judge(real, made, classes)
    pairs = find_pairs(made, real["train"], SYNTHETIC)
    record["copies"] = describe(pairs, made.labels, _find_real_pairs(real), classes)
    write_json(folder / RECORD, record)
    matches = Matches(generated, made, splits["train"], real["train"], pairs, classes)
    matches.write(folder / NEAREST)
    with waiting("drawing the report"):
        report.write(folder / REPORT, NEAREST, record, matches)


def _find_real_pairs(real: Mapping[str, Embedded]) -> Pairs | None:
    """Returns the pairs of some real images of the validation split; None without such a split."""
    if "val" not in real:
        return None
    return find_pairs(real["val"].spread(QUERIES), real["train"], "validation")


def _real_images(
    config: ConfigDict, data: Mapping[str, Any], workdir: pathlib.Path
) -> dict[str, Dataset]:
    """Returns {"train", "val"}: the real images of a run, as it saw them.

    "val" is missing if the run has no validation images.
    """
    config = config.copy_and_resolve_references()
    config.data.image_size = data["image_size"]
    config.data.channels = data["channels"]
    config.data.random_crop_area = ()
    config.data.resident_gib = 0.0  # each image is needed once
    config.imbalance.sampling = "none"
    config.train.steps = 1
    opened = open_data(
        config, parallel.make_mesh(1), past=past_of(workdir, config.data.source), needed=("train",)
    )
    names = ("train", "val")
    return {name: opened.loaders[name].dataset for name in names if name in opened.loaders}


def count_wanted(request: Request, classes: Sequence[str], real: np.ndarray) -> np.ndarray:
    """Returns how many images of each class are to be drawn, int64 (C,).

    Args:
        request: the request.
        classes: C class names.
        real: int (C,), real training images of each class.

    Raises:
        UserError: the classes are balanced already.
    """
    if request.count:
        chosen = [not request.classes or name in request.classes for name in classes]
        return request.count * np.array(chosen, np.int64)
    wanted = real.max() - real
    if not wanted.any():
        raise UserError(
            f"--balance: each of the {len(classes)} classes has {real.max():,} training images, so "
            "none is missing; give --count N for more of each"
        )
    return wanted


@contextlib.contextmanager
def _writing(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a new directory that becomes `out` if the block ends without an error."""
    try:
        with new_directory(out) as folder:
            yield folder
            for path in folder.rglob("*"):
                if path.is_file():
                    sync(path)
            if out.exists():
                raise UserError(f"--out {out} exists: name a new directory")
            folder.rename(out)
    except OSError as error:
        raise disk.failed(f"--out {out}", error) from error


def _draw(drawer: Drawer, request: Request, counts: np.ndarray, folder: pathlib.Path) -> Generated:
    """Writes the images and the table that names them."""
    files: list[str] = []
    labels = np.repeat(np.arange(len(counts)), counts)
    images = (
        (label, place, image)
        for label, count in enumerate(counts.tolist())
        for place, image in enumerate(drawer.images(label, count, request.truncation, request.seed))
    )
    with Progress("drawing", len(labels), "images") as work:
        for label, place, image in work.over(images):
            file = folder / "images" / str(label) / f"{place:06d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
            files.append(file.relative_to(folder).as_posix())
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as lines:
        writer = Writer(lines)
        writer.writerow(COLUMNS)
        for name, number in zip(files, labels.tolist(), strict=True):
            writer.writerow((name, drawer.data["classes"][number], "train", 1))
    return Generated(folder, files, labels)


def _describe(out: pathlib.Path, record: Mapping[str, Any]) -> list[str]:
    counts = [count for count in record["images"].values() if count]
    lines = [f"{out / TABLE}: {sum(counts):,} synthetic images of {len(counts)} classes"]
    for name, title in (("overall", "synthetic"), ("validation", "real, validation split")):
        measured = record["quality"][name]
        if measured is not None and measured["frechet"] is not None:
            lines.append(
                f"{title}: Frechet distance {measured['frechet']:.4g}, kernel distance "
                f"{measured['kernel']:.4g}, precision {measured['precision']:.3f}, recall "
                f"{measured['recall']:.3f} ({measured['compared']:,} images)"
            )
    copies = record["copies"]
    shares = [f"{100 * copies['overall']['nearer']:.1f} % of the synthetic images"]
    if copies["validation"] is not None:
        nearer = 100 * copies["validation"]["nearer"]
        shares.append(f"{nearer:.1f} % of the real ones of the validation split")
    lines.append(
        f"nearer to a training image than every other training image is: {', '.join(shares)}"
    )
    lines.append(f"embedding: {record['embedding']}; {out / REPORT} shows the nearest pairs")
    lines.append(f"train on them too: --config.data.synthetic=csv:{out / TABLE}")
    return lines
