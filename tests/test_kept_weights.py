"""Weights of finished rows: kept once, found by name, whatever is killed or runs beside it."""

import collections
import hashlib
import json
import pathlib
import re
import shutil
import sys
import threading
import types

import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments import keep, run
from experiments.row import HERE, Place, Row
from tests.support.commands import outcome
from vision.errors import UserError
from vision.models.weights import files, kept, pretrained
from vision.run.weights import run_weights
from vision.support.lock import locked


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(HERE.parent)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """An empty folder in the place of experiments/weights, which another experiments/ has."""
    here = tmp_path / "experiments"
    folder = here / "weights"
    folder.mkdir(parents=True)
    tables = ("<!-- results -->", "<!-- end -->", "<!-- left out -->", "<!-- end -->", "")
    (folder / "README.md").write_text("\n".join(tables))
    monkeypatch.setattr(keep, "HERE", here)
    monkeypatch.setattr(keep, "FOLDER", folder)
    monkeypatch.setattr(kept, "folder", lambda: folder)
    return folder


def test_weights_are_kept_and_found_by_name(tiny_run, tmp_path, weights, capsys):
    folder = weights
    place = Place("tiny", tmp_path / "runs", "")
    row = Row("a ViT", "configs/digits.py:smoke")
    keep.keep(row, 0, place)
    assert "is not finished" in capsys.readouterr().out and not list(folder.glob("*.safetensors"))
    workdir = shutil.copytree(tiny_run, place.directory("a ViT", 0))
    stored = json.loads((workdir / "config.json").read_text())
    stored["data"] |= {"crop_fraction": 0.875, "interpolation": "bicubic"}
    (workdir / "config.json").write_text(json.dumps(stored))
    keep.keep(row, 0, place)
    spec = "kept:tiny-a-vit-0"
    assert spec in capsys.readouterr().out and "tiny-a-vit-0" in (folder / "README.md").read_text()
    config, data, arrays = run_weights(tiny_run)
    config = config.copy_and_resolve_references()
    config.model.pretrained = spec
    sizes = (len(data["classes"]), data["image_size"], data["channels"])
    loaded = pretrained.load(config.model, *sizes)
    assert sorted(loaded) == sorted(arrays)
    for name, array in arrays.items():
        np.testing.assert_allclose(loaded[name], array, rtol=1e-3, atol=1e-6, err_msg=name)
    weights = pretrained.describe(spec, pretrained.architecture(config.model))
    assert (weights.crop, weights.interpolation) == (0.875, "bicubic")
    assert weights.class_names == tuple(data["classes"]) and weights.size == data["image_size"]
    with pytest.raises(UserError, match="'tiny-a-vit-1' is unknown.*tiny-a-vit-0"):
        files.locate("kept:tiny-a-vit-1")
    path = folder / "tiny-a-vit-0.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="is missing, or differs from the file that index.json"):
        files.locate(spec)


@pytest.mark.parametrize(
    ("limit", "whose"),
    [("LARGEST", "all experiments'"), ("LARGEST_OF_EXPERIMENT", "the experiment's")],
)
def test_weights_without_room_are_left_out(
    limit, whose, tiny_run, tmp_path, weights, monkeypatch, capsys
):
    place = Place("tiny", tmp_path / "runs", "")
    for name in ("first", "second"):
        shutil.copytree(tiny_run, place.directory(name, 0))
    keep.keep(Row("first", "configs/digits.py:smoke"), 0, place)
    (file,) = weights.glob("*.safetensors")
    monkeypatch.setattr(keep, limit, 1.5 * file.stat().st_size)
    (weights.parent / "tiny").mkdir()
    (weights.parent / "tiny" / "rows.py").touch()
    (weights.parent / "tiny" / "results.csv").write_text("row\nfirst\nsecond\nthird\n")
    keep.keep(Row("second", "configs/digits.py:smoke"), 0, place)
    assert list(weights.glob("*.safetensors")) == [file]
    text = (weights / "README.md").read_text().partition("<!-- left out -->")[2]
    link = r"\| \[tiny\]\(../tiny/README.md\) \| "
    reason = rf"0\.\d MB would exceed {whose} limit of 0 MB \(0\.\d MB are used\)"
    assert re.search(rf"{link}second \| {reason} \|\n", text), text
    assert re.search(rf"{link}third \| {keep.NOT_KEPT} \|\n", text) and "first" not in text
    assert re.search(rf"tiny-second-0 is not kept: {reason}\n", capsys.readouterr().out)
    checkpoints = place.directory("second", 0) / "checkpoints"
    checkpoints.rename(tmp_path / "away")  # the run is not read again
    keep.keep(Row("second", "configs/digits.py:smoke"), 0, place)
    assert capsys.readouterr().out == "" and text in (weights / "README.md").read_text()
    keep.keep(Row("second", "configs/digits.py:smoke"), 0, place, replaces=True)
    assert "tiny-second-0 is not kept: its run has no checkpoints" in capsys.readouterr().out
    (tmp_path / "away").rename(checkpoints)
    keep.keep(Row("second", "configs/digits.py:smoke"), 0, place, replaces=True)
    monkeypatch.undo()  # there is room again
    monkeypatch.setattr(keep, "HERE", weights.parent)
    monkeypatch.setattr(keep, "FOLDER", weights)
    keep.keep(Row("second", "configs/digits.py:smoke"), 0, place)
    text = (weights / "README.md").read_text().partition("<!-- left out -->")[2]
    assert len(kept.read_index(weights)) == 2 and "second" not in text and "third" in text


def test_a_sequence_keeps_what_it_ends_with(tiny_run, tmp_path, weights):
    place = Place("tiny", tmp_path / "runs", "")
    row = Row("tasks", "configs/digits.py:smoke", command="vision.continual")
    workdir = place.directory("tasks", 0)
    for number in (2, 10):
        shutil.copytree(tiny_run, workdir / f"task-{number}")
    shutil.rmtree(workdir / "task-2" / "checkpoints")  # would fail
    sequence = json.loads((tiny_run / "result.json").read_text()) | {"accuracy": 0.25}
    (workdir / "sequence.json").write_text(json.dumps(sequence))
    keep.keep(row, 0, place)
    assert kept.read_index(weights)["tiny-tasks-0"]["accuracy"] == 0.25


def change_result(workdir, accuracy):
    file = workdir / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"accuracy": accuracy}))


def test_each_seed_has_weights_of_its_own(tiny_run, tmp_path, weights):
    place = Place("tiny", tmp_path / "runs", "")
    row = Row("a ViT", "configs/digits.py:smoke")
    for seed in (0, 1):
        change_result(shutil.copytree(tiny_run, place.directory("a ViT", seed)), 0.5 + seed / 4)
        keep.keep(row, seed, place, replaces=True)
    index = kept.read_index(weights)
    assert [(name, entry["seed"], entry["accuracy"]) for name, entry in index.items()] == [
        ("tiny-a-vit-0", 0, 0.5),
        ("tiny-a-vit-1", 1, 0.75),
    ]
    own = Row("a ViT", "configs/digits.py:smoke", {"seed": 20})
    keep.keep(own, 0, Place("other", tmp_path / "runs", ""))  # not finished
    shutil.copytree(tiny_run, Place("other", tmp_path / "runs", "").directory("a ViT", 0))
    keep.keep(own, 0, Place("other", tmp_path / "runs", ""))
    assert kept.read_index(weights)["other-a-vit-0"]["seed"] == 20


def test_only_a_wish_replaces_weights_and_a_kill_leaves_one_of_both(
    tiny_run, tmp_path, weights, monkeypatch
):
    place = Place("tiny", tmp_path / "runs", "")
    row = Row("a ViT", "configs/digits.py:smoke")
    workdir = shutil.copytree(tiny_run, place.directory("a ViT", 0))
    keep.keep(row, 0, place)
    path = weights / "tiny-a-vit-0.safetensors"
    path.write_bytes(b"of an earlier run")
    index = kept.read_index(weights)
    index["tiny-a-vit-0"]["sha256"] = hashlib.sha256(b"of an earlier run").hexdigest()
    (weights / kept.INDEX).write_text(json.dumps(index))
    change_result(workdir, 0.25)
    keep.keep(row, 0, place)
    assert kept.read_index(weights) == index and path.read_bytes() == b"of an earlier run"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(keep, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            keep.keep(row, 0, place, replaces=True)
    assert files.locate("kept:tiny-a-vit-0").read_bytes() == b"of an earlier run"
    assert len(list(weights.glob("*.safetensors"))) == 2
    keep.keep(row, 0, place, replaces=True)
    entry = kept.read_index(weights)["tiny-a-vit-0"]
    assert entry["accuracy"] == 0.25
    (left,) = weights.glob("*.safetensors")
    assert files.locate("kept:tiny-a-vit-0") == left != path and load_file(left)
    change_result(workdir, 0.5)
    keep.keep(row, 0, place, replaces=True)
    assert list(weights.glob("*.safetensors")) == [path]
    assert files.locate("kept:tiny-a-vit-0") == path


def test_two_measurements_keep_weights_at_once(tiny_run, tmp_path, weights):
    """The second one waits, and then finds what the first one has written."""
    place = Place("tiny", tmp_path / "runs", "")
    shutil.copytree(tiny_run, place.directory("second", 0))
    row = Row("second", "configs/digits.py:smoke")
    second = threading.Thread(target=keep.keep, args=(row, 0, place))
    with locked(weights):
        second.start()
        second.join(1)
        assert second.is_alive() and not (weights / kept.INDEX).exists()
        (weights / "first.safetensors").touch()
        of_model = {"variant": "", "options": {}, "classes": [], "image_size": 8, "crop": 1.0}
        of_images = {"interpolation": "area", "mean": [], "std": []}
        of_run = {"experiment": "tiny", "row": "first", "seed": 0, "accuracy": 1.0, "model": ""}
        first = {"file": "first.safetensors", "sha256": "", **of_run, **of_model, **of_images}
        (weights / kept.INDEX).write_text(json.dumps({"first": first}))
    second.join(300)
    assert list(kept.read_index(weights)) == ["first", "tiny-second-0"]
    page = (weights / "README.md").read_text()
    assert "`first`" in page and "`tiny-second-0`" in page
    assert not (weights / ".lock").exists()


def test_finished_rows_are_kept_automatically(tiny_run, tmp_path, weights, monkeypatch, capsys):
    """Seed 0 of each row; one that cannot be kept does not keep the others from it."""
    rows = (Row("lost", "configs/digits.py:smoke"), Row("a ViT", "configs/digits.py:smoke"))
    module = types.SimpleNamespace(ROWS=rows, DATA="digits")
    monkeypatch.setitem(sys.modules, "experiments.tiny.rows", module)
    monkeypatch.setattr(run, "HERE", weights.parent)
    folder = weights.parent / "tiny"
    folder.mkdir()
    (folder / "rows.py").touch()
    (folder / "README.md").write_text("<!-- results -->\n<!-- end -->\n")
    place = Place("tiny", tmp_path / "runs", "digits")
    for row in rows:
        for seed in (0, 1):
            shutil.copytree(tiny_run, place.directory(row.name, seed))
    shutil.rmtree(place.directory("lost", 0) / "checkpoints")
    argv = ("tiny", "--workdir", tmp_path / "runs", "--seeds", "0,1")
    for number in range(2):
        code, out, err = outcome(run.main, capsys, *argv)
        assert code == 0, err
        is_first = number == 0  # the second time, nothing is new
        assert ("tiny-lost-0 is not kept: its run has no checkpoints" in out) == is_first
        assert ("tiny-a-vit-0" in out) == is_first
        assert list(kept.read_index(weights)) == ["tiny-a-vit-0"]
    text = (weights / "README.md").read_text()
    assert "| lost | its run has no checkpoints" in text and str(tmp_path) not in text
    code, out, err = outcome(run.main, capsys, *argv, "--keep")
    assert code == 0, err
    assert list(kept.read_index(weights)) == ["tiny-a-vit-0", "tiny-lost-1", "tiny-a-vit-1"]


def test_the_kept_weights_are_those_of_the_index():
    """And as the page says: kernels in float16, all else in float32, and no file too many."""
    folder = pathlib.Path(HERE, "weights")
    index = kept.read_index(folder)
    sizes = collections.Counter()
    for name, entry in index.items():
        path = files.locate(f"kept:{name}")
        assert path == folder / entry["file"]
        sizes[entry["experiment"]] += path.stat().st_size
        for array in load_file(path).values():
            assert array.dtype == (np.float16 if array.ndim > 1 else np.float32), name
    assert set(folder.glob("*.safetensors")) == {folder / e["file"] for e in index.values()}
    page = (folder / "README.md").read_text()
    assert "\n".join(keep._table(index)) in page
    assert all(entry["row"] in page for entry in keep._left_out().values())
    assert sizes.total() <= keep.LARGEST and max(sizes.values()) <= keep.LARGEST_OF_EXPERIMENT
