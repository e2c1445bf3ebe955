"""`python -m vision.compression.prune`: its result is a run, which trains on."""

import functools
import json
import os
import shutil
import signal

import numpy as np
import pytest

from tests.conftest import TINY_VIT
from vision import cli, main
from vision.compression import prune
from vision.inference import from_run
from vision.models import surgery
from vision.training.log import RunLog

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def pruned_run(tiny_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("pruned") / "run"
    cli.run(
        prune.main, [f"--workdir={tiny_run}", f"--out={out}", "--ratio=0.3", "--importance=taylor"]
    )
    return out


def test_the_result_is_a_run(tiny_run, pruned_run):
    before = from_run(tiny_run)
    after = from_run(pruned_run)
    record = json.loads((pruned_run / "pruning.json").read_text())
    assert record["counts"]["parameters"] == [
        surgery.count(model.model)[0] for model in (before, after)
    ]
    assert after.classes == before.classes and record["importance"] == "taylor"
    logits, embeddings = after(np.zeros((2, 8, 8, 1), np.uint8))
    assert logits.shape == (2, 10) and embeddings.shape == (2, 32)


def test_a_repeated_call_changes_nothing(tiny_run, pruned_run, capsys):
    """As after a kill that came after the last write."""
    times = {path: path.stat().st_mtime_ns for path in pruned_run.rglob("*")}
    argv = [f"--workdir={tiny_run}", f"--out={pruned_run}", "--importance=taylor"]
    cli.run(prune.main, [*argv, "--ratio=0.3"])
    assert "parameters: " in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in pruned_run.rglob("*")} == times
    with pytest.raises(SystemExit):
        cli.run(prune.main, [*argv, "--ratio=0.4"])
    assert "another pruning: ratio is 0.3 there, 0.4 here" in capsys.readouterr().err


def test_it_trains_on(pruned_run, tmp_path):
    flags = TINY_VIT | {"model.pretrained": pruned_run}
    argv = ["--config=configs/digits.py:smoke", f"--workdir={tmp_path / 'run'}"]
    cli.run(main.main, argv + [f"--config.{key}={value}" for key, value in flags.items()])
    tuned = from_run(tmp_path / "run")
    pruned = from_run(pruned_run)
    shapes = [{n: v.shape for n, v in surgery.variables(c.model).items()} for c in (tuned, pruned)]
    assert shapes[0] == shapes[1] and tuned.step == 4


def test_it_trains_on_in_its_own_directory(pruned_run, tmp_path, capsys):
    """By its own config, which is in no file; the original's config is refused."""
    workdir = tmp_path / "run"
    shutil.copytree(pruned_run, workdir)
    with pytest.raises(SystemExit):
        cli.run(main.main, ["--config=configs/digits.py:smoke", f"--workdir={workdir}"])
    error = capsys.readouterr().err
    assert "its model is pruned to other widths" in error
    assert "without --config a run is resumed with its own" in error
    assert "kernel" not in error
    cli.run(main.main, [f"--workdir={workdir}", "--config.log.every=2"])
    tuned = from_run(workdir)
    pruned = from_run(pruned_run)
    shapes = [{n: v.shape for n, v in surgery.variables(c.model).items()} for c in (tuned, pruned)]
    assert shapes[0] == shapes[1] and tuned.step == 4 and (workdir / "result.json").is_file()
    before, after = (
        {n: np.asarray(v.get_value()) for n, v in surgery.variables(c.model).items()}
        for c in (pruned, tuned)
    )
    assert any((before[name] != after[name]).any() for name in before)


def test_the_original_teaches_the_pruned_one(tiny_run, tmp_path):
    """The objective's options are written in full, as the training compares them."""
    out = tmp_path / "taught"
    flags = {"objective.name": "distillation", "objective.options.teacher": tiny_run}
    argv = [f"--config.{key}={value}" for key, value in flags.items()]
    cli.run(prune.main, [f"--workdir={tiny_run}", f"--out={out}", "--ratio=0.3", *argv])
    cli.run(main.main, [f"--workdir={out}"])
    taught = from_run(out)
    assert taught.step == 4 and taught.config.objective.options.alpha == 0.5
    lines = (out / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line).get("train/teacher_loss") for line in lines]
    assert any(loss is not None and loss > 0 for loss in losses)


def gradually(run, out, *more):
    argv = [f"--workdir={run}", f"--out={out}", "--ratio=0.5", "--steps=2"]
    cli.run(prune.main, [*argv, "--config.train.steps=2", *more])


def test_gradual_pruning_goes_on_where_it_stopped(tiny_run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "half"
    save = RunLog.advance

    def stop(log, step):
        save(log, step)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "advance", stop)
        gradually(tiny_run, out)
    printed = capsys.readouterr().out
    assert "interrupted at step 1: saved; the same command resumes it" in printed
    assert "evaluate it" not in printed
    assert not out.exists() and not (tmp_path / "half-1" / "result.json").exists()
    gradually(tiny_run, out)
    done = capsys.readouterr()
    assert "resumed" in done.err and "step 2 of 2" in done.out and "evaluate it" in done.out
    first, last = (
        json.loads((place / "pruning.json").read_text()) for place in (tmp_path / "half-1", out)
    )
    assert first["share"] <= 0.5**0.5 and last["share"] <= 0.5
    assert last["config"] == {"train.steps": 2}
    counts = [
        surgery.count(from_run(place).model)[0] for place in (tiny_run, tmp_path / "half-1", out)
    ]
    assert first["counts"]["parameters"] == counts[:2]
    assert last["counts"]["parameters"] == [counts[0], counts[2]]
    assert {n for n, _ in first["layers"].values()} == {n for n, _ in last["layers"].values()}
    assert json.loads((out / "result.json").read_text())["steps"] == 2 and from_run(out).step == 2
    gradually(tiny_run, out)  # nothing is left to do
    assert "val loss" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        gradually(tiny_run, out, "--importance=bn")
    assert (
        "contains another pruning: importance is 'l1' there, 'bn' here" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "which run? Give --workdir"),
        (["--workdir=RUN", "--config=configs/digits.py"], "which run? Give --workdir"),
        (["--workdir=RUN"], "where to? Give --out"),
        (
            ["--workdir=RUN", "--out=OUT", "--ratio=1"],
            "--ratio must be between 0 and 1, the share to remove, got 1.0",
        ),
        (["--workdir=RUN", "--out=OUT", "--steps=0"], "--steps must be at least 1, got 0"),
        (["--workdir=RUN", "--out=OUT", "--importance=l2"], "--importance = 'l2' is unknown"),
        (["--workdir=RUN", "--out=OUT", "--target=size"], "--target = 'size' is unknown"),
        (["--workdir=nowhere", "--out=OUT"], "nowhere is not a run directory"),
        (["--workdir=nowhere", "--config.seed=1"], "but none is given: give the --workdir"),
        (["--workdir=RUN", "--out=."], "exists already"),
        (["--workdir=RUN", "--out=.", "--steps=2"], "exists already"),
        (
            ["--workdir=RUN", "--out=OUT", "--config.train.epochs=-1"],
            "train.epochs must be at least 0, got -1.0",
        ),
        (
            ["--workdir=RUN", "--out=OUT", "--config.model.variant=mu/2"],
            "model.variant cannot be set: a pruned run keeps",
        ),
        (["--workdir=RUN", "--out=OUT", "--config.transfer.mode=head"], "is trained in full"),
    ],
)
def test_bad_flags(flags, message, tiny_run, tmp_path, capsys):
    places = {"RUN": str(tiny_run), "OUT": str(tmp_path / "out")}
    with pytest.raises(SystemExit) as ended:
        argv = [
            functools.reduce(lambda flag, p: flag.replace(*p), places.items(), flag)
            for flag in flags
        ]
        cli.run(prune.main, argv)
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
