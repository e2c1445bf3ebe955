"""The loop, run for real on tiny data: what it writes, when it stops, what it leaves."""

import contextlib
import json
import os
import signal

import jax
import numpy as np
import pytest
from flax import nnx

from vision import cli, main, parallel
from vision.config import default
from vision.data.pipeline import open_data
from vision.errors import UserError
from vision.run.directory import open_workdir
from vision.training.evaluate import evaluate
from vision.training.log import RunLog
from vision.training.loop import train
from vision.training.session import Session
from vision.training.setup import build_step
from vision.training.state import StateSpec

SCALARS = ("loss", "accuracy", "top5_accuracy", "balanced_accuracy", "macro_f1")


def tiny(**changes):
    """12 steps on 64 digits; `changes` are flattened keys with a double underscore for the
    point."""
    c = default()
    c.data.source = "digits"
    c.data.limit = 64
    c.model.name = "vit"
    c.model.variant = "mu/2"
    c.train.steps = 12
    c.train.batch_size = 16
    c.train.eval_every = 4
    c.log.every = 2
    c.log.tensorboard = False
    c.parallel.devices = 1
    c.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return c


def run(c, workdir):
    """Trains as `vision.main` does; returns the `Outcome`."""
    mesh = parallel.make_mesh(c.parallel.devices)
    return train(c, open_data(c, mesh), open_workdir(workdir, c), mesh)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def values(workdir, name):
    return [(line["step"], line[name]) for line in lines(workdir) if name in line]


def saved_steps(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())


@pytest.mark.parametrize("mode", ["auto", "max"])
def test_the_lowest_loss_is_the_best(mode, tmp_path, capsys):
    """Older versions wrote mode "max" into every config, and kept the highest loss."""
    changes = {
        "train__steps": 5,
        "train__eval_every": 1,
        "optimizer__learning_rate": 0.3,  # rises again
        "checkpoint__metric": "val/loss",
        "early_stopping__enabled": True,
        "early_stopping__patience": 4,
    }
    result = main.run(tiny(checkpoint__mode=mode, **changes), tmp_path / "run")
    losses = dict(values(tmp_path / "run", "val/loss"))
    assert result["best_step"] == min(losses, key=losses.get)
    assert len(set(losses.values())) == len(losses)
    assert ("checkpoint.mode = max contradicts" in capsys.readouterr().out) == (mode == "max")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["checkpoint"]["mode"] == "min"
    config["checkpoint"]["mode"] = "max"  # as an older version wrote it
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert main.run(tiny(**changes), tmp_path / "run")["best_step"] == result["best_step"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run with everything that it writes; returns (result, workdir)."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    c = tiny(checkpoint__every=3, log__tensorboard=True, log__images=5, augment__affine=True)
    return main.run(c, workdir), workdir


def test_metrics_file(finished):
    _, workdir = finished
    train_steps = [step for step, _ in values(workdir, "train/loss")]
    # every log.every, and wherever something was saved
    assert train_steps == [2, 3, 4, 6, 8, 9, 10, 12]
    for name in SCALARS:
        assert [step for step, _ in values(workdir, f"val/{name}")] == [4, 8, 12]
    for line in lines(workdir):
        assert all(name == "step" or name.startswith(("train/", "val/")) for name in line)
    names = ("loss", "accuracy", "grad_norm", "learning_rate", "images_per_second")
    assert {f"train/{name}" for name in names} <= set(lines(workdir)[0])


def test_logged_speed_is_that_of_the_run(finished):
    """No line is faster than the step can be because its time was counted elsewhere."""
    result, workdir = finished
    speeds = [speed for _, speed in values(workdir, "train/images_per_second")][1:]
    assert result["images_per_second"] > 0
    assert max(speeds) < 20 * min(speeds)


def test_tensorboard_agrees_with_the_metrics_file(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, workdir = finished
    events = EventAccumulator(str(workdir / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    names = {name for line in lines(workdir) for name in line} - {"step"}
    assert set(events.Tags()["scalars"]) == names
    for name in names:
        scalars = [(e.step, e.value) for e in events.Scalars(name)]
        np.testing.assert_allclose(scalars, values(workdir, name), rtol=1e-6)
    picture = events.Images("train/augmented")[0]
    # five digits of 8 x 8, each with its border
    assert (picture.height, picture.width) == (2 * 10, 3 * 10)
    text = events.Tensors("parameters/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "head" in text and "Total" in text


def test_result(finished):
    result, workdir = finished
    saved = json.loads((workdir / "result.json").read_text())
    assert saved == json.loads(json.dumps(result))
    assert saved["ended"] == "finished" and saved["steps"] == 12
    accuracies = dict(values(workdir, "val/accuracy"))
    assert accuracies[saved["best_step"]] == max(accuracies.values())
    assert saved["best_step"] in saved_steps(workdir) and {9, 12} <= set(saved_steps(workdir))


def test_finished_run_does_not_train_on(finished):
    result, workdir = finished
    before = (workdir / "metrics.jsonl").read_bytes()
    again = main.run(tiny(checkpoint__every=3, log__images=5, augment__affine=True), workdir)
    assert (workdir / "metrics.jsonl").read_bytes() == before
    assert json.dumps(again) == json.dumps(result)


def test_never_waits_for_the_device(tmp_path, monkeypatch):
    """Between log lines nothing is fetched from the device."""
    fetched = []
    original = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda x: fetched.append(x) or original(x))
    c = tiny(log__every=100, train__eval_every=100, schedule__name="warmup_cosine")
    run(c, tmp_path)
    fetches = len(fetched)
    fetched.clear()
    c.train.steps = 24
    run(c, tmp_path / "longer")
    assert len(fetched) == fetches  # twice the steps, as many fetches


def test_early_stopping(tmp_path):
    """With a rate of zero nothing improves: the first evaluation is the best, and two more are
    borne."""
    c = tiny(optimizer__learning_rate=0.0, early_stopping__enabled=True, early_stopping__patience=2)
    c.train.eval_every = 2
    outcome = run(c, tmp_path)
    assert (outcome.why, outcome.steps) == ("stopped early", 6)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    again = run(c, tmp_path)
    assert (again.why, again.steps, again.best_step) == ("stopped early", 6, outcome.best_step)
    assert again.first_step is None
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_patience_that_ends_with_the_training(tmp_path):
    c = tiny(optimizer__learning_rate=0.0, early_stopping__enabled=True, early_stopping__patience=2)
    assert run(c, tmp_path).why == run(c, tmp_path).why == "finished"


def test_plateau_lowers_the_rate(tmp_path):
    """By its factor after each evaluation without a lower loss; the log shows the rate that a step
    was taken with."""
    rate = 1e-30  # too small to change a weight
    c = tiny(
        optimizer__learning_rate=rate,
        schedule__name="plateau",
        schedule__patience=1,
        schedule__warmup=0.0,
    )
    c.train.eval_every = 2
    run(c, tmp_path)
    rates = values(tmp_path, "train/learning_rate")
    assert [step for step, _ in rates] == [2, 4, 6, 8, 10, 12]
    np.testing.assert_allclose(
        [r / rate for _, r in rates], [1, 1, 0.1, 0.01, 1e-3, 1e-4], rtol=1e-5
    )


def test_best_by_the_lowest_loss(tmp_path):
    c = tiny(checkpoint__metric="val/loss", checkpoint__mode="min", checkpoint__keep_latest=1)
    c.optimizer.learning_rate = 0.05
    c.schedule.name = "constant"
    outcome = run(c, tmp_path)
    losses = dict(values(tmp_path, "val/loss"))
    assert losses[outcome.best_step] == min(losses.values())
    assert set(saved_steps(tmp_path)) == {outcome.best_step, 12}


def test_the_last_is_the_best_if_asked_for(tmp_path, capsys):
    c = tiny(checkpoint__metric="val/step", checkpoint__keep_latest=1)
    c.optimizer.learning_rate = 10.0  # it only gets worse
    assert run(c, tmp_path).best_step == 12
    assert saved_steps(tmp_path) == [12]
    assert values(tmp_path, "val/step") == [(4, 4.0), (8, 8.0), (12, 12.0)]
    assert "step 12.0" not in capsys.readouterr().err


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


def test_evaluation_on_any_devices_and_batch_sizes():
    """The same numbers on one device and on eight, also where the last batch is partly padding."""
    summaries = []
    for devices, batch_size in ((1, 64), (1, 50), (8, 64), (8, 24)):
        c = tiny(parallel__devices=devices, data__limit=100)
        mesh = parallel.make_mesh(devices)
        data = open_data(c, mesh)
        step = build_step(c, data, mesh, 1)
        summaries.append(evaluate(step, step.initialize(), data.loaders["test"], batch_size, True))
        assert sum(summaries[-1]["support"]) == 100
    for summary in summaries[1:]:
        assert summary["confusion"] == summaries[0]["confusion"]
        assert summary["loss"] == pytest.approx(summaries[0]["loss"], rel=1e-5)
        assert summary["top5_accuracy"] == summaries[0]["top5_accuracy"]


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


def test_all_checkpoints_damaged(finished, tmp_path):
    """Named as what it is, each time."""
    import shutil

    workdir = shutil.copytree(finished[1], tmp_path / "run")
    (workdir / "result.json").unlink()
    for file in workdir.glob("checkpoints/*/state/manifest.ocdbt"):
        file.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(UserError, match="no checkpoint in .* can be restored"):
            main.run(tiny(checkpoint__every=3, log__images=5, augment__affine=True), workdir)


@contextlib.contextmanager
def stopping_at(step):
    """Sends this process the signal to stop once `step` steps are done."""
    advance = RunLog.advance

    def noticing(self, done):
        advance(self, done)
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, "advance", noticing)
        yield


def test_several_steps_a_dispatch_are_the_same_run(tmp_path):
    """Log lines come at calls' ends; evaluations, checkpoints and parameters are those of single
    steps."""
    c = tiny(optimizer__name="sgd", train__eval_every=5, checkpoint__every=4)
    single = run(c, tmp_path / "one")
    c.train.steps_per_dispatch = 3
    several = run(c, tmp_path / "three")
    assert saved_steps(tmp_path / "one") == saved_steps(tmp_path / "three")
    for name in SCALARS:
        ours, theirs = (values(tmp_path / each, f"val/{name}") for each in ("one", "three"))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert single.steps == several.steps and single.best_step == several.best_step
    assert [step for step, _ in values(tmp_path / "three", "train/loss")][-1] == 12


CNN = {"model__name": "cnn", "model__variant": "small"}  # with BatchNorm


@pytest.mark.parametrize("model", [{}, CNN], ids=["vit", "cnn"])
def test_several_steps_a_dispatch_interrupted_and_resumed_end_with_the_same_bits(tmp_path, model):
    c = tiny(
        train__steps_per_dispatch=3,
        train__eval_every=6,
        optimizer__lookahead=2,
        augment__flip_alternating=True,
        **model,
    )
    uninterrupted = run(c, tmp_path / "whole")
    with stopping_at(9):
        assert run(c, tmp_path / "parts").steps == 9
    resumed = run(c, tmp_path / "parts")
    assert values(tmp_path / "parts", "val/loss") == values(tmp_path / "whole", "val/loss")
    assert uninterrupted.best_step == resumed.best_step
    for a, b in zip(
        jax.tree.leaves(uninterrupted.state), jax.tree.leaves(resumed.state), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_a_lookahead_run_of_earlier_code_goes_on(tmp_path, monkeypatch, capsys):
    """Its checkpoints have no slow statistics: they start from those that were saved."""
    c = tiny(train__eval_every=6, optimizer__lookahead=4, **CNN)
    with monkeypatch.context() as patch, stopping_at(8):
        patch.setattr(StateSpec, "statistics", lambda self, rest: {})
        before = run(c, tmp_path / "run").state
    assert "slow" not in before
    capsys.readouterr()
    resumed = run(c, tmp_path / "run")
    assert "is from before lookahead averaged BatchNorm's statistics" in capsys.readouterr().err
    assert resumed.steps == 12 and saved_steps(tmp_path / "run")[-1] == 12
    # The last step pulls the statistics back to the slow ones.
    last = run(c, tmp_path / "run").state
    for kind in ("mean", "var"):
        rest = last["rest"]["model"]["stages"]["0"]["0"]["norm"][kind]
        slow = last["slow"]["model"]["stages"]["0"]["0"]["norm"][kind]
        np.testing.assert_array_equal(rest, slow)


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
        ({"parallel__xla_options": "xla_a"}, "NAME=VALUE is expected at 'xla_a'"),
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


class Whitened(nnx.Module):
    """A model that looks at the data before it begins."""

    def __init__(self, pixels, num_classes, rngs):
        self.mean = nnx.Variable(jax.numpy.zeros(pixels))
        self.head = nnx.Linear(pixels, num_classes, rngs=rngs)

    def initialize_from_data(self, images):
        self.mean[...] = images.reshape(len(images), -1).mean(0)

    def embed(self, images):
        return images.reshape(len(images), -1) - self.mean[...]

    def __call__(self, images):
        return self.head(self.embed(images))


def build(variant, num_classes, *, rngs, image_size):
    return Whitened(image_size**2, num_classes, rngs)


@pytest.mark.parametrize("resident_gib", [2.0, 0.0])
def test_a_model_initializes_itself_from_data(tmp_path, resident_gib):
    """From images of the training split, wherever they live."""
    c = tiny(
        model__name="tests.training.test_loop", train__steps=4, data__resident_gib=resident_gib
    )
    outcome = run(c, tmp_path)
    loader = open_data(c, parallel.make_mesh(1)).loaders["train"]
    images = np.asarray(loader.sample(5000), np.float32) / 127.5 - 1
    assert len(images) == 64
    np.testing.assert_allclose(
        outcome.state["rest"]["model"]["mean"], images.reshape(64, -1).mean(0), atol=1e-6
    )
