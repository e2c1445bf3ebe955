"""The models against PyTorch's own layers, layer by layer, from the files that make_references.py
wrote."""

import re

import jax
import numpy as np
import pytest
from flax import nnx

from tests.support.references import load, to_ours
from vision.models.layers.streams import Streams
from vision.models.resnet import ResNet
from vision.models.vit import ViT, sincos_2d

MAKE = {
    "vit": lambda rngs: ViT(24, 2, 3, 4, 5, image_size=12, rngs=rngs),
    "resnet_basic": lambda rngs: ResNet((1, 2), 8, 5, bottleneck=False, cifar=False, rngs=rngs),
    "resnet_bottleneck": lambda rngs: ResNet((1, 2), 4, 5, bottleneck=True, cifar=False, rngs=rngs),
    "resnet_cifar": lambda rngs: ResNet(
        (2, 1, 1), 4, 5, bottleneck=False, cifar=True, option_a=True, rngs=rngs
    ),
    "resnet_small": lambda rngs: ResNet(
        (1, 2, 1, 1), 4, 5, bottleneck=False, cifar=True, rngs=rngs
    ),
}
TO_TORCH = (  # our path, PyTorch's name
    (r"^stem\.conv", "conv1"),
    (r"^stem\.norm", "bn1"),
    (r"layers\.(\d)\.conv", lambda m: f"conv{int(m[1]) + 1}"),
    (r"layers\.(\d)\.norm", lambda m: f"bn{int(m[1]) + 1}"),
    (r"projection\.conv", "downsample.0"),
    (r"projection\.norm", "downsample.1"),
    (r"attention\.qkv\.(kernel|bias)", lambda m: f"self_attn.in_proj_{m[1]}"),
    (r"attention\.out", "self_attn.out_proj"),
    (r"mlp\.hidden", "linear1"),
    (r"mlp\.out", "linear2"),
    (r"^head", "fc"),
    (r"^class_token", "token"),
    (r"kernel$|scale$", "weight"),
    (r"\bmean$", "running_mean"),
    (r"\bvar$", "running_var"),
)


def torch_name(path):
    name = ".".join(map(str, path))
    for ours, theirs in TO_TORCH:
        name = re.sub(ours, theirs, name)
    return name


@pytest.fixture(scope="module", params=MAKE)
def pair(request):
    """Returns (model in evaluation mode with the reference's weights, reference)."""
    kept = nnx.Any(nnx.Param, nnx.BatchStat)
    model, reference = load(
        request.param, lambda: MAKE[request.param](Streams(0)), torch_name, kept
    )
    model.eval()
    return model, reference


def layers(model, images):
    """What make_references.py stores, from our model."""
    if isinstance(model, ViT):
        x = model.tokens(images)
        outputs = {"tokens": x}
        blocks = {f"blocks.{i}": block for i, block in enumerate(model.blocks)}
    else:
        x = model.features(images)["stem"]
        outputs = {"stem": x}
        blocks = {
            f"stages.{s}.{i}": block
            for s, stage in enumerate(model.stages)
            for i, block in enumerate(stage)
        }
    for name, block in blocks.items():
        outputs[name] = x = block(x)
    return outputs | {"embedding": model.embed(images), "logits": model(images)}


def test_each_layer(pair):
    model, reference = pair
    ours = jax.jit(lambda images: layers(model, images))(reference["images"])
    assert sorted(ours) == sorted(
        k.removeprefix("outputs/") for k in reference if k.startswith("outputs/")
    )
    for name, value in ours.items():
        np.testing.assert_allclose(
            value, reference[f"outputs/{name}"], rtol=1e-5, atol=1e-5, err_msg=name
        )


@pytest.mark.parametrize("pair", ["vit", "resnet_cifar"], indirect=True)
def test_gradients_and_running_statistics_of_a_training_step(pair):
    model, reference = pair
    graph, params, rest = nnx.split(nnx.clone(model), nnx.Param, ...)

    @jax.jit
    def step(params, rest):
        def loss(params):
            model = nnx.merge(graph, params, rest, copy=True)
            model.train()
            log_p = jax.nn.log_softmax(model(reference["images"]))
            value = -np.eye(5)[reference["labels"]] * log_p
            return value.sum(-1).mean(), nnx.state(model, nnx.BatchStat)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, statistics), gradients = step(params, rest)
    np.testing.assert_allclose(loss, reference["train/loss"], rtol=1e-5)
    for path, gradient in nnx.to_flat_state(gradients):
        expected = to_ours(reference[f"train/gradients/{torch_name(path)}"])
        np.testing.assert_allclose(
            gradient[...], expected, rtol=1e-3, atol=2e-5, err_msg=torch_name(path)
        )
    for path, variable in nnx.to_flat_state(statistics):
        name = torch_name(path)
        new = np.array(variable[...])
        if path[-1] == "var":  # PyTorch averages the unbiased estimate, Flax the biased one
            count = values_a_channel(reference["images"], path)
            old = reference[f"weights/{name}"]
            new = 0.9 * old + (new - 0.9 * old) * count / (count - 1)
        np.testing.assert_allclose(
            new, reference[f"train/{name}"], rtol=1e-5, atol=1e-5, err_msg=name
        )


def values_a_channel(images, path):
    """B * H * W at a BatchNorm of the CIFAR net, each of whose stages but the first halves the
    image."""
    batch, side = images.shape[:2]
    for _ in range(path[1] if path[0] == "stages" else 0):
        side = -(-side // 2)
    return batch * side * side


def test_sincos_positions():
    """Each patch's row is built from its own coordinates, and every row differs."""
    grid = 3
    width = 16
    ours = sincos_2d(grid, width)
    for y in range(grid):
        for x in range(grid):
            expected = [
                f(a / 10_000 ** (i / 3)) for a in (x, y) for f in (np.sin, np.cos) for i in range(4)
            ]
            np.testing.assert_allclose(ours[y * grid + x], expected, atol=1e-6)
    assert len(np.unique(ours.round(4), axis=0)) == grid**2
