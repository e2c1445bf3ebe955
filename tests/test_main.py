"""The command that trains: its files, research modules from outside, one line per mistake."""

import functools
import json
import pathlib
import subprocess
import sys
import textwrap

import cv2
import numpy as np
import pytest

from tests.support.commands import refusal
from vision import cli, main
from vision.config.load import from_dict

REPOSITORY = pathlib.Path(__file__).parent.parent
SMALL = (
    "--config=configs/vit_mnist5k.py:mu/4:smoke",
    "--config.data.source=digits",
    "--config.augment.affine=False",
    "--config.log.tensorboard=False",
    "--config.train.eval_every=4",
)
TRAIN = (*SMALL, "--config.parallel.devices=1")


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture
def refused(capsys):
    """Returns a function that runs a command line, which must fail, and returns its message."""
    return functools.partial(refusal, main.main, capsys)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a small run that ended."""
    workdir = tmp_path_factory.mktemp("finished") / "deep" / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        cli.run(main.main, [*TRAIN, f"--workdir={workdir}"])
    return workdir


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_run_leaves_what_later_stages_need(finished):
    result = json.loads((finished / "result.json").read_text())
    assert {
        "loss",
        "accuracy",
        "balanced_accuracy",
        "macro_f1",
        "confusion",
        "classes",
        "split_sizes",
    } <= result.keys()
    assert result["split_sizes"] == {"train": 64, "val": 64, "test": 64}
    assert (result["steps"], result["ended"], result["device"]) == (4, "finished", "1 x cpu")
    assert (
        result["versions"]["python"]
        and result["versions"]["jax"]
        and len(result["git_commit"]) >= 40
    )
    assert from_dict(result["config"]) == from_dict(
        json.loads((finished / "config.json").read_text())
    )
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 4 and any("val/accuracy" in line for line in lines)
    assert (finished / "checkpoints").is_dir()


def test_the_same_command_again_finds_the_run_ended(finished, capsys):
    before = json.loads((finished / "result.json").read_text())
    cli.run(main.main, [*TRAIN, f"--workdir={finished}"])
    after = json.loads((finished / "result.json").read_text())
    output = capsys.readouterr().out
    assert output.startswith("finished already: test: loss ") and "finished at step 4" in output
    assert after == before


# Mistakes


def test_nothing_of_a_run_is_lost_to_a_mistake(finished, refused):
    """Another config, one that cannot run, and one with a key that may change but does not fit."""
    before = contents(finished)
    workdir = f"--workdir={finished}"
    error = refused(*TRAIN, workdir, "--config.optimizer.learning_rate=0.5", "--config.seed=1")
    assert (
        "holds a run with another config: optimizer.learning_rate is 0.002 there, 0.5 here; "
        "seed is 0 there, 1 here" in error
    )
    assert "Give another --workdir" in error
    for wrong in (
        "--config.model.variant=mu",
        "--config.modle.name=vit",
        "--config.train.batch_size=0",
    ):
        refused(*TRAIN, workdir, wrong)
    (finished / "result.json").rename(finished / "result")  # it is not tested yet
    before_test = contents(finished)
    assert "does not divide over 3 devices" in refused(
        *TRAIN, workdir, "--config.parallel.devices=3"
    )
    assert "eval_batch_size" in refused(*SMALL, workdir, "--config.train.eval_batch_size=9")
    assert contents(finished) == before_test
    (finished / "result").rename(finished / "result.json")
    assert contents(finished) == before


CANNOT_RUN = [
    (
        "model.name=vitt",
        "model.name = 'vitt' is unknown (did you mean 'vit'?): choose from airbench, alexnet, ",
    ),
    ("model.name=", "model.name = '' is unknown: choose from"),
    ("model.name=.vit", "model.name = '.vit': there is no such module on the path"),
    (
        "model.name=no_such.model",
        "model.name = 'no_such.model': there is no such module on the path",
    ),
    (
        "model.name=layers",
        "module vision.models.layers has no build function; built-in: airbench, alexnet, ",
    ),
    ("model.variant=Ti", "model.variant = 'Ti' is unknown: choose from mu/PATCH"),
    ("model.variant=mu/3", "images of 8 px cannot be cut into patches of 3 px"),
    (
        "model.pool=tokens",
        "model.pool = 'tokens' is unknown (did you mean 'token'?): choose from token, mean",
    ),
    ("model.dropout=1.5", "model.dropout must be in [0, 1), got 1.5"),
    (
        "model.batch_norm_groups=2",
        "model 'vit' has no option 'batch_norm_groups'; its options: pool, positions",
    ),
    ("model.options.width=3", "model 'vit' has no option 'width'"),
    ("model.options.name=3", "model.options cannot contain name: set model.name itself"),
    ("model.dtype=float16", "model.dtype = 'float16' is unknown"),
    (
        "objective.name=superviced",
        "objective.name = 'superviced' is unknown (did you mean 'supervised'?)",
    ),
    (
        "objective.class_weights=inverted",
        "objective.class_weights = 'inverted': use none, inverse, effective_number",
    ),
    ("objective.class_weights=[1, 2]", "objective.class_weights = '[1, 2]': give 10 weights"),
    ("optimizer.name=adamv", "optimizer.name = 'adamv' is unknown (did you mean 'adam"),
    ("schedule.name=cosin", "schedule.name = 'cosin' is unknown (did you mean 'cosine'?)"),
    ("checkpoint.metric=val/acc", "checkpoint.metric = 'val/acc'"),
    ("checkpoint.metric=accuracy", "checkpoint.metric = 'accuracy'"),
    ("checkpoint.mode=most", "checkpoint.mode = 'most'"),
    ("augment.mixup=-1", "augment.mixup must be at least 0, got -1.0"),
    ("data.normalize=units", "data.normalize = 'units' is unknown (did you mean 'unit'?)"),
    ("data.normalize=mean_std", "data.mean = () has 0 numbers"),
    (
        "data.source=mnist6k",
        "data.source = 'mnist6k' is unknown (did you mean 'mnist5k'?): choose from arrays",
    ),
    ("data.source=", "data.source = '' is unknown"),
    ("data.source=digits:3", "digits takes no argument"),
    ("data.source=folder:no/such", "folder 'no/such' does not exist"),
    ("data.source=folder:", "folder '' does not exist"),
    ("data.fractions=(0.5,0.5)", "data.fractions must be three shares"),
    ("data.channels=2", "data.channels must be 0, 1 or 3, got 2"),
    ("parallel.devices=9", "parallel.devices = 9, but there are 8 cpu devices"),
    ("train.batch_size=12", "train.batch_size = 12 does not divide over 8 devices: 16 does"),
    ("train.eval_batch_size=9", "train.eval_batch_size = 9 does not divide over 8 devices: 8 does"),
    (
        "train.accumulate=3",
        "train.batch_size = 8 does not divide over 8 devices times 3 accumulated parts: 24 does",
    ),
]


@pytest.mark.parametrize(
    "override, message", CANNOT_RUN, ids=[override for override, _ in CANNOT_RUN]
)
def test_a_config_that_cannot_run_says_why_and_leaves_no_directory(
    override, message, refused, tmp_path
):
    error = refused(*SMALL, f"--workdir={tmp_path / 'run'}", f"--config.{override}")
    assert message in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("epochs", ["0", "0.001"])
def test_nothing_to_train(epochs, refused, tmp_path):
    argv = [
        *SMALL,
        f"--workdir={tmp_path / 'run'}",
        "--config.train.steps=0",
        f"--config.train.epochs={epochs}",
    ]
    assert "nothing to train" in refused(*argv)
    assert not (tmp_path / "run").exists()


def test_folders_that_cannot_be_learned_from(refused, tmp_path):
    def source(name):
        return refused(
            *SMALL,
            f"--workdir={tmp_path / 'run'}",
            f"--config.data.source=folder:{tmp_path / name}",
        )

    (tmp_path / "empty").mkdir()
    assert "has no images in class folders: expected" in source("empty")
    (tmp_path / "single" / "cat").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "single" / "cat" / "1.png"), np.zeros((8, 8, 3), np.uint8))
    assert "has a single class, 'cat', but a classifier needs two" in source("single")
    (tmp_path / "mixed").mkdir()
    for name, side in (("cat", 8), ("dog", 9)):
        (tmp_path / "mixed" / name).mkdir()
        for i in range(10):
            cv2.imwrite(
                str(tmp_path / "mixed" / name / f"{i}.png"), np.zeros((side, side, 3), np.uint8)
            )
    assert "set data.image_size" in source("mixed")
    assert not (tmp_path / "run").exists()


def test_directories_that_cannot_be_used(refused, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "is a file: give a directory" in refused(*SMALL, f"--workdir={tmp_path / 'file'}")
    assert "cannot write to --workdir" in refused(*SMALL, f"--workdir={tmp_path / 'file' / 'run'}")
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("mine")
    assert "holds files but no run" in refused(*SMALL, f"--workdir={tmp_path / 'photos'}")
    assert list(contents(tmp_path / "photos")) == [pathlib.Path("cat.jpg")]
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text('{"seed": ')
    assert "config.json is damaged" in refused(*SMALL, f"--workdir={tmp_path / 'damaged'}")
    assert "--workdir needs a value" in refused(*SMALL, "--workdir", "--config.seed=3")


def test_as_a_program(tmp_path):
    """No traceback, exit code 2; with --traceback there is one."""
    command = [
        sys.executable,
        "-m",
        "vision.main",
        *SMALL,
        "--config.model.name=vitt",
        f"--workdir={tmp_path / 'run'}",
    ]
    plain = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert plain.returncode == 2 and "Traceback" not in plain.stderr
    assert plain.stderr.splitlines()[-1].startswith(
        "error: model.name = 'vitt' is unknown (did you mean 'vit'?)"
    )


def test_traceback_shows_where_it_came_from(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.run(main.main, [*SMALL, "--config.data.source=mnist6k", "--traceback"])
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert "Traceback (most recent call last)" in err and "in open_splits" in err
    assert err.splitlines()[-1].startswith("error: data.source = 'mnist6k'")


# Research modules outside the package

# the config sets `pool`, which only vit has
IDEA = ("--config.model.name=my_idea.model", "--config.model.pool=None")
MODEL = """
from flax import nnx


class Idea(nnx.Module):
    def __init__(self, features, hidden, num_classes, rngs):
        self.hidden = nnx.Linear(features, hidden, rngs=rngs)
        self.head = nnx.Linear(hidden, num_classes, rngs=rngs)

    def embed(self, images):
        return nnx.relu(self.hidden(images.reshape(len(images), -1)))

    def __call__(self, images):
        return self.head(self.embed(images))


def build(variant, num_classes, *, rngs, dtype, image_size, channels, hidden=8):
    return Idea(image_size**2 * channels, hidden, num_classes, rngs)
"""
OBJECTIVE = """
import jax.numpy as jnp
from flax import nnx


class Squares(nnx.Module):
    def __init__(self, model):
        self.model = model

    def loss(self, batch):
        error = self.model(batch["image"]) - batch["label"]
        return jnp.square(error).sum(-1).mean(), {"largest": jnp.abs(error).max()}


def build(c, model, *, class_counts, rngs):
    assert c.label_smoothing == 0.25 and class_counts.shape == (10,)
    return Squares(model)
"""


@pytest.fixture
def idea(tmp_path, monkeypatch):
    """A package of one model and one objective, somewhere on the path."""
    package = tmp_path / "my_idea"
    package.mkdir()
    (package / "model.py").write_text(MODEL)
    (package / "squares.py").write_text(OBJECTIVE)
    (package / "broken.py").write_text("import a_package_that_is_not_there\n")
    (package / "empty.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_idea"
    for name in [name for name in sys.modules if name.split(".")[0] == "my_idea"]:
        del sys.modules[name]


def test_adding_a_model_means_adding_one_file(idea, tmp_path):
    workdir = tmp_path / "run"
    argv = [*TRAIN, *IDEA, f"--workdir={workdir}", "--config.model.options.hidden=24"]
    argv += [
        "--config.data.limit=0",
        "--config.train.batch_size=64",
        "--config.optimizer.learning_rate=0.02",
    ]
    argv += [
        "--config.train.steps=60",
        "--config.train.eval_every=60",
        "--config.checkpoint.every=0",
    ]
    cli.run(main.main, argv)
    result = json.loads((workdir / "result.json").read_text())
    assert result["accuracy"] > 0.7 and result["steps"] == 60
    stored = json.loads((workdir / "config.json").read_text())
    assert stored["model"]["options"] == {"hidden": 24}
    assert from_dict(stored).model.options.hidden == 24


def test_adding_an_objective_means_adding_one_file(idea, tmp_path):
    workdir = tmp_path / "run"
    argv = [*TRAIN, *IDEA, f"--workdir={workdir}", "--config.objective.name=my_idea.squares"]
    cli.run(main.main, [*argv, "--config.objective.label_smoothing=0.25"])
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert any("train/largest" in line for line in lines)
    assert "accuracy" in json.loads((workdir / "result.json").read_text())


def test_mistakes_in_a_research_module(idea, refused, tmp_path):
    argv = [*TRAIN, *IDEA, f"--workdir={tmp_path / 'run'}"]
    error = refused(*argv, "--config.model.options.hiden=3")
    assert "has no option 'hiden' (did you mean 'hidden'?); its options: hidden" in error
    assert "has no build function" in refused(*argv, "--config.model.name=my_idea.empty")
    assert "there is no such module on the path" in refused(
        *argv, "--config.model.name=my_idea.modle"
    )
    # its author needs the traceback
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        cli.run(main.main, [*argv, "--config.model.name=my_idea.broken"])


def test_a_fresh_directory_is_made_under_runs(tmp_path, monkeypatch):
    config = tmp_path / "mine.py"
    config.write_text(
        textwrap.dedent("""
        from vision.config.load import load
        def get_config(size="mu/4"):
            c = load("configs/vit_mnist5k.py")
            c.data.source, c.model.variant, c.augment.affine = "digits", size, False
            return c
        """).replace("configs/", f"{REPOSITORY}/configs/")
    )
    monkeypatch.chdir(tmp_path)
    argv = [
        "--config",
        "mine.py:mu/4:smoke",
        "--config.parallel.devices=1",
        "--config.log.tensorboard=False",
    ]
    cli.run(main.main, argv)
    (run,) = (tmp_path / "runs").iterdir()  # directly: the slash of mu/4 makes no folder
    assert run.name.startswith("mine-mu") and (run / "result.json").is_file(), list(run.iterdir())
