"""ViT: against timm, torchvision and Google's .npz files; features; DeiT's distillation token;
other image sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.support.architectures import check_reference, filled, load_reference
from tests.support.references import FOLDER
from vision.config import default
from vision.errors import UserError
from vision.models import build, vit
from vision.models.layers.positions import resize_positions
from vision.models.layers.streams import Streams
from vision.models.weights.augreg import from_augreg
from vision.models.weights.names import find_scheme

MAKE = {
    "vit_distilled": lambda: vit.ViT(
        16, 2, 2, 4, 5, image_size=12, distilled=True, rngs=Streams(0)
    ),
    "vit_torchvision": lambda: vit.ViT(16, 2, 2, 4, 5, image_size=12, rngs=Streams(0)),
    "vit_augreg": lambda: vit.ViT(16, 1, 2, 4, 5, image_size=12, rngs=Streams(0)),
}
PARAMETERS = {  # as counted by timm
    ("S/32", False): 22_878_952,
    ("B/32", False): 88_224_232,
    ("Ti/16", True): 5_910_800,
    ("S/16", True): 22_436_432,
    ("B/16", True): 87_338_192,
}


def arrays_of(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        return {k.removeprefix("weights/"): v for k, v in file.items() if k.startswith("weights/")}


@pytest.mark.parametrize("name", MAKE)
def test_reference(name):
    check_reference(name, MAKE[name], vit)


@pytest.mark.parametrize(("variant", "distilled"), PARAMETERS)
def test_parameter_count(variant, distilled):
    model = nnx.eval_shape(lambda: vit.build(variant, 1000, distilled=distilled, rngs=Streams(0)))
    assert (
        sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        == PARAMETERS[variant, distilled]
    )


def test_weights_name_what_there_is():
    assert {w.variant for w in vit.WEIGHTS.values()} == set(vit.LISTED) > vit.PAPER_TOP1.keys()


@pytest.mark.parametrize(
    ("name", "scheme"), [("vit_distilled", "timm"), ("vit_torchvision", "torchvision")]
)
def test_naming_is_recognized(name, scheme):
    state = nnx.to_flat_state(nnx.state(nnx.eval_shape(MAKE[name]), nnx.Param))
    shapes = {".".join(map(str, path)): variable.shape for path, variable in state}
    assert find_scheme(vit, shapes, arrays_of(name))[0] == scheme


def test_first_torchvision_names():
    arrays = arrays_of("vit_torchvision")
    old = {
        k.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): v
        for k, v in arrays.items()
    }
    assert old.keys() != arrays.keys() == vit.from_old_torchvision(old).keys()


def test_augreg_prefixes_and_big_vision():
    """The optimizer's arrays are left out; big_vision's positions are the patches' only."""
    arrays = arrays_of("vit_augreg")
    plain = from_augreg(arrays)
    stored = {f"opt/target/{k}": v for k, v in arrays.items()} | {"opt/state/step": np.array(3)}
    assert from_augreg(stored).keys() == plain.keys()
    renamed = {
        "MultiHeadDotProductAttention_1": "MultiHeadDotProductAttention_0",
        "MlpBlock_3": "MlpBlock_0",
    }
    big = {}
    for name, array in arrays.items():
        for old, new in (renamed | {"LayerNorm_2": "LayerNorm_1"}).items():
            name = name.replace(old, new)
        big[f"params/{name}"] = array
    positions = big.pop("params/Transformer/posembed_input/pos_embedding")
    converted = from_augreg(big | {"params/pos_embedding": positions[:, 1:]})
    np.testing.assert_array_equal(converted.pop("pos_embed")[:, 1:], plain["pos_embed"][:, 1:])
    assert converted.keys() == plain.keys() - {"pos_embed"}
    assert all((converted[name] == plain[name]).all() for name in converted)
    with pytest.raises(KeyError, match="embedding/kernel"):
        from_augreg(arrays_of("vit_torchvision"))


@pytest.mark.parametrize("extra", [0, 1, 2])
@pytest.mark.parametrize("side", [3, 8])
def test_positions_of_another_image_size(extra, side):
    """As timm's `resample_abs_pos_embed`; what is not a patch's stays."""
    with np.load(FOLDER / "vit_positions.npz") as file:
        array = file[f"{extra}/5"]
        expected = file[f"{extra}/{side}"]
    resized = resize_positions(array, expected.shape)
    np.testing.assert_allclose(resized, expected, atol=2e-6)
    np.testing.assert_array_equal(resized[:, :extra], array[:, :extra])


def test_positions_that_cannot_be_resized():
    array = np.zeros((1, 17, 4), np.float32)
    # another token, 2 tokens before 9 patches, no token
    for shape in ((1, 18, 4), (1, 11, 4), (1, 25, 4)):
        assert resize_positions(array, shape) is array


def test_weights_for_another_image_size():
    larger, _ = load_reference(
        "vit_torchvision", lambda: vit.ViT(16, 2, 2, 4, 5, image_size=16, rngs=Streams(0)), vit
    )
    assert larger.positions.shape == (1, 17, 16)


@pytest.mark.parametrize(
    "keys", [{}, {"pool": "mean"}, {"distilled": True}, {"distilled": True, "positions": "sincos"}]
)
def test_features_and_shapes(keys):
    def run(images):
        model = vit.build(
            "mu/4", 10, image_size=8, rngs=Streams(0), dtype=jnp.bfloat16, remat="dots", **keys
        )
        return model.features(images), model.embed(images), model(images)

    maps, embedding, logits = jax.eval_shape(run, jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32))
    distilled = "distilled" in keys
    tokens = 4 + (keys.get("pool") != "mean") + distilled
    assert {k: (v.shape, v.dtype) for k, v in maps.items()} == dict.fromkeys(
        ("tokens", "blocks.0"), ((2, tokens, 32), jnp.bfloat16)
    )
    assert (embedding.shape, embedding.dtype) == ((2, 64 if distilled else 32), jnp.float32)
    assert (logits.shape, logits.dtype) == ((2, 10), jnp.float32)


def test_distilled_head():
    """The logits are the mean of the two classifiers', which each see their own token."""
    head = vit.DistilledHead(3, 2, rngs=Streams(0))
    x = jax.random.normal(jax.random.key(0), (4, 6))
    token, distillation = head.both(x)
    np.testing.assert_allclose(head(x), (token + distillation) / 2)
    changed, same = head.both(x.at[:, :3].add(1.0))
    np.testing.assert_array_equal(same, distillation)
    assert np.abs(changed - token).max() > 0
    assert (head.in_features, head.out_features) == (6, 2)


def test_distilled_by_config():
    c = default().model
    c.update(name="vit", variant="mu/4", distilled=True)
    model = nnx.eval_shape(lambda: build(c, 10, 8, 3, Streams(0)))
    assert isinstance(model.head, vit.DistilledHead)
    assert (model.head.in_features, model.distillation_token.shape, model.positions.shape[1]) == (
        64,
        (1, 1, 32),
        6,
    )
    c.pool = "mean"
    with pytest.raises(
        UserError, match="model.distilled adds a second .*set model.pool to token, not mean"
    ):
        nnx.eval_shape(lambda: build(c, 10, 8, 3, Streams(0)))


def test_gradients_of_a_distilled_model():
    """Both tokens, both classifiers and all between learn from the head's two outputs."""
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    model = filled(lambda: vit.build("mu/4", 3, image_size=8, distilled=True, rngs=Streams(0)))
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params):
        model = nnx.merge(graph, params, rest)
        token, distillation = model.head.both(model.embed(images))
        return jnp.square(token - 1).mean() + jnp.square(distillation + 1).mean()

    for path, leaf in nnx.to_flat_state(jax.jit(jax.grad(loss))(params)):
        assert np.isfinite(leaf[...]).all() and np.abs(leaf[...]).max() > 0, path
