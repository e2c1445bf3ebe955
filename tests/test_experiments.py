"""Rows of experiments: their commands fit the schema, and a stopped one goes on."""

import csv
import dataclasses
import importlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from experiments import run
from experiments.jordan2024_airbench import compare, theirs
from experiments.measured import COLUMNS, measured
from experiments.process import run_module
from experiments.row import HERE, Place, Row
from tests.support.commands import outcome, refusal
from vision.config.flags import parse
from vision.config.validate import validate
from vision.errors import UserError

pytestmark = pytest.mark.long

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


@pytest.mark.parametrize(
    "start",
    [
        "process import run_module; run_module(['-m', 'timeit', '-n1', '-r1', *sleep], 'row')",
        "commands import call; call('timeit', '-n1', '-r1', *sleep)",
    ],
)
def test_only_the_command_that_was_started_says_how_far_it_is(start):
    parent = (
        "from vision.support import progress; progress.LINE_EVERY = 0.1\n"
        "sleep = ['__import__(\"time\").sleep(1)']\n"
        f"with progress.command():\n    from experiments.{start}"
    )
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True)
    assert "1 loop, best of 1" in done.stdout and not done.stderr


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


def test_airbench_is_compared_only_with_what_is_there(tmp_path, capsys):
    argv = ("--theirs", tmp_path / "airbench94.py")
    assert f"no file {argv[1]}" in refusal(compare.main, capsys, *argv)
    argv[1].touch()
    message = refusal(compare.main, capsys, *argv, "--updates", "23")
    assert message == "--updates must be from 1 to 22, got 23"
    for side, arguments in (
        ("torch_side.py", ("ours.npz", "theirs.npz")),
        ("torch_whole.py", ("images.npz", "0", tmp_path)),
    ):
        file = HERE / "jordan2024_airbench" / side
        words = [sys.executable, "-EsS", file, argv[1], *arguments]
        done = subprocess.run(words, capture_output=True, text=True)  # without packages
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
        assert "give another --torch-python" in done.stderr


def test_the_authors_runs_are_a_table(tmp_path, capsys):
    assert "--theirs must name" in refusal(theirs.main, capsys)
    assert "no file" in refusal(theirs.main, capsys, "--theirs", tmp_path / "airbench94.py")
    assert "not run" in theirs.table([])[-1]
    row = {"minutes": "70.4", "threads": "1", "torch": "2.13.0", "date": "2026-12-03"}
    first = row | {"seed": "0", "accuracy": "90.5", "one_view": "89.0"}
    assert theirs.table([first])[-1].split(" | ")[1:4] == ["90.50 (1 seed)", "89.00 (1 seed)", "70"]
    second = row | {"seed": "1", "accuracy": "91.5", "one_view": "89.0"}
    line = theirs.table([first, second])[-1]
    assert line.split(" | ")[1:4] == ["91.00 ± 0.71 (2)", "89.00 ± 0.00 (2)", "70"]
    assert line.endswith("| CPU, threads: 1, torch 2.13.0, 2026-12-03 |")
