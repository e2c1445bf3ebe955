"""The loop, run for real on tiny data: what it writes, when it stops, what it leaves."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from tests.training.runs import SCALARS, lines, run, saved_steps, tiny, values
from vision import main, parallel
from vision.data.pipeline import open_data
from vision.errors import UserError
from vision.training.evaluate import evaluate, evaluate_with_logits
from vision.training.setup import build_step


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
    loader = data.loaders["test"]
    tested, logits, readable = evaluate_with_logits(step, step.initialize(), loader, 24, "testing")
    assert readable.all() and logits.shape == (100, 10)
    assert tested["confusion"] == summaries[0]["confusion"]
    assert (logits.argmax(1) == loader.dataset.source.labels).mean() == summaries[0]["accuracy"]


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
