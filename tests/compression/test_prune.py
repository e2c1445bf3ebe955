"""Pruning: the smaller model is the masked one, hits its target, and is a run that trains on."""

import json
import types

import jax
import numpy as np
import pytest
from flax import nnx

from tests.compression.masked import build, check, make
from vision import cli, main
from vision.compression import importance, prune
from vision.compression.groups import find_groups
from vision.data.augment import normalize
from vision.errors import UserError
from vision.inference import from_run
from vision.models import surgery
from vision.models.table import multiply_adds
from vision.training.restore import ready


@pytest.mark.parametrize("case", ["resnet_cifar", "resnext", "efficientnet", "vit"])
def test_a_pruned_model_is_the_masked_dense_one(case):
    check(case)  # tests/slow has the other architectures


def channels(case):
    classifier, arrays = make(case)
    return classifier, arrays, find_groups(classifier.model, classifier.image_size, 3)


def test_flops_are_a_target():
    classifier, arrays, groups = channels("resnet_se")
    pruned = prune.prune(classifier, groups, importance.l1(groups, arrays), 0.5, "flops")
    before, after = pruned.record["counts"]["multiply-adds"]
    assert before == multiply_adds(classifier.model, 16)
    assert 0.3 * before < after == multiply_adds(build(pruned.config, 16), 16) <= 0.5 * before


def test_a_pruned_model_can_be_pruned_again():
    classifier, arrays, groups = channels("cnn")
    once = prune.prune(classifier, groups, importance.l1(groups, arrays), 0.3)
    classifier.config, classifier.model = once.config, ready(build(once.config, 16), once.arrays)
    groups = find_groups(classifier.model, 16, 3)
    twice = prune.prune(classifier, groups, importance.l1(groups, once.arrays), 0.3)
    assert twice.record["counts"]["parameters"][0] == once.record["counts"]["parameters"][1]
    assert surgery.count(build(twice.config, 16))[0] == twice.record["counts"]["parameters"][1]


def test_a_ratio_that_would_empty_a_layer():
    classifier, arrays, groups = channels("cnn")
    with pytest.raises(
        UserError, match=r"--ratio = 0.999: no more than \d\d.\d% of the parameters .* emptying a layer"
    ):
        prune.prune(classifier, groups, importance.l1(groups, arrays), 0.999)
    pruned = prune.prune(classifier, groups, importance.l1(groups, arrays), 0.9)
    assert min(left for _, left in pruned.record["layers"].values()) >= 1


def test_a_model_without_batch_norm_has_no_scales():
    classifier, arrays, groups = channels("vit")
    with pytest.raises(UserError, match="no more than 0.0%"):
        prune.prune(classifier, groups, importance.bn(groups, arrays), 0.1)


def test_the_least_scales_go_first():
    classifier, arrays, groups = channels("cnn")
    for i, group in enumerate(groups):
        arrays[group.scales[0]] = np.roll(np.linspace(0.1, 1, len(group), dtype=np.float32), i)
    classifier.model = ready(classifier.model, arrays)
    pruned = prune.prune(classifier, groups, importance.bn(groups, arrays), 0.5)
    left = np.concatenate([pruned.arrays[group.scales[0]] for group in groups])
    gone = sum(map(len, groups)) - len(left)
    every = np.sort(np.concatenate([arrays[group.scales[0]] for group in groups]))
    np.testing.assert_array_equal(np.sort(left), every[gone:])


def test_l1_is_the_norm_of_filters():
    _, arrays, groups = channels("vgg")
    for group, ranks in zip(groups, importance.l1(groups, arrays), strict=True):
        ((name, _),) = group.filters
        norms = np.linalg.norm(arrays[name].reshape(-1, len(group)).astype(np.float64), 1, axis=0)
        np.testing.assert_array_equal(np.argsort(norms), np.argsort(ranks))
        assert ranks.max() == 1


def test_taylor_importance_is_the_change_of_the_loss():
    """Against finite differences: the weights for a channel, scaled a little."""
    classifier, arrays, groups = channels("cnn")
    random = np.random.default_rng(0)
    batch = {"image": random.integers(0, 256, (8, 16, 16, 3), np.uint8), "label": np.arange(8) % 5, "index": None}
    feed = types.SimpleNamespace(data={}, train_batches=lambda plan, size: [batch] * importance.BATCHES)
    scores = importance.taylor(groups, classifier, feed)
    graph = nnx.graphdef(classifier.model)
    images = normalize(batch["image"], classifier.config.data.normalize, (), ())

    @jax.jit
    def loss(state):
        return -jax.nn.log_softmax(nnx.merge(graph, state)(images))[np.arange(8), batch["label"]].mean()

    for group, score in zip(groups, scores, strict=True):
        best, step, values = int(score.argmax()), 0.01, []
        for factor in (1 - step, 1 + step):
            changed = {key: array.copy() for key, array in arrays.items()}
            for name, axis in group.readers:
                np.moveaxis(changed[name], axis, 0)[group.parts[name, axis][best]] *= factor
            values.append(float(loss(nnx.state(ready(classifier.model, changed)))))
        assert score[best] == pytest.approx(((values[1] - values[0]) / (2 * step)) ** 2, rel=0.05)


@pytest.fixture(scope="module")
def pruned_run(tiny_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("pruned") / "run"
    cli.run(prune.main, [f"--workdir={tiny_run}", f"--out={out}", "--ratio=0.3", "--importance=taylor"])
    return out


def test_the_result_is_a_run(tiny_run, pruned_run):
    before, after = from_run(tiny_run), from_run(pruned_run)
    record = json.loads((pruned_run / "pruning.json").read_text())
    assert record["counts"]["parameters"] == [surgery.count(model.model)[0] for model in (before, after)]
    assert after.classes == before.classes and record["importance"] == "taylor"
    logits, embeddings = after(np.zeros((2, 8, 8, 1), np.uint8))
    assert logits.shape == (2, 10) and embeddings.shape == (2, 32)


def test_it_trains_on(pruned_run, tmp_path):
    flags = {"model.name": "vit", "model.variant": "mu/4", "parallel.devices": 1, "augment.affine": False}
    flags |= {"model.batch_norm_groups": None, "model.stochastic_depth": None, "log.progress": False}
    flags |= {"model.pretrained": pruned_run}
    argv = ["--config=configs/digits.py:smoke", f"--workdir={tmp_path / 'run'}"]
    cli.run(main.main, argv + [f"--config.{key}={value}" for key, value in flags.items()])
    tuned, pruned = from_run(tmp_path / "run"), from_run(pruned_run)
    shapes = [{n: v.shape for n, v in surgery.names(c.model).items()} for c in (tuned, pruned)]
    assert shapes[0] == shapes[1] and tuned.step == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "which run? Give --workdir"),
        (["--workdir=nowhere"], "where to? Give --out"),
        (["--workdir=nowhere", "--out=OUT", "--ratio=1"], "--ratio = 1.0: the share that goes lies between 0 and 1"),
        (["--workdir=nowhere", "--out=OUT", "--importance=l2"], "--importance = 'l2' is unknown"),
        (["--workdir=nowhere", "--out=OUT"], "nowhere is no run's directory"),
        (["--workdir=nowhere", "--out=."], "is there already"),
    ],
)
def test_bad_flags(flags, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.run(prune.main, [flag.replace("OUT", str(tmp_path / "out")) for flag in flags])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_a_config_of_another_variant(capsys):
    classifier, arrays, groups = channels("cnn")
    config = prune.prune(classifier, groups, importance.l1(groups, arrays), 0.1).config
    config.model.name = "resnet"
    with pytest.raises(UserError, match=r"model.options.pruned: \S+ is .* there, the model has"):
        build(config, 16)
