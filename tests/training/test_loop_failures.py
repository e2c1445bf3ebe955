"""A training that fails or is refused: what it says, and what it leaves."""

import json

import jax
import numpy as np
import pytest

from tests.training.runs import run, saved_steps, tiny
from vision import cli, main, parallel
from vision.data.pipeline import open_data
from vision.errors import UserError
from vision.training.loop import train
from vision.training.session import Session

pytestmark = pytest.mark.long


def diverging(tmp_path, factor):
    """Six good steps, then with a learning rate that is `factor` times as high."""
    config = tmp_path / "config.py"
    config.write_text(
        "from vision.config import default\n"
        "def get_config():\n"
        "    c = default()\n"
        f"    c.update_from_flattened_dict({flat(tiny())!r})\n"
        "    c.optimizer.name, c.optimizer.learning_rate, c.checkpoint.every = 'sgd', 1.2, 1\n"
        f"    c.schedule.name, c.schedule.warmup, c.schedule.factor = 'step', 0.0, {factor}\n"
        "    c.schedule.boundaries = (0.5,)\n"
        "    return c\n"
    )
    return ["--config", str(config), "--workdir", str(tmp_path / "run")]


def flat(c):
    return {
        f"{group}.{key}": value
        for group, keys in c.to_dict().items()
        if isinstance(keys, dict)
        for key, value in keys.items()
        if not isinstance(value, dict) and value is not None
    }


@pytest.mark.parametrize(
    ("factor", "what"), [(1e30, "loss"), (3e38, "parameters no longer finite")]
)
def test_diverging_stops_with_what_is_needed_to_look(tmp_path, capsys, factor, what):
    """The first rate overflows in a later loss, the second in the parameters at once, which the
    loss does not see."""
    arguments = diverging(tmp_path, factor)
    with pytest.raises(SystemExit) as exit_:
        cli.run(main.main, arguments)
    assert exit_.value.code == 1
    message = capsys.readouterr().err
    batch = json.loads((tmp_path / "run" / "nonfinite_batch.json").read_text())
    assert batch["step"] in (7, 8, 9) and len(batch["images"]) == 16
    assert f"error: step {batch['step']}: loss" in message and what in message
    assert "learning rate 1.2e+30" in message or "learning rate inf" in message
    assert batch["images"][0] in message and "nonfinite_batch.json" in message
    steps = saved_steps(tmp_path / "run")
    assert max(steps) < batch["step"] and steps
    for step in steps:
        assert finite(tmp_path / "run" / "checkpoints" / str(step) / "state")
    failed = json.loads((tmp_path / "run" / "failed.json").read_text())
    reason = " ".join(message[message.index("error: ") + len("error: ") :].splitlines())
    assert failed["reason"] == reason and failed["step"] > max(steps)
    with pytest.raises(SystemExit):  # again from there: the same end
        cli.run(main.main, arguments)
    assert json.loads((tmp_path / "run" / "nonfinite_batch.json").read_text()) == batch


def test_a_training_that_goes_on_is_no_longer_a_failure(tmp_path):
    run(tiny(train__steps=2), tmp_path / "run")
    assert not (tmp_path / "run" / "failed.json").exists()
    (tmp_path / "run" / "failed.json").write_text("{}")
    run(tiny(train__steps=2), tmp_path / "run")
    assert not (tmp_path / "run" / "failed.json").exists()


def test_the_advice_on_memory_is_noted(tmp_path, monkeypatch):
    """The device's error is made up, as it is in the tests of the advice."""
    c = tiny()

    def fill_the_memory(session, call):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(Session, "update", fill_the_memory)
    with pytest.raises(UserError, match="^out of memory ") as raised:
        run(c, tmp_path / "run")
    failed = json.loads((tmp_path / "run" / "failed.json").read_text())
    assert failed["reason"] == " ".join(str(raised.value).splitlines())
    assert "train.batch_size=8" in failed["reason"]


def test_a_training_that_is_refused_after_its_directory_is_open_is_noted(tmp_path):
    """Unlike one that another run's directory refuses, which stays as it is."""
    c = tiny(train__steps=2)
    run(c, tmp_path / "run")
    data = tmp_path / "run" / "data.json"
    data.write_text(data.read_text().replace('"channels": 1', '"channels": 3'))
    (tmp_path / "run" / "failed.json").write_text("{}")
    with pytest.raises(UserError, match="other data: channels") as raised:
        run(c, tmp_path / "run")
    failed = (tmp_path / "run" / "failed.json").read_text()
    assert json.loads(failed)["reason"] == " ".join(str(raised.value).splitlines())
    other = tiny(train__steps=2, seed=1)
    mesh = parallel.make_mesh(other.parallel.devices)
    with pytest.raises(UserError, match="seed"):
        train(other, open_data(other, mesh), tmp_path / "run", mesh)
    assert (tmp_path / "run" / "failed.json").read_text() == failed


def finite(path):
    import orbax.checkpoint as ocp

    with pytest.warns(UserWarning, match="[Ss]harding"):
        leaves = jax.tree.leaves(ocp.PyTreeCheckpointer().restore(path))
    assert len(leaves) > 10
    return all(np.isfinite(x).all() for x in leaves)


def test_an_error_leaves_the_log_and_the_checkpoints_whole(tmp_path, monkeypatch):
    """Whatever goes wrong in the loop, the save that was begun is finished and nothing is left
    running."""
    import threading

    from vision.training.session import Session

    def fail(*_):
        raise OSError("the data's disk is gone")

    c = tiny(checkpoint__every=3)
    threads = threading.active_count()
    monkeypatch.setattr(Session, "_measure", fail)
    with pytest.raises(OSError, match="gone"):
        run(c, tmp_path)
    assert saved_steps(tmp_path) == [3]
    assert threading.active_count() <= threads + 1  # at most Grain's or JAX's own
    monkeypatch.undo()
    assert run(c, tmp_path).steps == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__steps": 0, "train__epochs": 0.0}, "nothing to train"),
        (
            {"train__batch_size": 12, "parallel__devices": 8},
            "train.batch_size = 12 does not divide over 8 devices",
        ),
        ({"train__eval_batch_size": 12, "parallel__devices": 8}, "train.eval_batch_size = 12"),
        ({"checkpoint__metric": "val/acuracy"}, "did you mean 'val/accuracy'"),
        (
            {"schedule__name": "plateau", "optimizer__lookahead": 5},
            "lookahead and schedule.name=plateau cannot",
        ),
        ({"checkpoint__mode": "best"}, "checkpoint.mode = 'best' is unknown"),
    ],
)
def test_wrong_settings(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        run(tiny(**changes), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__test_time_augmentation": "flipp"}, "did you mean 'flip'"),
        ({"augment__pad_mode": "mirror"}, "augment.pad_mode"),
        ({"augment__flip_horizontal": True, "augment__flip_alternating": True}, "are both on"),
        (
            {"optimizer__freeze": "whitten", "optimizer__freeze_at": 0.5},
            "optimizer.freeze = 'whitten' matches no parameter; there are ",
        ),
        (
            {"optimizer__freeze": "(", "optimizer__freeze_at": 0.5},
            r"optimizer.freeze = '\(' is not a regular expression",
        ),
        ({"parallel__xla_options": "xla_a"}, "expected NAME=VALUE, got 'xla_a'"),
        (
            {"model__name": "resnet", "model__variant": "cifar20", "model__batch_norm_groups": 3},
            "does not divide",
        ),
    ],
)
def test_a_mistake_that_only_the_step_shows_leaves_no_directory(tmp_path, changes, message):
    c = tiny(**changes)
    mesh = parallel.make_mesh(1)
    with pytest.raises(UserError, match=message):
        train(c, open_data(c, mesh), tmp_path / "run", mesh)
    assert not (tmp_path / "run").exists()


def test_compiler_options_reach_the_step(tmp_path):
    with pytest.raises(UserError, match="parallel.xla_options = 'xla_no_such_option=1'"):
        run(tiny(parallel__xla_options="xla_no_such_option=1"), tmp_path)
