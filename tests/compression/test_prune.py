"""Pruning: the smaller model is the masked one, hits its target, and is a run that trains on."""

import types

import jax
import numpy as np
import pytest
from flax import nnx

from tests.support.masked import build, check, make
from vision.compression import cut, importance, latency
from vision.compression.cut import Goal
from vision.compression.groups import find_groups
from vision.data.augment import normalize
from vision.errors import UserError
from vision.inference import from_run
from vision.models import surgery
from vision.models.layers.streams import Streams
from vision.models.surgery.costs import multiply_adds
from vision.models.surgery.transfer import prepare
from vision.run.weights import ready


@pytest.mark.parametrize("case", ["resnet_cifar", "resnext", "efficientnet", "vit"])
def test_a_pruned_model_is_the_masked_dense_one(case):
    check(case)  # tests/slow has the other architectures


def channels(case):
    classifier, arrays = make(case)
    return classifier, arrays, find_groups(classifier.model, classifier.image_size, 3)


def test_flops_are_a_target():
    classifier, arrays, groups = channels("resnet_se")
    pruned = cut.prune(classifier, groups, importance.l1(groups, arrays), Goal(0.5, "flops"))
    before, after = pruned.record["counts"]["multiply-adds"]
    assert before == multiply_adds(classifier.model, 16)
    assert 0.3 * before < after == multiply_adds(build(pruned.config, 16), 16) <= 0.5 * before


class Stairs:
    """Replaces the clock: a model's time is its parameters, in tenths of the original's."""

    def __init__(self, original, batch):
        self.total = surgery.count(original.model)[0]
        self.batch = batch
        self.measured = []
        Stairs.last = self

    def __call__(self, classifier):
        share = np.ceil(10 * surgery.count(classifier.model)[0] / self.total) / 10
        self.measured.append(share)
        return {"batch": self.batch, "original": 1.0, "pruned": share, "share": share}


def test_latency_is_a_target(monkeypatch):
    """Of the few cuts that are measured, it is the smallest that is fast enough."""
    monkeypatch.setattr(cut, "RelativeLatency", Stairs)
    classifier, arrays, groups = channels("resnet_cifar")
    pruned = cut.prune(
        classifier, groups, importance.l1(groups, arrays), Goal(0.5, "latency", batch=7)
    )
    enough = [share for share in Stairs.last.measured if share <= 0.5]
    assert pruned.record["share"] == max(enough) and pruned.record["latency"]["batch"] == 7
    assert 2 < len(Stairs.last.measured) <= cut.MAX_MEASUREMENTS
    before, after = pruned.record["counts"]["parameters"]
    assert after <= pruned.record["share"] * before
    with pytest.raises(UserError, match=r"can remove at most \d+.\d% of the latency"):
        cut.prune(classifier, groups, importance.l1(groups, arrays), Goal(0.99, "latency"))
    assert len(Stairs.last.measured) == 1


def test_latency_is_that_of_onnx_runtime(tiny_run, monkeypatch):
    pytest.importorskip("jax2onnx")
    monkeypatch.setattr(latency, "MAX_ROUNDS", 20)
    classifier = from_run(tiny_run)
    result = latency.RelativeLatency(classifier, 3)(classifier)
    assert (result["batch"], result["rounds"]) == (3, 20) and 0.2 < result["share"] < 5
    assert result["share"] == result["pruned"] / result["original"]
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    probabilities, _ = latency.exported(classifier)(images)
    np.testing.assert_allclose(
        probabilities, classifier.probabilities_and_embeddings(images)[0], atol=1e-5
    )


def test_steps_go_the_same_part_of_the_way():
    """Two steps end where one does, in a model that was not trained between them."""
    classifier, arrays, groups = channels("vgg")
    goal = Goal(0.6, "flops", part=0.5)
    first = cut.prune(classifier, groups, importance.l1(groups, arrays), goal)
    assert 0.4 < first.record["share"] <= 0.4**0.5
    half = types.SimpleNamespace(**vars(classifier))
    half.config = first.config
    half.model = ready(build(first.config, 32), first.arrays)
    groups = find_groups(half.model, 32, 3)
    goal = Goal(0.6, "flops")
    last = cut.prune(half, groups, importance.l1(groups, first.arrays), goal, classifier)
    before, after = last.record["counts"]["multiply-adds"]
    assert before == multiply_adds(classifier.model, 32)
    assert after == multiply_adds(build(last.config, 32), 32)
    assert 0.2 < last.record["share"] == after / before <= 0.4


def test_wide_layers_keep_multiples_that_vector_units_like():
    kept = cut._keep([np.arange(1.0, n + 1) / n for n in (7, 8, 24, 100)], 0.4)
    assert [int(stays.sum()) for stays in kept] == [5, 4, 16, 64]
    assert all(stays[-1] for stays in kept)


def test_only_some_layers_are_cut_and_to_any_number():
    """Li et al. cut the first convolution of each block, and leave the residual stream."""
    classifier, arrays, groups = channels("resnet_cifar")
    inner = {g.name for g in groups if "layers.0" in g.name}
    assert inner and inner < {g.name for g in groups}
    goal = Goal(0.2, "flops", floor=0.0, only=r"layers\.0", rounded=False)
    pruned = cut.prune(classifier, groups, importance.l1(groups, arrays), goal)
    assert 0.6 < pruned.record["share"] <= 0.8
    for name, (before, after) in pruned.record["layers"].items():
        assert (after < before) == (name in inner)
    with pytest.raises(UserError, match="--only = 'block' matches no layer; there are "):
        cut.prune(classifier, groups, importance.l1(groups, arrays), Goal(0.3, only="block"))


def test_a_pruned_model_can_be_pruned_again():
    classifier, arrays, groups = channels("cnn")
    once = cut.prune(classifier, groups, importance.l1(groups, arrays), Goal(0.3))
    classifier.config = once.config
    classifier.model = ready(build(once.config, 16), once.arrays)
    groups = find_groups(classifier.model, 16, 3)
    twice = cut.prune(classifier, groups, importance.l1(groups, once.arrays), Goal(0.3))
    assert twice.record["counts"]["parameters"][0] == once.record["counts"]["parameters"][1]
    assert surgery.count(build(twice.config, 16))[0] == twice.record["counts"]["parameters"][1]


def test_a_ratio_that_would_empty_a_layer():
    classifier, arrays, groups = channels("cnn")
    with pytest.raises(
        UserError,
        match=r"--ratio = 0.999: .* at most \d\d.\d% of the parameters without emptying a layer",
    ):
        cut.prune(classifier, groups, importance.l1(groups, arrays), Goal(0.999))
    pruned = cut.prune(classifier, groups, importance.l1(groups, arrays), Goal(0.7))
    assert min(left for _, left in pruned.record["layers"].values()) >= 1


def test_a_layer_of_low_scores_keeps_its_floor(monkeypatch):
    """Even if all its channels matter less than any other."""
    monkeypatch.setattr(cut, "ALIGNED", {})
    classifier, _, groups = channels("cnn")
    scores = [
        np.random.default_rng(i).uniform(0, 1e-6 if i == 1 else 1, len(g)) + (i != 1)
        for i, g in enumerate(groups)
    ]
    for floor, left in ((0.3, -(-3 * len(groups[1]) // 10)), (0.0, 1)):
        pruned = cut.prune(classifier, groups, scores, Goal(0.3, floor=floor))
        assert list(pruned.record["layers"].values())[1] == [len(groups[1]), left]


def test_a_model_without_batch_norm_has_no_scales():
    classifier, arrays, groups = channels("vit")
    with pytest.raises(UserError, match="at most 0.0%"):
        cut.prune(classifier, groups, importance.bn(groups, arrays), Goal(0.1))


def test_the_least_scales_go_first(monkeypatch):
    monkeypatch.setattr(cut, "ALIGNED", {})
    classifier, arrays, groups = channels("cnn")
    for i, group in enumerate(groups):
        arrays[group.scales[0]] = np.roll(np.linspace(0.1, 1, len(group), dtype=np.float32), i)
    classifier.model = ready(classifier.model, arrays)
    pruned = cut.prune(classifier, groups, importance.bn(groups, arrays), Goal(0.5))
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
    batch = {
        "image": random.integers(0, 256, (8, 16, 16, 3), np.uint8),
        "label": np.arange(8) % 5,
        "index": None,
    }
    loader = types.SimpleNamespace(
        data={}, train_batches=lambda plan, size: [batch] * importance.BATCHES
    )
    scores = importance.taylor(groups, classifier, loader)
    graph = nnx.graphdef(classifier.model)
    images = normalize(batch["image"], classifier.config.data.normalize, (), ())

    @jax.jit
    def loss(state):
        return -jax.nn.log_softmax(nnx.merge(graph, state)(images))[
            np.arange(8), batch["label"]
        ].mean()

    for group, score in zip(groups, scores, strict=True):
        best = int(score.argmax())
        step = 0.01
        values = []
        for factor in (1 - step, 1 + step):
            changed = {key: array.copy() for key, array in arrays.items()}
            for name, axis in group.readers:
                np.moveaxis(changed[name], axis, 0)[group.parts[name, axis][best]] *= factor
            values.append(float(loss(nnx.state(ready(classifier.model, changed)))))
        assert score[best] == pytest.approx(((values[1] - values[0]) / (2 * step)) ** 2, rel=0.05)


def test_a_run_that_learned_in_part_is_pruned_as_a_whole():
    classifier, arrays, groups = channels("cnn")
    c = classifier.config
    c.transfer.mode = "partial"
    c.transfer.depth = 1
    c.imbalance.retrain_head = 5.0
    c.imbalance.sampling = "smote"
    config = cut.prune(classifier, groups, importance.l1(groups, arrays), Goal(0.2)).config
    assert (config.transfer.mode, config.transfer.depth) == ("full", 0)
    assert config.imbalance.sampling == "over"
    prepare(config.transfer, classifier.model, Streams(0))  # has nothing against it


def test_a_config_of_another_variant(capsys):
    classifier, arrays, groups = channels("cnn")
    config = cut.prune(classifier, groups, importance.l1(groups, arrays), Goal(0.1)).config
    config.model.name = "resnet"
    with pytest.raises(UserError, match=r"model.options.pruned: \S+ is .* there, but the model"):
        build(config, 16)
