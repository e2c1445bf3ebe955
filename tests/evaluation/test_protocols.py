"""Linear evaluation as papers do it: what each protocol sets, and a training by the command."""

import gzip
import json

import pytest

from vision import cli
from vision.config import default
from vision.config.validate import validate
from vision.evaluation import probe, protocols

# Values of the papers' sections, at their batch sizes.
PAPERS = {
    "simclr": ("sgd", True, 0.1 * 4096 / 256, 90, "cosine"),
    "moco": ("sgd", False, 30.0, 100, "step"),
    "mae": ("lars", False, 0.1 * 16_384 / 256, 90, "warmup_cosine"),
}


def run_config(**train):
    """The config of a run that has learned in another way altogether."""
    c = default()
    c.model.name = "resnet"
    c.model.variant = "mu"
    c.model.stochastic_depth = 0.1
    c.objective.label_smoothing = 0.1
    c.augment.mixup = 0.2
    c.augment.hue = 0.1
    c.optimizer.clip_norm = 1.0
    c.optimizer.ema = 0.9
    c.schedule.warmup = 0.2
    c.imbalance.sampling = "over"
    c.data.unlabeled = "rest"
    c.train.update(train)
    return c


def made(name, c=None, **keys):
    return protocols.configs(protocols.PROTOCOLS[name], c or run_config(), "runs/pets", **keys)


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_values(name):
    optimizer, nesterov, rate, epochs, schedule = PAPERS[name]
    batch_size = protocols.PROTOCOLS[name].batch_size
    (c,) = made(name, batch_size=batch_size).values()
    validate(c)
    assert (c.optimizer.name, c.optimizer.nesterov, c.optimizer.momentum) == (
        optimizer,
        nesterov,
        0.9,
    )
    assert c.optimizer.learning_rate == pytest.approx(rate) and c.optimizer.weight_decay == 0
    assert (c.train.epochs, c.train.batch_size, c.schedule.name) == (epochs, batch_size, schedule)
    assert c.optimizer.clip_norm == c.optimizer.ema == 0


def test_schedules():
    (moco,) = made("moco").values()
    assert [share * moco.train.epochs for share in moco.schedule.boundaries] == [60, 80]
    assert moco.schedule.factor == 0.1 and moco.schedule.warmup == 0
    (mae,) = made("mae").values()
    assert mae.schedule.warmup * mae.train.epochs == pytest.approx(10)


def test_byol_tries_five_rates():
    trainings = made("byol", batch_size=1024)
    assert list(trainings) == [0.4, 0.3, 0.2, 0.1, 0.05]
    assert [c.optimizer.learning_rate for c in trainings.values()] == list(trainings)
    c = trainings[0.4]
    assert (c.train.epochs, c.train.batch_size, c.optimizer.nesterov) == (80, 1024, True)


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_only_the_head_learns_from_crops_and_flips(name):
    for c in made(name).values():
        assert (c.model.pretrained, c.transfer.mode) == ("runs/pets", "head")
        assert c.transfer.new_head and c.model.stochastic_depth == 0
        augment = default().augment
        augment.random_resized_crop = augment.flip_horizontal = True
        augment.crop_area = (0.08, 1.0)
        assert c.augment.to_dict() == augment.to_dict()
        assert c.objective.to_dict() == default().objective.to_dict()
        assert c.imbalance.sampling == "none" and not c.data.unlabeled


def test_crops_made_while_loading_stay_there():
    c = run_config()
    c.data.random_crop_area = (0.5, 1.0)
    (moco,) = made("moco", c).values()
    assert moco.data.random_crop_area == (0.08, 1.0) and not moco.augment.random_resized_crop
    assert c.data.random_crop_area == (0.5, 1.0)  # the run's own config is left alone


def test_the_rate_follows_the_batch_size():
    (c,) = made("moco", run_config(batch_size=64)).values()
    assert c.optimizer.learning_rate == pytest.approx(30 / 4) and c.train.batch_size == 64
    (c,) = made("simclr", batch_size=512).values()
    assert c.optimizer.learning_rate == pytest.approx(0.1 * 512 / 256)


def test_deviations():
    def listed(name, c=None, **keys):
        first = next(iter(made(name, c, **keys).values()))
        return protocols.deviations(protocols.PROTOCOLS[name], first)

    assert listed("byol", batch_size=1024) == []
    assert listed("moco", batch_size=256) == ["does not learn from the validation split"]
    c = run_config(batch_size=64)
    c.data.val_fraction = 0.0
    assert listed("mae", c, epochs=9) == [
        "no BatchNorm before the head",
        "shortened: 9 of 90 epochs",
        "batches of 64 images, not 16384: the learning rate is scaled in proportion",
    ]
    assert "chosen on the test split" in listed("byol", c)[-1]
    c.data.labels = "25/class"
    assert "learns from few labels: data.labels = 25/class" in listed("moco", c)


def command(*argv):
    cli.run(probe.main, [str(word) for word in argv])


def test_the_command(tiny_run, tmp_path, capsys):
    argv = ("--workdir", tiny_run, "--k=3", "--protocol=moco", "--epochs=1", f"--out={tmp_path}")
    command(*argv)
    out = capsys.readouterr().out
    record = json.loads((tmp_path / "probe.json").read_text())
    assert f"linear probe: {record['linear_probe']:.4f} (moco: shortened: 1 of 100 epochs" in out
    assert "3 nearest neighbors: 0." in out
    assert record["shortened"] and record["deviations"][0] == "shortened: 1 of 100 epochs"
    assert record["paper"].startswith("He et al. 2019") and record["learning_rate"] == 30
    result = json.loads((tmp_path / "probe" / "result.json").read_text())
    assert result["accuracy"] == record["linear_probe"]
    assert result["parameters"]["learning"] == 32 * 10 + 10 < result["parameters"]["all"]
    assert result["config"]["optimizer"]["learning_rate"] == 30 * record["batch_size"] / 256
    assert result["best_step"] == result["steps"]
    before, after = (
        gzip.decompress((run / "splits.csv.gz").read_bytes())
        for run in (tiny_run, tmp_path / "probe")
    )
    assert before == after  # the run's own images
    command(*argv)
    assert "finished already" in capsys.readouterr().out
    assert json.loads((tmp_path / "probe.json").read_text()) == record


def test_the_best_rate_on_validation_is_reported(monkeypatch, tmp_path):
    validation = {0.4: 0.5, 0.3: 0.7, 0.2: 0.6, 0.1: 0.7, 0.05: 0.1}

    def train(c, workdir, again):
        rate = c.optimizer.learning_rate / c.train.batch_size * 1024
        (accuracy,) = (a for r, a in validation.items() if r == pytest.approx(rate))
        workdir.mkdir(parents=True)
        lines = [{"step": 1, "val/accuracy": 0.0}, {"step": 2, "val/accuracy": accuracy}]
        lines.append({"step": 2, "train/loss": 0.0})
        (workdir / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
        return {"accuracy": rate}

    monkeypatch.setattr(protocols, "run", train)
    record = protocols.evaluate("byol", run_config(), "runs/pets", tmp_path)
    assert record["learning_rate"] == 0.3 and record["linear_probe"] == pytest.approx(0.3)
    assert record["validation"] == {f"{rate:g}": a for rate, a in validation.items()}
    assert sorted(path.name for path in (tmp_path / "probe").iterdir()) == sorted(
        f"rate_{rate:g}" for rate in validation
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--protocol=moko", "--out=x"), "--protocol = 'moko' is unknown (did you mean 'moco'?)"),
        (("--protocol=moco",), "--protocol=moco trains a head: give it a --out=DIR"),
        (("--epochs=3",), "--epochs and --batch_size need a --protocol that trains"),
        (("--protocol=moco", "--out=x", "--epochs=-1"), "--epochs must be at least 0, got -1"),
    ],
)
def test_mistakes(argv, message, capsys):
    with pytest.raises(SystemExit) as error:
        command("--workdir", "x", *argv)
    assert error.value.code == 2 and message in capsys.readouterr().err
