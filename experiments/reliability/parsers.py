"""Every parser of ours, with a small valid input that can be mutated."""

import contextlib
import dataclasses
import io
import json
import pathlib
import shutil
import types
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from vision.data.sources import open_splits
from vision.support.files import write_json

IMAGES = 6
SIDE = 12
Read = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Parser:
    """A parser and what it reads.

    Attributes:
        form: see `tests.support.mutations`.
        prepare: writes a valid input into a folder; returns (the file that is mutated, a function
            that reads it).
    """

    form: str
    prepare: Callable[[pathlib.Path], tuple[pathlib.Path, Read]]


def pixels(number: int = 0) -> np.ndarray:
    """Returns uint8 (SIDE, SIDE, 3), another for each number."""
    return np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def encoded(kind: str = "PNG", number: int = 0, **options: Any) -> bytes:
    """Returns the bytes of an image file."""
    stream = io.BytesIO()
    Image.fromarray(pixels(number)).save(stream, kind, **options)
    return stream.getvalue()


def photos(folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes a few images of two classes, and returns their paths."""
    paths = [folder / "images" / f"{number}.png" for number in range(IMAGES)]
    paths[0].parent.mkdir(exist_ok=True)
    for number, path in enumerate(paths):
        path.write_bytes(encoded(number=number))
    return paths


def read_source(spec: str) -> None:
    """Opens a source and reads all of its images, as a training does."""
    from vision.data.decode import UnreadableImage
    from vision.data.findings import summarize

    for source in open_splits(spec).values():
        np.bincount(source.labels, minlength=len(source.classes))
        summarize(source.findings)
        for index in range(min(len(source), 2 * IMAGES)):
            source.name(index)
            with contextlib.suppress(UnreadableImage):
                source[index]


def _config(folder):
    from vision.config import default
    from vision.run.directory import open_workdir, own_config

    file = folder / "config.json"
    write_json(file, default().to_dict())

    def read():
        own_config(["--workdir", str(folder)])
        open_workdir(folder, default())

    return file, read


def _data(folder):
    from vision.run.directory import read_run

    _config(folder)
    file = folder / "data.json"
    write_json(file, _description())
    return file, lambda: read_run(folder)


def _description():
    return {
        "classes": ["a", "b"],
        "image_size": 8,
        "channels": 1,
        "class_counts": [3, 4],
        "split_sizes": {"train": 5, "val": 1, "test": 1},
    }


def _splits(folder):
    from vision.data.division import FILE, Members, read_division, write_division
    from vision.data.identity import texts

    names = texts(f"cats/photo {number}.jpg" for number in range(50))
    write_division(folder / FILE, {"train": Members(names, texts(50 * ["cats"]))})
    return folder / FILE, lambda: read_division(folder / FILE)


def _calibration(folder):
    from vision.run.calibration import Calibration, read_calibration, write_calibration

    write_calibration(folder, Calibration(1.5, 10, "digits"))
    return folder / "calibration.json", lambda: read_calibration(folder)


def _unsure(folder):
    from vision.evaluation.measures.selective import choose, measure
    from vision.reference.unsure import Requirement
    from vision.run.unsure import UNSURE, run_evidence, write_evidence

    logits = np.random.default_rng(0).normal(size=(200, 3)) * 4
    about = {"split": "val", "source": "digits", "step": 10}
    evidence = measure(logits, logits.argmax(1), 1.0, **about)
    (folder / "evaluation").mkdir()
    write_evidence(folder / "evaluation", choose(evidence, Requirement("precision", 0.9)).contents)
    return folder / "evaluation" / UNSURE, lambda: run_evidence(folder, 10, "digits", 1.0)


def _teachers(folder):
    from vision.config import default
    from vision.training.teachers import FILE, read_teachers

    config = default()
    definition = types.SimpleNamespace(name="distillation", starts={"teacher": str(folder)})
    data: Any = types.SimpleNamespace(image_size=8, channels=1)
    copy = {"start": str(folder), "config": config.to_dict(), "data": _description()}
    write_json(folder / FILE, {"teacher": copy})
    return folder / FILE, lambda: read_teachers(config, data, definition, folder)


def _record(folder):
    from vision.config import default
    from vision.run.checkpoints import RECORD
    from vision.support.reading import read_json
    from vision.training.policy import PROGRESS, ValidationPolicy

    config = default()
    meter = {"meter": {"seconds": 1.5, "images": 100}, "train_seconds": 2.0}
    progress = ValidationPolicy(config, {}).state() | meter
    file = folder / "record.json"
    write_json(file, {"progress": progress, "checksum": 12345})
    schema = RECORD | {"progress": PROGRESS}
    return file, lambda: ValidationPolicy(config, read_json(file, schema)["progress"])


def _checkpoint(folder, name):
    """A directory of two checkpoints, of whose newest a file is mutated."""
    import jax
    import jax.numpy as jnp

    from vision.config import default
    from vision.run.checkpoints import Checkpoints
    from vision.run.checksum import checksum

    like = {"kernel": jnp.zeros((6, 5)), "step": jnp.int32(0)}
    states = {step: jax.tree.map(lambda x, s=step: x + s, like) for step in (1, 2)}
    sums = {step: checksum(state) for step, state in states.items()}

    def open_in(place, report):
        return Checkpoints(place, default().checkpoint, report)

    with open_in(folder / "saved", print) as checkpoints:
        for step, state in states.items():
            checkpoints.save(step, state, {"at": step}, {"val/accuracy": 0.5})
    file = max((folder / "saved" / "2").glob(name), key=lambda path: path.stat().st_size)
    others = folder / "others"
    shutil.copytree(folder / "saved", others)

    def read():
        """Restores a copy: as it was saved, or with a line the previous one."""
        place = folder / "checkpoints"
        for path in (place, folder / "damaged"):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(others, place)
        shutil.copyfile(file, place / file.relative_to(folder / "saved"))
        lines: list[str] = []
        with open_in(place, lines.append) as checkpoints:
            restored = checkpoints.restore_latest(like, {"at": int})
        assert restored is not None
        state, progress = restored
        step = progress["at"]
        assert checksum(state) == sums[step] and int(state["step"]) == step
        assert step == 2 or "checkpoint 2 is damaged" in lines[-1]
        assert not any("\n" in line for line in lines)

    return file, read


def _metrics_lines(folder):
    from vision.config import default
    from vision.training.log import RunLog

    file = folder / "metrics.jsonl"
    lines = [json.dumps({"step": step, "train/loss": 1.5}) for step in range(1, 20)]
    file.write_text("\n".join(lines) + "\n")
    config = default()
    config.log.tensorboard = False
    config.log.progress = False

    def read():
        RunLog(folder, config.log, 10, 100).close()

    return file, read


def _pack(folder, name):
    from vision.data.pack import pack
    from vision.data.sources import packed

    source = folder / "source"
    for number in range(IMAGES):
        path = source / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number=number))
    spec = f"folder:{source}"
    parts = open_splits(spec)
    pack(spec, parts, folder / "pack")
    manifest = packed.read_manifest(folder / "pack")
    if name == "progress.json":
        state = {
            "request": manifest["request"],
            "plan": {"all": 1},
            "shards": {file["file"]: file for file in manifest["parts"]["all"]["shards"]},
            "unreadable": [],
        }
        before = {p.name: p.read_bytes() for p in (folder / "pack").iterdir()}

        def resume():
            for other in (folder / "pack").iterdir():
                if other.name not in before and other.name != name:
                    other.unlink()
            for other, data in before.items():
                (folder / "pack" / other).write_bytes(data)
            (folder / "pack" / "manifest.json").unlink()
            pack(spec, parts, folder / "pack")

        write_json(folder / "pack" / name, state)
        return folder / "pack" / name, resume
    matches = sorted((folder / "pack").glob(name))
    return matches[0], lambda: read_source(f"packed:{folder / 'pack'}")


def _pruning(folder):
    from vision.compression.gradual import read_record

    write_json(folder / "pruning.json", {"share": 0.5, "layers": {"conv": [8, 4]}, "ratio": 0.5})
    return folder / "pruning.json", lambda: read_record(folder)


def _evaluation(folder, name):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vision.evaluation.compare import comparison
    from vision.evaluation.report.words import METRICS

    value = {"value": 0.5, "low": 0.4, "high": 0.6}
    metrics = {"metrics": dict.fromkeys(METRICS, value), "data": {"split": "test"}}
    write_json(folder / "metrics.json", metrics)
    columns: dict[str, Any] = {"name": ["x", "y"], "label": ["a", "b"], "predicted": ["a", "a"]}
    columns |= {"row": [0, 1], "label_index": [0, 1], "predicted_index": [0, 0]}
    columns |= {"correct": [True, False], "confidence": [0.9, 0.8], "nll": [0.1, 2.0]}
    columns["top5"] = [["a", "b"], ["a", "b"]]
    header = {"classes": ["a", "b"], "source": "digits", "split": "test", "model": {}, "seed": 0}
    text = json.dumps(header | {"data": {"source": "digits"}})
    table = pa.table(columns).replace_schema_metadata({"vision": text})
    pq.write_table(table, folder / "predictions.parquet")
    return folder / name, lambda: comparison.align([comparison.load(folder, "x")])


def _result(folder):
    from vision.evaluation.report.card import RESULT
    from vision.support.reading import read_json

    result = {"split_sizes": {"train": 5}, "versions": {"jax": "1"}, "steps": 4, "best_step": 4}
    result |= {"parameters": {"all": 9, "learning": 9}, "train_seconds": 1.5, "device": "cpu"}
    result |= {"date": "2026-01-01", "git_commit": None}
    write_json(folder / "result.json", result)
    return folder / "result.json", lambda: read_json(folder / "result.json", RESULT)


def _listed_run(folder, name):
    """A file of a run that `vision.runs` lists, with its curves."""
    from vision.config import default
    from vision.runs import page
    from vision.runs.reader import Reader

    config = default()
    config.data.source = "digits"
    write_json(folder / "config.json", config.to_dict())
    measures = {"val/accuracy": 0.5, "train/loss": 1.5, "train/images_per_second": 9.5}
    lines = [json.dumps({"step": step} | measures) for step in range(1, 9)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    if name == "result.json":
        result = {"ended": "finished", "steps": 8, "best_step": 8, "accuracy": 0.5}
        write_json(folder / name, result | {"images_per_second": 9.5, "train_seconds": 1.5})
    if name == "failed.json":
        write_json(folder / name, {"reason": "no memory", "step": 8, "date": "2026-01-01"})
    return folder / name, lambda: page.page(Reader().read_below([folder]), "runs")


def _bundle(folder):
    from vision.bundle import directory as bundle
    from vision.config import default

    (folder / "model.onnx").write_bytes(b"model")
    resize = {"crop_fraction": 0.875, "interpolation": "area"}
    config = default().to_dict()
    sample = {"file": "model.onnx", "probabilities": [0.5, 0.5]}
    manifest = bundle.Manifest("ab", 8, 1, resize, config=config, sample=sample, quality={"x": 1})
    bundle.write_manifest(folder, manifest)

    def read():
        bundle.Bundle(bundle.read_manifest(folder), lambda images: images).prepare(pixels())

    return folder / bundle.MANIFEST, read


def _decisions(folder):
    from vision.audit.apply import read_decisions
    from vision.audit.images import Images
    from vision.audit.issues import COLUMNS

    images = Images(open_splits("digits"))
    row = [images.name(3), images.split_of(3), images.class_of(3), "blank", "1", "", "", "drop"]
    lines = [",".join(COLUMNS), ",".join(row), ",".join(row)]
    (folder / "issues.csv").write_text("\n".join(lines) + "\n")
    return folder / "issues.csv", lambda: read_decisions(folder / "issues.csv", images)


def _tokenizer(folder):
    from vision.config import default
    from vision.data.tokenizer import learn
    from vision.run.vocabulary import FILE, run_tokenizer, write_tokenizer

    c = default().text
    c.tokenizer = "bpe"
    write_tokenizer(folder, learn(["a cat", "a dog", "the cat"], 270, c.context))
    return folder / FILE, lambda: run_tokenizer(folder, c).encode(["a cat"])


OURS = {
    "run config": Parser("json", _config),
    "run data": Parser("json", _data),
    "run splits": Parser("bytes", _splits),
    "calibration": Parser("json", _calibration),
    "unsure": Parser("json", _unsure),
    "run tokenizer": Parser("json", _tokenizer),
    "teachers": Parser("json", _teachers),
    "checkpoint record": Parser("json", _record),
    "checkpoint arrays": Parser("bytes", lambda folder: _checkpoint(folder, "state/**/d/*")),
    "checkpoint index": Parser("bytes", lambda folder: _checkpoint(folder, "state/manifest.ocdbt")),
    "checkpoint names": Parser("json", lambda folder: _checkpoint(folder, "state/_METADATA")),
    "checkpoint progress": Parser("json", lambda folder: _checkpoint(folder, "record/metadata")),
    "checkpoint metrics": Parser("json", lambda folder: _checkpoint(folder, "metrics/metrics")),
    "checkpoint header": Parser("json", lambda folder: _checkpoint(folder, "_CHECKPOINT_METADATA")),
    "metrics.jsonl": Parser("text", _metrics_lines),
    "pack manifest": Parser("json", lambda folder: _pack(folder, "manifest.json")),
    "pack progress": Parser("json", lambda folder: _pack(folder, "progress.json")),
    "pack labels": Parser("npy", lambda folder: _pack(folder, "*.labels.npy")),
    "pack names": Parser("bytes", lambda folder: _pack(folder, "*.names.csv.gz")),
    "pack records": Parser("bytes", lambda folder: _pack(folder, "*.array_record")),
    "pruning": Parser("json", _pruning),
    "evaluation metrics": Parser("json", lambda folder: _evaluation(folder, "metrics.json")),
    "predictions": Parser("parquet", lambda folder: _evaluation(folder, "predictions.parquet")),
    "run result": Parser("json", _result),
    "listed config": Parser("json", lambda folder: _listed_run(folder, "config.json")),
    "listed log": Parser("text", lambda folder: _listed_run(folder, "metrics.jsonl")),
    "listed result": Parser("json", lambda folder: _listed_run(folder, "result.json")),
    "listed failure": Parser("json", lambda folder: _listed_run(folder, "failed.json")),
    "bundle": Parser("json", _bundle),
    "audit decisions": Parser("text", _decisions),
}


def parsers() -> dict[str, Parser]:
    """Returns every parser by name: of our own files, then of other people's."""
    from experiments.reliability.foreign import FOREIGN

    return OURS | FOREIGN
