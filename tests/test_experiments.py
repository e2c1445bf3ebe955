"""Rows of experiments: their commands fit the schema, a stopped one goes on, weights are kept."""

import collections
import csv
import dataclasses
import importlib
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments import keep, run
from experiments.jordan2024_airbench import compare
from experiments.measured import COLUMNS, measured
from experiments.process import run_module
from experiments.row import HERE, Place, Row
from tests.support.commands import outcome, refusal
from vision.config.flags import parse
from vision.config.validate import validate
from vision.errors import UserError
from vision.models.weights import files, kept, pretrained
from vision.run.weights import run_weights

NAMES = sorted(path.parent.name for path in HERE.glob("*/rows.py"))


def test_every_experiment_is_listed():
    page = (HERE / "README.md").read_text()
    links = re.findall(r"\]\((\w+)/README\.md\)", page)
    assert sorted(links) == sorted(path.parent.name for path in HERE.glob("*/README.md"))


def rows_of(name):
    return importlib.import_module(f"experiments.{name}.rows").ROWS


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(HERE.parent)


@pytest.mark.parametrize("name", NAMES)
def test_every_row_has_a_config_that_is_valid(name, tmp_path):
    rows = rows_of(name)
    assert len({row.name for row in rows}) == len(rows)
    directories = {Place(name, tmp_path, "data").directory(row.name, 0) for row in rows}
    assert len(directories) == len(rows)
    for row in rows:
        config, _ = parse(config_words(row, Place(name, tmp_path, "mnist5k")), "")
        validate(config)


def config_words(row, place):
    """The flags --config of a row; of one whose config is a run's, those of the run and its own."""
    *_, first = [c for c in run._training(row, 0, place) if any("--config" in w for w in c.words)]
    words = [word for word in first.words if word.startswith("--config.")]
    runs = place.runs(row.config, 0)
    if not runs:
        return ["--config", first.words[first.words.index("--config") + 1], *words]
    ((experiment, name, _),) = runs
    (of_run,) = (other for other in rows_of(experiment) if other.name == name)
    return [*config_words(of_run, dataclasses.replace(place, name=experiment)), *words]


def test_rows_of_other_experiments_exist():
    """{run:EXPERIMENT:ROW} names a row that is there."""
    for name in NAMES:
        for row in rows_of(name):
            for text in (row.config, *map(str, row.flags.values())):
                for experiment, other, _ in run_placeholders(text):
                    rows = rows_of(experiment or name)
                    assert other in {r.name for r in rows}, (name, row.name, text)


def run_placeholders(text):
    from experiments.row import RUN

    return RUN.findall(text)


def test_placeholders(tmp_path):
    place = Place("pruning_resnet20", tmp_path, "tfds:cifar10")
    assert place.fill("{run:a: b}", 2) == str(tmp_path / "pruning_resnet20" / "a-b-2")
    assert place.fill("{run:a@1}", 2) == str(tmp_path / "pruning_resnet20" / "a-1")
    other = place.fill("x={run:he2015_resnet:ResNet-20, cosine}", 2)
    assert other == f"x={tmp_path / 'he2015_resnet' / 'resnet-20-cosine-2'}"
    assert place.fill("{data}?seed={seed}", 2) == "tfds:cifar10?seed=2"


def test_a_row_needs_the_finished_run_that_it_starts_from(tmp_path, capsys):
    argv = ("pruning_resnet20", "--only", "not pruned", "--seeds", "1", "--workdir", tmp_path)
    workdir = tmp_path / "he2015_resnet" / "resnet-20-16-000-steps-cosine-1"
    (workdir / "checkpoints").mkdir(parents=True)  # half trained
    message = refusal(run.main, capsys, *argv)
    assert "row 'not pruned, trained as much further', seed 1" in message
    assert message.endswith(
        "python -m experiments.run he2015_resnet --only 'ResNet-20, 16,000 steps, cosine' "
        f"--seeds 1 --workdir {tmp_path}"
    )
    (row,) = (row for row in rows_of("pruning_resnet20") if "not pruned" in row.name)
    place = Place("pruning_resnet20", tmp_path, "")
    (workdir / "result.json").touch()
    run._check_runs(row, 1, place)
    with pytest.raises(UserError, match="--seeds 0"):
        run._check_runs(row, 0, place)
    assert outcome(run.main, capsys, *argv, "--rows")[0] == 0  # shows the commands all the same


def test_large_rows_run_only_if_they_are_named_exactly(capsys):
    argv = ("he2015_resnet", "--rows", "--seeds", "0")
    for only in ("", "64,000"):
        code, out, _ = outcome(run.main, capsys, *argv, "--only", only)
        assert code == 0 and "cifar10.py:20" in out and "cifar10.py:110" not in out
    named = ("--only", "ResNet-110, 64,000 steps")
    code, out, _ = outcome(run.main, capsys, *argv, *named)
    assert code == 0 and out.count("python -m vision.main") == 1 and "cifar10.py:110" in out
    code, out, _ = outcome(run.main, capsys, *argv, "--large", "--only", "64,000")
    assert code == 0 and out.count("python -m vision.main") == 5
    message = refusal(run.main, capsys, *argv, "--only", "ResNet-1")
    assert "'ResNet-110, 64,000 steps' takes a GPU or days: give its exact name" in message
    assert "no row of" in refusal(run.main, capsys, *argv, "--only", "ResNet-21")


def test_keeping_weights_and_showing_commands_exclude_each_other(capsys):
    code, _, err = outcome(run.main, capsys, "he2015_resnet", "--keep", "--rows")
    assert code == 2 and "not allowed with argument" in err


def test_a_signal_is_handed_on_and_told():
    """The child gets the SIGTERM of its parent; a failure that no signal caused is an error."""
    child = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(0)); time.sleep(60)"
    parent = (
        "from experiments.process import run_module; import threading, os, signal\n"
        "threading.Timer(2, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()\n"
        f"print(run_module(['-c', {child!r}], 'row'))"
    )
    handler = signal.getsignal(signal.SIGTERM)
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
    assert time.monotonic() - began < 30
    assert run_module(["-c", "pass"], "row")
    with pytest.raises(UserError, match="row: the command above failed"):
        run_module(["-c", "raise SystemExit(1)"], "row")
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_training_that_was_stopped_goes_on(tmp_path, monkeypatch, capfd):
    """Its process alone gets a SIGTERM and ends well, which does not make it a finished one."""
    flags = {
        "model.name": "vit",
        "model.variant": "mu/4",
        "model.batch_norm_groups": None,
        "model.stochastic_depth": None,
        "train.steps": 400,
        "train.eval_every": 400,
        "log.every": 1,
        "parallel.devices": 1,
    }
    row = Row("a ViT", "configs/digits.py:smoke", flags)
    place = Place("tiny", tmp_path, "")
    workdir = place.directory(row.name, 0)

    class Stopped(subprocess.Popen):
        """Gets a SIGTERM once it has logged a step."""

        def wait(self, timeout=None):
            log = workdir / "metrics.jsonl"
            while self.poll() is None and not (log.is_file() and log.read_text()):
                time.sleep(0.02)
            self.terminate()
            return super().wait()

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", Stopped)
        assert not run._run(row, 0, place)
    assert measured(row, workdir) == {} and not (workdir / "result.json").exists()
    capfd.readouterr()
    assert run._run(row, 0, place)
    printed = capfd.readouterr()
    assert re.search(r"resumed \S+ at step [1-9]\d*/400", printed.out + printed.err)
    assert measured(row, workdir)["steps"] == 400
    assert run._commands(row, 0, place) == []


def test_the_first_step_of_an_accuracy_is_shown(tiny_run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(tiny_run, workdir)
    lines = [{"step": 2, "val/accuracy": 0.5}, {"step": 4, "val/accuracy": 0.9}]
    (workdir / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert measured(Row("a", "c", reach=60.0), workdir)["reached"] == 4
    assert measured(Row("a", "c", reach=95.0), workdir)["reached"] == ""
    assert "reached" not in measured(Row("a", "c"), workdir)
    assert measured(Row("a", "c"), tmp_path) == {}


def test_a_seed_that_never_reaches_the_accuracy_is_counted():
    row = Row("a", "c", reach=90.0)
    results = [{"reached": step} for step in ("12", "", "18")]
    assert run._summary(row, results, "reached") == "reached by 2 of 3"
    assert run._summary(row, results[::2], "reached") == "15.00 ± 4.24 (2)"
    assert run._summary(row, results[1:2], "reached") == "reached by 0 of 1"
    assert run._summary(Row("a", "c"), results[1:2], "reached") == ""


def test_a_row_that_no_seed_reaches_is_in_the_table(tmp_path):
    (tmp_path / "README.md").write_text("<!-- results -->\n<!-- end -->\n")
    line = dict.fromkeys(COLUMNS, "") | {"row": "a", "seed": 0, "steps": 5, "minutes": 0.1}
    with (tmp_path / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerow(line)
    run._fill(tmp_path, [Row("a", "c", reach=90.0)])
    assert "| a | reached by 0 of 1 |" in (tmp_path / "README.md").read_text()


def test_the_seed_of_a_result_is_that_of_its_row(tiny_run, tmp_path):
    """A row with a seed of its own has it, also in the table of an earlier version."""
    row = Row("a", "c", {"seed": 20}, seeds=1)
    place = Place("tiny", tmp_path, "")
    line = dict.fromkeys(COLUMNS, "") | {"row": "a", "seed": 0}
    with (tmp_path / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerow(line)
    run._collect(tmp_path, [row], place)
    assert [r["seed"] for r in run._read(tmp_path)] == ["20"]
    shutil.copytree(tiny_run, place.directory("a", 0))
    run._collect(tmp_path, [row], place)
    (result,) = run._read(tmp_path)
    assert result["seed"] == "20" and float(result["accuracy"]) > 0


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
    [("LARGEST", "all experiments"), ("LARGEST_OF_EXPERIMENT", "an experiment")],
)
def test_weights_without_room_are_left_out(limit, whose, tiny_run, tmp_path, weights, monkeypatch):
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
    size = r"its 0\.\d MB are too much beside 0\.\d MB: the limit of"
    assert re.search(rf"{link}second \| {size} {whose} is 0 MB \|\n", text), text
    assert re.search(rf"{link}third \| {keep.BEFORE} \|\n", text) and "first" not in text
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


def test_finished_rows_are_kept_by_themselves(tiny_run, tmp_path, weights, monkeypatch, capsys):
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
    for _ in range(2):
        code, out, err = outcome(run.main, capsys, *argv)
        assert code == 0, err
        assert "tiny-lost-0 is not kept: its run has no checkpoints" in out
        assert list(kept.read_index(weights)) == ["tiny-a-vit-0"]
    assert "tiny-a-vit-0" not in out  # the second time it is there
    text = (weights / "README.md").read_text()
    assert "| lost | its run has no checkpoints" in text and str(tmp_path) not in text


def test_airbench_is_compared_only_with_what_is_there(tmp_path, capsys):
    argv = ("--theirs", tmp_path / "airbench94.py")
    assert f"no file {argv[1]}" in refusal(compare.main, capsys, *argv)
    argv[1].touch()
    message = refusal(compare.main, capsys, *argv, "--updates", "23")
    assert message == "--updates must be from 1 to 22, got 23"
    side = HERE / "jordan2024_airbench" / "torch_side.py"
    words = [sys.executable, "-I", "-S", side, *argv[1:], "ours.npz", "theirs.npz"]
    done = subprocess.run(words, capture_output=True, text=True)  # without packages
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "give another --torch-python" in done.stderr


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
