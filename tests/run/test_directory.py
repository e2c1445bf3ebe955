"""A run directory: made, resumed with what may change, and refused without being touched."""

import json
import shutil

import pytest

from vision import main
from vision.config import default
from vision.errors import UserError
from vision.run.directory import open_workdir, own_config, resumed_config
from vision.training.phases import phases


def contents(directory):
    return {
        str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()
    }


@pytest.fixture
def workdir(tmp_path):
    """A run directory with a few results."""
    directory = open_workdir(tmp_path / "deep" / "run", default())
    (directory / "metrics.jsonl").write_text('{"step": 1}\n')
    return directory


def test_new_and_empty_directories(tmp_path):
    c = default()
    c.seed = 3
    c.model.options.width = 7
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        directory = open_workdir(str(tmp_path / name), c)
        assert json.loads((directory / "config.json").read_text()) == json.loads(
            json.dumps(c.to_dict())
        )


def test_same_config_resumes(workdir):
    before = contents(workdir)
    assert open_workdir(workdir, default()) == workdir
    assert contents(workdir) == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("log.every", 3),
        ("log.tensorboard", False),
        ("data.workers", 0),
        ("data.resident_gib", 0.0),
        ("train.eval_batch_size", 7),
        ("parallel.devices", 1),
        ("compile_cache", ""),
    ],
)
def test_what_may_change(workdir, key, value):
    """The new value is the one that config.json then holds."""
    c = default()
    c.update_from_flattened_dict({key: value})
    group, _, name = key.rpartition(".")
    saved = json.loads((open_workdir(workdir, c) / "config.json").read_text())
    assert (saved[group] if group else saved)[name] == value


def test_a_key_that_the_schema_gained_was_at_its_default(workdir):
    old = json.loads((workdir / "config.json").read_text())
    del old["augment"]["cutmix"], old["strong"], old["data"]["unlabeled"]
    del old["objective"]["options"]
    (workdir / "config.json").write_text(json.dumps(old))
    assert open_workdir(workdir, default()) == workdir


def test_an_option_of_an_objective_is_part_of_the_config(workdir):
    c = default()
    c.objective.options.schedule = {"warmup": 0.5}
    run = open_workdir(workdir.parent / "options", c)
    assert own_config([f"--workdir={run}"]).objective.options.schedule.warmup == 0.5
    assert open_workdir(run, c) == run
    with pytest.raises(
        UserError, match="objective.options.schedule.warmup is 0.5 there, 'unset' here"
    ):
        open_workdir(run, default())


def test_another_config_is_refused_by_its_keys(workdir):
    before = contents(workdir)
    c = default()
    c.seed = 1
    c.optimizer.learning_rate = 0.5
    c.model.options.width = 7
    c.log.every = 9
    with pytest.raises(UserError) as error:
        open_workdir(workdir, c)
    message = str(error.value)
    assert "optimizer.learning_rate is 0.001 there, 0.5 here" in message
    assert "seed is 0 there, 1 here" in message
    assert "model.options.width is 'unset' there, 7 here" in message
    assert "log.every" not in message
    assert contents(workdir) == before


def test_a_run_with_a_first_training_may_move(workdir):
    """Its new head starts from a directory inside it, which the config names."""
    c = default()
    c.imbalance.retrain_head = 2.0
    c.model.pretrained = "runs/x/representation"
    moved = open_workdir(workdir.parent / "other", c)
    c.model.pretrained = "/elsewhere/x/representation"
    assert open_workdir(moved, c) == moved
    c.imbalance.retrain_head = 0.0
    with pytest.raises(UserError, match="imbalance.retrain_head is 2.0 there, 0.0 here"):
        open_workdir(moved, c)


def test_many_differences_are_cut_short(workdir):
    c = default()
    c.augment.update({k: v + 1 for k, v in c.augment.items() if isinstance(v, float)})
    with pytest.raises(UserError, match=r"; and \d+ more\.\n"):
        open_workdir(workdir, c)


def test_foreign_files_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    before = contents(tmp_path)
    with pytest.raises(UserError, match="holds files but no run"):
        open_workdir(tmp_path, default())
    assert contents(tmp_path) == before


@pytest.mark.parametrize("text", ["", '{"seed": 0', "[]", "3"])
def test_damaged_or_foreign_config(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="config.json is"):
        open_workdir(tmp_path, default())
    assert (tmp_path / "config.json").read_text() == text


def test_start_that_was_killed(tmp_path):
    """A kill between the directory and its config leaves a half-written temporary file: no reason
    to refuse."""
    (tmp_path / ".config.json.0a1b2c3d.tmp").write_text('{"se')
    assert contents(open_workdir(tmp_path, default())).keys() == {"config.json"}


def test_places_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        open_workdir(tmp_path / "file", default())
    with pytest.raises(UserError, match="cannot write to --workdir"):
        open_workdir(tmp_path / "file" / "run", default())


@pytest.mark.parametrize(
    "form", [["--workdir=RUN"], ["--workdir", "RUN"], ["--config.seed=3", "-workdir", "RUN", "-h"]]
)
def test_the_config_of_the_named_run(workdir, form):
    c = default()
    c.seed = 5
    c.model.options.pruned = {"head": {"kernel": [3, 4]}}
    run = open_workdir(workdir.parent / "own", c)
    assert own_config([argument.replace("RUN", str(run)) for argument in form]) == c
    assert (
        own_config([f"--workdir={workdir.parent / 'new'}"])
        is own_config(["--workdir"])
        is own_config([])
        is None
    )


def test_other_widths_are_reported_briefly(workdir):
    c = default()
    c.model.options.pruned = {"head": {"kernel": [3, 4], "bias": [4]}}
    run = open_workdir(workdir.parent / "pruned", c)
    with pytest.raises(
        UserError,
        match=r"config: its model is pruned to other widths \(model.options.pruned.\*\)\.\n",
    ):
        open_workdir(run, default())


def test_a_run_of_two_trainings_is_resumed_with_the_config_of_both(workdir):
    place = workdir.parent / "two"
    config = default()
    config.imbalance.retrain_head = 2.0
    config.train.steps = 500
    config.train.epochs = 0.0
    assert resumed_config(place) is None
    (first, first_place), (second, _) = phases(config, place)
    open_workdir(first_place, first)
    assert resumed_config(place) == first
    with pytest.raises(UserError, match="holds the first of two trainings, representation/: give"):
        phases(first, place)
    open_workdir(place, second)
    of_both = resumed_config(place)
    assert phases(of_both, place) == [(first, first_place), (second, place)]
    shutil.rmtree(first_place)
    with pytest.raises(UserError, match="has lost the first of its two trainings"):
        main.main([f"--workdir={place}"])
