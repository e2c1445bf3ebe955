"""`vision.train`, `vision.evaluate` and `export`, as one goes from images to a bundle."""

import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from absl import logging
from PIL import Image

import vision
from tests.conftest import REPOSITORY
from tests.evaluation.conftest import LITTLE
from vision import recipe
from vision.api import training
from vision.config.load import load
from vision.errors import UserError

pytestmark = pytest.mark.long

CONFIG = f"{REPOSITORY}/configs/digits.py:smoke"
TINY = {
    "model.name": "vit",
    "model.variant": "mu/4",
    "parallel.devices": 1,
    "augment.affine": False,
    "log.progress": False,
    "log.tensorboard": False,
}
MEASURED = {f"evaluation.{key}": value for key, value in LITTLE.items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, and what was printed, the signals' handlers and absl's verbosity before and after."""
    before = (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    verbosity = logging.get_verbosity()
    run = vision.train(CONFIG, tmp_path_factory.mktemp("api") / "run", TINY)
    after = (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    return run, before == after and logging.get_verbosity() == verbosity


def test_a_training_returns_its_record(trained):
    run, is_as_before = trained
    assert is_as_before
    assert run.result == json.loads((run.workdir / "result.json").read_text())
    assert run.result["config"]["model"]["variant"] == "mu/4" and run.result["steps"] == 4
    assert run.metrics["accuracy"] == run.result["accuracy"]
    assert repr(run).startswith(f"TrainedRun({run.workdir}: test: loss ")
    assert run.load().classes == tuple(map(str, range(10)))


def test_the_same_call_returns_the_finished_run(trained, capsys):
    run, _ = trained
    config = load(CONFIG)
    untouched = config.copy_and_resolve_references()
    again = vision.train(config, run.workdir, TINY)  # the config itself, not its name
    assert again.result == run.result and config == untouched
    assert capsys.readouterr().out.startswith("finished already: ")


SCRIPT = """
import sys, vision
from vision.support import progress

progress.REDRAWN_EVERY = progress.FIRST_LINE = progress.LINE_EVERY = 0.01
overrides = {**eval(sys.argv[3]), "log.progress": True}
run = vision.train(sys.argv[1], sys.argv[2], overrides)
print("evaluating", file=sys.stderr)
vision.evaluate(run.workdir, overrides=eval(sys.argv[4]))
"""


def test_in_a_script_only_the_training_says_how_far_it_is(tmp_path):
    command = [sys.executable, "-c", SCRIPT, CONFIG, str(tmp_path / "run")]
    command += [repr(TINY), repr(MEASURED)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    trained, evaluated = done.stderr.split("evaluating\n")
    assert "training: 0 of 4 steps\n" in trained and "step 4/4: val loss" in trained
    results = ("training: ", "step ", "vit mu/4: 13,834 parameters", "0.00 GFLOP a step")
    assert all(line.startswith(results) for line in trained.splitlines()), trained
    assert evaluated == ""


def test_an_evaluation_is_that_of_the_command(trained, tmp_path):
    run, _ = trained
    result = vision.evaluate(run.workdir, overrides=MEASURED)
    folder = run.workdir / "evaluation"
    assert result.report == folder / "report.html" and result.report.is_file()
    assert result.summary == json.loads((folder / "metrics.json").read_text())
    accuracy = result.metrics["accuracy"]
    assert accuracy._asdict() == result.summary["metrics"]["accuracy"]
    assert accuracy.low <= accuracy.value <= accuracy.high
    assert accuracy.value == pytest.approx(run.metrics["accuracy"])
    text = repr(result)
    assert "EvaluationResult(64 images of digits, test" in text and "Accuracy: " in text
    # the same split by its name, into a directory of one's own, and nowhere
    model = run.load()
    written = model.evaluate(out=tmp_path / "out", split="test", overrides=MEASURED)
    assert written.report == tmp_path / "out" / "report.html" and written.report.is_file()
    assert written.metrics["accuracy"] == accuracy
    unwritten = model.evaluate("digits", split="val", overrides=MEASURED)
    assert unwritten.report is None and unwritten.summary["data"]["split"] == "val"


def test_a_bundle_answers_as_its_run(trained, tmp_path):
    run, _ = trained
    model = run.load()
    assert repr(vision.load(run)) == repr(model)  # a run stands for its directory
    out = vision.export(run, tmp_path / "bundle", formats=["onnx"])
    assert out == tmp_path / "bundle"
    bundle = vision.load(out)
    assert bundle.is_bundle and bundle.classes == model.classes
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    for ours, theirs in zip(model.predict(images), bundle.predict(images), strict=True):
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-5)


def test_an_interrupted_training_is_resumed(tmp_path):
    """Ctrl-C saves the run and is then what it is in Python; the same call goes on."""
    overrides = TINY | {"train.steps": 3000, "train.eval_every": 0, "log.every": 1}
    path = tmp_path / "run" / "metrics.jsonl"

    def interrupt():
        while not (path.is_file() and path.read_text()):
            if stop.wait(0.05):
                return
        os.kill(os.getpid(), signal.SIGINT)

    stop = threading.Event()
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt, match="the run is saved: the same call with workdir"):
            vision.train(CONFIG, tmp_path / "run", overrides)
    finally:
        stop.set()
        thread.join()
    steps = [int(step.name) for step in (tmp_path / "run" / "checkpoints").iterdir()]
    assert 0 < max(steps) < 3000 and not (tmp_path / "run" / "result.json").exists()
    with pytest.raises(UserError, match="train.steps is 3000 there, 4 here"):
        vision.train(CONFIG, tmp_path / "run", overrides | {"train.steps": 4})


def test_images_alone_are_learned_by_transfer(tmp_path, monkeypatch, capsys):
    """What a folder or a source is trained with, without training it."""
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (120, 100)).save(tmp_path / "photos" / name / "1.png")
    asked = []

    def note(config, workdir, again, files):
        asked.append((config, files))
        return {}

    monkeypatch.setattr(training, "run", note)
    for images, source, size in (("photos", "folder:photos", 224), ("digits", "digits", 96)):
        run = vision.train(images, overrides={"train.epochs": 2.0})
        config, files = asked.pop()
        assert config.data.source == source and config.model.name == "efficientnet_lite"
        assert config.model.pretrained and config.data.image_size == size
        assert run.workdir.parts[0] == "runs" and images in run.workdir.name
        line = capsys.readouterr().out
        assert (
            line.startswith(f"{source}: transfer learning from ") and "2 epochs, mirrored" in line
        )
        (tmp_path / "config.py").write_text(files["config.py"])
        assert load("config.py") == config


def test_a_run_of_a_folder_that_grew_keeps_its_config(tmp_path, monkeypatch, capsys):
    """What is chosen for images depends on their number; for a resumed run nothing is chosen."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)

    def add_photos(first, last):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
            for number in range(first, last):
                pixels = random.integers(0, 255, (120, 100, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")

    add_photos(0, 10)
    quick = {
        "train.steps": 1,
        "data.image_size": 32,
        "model.pretrained": "",
        "model.name": "mlp",
        "model.variant": "mu",
        "transfer.mode": "full",
        "transfer.depth": 0,
        "parallel.devices": 1,
        "log.progress": False,
        "log.tensorboard": False,
        "log.curves": False,
    }
    run = vision.train("photos", "run", quick)
    written = (tmp_path / "run" / "config.json").read_text()
    epochs = run.result["config"]["train"]["epochs"]
    add_photos(10, 15)
    assert recipe.choose("folder:photos").config.train.epochs != epochs
    capsys.readouterr()
    assert vision.train("photos", "run", quick).result == run.result
    assert capsys.readouterr().out.startswith("finished already: ")
    # and as if it had been interrupted before its test
    (tmp_path / "run" / "result.json").unlink()
    resumed = vision.train("photos", "run", quick | {"data.allow_changes": True})
    assert sum(resumed.result["split_sizes"].values()) == 30
    assert resumed.result["config"]["train"]["epochs"] == epochs
    before = json.loads(written)
    before["data"]["allow_changes"] = True
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == before
    # of other images it is not this run
    with pytest.raises(UserError, match="data.source is 'folder:photos' there, 'digits' here"):
        vision.train("digits", "run", quick)


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        ("configs/none.py", {}, "no config file 'configs/none.py'; did you mean"),
        (CONFIG, {"train.stps": 1}, r"no key 'train.stps' \(did you mean 'train.steps'\?\)"),
        (CONFIG, {"train.steps": 2.5}, "train.steps must be an integer, got 2.5"),
        (CONFIG, {"train.steps": -1}, "train.steps must be at least 0, got -1"),
        (CONFIG, {"data.source": "nowhere"}, "data.source = 'nowhere' is unknown"),
        (CONFIG, {"continual.tasks": "2"}, "asks for several trainings: run python -m vision.co"),
        (CONFIG, {"model.pretrained": "package:no_such/x.pth"}, "needs no-such: pip install no-su"),
    ],
)
def test_mistakes(config, overrides, message, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(UserError, match=message) as error:
        vision.train(config, tmp_path / "run", overrides)
    assert len(str(error.value).splitlines()) <= 2
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").glob("*.json"))


def test_what_an_evaluation_may_not_change(trained, tmp_path):
    run, _ = trained
    with pytest.raises(UserError, match="model.name belongs to the model and cannot be changed"):
        vision.evaluate(run.workdir, overrides={"model.name": "vit"})
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="none"):
        vision.evaluate(run.workdir, tmp_path / "none")
