"""Masked autoencoders: against NumPy, their masks, what the encoder sees, and fine-tuning."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import erf

from tests.objectives.runs import checkpoint, lines, small
from vision import objectives
from vision.config import default
from vision.errors import UserError
from vision.models import vit
from vision.models.layers.positions import sincos_2d
from vision.models.layers.streams import Streams
from vision.models.resnet import ResNet
from vision.objectives.mae import Decoder, MaskedAutoencoder, standardize, unpatchify
from vision.run.initial import initial_weights
from vision.run.weights import run_weights
from vision.training.run import run

pytestmark = pytest.mark.long

CLASSES = 3
SIDE = 6
PATCH = 2
CHANNELS = 3
GRID = SIDE // PATCH
VISIBLE = 3
RNG = np.random.RandomState(0)
IMAGES = RNG.randn(4, SIDE, SIDE, CHANNELS)
LABELS = np.eye(CLASSES)[RNG.randint(0, CLASSES, 4)]
ORDER = np.stack([RNG.permutation(GRID**2) for _ in IMAGES])
BATCH = {"image": IMAGES, "label": LABELS}
DECODER = {"decoder_width": 12, "decoder_depth": 1, "decoder_heads": 3}


def make(visible=VISIBLE, pool="token", normalize=True, dtype="float64"):
    """Returns an autoencoder whose parameters are all random."""
    options = {"pool": pool, "positions": "learned" if pool == "token" else "sincos"}
    sizes = {"image_size": SIDE, "channels": CHANNELS, "dtype": dtype}

    def create():
        model = vit.ViT(8, 1, 2, PATCH, CLASSES, rngs=Streams(0), **sizes, **options)
        return MaskedAutoencoder(
            model, visible=visible, normalize_patches=normalize, **DECODER, rngs=Streams(1)
        )

    mae = nnx.eval_shape(create)  # compiles nothing
    mae.rngs = nnx.Rngs(mask=1)
    random = np.random.RandomState(1)
    state = nnx.state(mae, nnx.Param)
    arrays = jax.tree.map(
        lambda p: jnp.asarray((0.3 * random.randn(*p.shape)).astype(dtype)), state
    )
    nnx.update(mae, arrays)
    return mae


def parameters(mae):
    return {
        ".".join(map(str, path)): np.asarray(value.get_value())
        for path, value in nnx.to_flat_state(nnx.state(mae, nnx.Param))
    }


def patches_of(image):
    """Returns an image's patches, one by one."""
    corners = [(PATCH * row, PATCH * column) for row in range(GRID) for column in range(GRID)]
    return np.stack([image[y : y + PATCH, x : x + PATCH].ravel() for y, x in corners])


def normalized(x, p, name):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * p[f"{name}.scale"] + p[f"{name}.bias"]


def dense(x, p, name):
    return x @ p[f"{name}.kernel"] + p[f"{name}.bias"]


def block(x, p, name, heads):
    """A pre-norm block on the tokens (N, width) of one image."""
    qkv = dense(normalized(x, p, f"{name}.norm1"), p, f"{name}.attention.qkv")
    queries, keys, values = (np.split(part, heads, 1) for part in np.split(qkv, 3, 1))
    mixed = []
    for query, key, value in zip(queries, keys, values, strict=True):
        scores = np.exp(query @ key.T / np.sqrt(query.shape[1]))
        mixed.append(scores / scores.sum(1, keepdims=True) @ value)
    x = x + dense(np.concatenate(mixed, 1), p, f"{name}.attention.out")
    hidden = dense(normalized(x, p, f"{name}.norm2"), p, f"{name}.mlp.hidden")
    return x + dense(hidden * (1 + erf(hidden / np.sqrt(2))) / 2, p, f"{name}.mlp.out")


def reference(p, normalize=True):
    """The loss of the paper's figure 1, image by image, with patches put back into their places."""
    errors = []
    losses = []
    kernel = p["model.patches.kernel"].reshape(-1, 8)
    for image, label, order in zip(IMAGES, LABELS, ORDER, strict=True):
        visible = sorted(order[:VISIBLE])
        masked = sorted(order[VISIBLE:])
        patches = patches_of(image)
        tokens = patches @ kernel + p["model.patches.bias"]
        tokens = tokens + p["model.positions"][0, 1:]
        first = p["model.class_token"][0] + p["model.positions"][0, :1]
        x = np.concatenate([first, tokens[visible]])
        x = normalized(block(x, p, "model.blocks.0", 2), p, "model.norm")
        logits = dense(x[0], p, "model.head")
        embedded = dense(x, p, "decoder.embed")
        everywhere = np.repeat(p["decoder.mask_token"][0], GRID**2, 0)
        everywhere[visible] = embedded[1:]
        everywhere = everywhere + sincos_2d(GRID, 12)
        x = block(np.concatenate([embedded[:1], everywhere]), p, "decoder.blocks.0", 3)
        predicted = dense(normalized(x, p, "decoder.norm"), p, "decoder.pixels")[1:]
        target = patches
        if normalize:
            deviation = np.sqrt(patches.var(1, ddof=1, keepdims=True) + 1e-6)
            target = (patches - patches.mean(1, keepdims=True)) / deviation
        errors.append(((predicted - target) ** 2).mean(1)[masked].mean())
        losses.append(np.log(np.exp(logits).sum()) - logits @ label)
    return np.mean(errors), np.mean(losses)


def fix_order(mae, monkeypatch):
    monkeypatch.setattr(MaskedAutoencoder, "draw", lambda self, batch: jnp.asarray(ORDER))
    return mae


def test_the_loss_and_its_gradient_are_the_references(float64, monkeypatch):
    """Along a random direction of each parameter; the probe gives the network no gradient."""
    mae = fix_order(make(), monkeypatch)
    differentiate = nnx.value_and_grad(lambda m: m.loss(BATCH), has_aux=True)
    (loss, scalars), gradients = jax.jit(lambda m: differentiate(m))(mae)
    p = parameters(mae)
    error, probe = reference(p)
    assert float(scalars["reconstruction"]) == pytest.approx(error, rel=1e-6)
    assert float(loss) == pytest.approx(error + probe, rel=1e-6)
    random = np.random.RandomState(2)
    step = 1e-5
    for path, gradient in nnx.to_flat_state(gradients):
        name = ".".join(map(str, path))
        direction = random.randn(*gradient.shape)
        part = int(name.startswith("model.head"))
        up = reference(p | {name: p[name] + step * direction})[part]
        down = reference(p | {name: p[name] - step * direction})[part]
        slope = (up - down) / (2 * step)
        along = np.sum(np.asarray(gradient.get_value()) * direction)
        assert along == pytest.approx(slope, rel=1e-5, abs=1e-7), name


def test_the_loss_of_plain_pixels(float64, monkeypatch):
    mae = fix_order(make(normalize=False), monkeypatch)
    _, scalars = jax.jit(lambda m: m.loss(BATCH))(mae)
    error, _ = reference(parameters(mae), normalize=False)
    assert float(scalars["reconstruction"]) == pytest.approx(error, rel=1e-6)


def test_each_image_has_a_uniform_mask_of_its_own():
    """Exactly as many patches as asked for; each is visible equally often, and so is each pair."""
    mae = make(dtype="float32")
    count = 20_000
    order = np.asarray(mae.draw(count))
    assert (np.sort(order, 1) == np.arange(GRID**2)).all()
    visible = np.zeros((count, GRID**2))
    np.put_along_axis(visible, order[:, :VISIBLE], 1, axis=1)
    assert (visible.sum(1) == VISIBLE).all()
    share = VISIBLE / GRID**2
    deviation = np.sqrt(share * (1 - share) / count)
    assert np.abs(visible.mean(0) - share).max() < 5 * deviation
    pairs = visible.T @ visible / count
    wanted = share * (VISIBLE - 1) / (GRID**2 - 1)
    others = ~np.eye(GRID**2, dtype=bool)
    assert np.abs(pairs[others] - wanted).max() < 5 * np.sqrt(wanted / count)
    assert (np.asarray(mae.draw(count)) != order).any(1).mean() > 0.99


@pytest.mark.parametrize("pool", vit.POOLS)
def test_an_encoder_that_sees_everything_is_the_model(pool, float64):
    mae = make(visible=GRID**2, pool=pool)
    both = jax.jit(lambda m, x: (m.model.pool(m.encode(x, jnp.asarray(ORDER))), m.model.embed(x)))
    np.testing.assert_allclose(*both(mae, IMAGES), atol=1e-12)


def test_masked_pixels_do_not_reach_the_encoder():
    mae = make(dtype="float32")
    encode = jax.jit(lambda m, x: m.encode(x, jnp.asarray(ORDER)))
    encoded = encode(mae, np.float32(IMAGES))
    patches = np.stack([patches_of(image) for image in IMAGES])
    for chosen, changes in ((ORDER[:, VISIBLE:], False), (ORDER[:, :1], True)):
        changed = patches.copy()
        np.put_along_axis(changed, chosen[:, :, None], 7.0, axis=1)
        images = unpatchify(np.float32(changed), PATCH)
        again = encode(mae, images)
        assert (np.asarray(encoded) != np.asarray(again)).any() == changes


@pytest.mark.parametrize(("side", "patch", "channels"), [(6, 2, 3), (8, 8, 1), (10, 1, 2)])
def test_patches_make_up_the_image(side, patch, channels):
    images = np.random.RandomState(0).rand(2, side, side, channels)
    patches = vit.patchify(jnp.asarray(images), patch)
    assert patches.shape == (2, (side // patch) ** 2, patch * patch * channels)
    np.testing.assert_array_equal(unpatchify(patches, patch), np.float32(images))
    if (side, patch) == (SIDE, PATCH):
        wanted = np.stack([patches_of(image) for image in images])
        np.testing.assert_array_equal(patches, np.float32(wanted))


def test_a_standardized_patch_has_no_color_and_no_contrast(float64):
    patches = jnp.asarray(np.concatenate([RNG.randn(5, 12), 4 * RNG.randn(5, 12) + 2]))
    standardized, mean, deviation = standardize(patches)
    np.testing.assert_allclose(standardized.mean(1), 0, atol=1e-12)
    np.testing.assert_allclose(np.var(standardized, axis=1, ddof=1), 1, atol=1e-4)
    np.testing.assert_allclose(standardized * deviation + mean, patches, atol=1e-12)
    np.testing.assert_allclose(standardize(jnp.full((1, 12), 0.3))[0], 0, atol=1e-12)


def test_a_reconstruction_keeps_what_was_visible():
    mae = make(dtype="float32")
    images = jnp.asarray(IMAGES, jnp.float32)
    order = jnp.asarray(ORDER)
    result = jax.jit(lambda m: m.reconstruct(images, order))(mae)
    differs = (vit.patchify(result, PATCH) != vit.patchify(images, PATCH)).any(-1)
    assert (np.take_along_axis(np.asarray(differs), ORDER, 1) == (np.arange(9) >= VISIBLE)).all()
    # From perfect predictions follows the image itself.
    mae.decoder = lambda encoded, order, visible: mae.targets(images, order)
    result = jax.jit(lambda: mae.reconstruct(images, order))()
    np.testing.assert_allclose(result, images, atol=1e-5)


def digits(**options):
    c = small(method="")
    c.objective.name = "mae"
    c.objective.options.decoder_width = 16
    c.objective.options.decoder_depth = 1
    c.objective.options.decoder_heads = 2
    c.model.variant = "mu/2"
    c.model.pool = "mean"
    c.checkpoint.metric = "val/knn"
    c.augment.affine = False
    for name, value in options.items():
        c.objective.options[name] = value
    return c


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("mae") / "run"
    c = digits()
    c.train.steps = 60
    c.train.eval_every = 30
    c.optimizer.learning_rate = 3e-3
    run(c, workdir)
    return workdir


def test_a_run(pretrained):
    """The reconstruction improves; what is exported is the model alone."""
    errors = [line["train/reconstruction"] for line in lines(pretrained) if "train/loss" in line]
    assert np.mean(errors[-5:]) < 0.9 * np.mean(errors[:5])
    assert {"val/knn", "val/accuracy"} <= lines(pretrained)[-1].keys()
    assert "decoder" in checkpoint(pretrained, 60)["params"]
    _, _, weights = run_weights(pretrained)
    assert "head.kernel" in weights and not any("mask_token" in name for name in weights)


def finetuned(pretrained, pool="mean"):
    c = small()
    c.augment.affine = False
    c.model.variant = "mu/2"
    c.model.pool = pool
    c.model.pretrained = str(pretrained)
    c.transfer.new_head = True
    c.transfer.layer_decay = 0.75
    c.data.labels = "2/class"
    c.train.steps = 4
    return c


def test_fine_tuning_starts_from_the_encoder(pretrained, tmp_path):
    c = finetuned(pretrained)
    _, data, weights = run_weights(pretrained)
    start = initial_weights(c, types.SimpleNamespace(**data), tmp_path / "run")
    assert weights.keys() - start.keys() == {"head.bias", "head.kernel"}
    assert all(np.array_equal(weights[name], array) for name, array in start.items())
    result = run(c, tmp_path / "run")
    assert result["steps"] == 4 and result["split_sizes"]["train"] == 20
    _, _, moved = run_weights(tmp_path / "run")
    distance = np.abs(moved["patches.kernel"] - start["patches.kernel"]).max()
    assert 0 < distance < 4 * c.optimizer.learning_rate


def test_fine_tuning_needs_the_same_tokens(pretrained, tmp_path):
    with pytest.raises(UserError, match=r"not vit mu/2 with these options; .* class_token"):
        run(finetuned(pretrained, pool="token"), tmp_path / "run")


def plain(patch=2, **options):
    return vit.build(f"mu/{patch}", 10, image_size=6, channels=1, rngs=Streams(0), **options)


def build(create=plain, **options):
    c = default().objective
    c.name = "mae"
    for name, value in options.items():
        c.options[name] = value
    counts = np.ones(10)
    return nnx.eval_shape(
        lambda: objectives.build(c, create(), class_counts=counts, rngs=Streams(0))
    )


def test_the_published_decoder():
    """Counted by hand for ViT-B/16."""
    make_decoder = functools.partial(Decoder, 768, 512, 8, 16, 14, 768, dtype="float32")
    decoder = nnx.eval_shape(lambda: make_decoder(remat="none", rngs=Streams(0)))
    block = 4 * 512 * 512 + 4 * 512 + 8 * 512 * 512 + 5 * 512 + 4 * 512
    rest = 768 * 512 + 512 + 512 + 2 * 512 + 512 * 768 + 768
    sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(decoder, nnx.Param))]
    assert sum(sizes) == 8 * block + rest
    assert build().visible == 2  # a quarter of 9 patches


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ratio": 1.0}, r"mask_ratio must be in \(0, 1\), got 1.0"),
        ({"mask_ratio": float("nan")}, r"mask_ratio must be in \(0, 1\), got nan"),
        ({"mask_ratio": 0.97}, "mask_ratio = 0.97 masks 9 of 9 patches"),
        ({"mask_ratio": 0.02}, "mask_ratio = 0.02 masks 0 of 9 patches"),
        ({"decoder_width": 10}, "decoder_width must be .* multiple of 4 and of decoder_heads, 16"),
        ({"decoder_width": 10, "decoder_heads": 5}, "decoder_width must be .* multiple of 4"),
        ({"decoder_depth": 0}, "decoder_depth must be at least 1, got 0"),
        ({"decoder_heads": 0}, "decoder_heads must be at least 1, got 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


def resnet():
    return ResNet((1,), 4, 10, bottleneck=False, cifar=True, rngs=Streams(0), dtype="float32")


def test_models_whose_patches_cannot_be_left_out():
    for create in (resnet, lambda: plain(distilled=True)):
        with pytest.raises(UserError, match=r"'mae' leaves .* needs model\.name=vit, without"):
            build(create)
    with pytest.raises(UserError, match="normalize_patches needs patches of more than one value"):
        build(lambda: plain(1))
    assert build(lambda: plain(1), normalize_patches=False).visible == 9
