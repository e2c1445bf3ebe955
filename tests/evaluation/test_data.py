"""The images to evaluate on, where data are few, odd, or not divided as one would think."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.evaluation.conftest import evaluate
from vision import inference, metrics, parallel
from vision.data.sources import is_same, open_splits
from vision.data.splits import same_images
from vision.errors import UserError
from vision.evaluation import evaluator
from vision.evaluation.data import distinct, open_split
from vision.evaluation.evaluator import Evaluator, gather
from vision.evaluation.measures import intervals
from vision.evaluation.outputs import Forward
from vision.evaluation.report import report

pytestmark = pytest.mark.long

FAST = {
    "corruptions": "false",
    "views": "false",
    "map": "none",
    "bootstrap": 20,
    "examples": 0,
    "explain": "false",
}


@pytest.fixture(scope="module")
def classifier(tiny_run):
    return inference.from_run(tiny_run)


def draw(folder, split, label, count, size=8):
    """Writes random images into a class's folder."""
    place = folder / split / label
    place.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(len(split) + ord(label[0]))
    for i in range(count):
        cv2.imwrite(str(place / f"{i}.png"), random.integers(0, 256, (size, size), np.uint8))


def opened(classifier, spec, name="", **data):
    config = classifier.config.copy_and_resolve_references()
    config.data.workers = 0
    config.data.update(data)
    mesh = parallel.make_mesh(1)
    return Forward(classifier, mesh), open_split(classifier, config, mesh, spec, name)


@pytest.mark.parametrize("change", ["", "?flip_labels=0.5"])
def test_test_that_stands_in_for_val_is_known_again(classifier, tmp_path, change):
    for split in ("train", "test"):
        for label in "37":
            draw(tmp_path, split, label, 6)
    spec = f"folder:{tmp_path}{change}"
    forward, split = opened(classifier, spec, "test", val_fraction=0.0, limit=10, source=spec)
    assert split.own and same_images(
        *(split.data.loaders[name].dataset.source for name in ("val", "test"))
    )
    c = classifier.config.evaluation
    assert Evaluator(forward, split, 8, c).validation() is None
    assert list(distinct(split.data.loaders)) == ["train", "test"]
    _, split = opened(classifier, spec, "all", val_fraction=0.0, source=spec)
    assert len({split.source.name(i) for i in range(len(split.source))}) == len(split.source) == 24


def test_images_of_unknown_classes_elsewhere_do_not_count(classifier, tmp_path):
    for split, labels in (("train", "37"), ("val", "37x"), ("test", "37")):
        for label in labels:
            draw(tmp_path, split, label, 4)
    forward, split = opened(classifier, f"folder:{tmp_path}", "test")
    evaluator = Evaluator(forward, split, 8, classifier.config.evaluation)
    logits, labels = evaluator.validation()
    assert len(logits) == len(labels) == 8 and set(labels) == {3, 7}
    with pytest.raises(UserError, match="classes that the model does not have: x"):
        opened(classifier, f"folder:{tmp_path}", "val")


def test_few_images_and_a_broken_one(tiny_run, tmp_path, capsys):
    draw(tmp_path, "", "3", 2)
    draw(tmp_path, "", "7", 2)
    (tmp_path / "3" / "1.png").write_bytes(b"")
    argv = ("--workdir", tiny_run, "--data", f"folder:{tmp_path}", "--out", tmp_path / "out")
    assert (
        evaluate(*argv, **FAST) == 2 and "1 of 4 images are unreadable" in capsys.readouterr().err
    )
    assert evaluate(*argv, "--config.data.max_unreadable=0.5", **FAST) == 0
    summary = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (
        summary["data"]["images"] == 3
        and summary["data"]["unreadable"] == 1
        and summary["embedding"] is None
    )
    assert "Unreadable images" in (tmp_path / "out" / "report.html").read_text()


def test_nothing_can_be_read(classifier, tmp_path):
    for split in ("train", "test"):
        for label in "37":
            draw(tmp_path, split, label, 4)
    for file in (tmp_path / "test").rglob("*.png"):
        file.write_bytes(b"")
    forward, split = opened(
        classifier, f"folder:{tmp_path}", "test", max_unreadable=1.0, resident_gib=0.0
    )
    with pytest.raises(UserError, match="none of the 8 images of a split can be read"):
        gather(forward, split, 8, 0)


def test_training_images_a_class_do_not_cut_what_is_evaluated(classifier):
    _, split = opened(classifier, "digits", "all", labels="2/class", limit=0)
    assert len(split.source) == 1797


def test_a_probe_on_one_class(tiny_run, tmp_path):
    for split in ("train", "val", "test"):
        draw(tmp_path, split, "3", 12)
        draw(tmp_path, split, "7", 1)
    argv = ("--workdir", tiny_run, "--data", f"folder:{tmp_path}", "--out", tmp_path / "out")
    assert evaluate(*argv, **FAST, probe=1) == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["embedding"] is None


@pytest.mark.parametrize("kind", ["folder", "test split", "csv"])
def test_new_images_of_one_class(kind, tiny_run, tmp_path, capsys):
    """A day's defects: the means over classes are over the class that is there."""
    photos = tmp_path / "photos"
    draw(photos, "test" if kind == "test split" else ".", "3", 6)
    (photos / "4").mkdir(exist_ok=True) if kind == "folder" else None
    spec = f"folder:{photos}"
    if kind == "csv":
        rows = [f"{file},3" for file in sorted(photos.rglob("*.png"))]
        (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
        spec = f"csv:{tmp_path / 'list.csv'}"
    argv = ("--workdir", tiny_run, "--data", spec, "--out", tmp_path / "out")
    assert evaluate(*argv, **FAST) == 0
    summary = json.loads((tmp_path / "out" / "metrics.json").read_text())
    numbers = summary["metrics"]
    assert summary["data"]["images"] == 6 and numbers["roc_auc"]["value"] is None
    recall = summary["per_class"][3]["recall"]
    assert recall["value"] == numbers["accuracy"]["value"] == numbers["macro_recall"]["value"]
    assert numbers["balanced_accuracy"]["value"] == recall["value"]
    assert recall["low"] < recall["high"] and summary["per_class"][4]["recall"]["value"] is None
    assert "Means over classes cover the other 1." in capsys.readouterr().out
    assert open_splits(spec, fewest_classes=1).keys() <= {"all", "test"}
    with pytest.raises(UserError, match="a classifier needs two"):
        open_splits(spec)


def test_what_is_not_made_anew_is_gone(tiny_run, tmp_path):
    out = tmp_path / "out"
    argv = ("--workdir", tiny_run, "--out", out, "--split=test")
    assert evaluate(*argv, **(FAST | {"map": "pca", "probe": 0})) == 0
    assert (out / "map.png").is_file() and (out / "calibration.json").is_file()
    assert evaluate(*argv, **FAST, temperature="false", probe=0) == 0
    assert not (out / "map.png").exists() and not (out / "calibration.json").exists()


def test_a_confusion_matrix_of_too_many_classes_is_not_drawn(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "DRAWN", 3)
    monkeypatch.setattr(evaluator, "PROBED", 3)
    monkeypatch.setattr(metrics, "DENSE", 3)
    out = tmp_path / "out"
    assert evaluate("--workdir", tiny_run, "--out", out, **FAST) == 0
    assert not (out / "confusion.png").exists()
    assert "Not drawn for more than 3 classes" in (out / "report.html").read_text()
    summary = json.loads((out / "metrics.json").read_text())
    assert "confusion" not in summary and summary["embedding"]["linear_probe"] is None
    assert sum(cell[2] for cell in summary["confusion_cells"]) == summary["data"]["images"]


def test_names_of_one_source():
    assert is_same("folder:tests/", "folder:tests") and is_same("digits", "digits")
    assert not is_same("folder:tests", "folder:vision") and not is_same(
        "folder:tests?x=1", "folder:tests"
    )


def test_an_interval_holds_its_value_also_with_few_images_of_many_classes():
    random = np.random.default_rng(0)
    logits = random.normal(size=(60, 150))
    labels = random.integers(0, 150, 60)
    numbers = intervals.with_intervals(logits, labels, [str(i) for i in range(150)], 40)
    for name, number in numbers["metrics"].items():
        # Where nothing is right, all draws are alike, and say nothing.
        has_none = name.endswith(("_precision", "_f1")) and not number["value"]
        assert has_none != ("low" in number), name
        assert has_none or number["low"] <= number["value"] <= number["high"]


def test_a_reader_that_has_enough_is_no_error(tiny_run, tmp_path):
    draw(tmp_path, "", "3", 40)
    command = [
        sys.executable,
        "-m",
        "vision.predict",
        "--workdir",
        str(tiny_run),
        "--batch_size=1",
        str(tmp_path),
    ]
    done = subprocess.run(
        ["bash", "-c", '"$@" | head -n 1', "bash", *command],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert (
        done.stdout.count("\n") == 1
        and "Traceback" not in done.stderr
        and "BrokenPipe" not in done.stderr
    )
