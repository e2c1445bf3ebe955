"""Images with texts and columns: each way of fusing them, what is missing, what is left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UserError
from vision.models import fusion
from vision.models.layers.streams import Streams

RANDOM = np.random.default_rng(0)
TEXT = (30, 5)
NUMBERS = (("age", 40.0, 10.0), ("weight", 70.0, 5.0))
CATEGORIES = (("site", ("a", "b", "c")), ("sex", ("f", "m")))
INPUTS = {
    "image": RANDOM.normal(size=(4, 8, 8, 3)).astype(np.float32),
    "text": np.array([[1, 7, 8, 2, 0], [1, 9, 2, 0, 0], [0] * 5, [1, 3, 4, 5, 2]], np.int32),
    "numbers": np.array([[30, 70], [np.nan, 60], [np.nan] * 2, [55, np.nan]], np.float32),
    "categories": np.array([[1, 2], [3, 0], [0, 0], [2, 1]], np.int32),
}


def build(variant="late", **options):
    options = {"text": TEXT, "numbers": NUMBERS, "categories": CATEGORIES} | options
    options = {"image": "cnn:mu", "tower": "transformer:mu-mean", "width": 8} | options
    return fusion.build(variant, 3, image_size=8, channels=3, rngs=Streams(0), **options)


def evaluated(variant="late", **options):
    model = build(variant, **options)
    model.eval()
    return model


def forward(model):
    """Returns the model as one program: compiling its operations one by one takes longer."""
    return jax.jit(lambda inputs: model(inputs))


def changed(**values):
    return {name: jnp.asarray(values.get(name, array)) for name, array in INPUTS.items()}


@pytest.mark.parametrize("variant", fusion.VARIANTS)
def test_every_part_counts_and_none_reaches_another_example(variant):
    model = evaluated(variant)
    call = forward(model)
    logits = call(changed())
    vectors = jax.jit(lambda inputs: model.embed(inputs))(changed())
    assert logits.shape == (4, 3) and vectors.shape == (4, 8)
    np.testing.assert_allclose(model.head(vectors), logits, rtol=1e-6)
    for name, value in INPUTS.items():
        other = np.array(value)
        other[0] = other[3]
        moved = np.abs(call(changed(**{name: other})) - logits).max(1) > 1e-6
        assert moved.tolist() == [True, False, False, False], name


@pytest.mark.parametrize("variant", fusion.VARIANTS)
def test_what_a_missing_part_would_have_said_does_not_matter(variant):
    """Padding's place, a NaN's bits: an example without text and columns sees its image alone."""
    model = evaluated(variant)
    call = forward(model)
    alone = call(changed())[2]
    pixels = jnp.asarray(INPUTS["image"][2:3])
    nothing = {
        "text": jnp.zeros((1, 5), jnp.int32),
        "numbers": jnp.full((1, 2), jnp.nan),
        "categories": jnp.zeros((1, 2), jnp.int32),
    }
    np.testing.assert_allclose(call({"image": pixels} | nothing)[0], alone, atol=1e-6)
    slope = jax.jit(jax.grad(lambda x: model(changed(numbers=x)).sum()))
    gradient = slope(jnp.asarray(INPUTS["numbers"]))
    assert np.isfinite(gradient).all() and not np.asarray(gradient)[2].any()


def test_late_fusion_is_its_formula():
    model = evaluated("late", text=(), categories=())
    inputs = changed()
    image, table = model.parts
    vector = norm(dense(image.network.embed(inputs["image"]), image.project), image.norm)
    values = INPUTS["numbers"]
    standard = np.nan_to_num((values - [40, 70]) / [10, 5])[..., None]
    tokens = standard * get(table.slopes) + get(table.offsets)
    tokens = np.where(np.isnan(values)[..., None], get(table.missing), tokens)
    tokens = norm(tokens, table.norm_tokens).reshape(4, -1)
    columns = norm(dense(tokens, table.project), table.norm)
    columns[2] = get(model.fallback.vectors)[1]  # it has no column
    hidden = dense(np.concatenate([vector, columns], 1), model.fuse.dense)
    np.testing.assert_allclose(model.embed(inputs), jax.nn.gelu(hidden, False), atol=1e-5)


def test_gated_fusion_is_its_formula():
    model = evaluated("gated", numbers=(), categories=())
    inputs = changed()
    parts = model.fallback([part(inputs) for part in model.parts])
    x = [np.asarray(part.vector) for part in parts]
    gates = 1 / (1 + np.exp(-np.concatenate(x, 1) @ get(model.fuse.gates.kernel)))
    states = [np.tanh(v @ get(d.kernel)) for v, d in zip(x, model.fuse.states, strict=True)]
    expected = gates[:, :8] * states[0] + gates[:, 8:] * states[1]
    np.testing.assert_allclose(model.embed(inputs), expected, atol=1e-5)


def test_cross_attention_is_its_formula():
    model = evaluated("attention", numbers=(), categories=())
    inputs = changed()
    parts = model.fallback([part.with_tokens(inputs) for part in model.parts])
    fuse = model.fuse
    kinds = get(fuse.kinds)
    vectors = np.stack([part.vector for part in parts], 1) + kinds
    tokens = np.concatenate([part.tokens + k for part, k in zip(parts, kinds, strict=True)], 1)
    mask = np.concatenate([part.mask for part in parts], 1)
    query = dense(norm(vectors, fuse.norm_queries), fuse.query)
    key, value = np.split(dense(norm(tokens, fuse.norm_tokens), fuse.key_value), 2, -1)
    scores = np.where(mask[:, None], query @ key.swapaxes(1, 2) / np.sqrt(8), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    x = vectors + dense(weights @ value, fuse.out)
    hidden = jax.nn.gelu(dense(norm(x, fuse.norm_hidden), fuse.mlp.hidden), False)
    x = norm(x + dense(hidden, fuse.mlp.out), fuse.norm).mean(1)
    np.testing.assert_allclose(model.embed(inputs), x, atol=2e-5)
    assert parts[0].tokens.shape[1] == 1 and parts[1].tokens.shape[1] == 5


def test_parts_are_left_out_in_training_but_never_all():
    model = build("late", part_dropout=0.5)
    model.train()
    parts = [part(changed()) for part in model.parts]
    kept = np.stack([[part.present for part in model.fallback(parts)] for _ in range(200)])
    had = np.stack([part.present for part in parts])
    assert not (kept & ~had).any()
    assert kept.any(1).all()
    share = kept[:, :, [0, 3]].mean()  # these two have every part
    assert 0.5 < share < 0.65  # 4/7: half of each, and all if that leaves none
    model.eval()
    assert (np.stack([part.present for part in model.fallback(parts)]) == had).all()


def test_it_may_do_without_the_image_or_anything_but_one_part():
    model = evaluated("late", image="", numbers=(), categories=())
    logits = model(changed())
    np.testing.assert_array_equal(model(changed(image=np.zeros((4, 8, 8, 3), "f"))), logits)
    assert fusion.fields({"text": TEXT}) == ("text",)
    assert fusion.fields({"numbers": NUMBERS, "categories": ()}) == ("numbers",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": (), "numbers": (), "categories": ()}, "learns from more than images"),
        ({"part_dropout": 1.0}, "part_dropout.*in \\[0, 1\\)"),
        ({"width": 0}, "width.*at least 1"),
        ({"image": "resnot:18"}, "resnot"),
        ({"tower": "transformer:huge"}, "huge"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


def test_an_unknown_way_is_refused():
    with pytest.raises(UserError, match="late, gated, attention"):
        fusion.build("early", 3, rngs=Streams(0), text=TEXT)


def get(parameter):
    return np.asarray(parameter[...])


def dense(x, layer):
    return np.asarray(x) @ get(layer.kernel) + get(layer.bias)


def norm(x, layer):
    x = np.asarray(x)
    centered = x - x.mean(-1, keepdims=True)
    scaled = centered / np.sqrt(x.var(-1, keepdims=True) + layer.epsilon)
    return scaled * get(layer.scale) + get(layer.bias)
