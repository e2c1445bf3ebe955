"""Networks of a supernet: their averages, their accuracy, and the runs that they become."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.search.architecture.conftest import SPACE
from vision import cli, inference
from vision.data.augment import normalize
from vision.models.layers.variants import choice_of, parse, spell
from vision.run.weights import run_weights
from vision.search.architecture import extract
from vision.search.architecture.networks import Shared, best_accuracy
from vision.training.run import run

pytestmark = pytest.mark.long

VARIANT = "c4-w8k5e2se1-h8"


@pytest.fixture(scope="module")
def shared(supernet):
    return Shared(supernet, calibration=32, batch=16)


@pytest.fixture(scope="module")
def extracted(supernet, tmp_path_factory):
    """(the run of a network, what the command printed)."""
    out = tmp_path_factory.mktemp("extracted") / "run"
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "show", lambda *texts: lines.extend(texts))
        argv = [f"--workdir={supernet}", f"--variant={VARIANT}", f"--out={out}"]
        argv += ["--config.train.steps=3", "--config.optimizer.learning_rate=0.0"]
        cli.run(extract.main, [*argv, "--config.log.progress=False", "--images=32"])
    return out, lines


def test_averages_are_the_means_over_batches(shared):
    """Of the stem, whose input does not depend on the network: against NumPy."""
    statistics = shared.statistics(choice_of(VARIANT))
    images = np.concatenate(shared._calibration)
    assert len(shared._calibration) == 2 and images.shape == (32, 8, 8, 1)
    d = shared.task.config.data
    x = np.asarray(normalize(jnp.asarray(images), d.normalize, d.mean, d.std), np.float64)
    kernel = shared.arrays["stem.conv.kernel"].astype(np.float64)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    maps = sum(
        padded[:, i : i + 8, j : j + 8] @ kernel[i, j] for i in range(3) for j in range(3)
    ).reshape(2, 16, 8, 8, 4)
    np.testing.assert_allclose(
        statistics["stem.norm.mean"], maps.mean((1, 2, 3)).mean(0), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        statistics["stem.norm.var"], maps.var((1, 2, 3)).mean(0), rtol=1e-3, atol=1e-6
    )


def test_the_run_has_the_accuracy_that_the_search_saw(shared, extracted):
    """Its first checkpoint, as an ordinary classifier, on the same validation images."""
    out, _ = extracted
    classifier = inference.from_run(out)
    assert not any(isinstance(v, nnx.RngState) for _, v in nnx.iter_modules(classifier.model))
    right = total = 0
    for images, labels, mask in shared._batches:
        logits, _ = classifier(np.asarray(images))
        right += int(((logits.argmax(1) == np.asarray(labels)) & np.asarray(mask)).sum())
        total += int(np.asarray(mask).sum())
    record = json.loads((out / "subnet.json").read_text())
    assert record["accuracy"] == pytest.approx(right / total, abs=1e-9)
    assert record["accuracy"] == shared.accuracy(choice_of(VARIANT))


def test_the_run_is_an_ordinary_one(supernet, extracted):
    out, lines = extracted
    config, data, arrays = run_weights(out)
    assert (config.model.variant, config.objective.name) == (VARIANT, "supervised")
    assert not config.objective.options and config.train.steps == 3
    assert data["step"] == 0 and arrays["stages.0.0.project.conv.kernel"].shape == (1, 1, 8, 8)
    kernel = run_weights(supernet)[2]["stages.0.0.depthwise.conv.kernel"]
    np.testing.assert_array_equal(arrays["stages.0.0.depthwise.conv.kernel"], kernel[..., :8])
    assert (out / "splits.csv.gz").is_file() == (supernet / "splits.csv.gz").is_file()
    assert any("python -m vision.main --workdir" in line for line in lines)


def test_the_run_trains_further(extracted):
    """At a rate of 0 its parameters stay, so it has started from them."""
    out, _ = extracted
    _, _, before = run_weights(out)
    assert run(inference.from_run(out).config, out)["steps"] == 3
    _, _, after = run_weights(out)
    for name in ("stem.conv.kernel", "head.kernel"):
        np.testing.assert_array_equal(after[name], before[name])
    assert 0 <= best_accuracy(out) <= 1


def test_all_networks_share_two_programs(shared):
    space = parse(SPACE)
    accuracies = {}
    for choice in (space.smallest(), space.largest(), space.sample(np.random.default_rng(0))):
        accuracies[spell(choice)] = shared.accuracy(choice)
    assert all(0 <= accuracy <= 1 for accuracy in accuracies.values())
    assert shared._programs._observe._cache_size() == 1
    assert shared._programs._right._cache_size() == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--variant=c4-w16e2-h8"], "w of stage 1 is 16, but the space has 4, 8"),
        (["--variant=c4-w8e2-w8e2-h8"], "of stage 2 is in only one of the two"),
        (["--variant=c4-w8.16e2-h8"], "--variant = .* is a space of 2 networks"),
        (["--variant=c4-w8z2-h8"], "'z' is unknown: choose from w, d, k, e, s, se"),
        ([], "give --variant NETWORK"),
        ([f"--variant={VARIANT}", "--config.train.stps=3"], "did you mean 'train.steps'"),
    ],
)
def test_mistakes(flags, message, supernet, tmp_path, capsys):
    import re

    out = tmp_path / "out"
    with pytest.raises(SystemExit) as error:
        cli.run(extract.main, [f"--workdir={supernet}", *flags, f"--out={out}"])
    text = capsys.readouterr().err
    assert error.value.code == 2 and re.search(message, text), text
    assert len(text.strip().splitlines()) <= 2 and not out.exists()


def test_a_run_that_is_no_supernet(tiny_run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        argv = [f"--workdir={tiny_run}", f"--variant={VARIANT}", f"--out={tmp_path / 'out'}"]
        cli.run(extract.main, argv)
    assert "is a run of the objective 'supervised', not of supernet" in capsys.readouterr().err


def test_what_is_there_stays(extracted, supernet, capsys):
    out, _ = extracted
    before = (out / "config.json").read_bytes()
    with pytest.raises(SystemExit):
        argv = [f"--workdir={supernet}", f"--variant={VARIANT}", f"--out={out}"]
        cli.run(extract.main, argv)
    assert "exists already" in capsys.readouterr().err
    assert (out / "config.json").read_bytes() == before
