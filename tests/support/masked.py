"""Checks that a pruned model is the dense one with the same channels masked."""

import types

import jax
import numpy as np
from flax import nnx

from vision import models
from vision.compression import cut, importance
from vision.compression.groups import find_groups
from vision.config import default
from vision.models import surgery
from vision.models.layers.streams import Streams
from vision.models.weights import pretrained
from vision.run.weights import ready

CASES = {  # model, variant, image size, options
    "cnn": ("cnn", "mu", 16, {}),
    "resnet": ("resnet", "mu", 16, {}),
    "resnet_cifar": ("tests.support.tiny_residual", "cifar", 16, {}),
    "resnet_bottleneck": ("tests.support.tiny_residual", "bottleneck", 16, {}),
    "resnext": ("tests.support.tiny_residual", "next", 16, {}),
    "resnet_se": ("resnet", "mu", 16, {"gate": "se"}),
    "resnet_cbam": ("resnet", "mu", 16, {"gate": "cbam"}),
    "vgg": ("vgg", "mu", 32, {}),
    "alexnet": ("alexnet", "mu", 63, {}),
    "mobilenet": ("mobilenet", "mu", 16, {}),
    "efficientnet": ("efficientnet", "mu", 16, {}),
    "efficientnet_lite": ("efficientnet_lite", "mu", 16, {"padding": "same"}),
    "inception": ("inception", "mu", 75, {}),
    "airbench": ("airbench", "mu", 16, {}),
    "wide_resnet": ("wide_resnet", "mu", 16, {}),
    "wide_resnet_leaky": ("wide_resnet", "mu", 16, {"leak": 0.1}),
    "resnet_small": ("tests.support.tiny_residual", "small", 16, {}),
    "convnext": ("convnext", "mu", 32, {"layer_scale": 1.0}),
    "vit": ("vit", "mu/4", 8, {}),
    "vit_distilled": ("vit", "mu/4", 8, {"distilled": True}),
    "swin": ("swin", "mu", 16, {"window": 2}),
}
FEW_PRUNABLE = ("convnext", "swin", "resnet_cbam")  # only some of their channels


def make(case):
    """Returns (classifier, arrays): 5 classes, random parameters and statistics.

    The classifier has only the attributes that `prune` uses.
    """
    name, variant, size, options = CASES[case]
    config = default()
    config.model.name = name
    config.model.variant = variant
    for key, value in options.items():
        (config.model if key in config.model else config.model.options)[key] = value
    model = nnx.eval_shape(lambda: models.build(config.model, 5, size, 3, Streams(0)))
    random = np.random.default_rng(0)
    arrays = {}
    for key, shape in pretrained.shapes(model).items():
        value = random.normal(0, 0.3, shape)
        positive = key.endswith(("scale", "var"))
        arrays[key] = (np.abs(value) + 0.5 if positive else value).astype(np.float32)
    classifier = types.SimpleNamespace(
        model=ready(model, arrays),
        image_size=size,
        channels=3,
        classes=tuple("abcde"),
        config=config,
    )
    return classifier, arrays


def build(config, size):
    """Returns an abstract model."""
    return nnx.eval_shape(lambda: models.build(config.model, 5, size, 3, Streams(0)))


def check(case):
    """Asserts that they agree to 1e-5, and that the wanted share of parameters is removed."""
    classifier, arrays = make(case)
    size = classifier.image_size
    ratio = 0.1 if case in FEW_PRUNABLE else 0.3
    groups = find_groups(classifier.model, size, 3)
    scores = importance.l1(groups, arrays)
    pruned = cut.prune(classifier, groups, scores, cut.Goal(ratio))
    before, after = pruned.record["counts"]["parameters"]
    small = build(pruned.config, size)
    assert (
        before == surgery.count(classifier.model)[0]
        and after == surgery.count(small)[0] <= (1 - ratio) * before
    )
    masked = _mask(arrays, groups, scores, pruned.record["layers"])
    original_logits, masked_logits = _run(classifier.model, size, arrays, masked)
    (pruned_logits,) = _run(small, size, pruned.arrays)
    scale = np.abs(masked_logits).max()
    # the pruned channels had been used
    assert np.abs(masked_logits - original_logits).max() > 1e-3 * scale
    np.testing.assert_allclose(pruned_logits / scale, masked_logits / scale, rtol=0, atol=1e-5)


def _mask(arrays, groups, scores, layers):
    """Returns a copy of the arrays with zeros for the channels that pruning removes."""
    masked = {name: array.copy() for name, array in arrays.items()}
    for group, score in zip(groups, scores, strict=True):
        removed = np.argsort(score)[: len(group) - layers[group.name][1]]
        for (name, axis), indices in group.parts.items():
            np.moveaxis(masked[name], axis, 0)[indices[removed].ravel()] = 0
    return masked


def _run(model, size, *weights):
    """Returns a model's logits with each of the given weights."""
    images = np.random.default_rng(1).normal(size=(2, size, size, 3)).astype(np.float32)
    graph = nnx.graphdef(ready(model, weights[0]))
    run = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    return [np.asarray(run(nnx.state(ready(model, arrays)), images)) for arrays in weights]
