"""CLIP and SigLIP against their papers in NumPy; runs that learn from captions."""

import functools
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.models.test_text import published
from tests.objectives.runs import lines, small
from tests.objectives.ssl import (
    BATCH,
    CLASSES,
    LABELS,
    VIEWS,
    Network,
    finite_differences,
    gradient,
    log_softmax,
    units,
)
from vision import objectives
from vision.config import default
from vision.data.tokenizer import TextShape
from vision.errors import UserError
from vision.metrics import RECALLS, retrieval
from vision.models.layers.streams import Streams
from vision.objectives.contrastive import (
    MEASURES,
    pairwise_sigmoid,
    same_texts,
    symmetric_cross_entropy,
)
from vision.run.weights import run_weights
from vision.training.run import run
from vision.training.state import StateSpec

pytestmark = pytest.mark.long

SHAPE = TextShape(30, 6)
IDS = np.array([[1, n, 7, 2, 0, 0] for n in (3, 4, 3, 5, 6, 3)], np.int32)  # 0, 2 and 5 are equal
EYE = np.eye(BATCH, dtype=bool)
EQUAL = (IDS[:, None] == IDS[None]).all(-1)


def reference_clip(images, texts, scale, positive):
    """Figure 3 of CLIP; with several positives eq. 3 of arXiv:2204.03610, image by image."""
    logits = scale * images @ texts.T
    total = 0.0
    for matrix, chosen in ((logits, positive), (logits.T, positive.T)):
        log_p = log_softmax(matrix)
        own = [-log_p[i][chosen[i]].mean() for i in range(len(matrix))]
        total += np.mean(own) / 2
    return total


def reference_siglip(images, texts, scale, bias, positive):
    """Algorithm 1 of SigLIP, pair by pair."""
    total = 0.0
    for i in range(len(images)):
        for j in range(len(texts)):
            z = 1 if positive[i, j] else -1
            total += np.log1p(np.exp(-z * (scale * images[i] @ texts[j] + bias)))
    return total / len(images)


@pytest.mark.parametrize("positive", [EYE, EQUAL], ids=["pairs", "equal texts"])
class TestLosses:
    def test_clip_and_its_gradient(self, positive, float64):
        texts = units(BATCH, 5, seed=1)

        def ours(images):
            logits = 7.0 * images @ texts.T
            return symmetric_cross_entropy(logits, jnp.asarray(positive))

        images = units(BATCH, 5)
        expected = functools.partial(reference_clip, texts=texts, scale=7.0, positive=positive)
        assert float(ours(images)) == pytest.approx(expected(images), rel=1e-12)
        slope = jax.grad(ours)(jnp.asarray(images))
        np.testing.assert_allclose(slope, finite_differences(expected, images), atol=1e-6)

    def test_siglip_and_its_gradient(self, positive, float64):
        texts = units(BATCH, 5, seed=1)

        def ours(images):
            return pairwise_sigmoid(9.0 * images @ texts.T - 3.0, jnp.asarray(positive))

        images = units(BATCH, 5)
        expected = functools.partial(
            reference_siglip, texts=texts, scale=9.0, bias=-3.0, positive=positive
        )
        assert float(ours(images)) == pytest.approx(expected(images), rel=1e-12)
        slope = jax.grad(ours)(jnp.asarray(images))
        np.testing.assert_allclose(slope, finite_differences(expected, images), atol=1e-6)


def build(text=SHAPE, classes=CLASSES, **options):
    c = default()
    c.objective.name = "contrastive"
    for key, value in ({"variant": "mu", "width": 5} | options).items():
        c.objective.options[key] = value

    def create():
        model = Network(Streams(0), classes)
        more = {"class_counts": np.ones(classes), "rngs": Streams(1), "text": text}
        return objectives.build(c.objective, model, **more)

    return create(), StateSpec(create)


def batch(labels=LABELS, images=BATCH):
    view = jnp.asarray(VIEWS["first"][:images])
    return {"image": view, "label": jnp.asarray(labels[:images]), "text": jnp.asarray(IDS[:images])}


@pytest.mark.parametrize("loss", ["clip", "siglip"])
@pytest.mark.parametrize("same", ["negative", "positive"])
def test_the_loss_is_that_of_its_parts(loss, same):
    objective, spec = build(loss=loss, same=same)
    gradients, _, scalars = gradient(objective, spec, batch())
    parts = scalars["contrast"] + scalars["probe"]
    assert scalars["loss"] == pytest.approx(float(parts), rel=1e-6)
    objective.train()
    images = np.asarray(objective.images(batch()["image"]), np.float64)
    texts = np.asarray(objective.texts(jnp.asarray(IDS)), np.float64)
    positive = EQUAL if same == "positive" else EYE
    scale = float(objective.scale())
    assert scale == pytest.approx(1 / 0.07 if loss == "clip" else 10)
    if loss == "clip":
        expected = reference_clip(images, texts, scale, positive)
    else:
        expected = reference_siglip(images, texts, scale, -10.0, positive)
    assert float(scalars["contrast"]) == pytest.approx(expected, rel=1e-4)
    learned = {"model", "tower", "image_projection", "text_projection", "log_scale"}
    assert gradients.keys() == learned | ({"bias"} if loss == "siglip" else set())
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients["log_scale"]))


def test_top1_counts_the_same_text():
    objective, spec = build()
    _, _, scalars = gradient(objective, spec, batch())
    objective.train()
    logits = objective.images(batch()["image"]) @ objective.texts(jnp.asarray(IDS)).T
    chosen = np.asarray(logits).argmax(-1)
    expected = np.mean([(IDS[i] == IDS[j]).all() for i, j in enumerate(chosen)])
    assert float(scalars["top1"]) == pytest.approx(expected)


def test_labels_reach_the_head_only():
    objective, spec = build()
    once, _, _ = gradient(objective, spec, batch())
    again, _, _ = gradient(objective, spec, batch(labels=np.roll(LABELS, 1, axis=1)))
    heads = [tree["model"].pop("head")["kernel"] for tree in (once, again)]
    assert np.abs(heads[0] - heads[1]).max() > 1e-3
    for a, b in zip(*(jax.tree.leaves(tree) for tree in (once, again)), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize(("loss", "most"), [("clip", 100.0), ("siglip", 403.4)])
def test_the_scale_of_clip_ends_at_100(loss, most):
    objective, _ = build(loss=loss)
    objective.log_scale[...] = jnp.float32(6.0)
    objective.after_update()
    assert float(objective.scale()) == pytest.approx(most, rel=1e-3)


def test_encode():
    objective, _ = build()
    objective.eval()
    encoded = objective.encode(batch())
    for name in ("image", "text"):
        np.testing.assert_allclose(np.linalg.norm(encoded[name], axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(encoded["ids"], IDS)


class TestRetrieval:
    def test_against_sorting(self):
        """Each image ranks the different texts, each text ranks the images."""
        random = np.random.RandomState(0)
        numbers = np.array([0, 1, 2, 0, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0])
        own = units(12, 6, seed=3)
        texts = own[numbers]
        images = texts + 0.9 * random.randn(*texts.shape)
        images /= np.linalg.norm(images, axis=1, keepdims=True)
        measured = retrieval(images, texts, numbers, chunk=5)
        ranked_texts = [np.argsort(-own @ image) for image in images]
        ranked_images = [np.argsort(-images @ text) for text in own]
        for k in RECALLS:
            hits = [n in order[:k] for n, order in zip(numbers, ranked_texts, strict=True)]
            assert measured[f"image_to_text_at_{k}"] == pytest.approx(np.mean(hits))
            hits = [n in numbers[order[:k]] for n, order in enumerate(ranked_images)]
            assert measured[f"text_to_image_at_{k}"] == pytest.approx(np.mean(hits))
        assert 0 < measured["image_to_text_at_1"] < 1

    @pytest.mark.parametrize("chunk", [1, 7, 64, 1024])
    def test_in_parts_as_all_at_once(self, chunk):
        """With several images of a text, texts of one image, and ties of both."""
        random = np.random.RandomState(0)
        numbers = random.permutation(np.concatenate([random.randint(0, 30, 170), np.arange(30)]))
        texts = random.randint(-2, 3, (30, 4)).astype(np.float32)  # exact products, many ties
        images = random.randint(-2, 3, (200, 4)) + 2 * texts[numbers]
        images = images.astype(np.float32)
        measured = retrieval(images, texts[numbers], numbers, chunk)
        similarities = images @ texts.T
        is_own = numbers[:, None] == np.arange(30)
        own = similarities[is_own]
        text_ranks = (similarities >= own[:, None]).sum(1) - 1
        best = np.where(is_own, similarities, -np.inf).max(0)
        image_ranks = (~is_own & (similarities >= best)).sum(0)
        assert len(np.unique(similarities)) < 200 and 0 < (text_ranks < 5).mean() < 1
        for k in RECALLS:
            assert measured[f"image_to_text_at_{k}"] == (text_ranks < k).mean()
            assert measured[f"text_to_image_at_{k}"] == (image_ranks < k).mean()

    def test_memory_grows_with_a_part_not_with_the_square(self):
        """8,000 images and texts: 256 MB of similarities, 8 MB of those of 256 images."""
        vectors = units(8_000, 2)
        tracemalloc.start()
        retrieval(vectors, vectors, np.arange(8_000), chunk=256)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 32e6

    def test_chance_is_that_of_random_orders(self):
        numbers = np.array([0] * 6 + [1, 2, 3, 4, 5, 6])
        random = np.random.RandomState(1)
        drawn = []
        for _ in range(300):
            images, texts = random.randn(12, 4), random.randn(7, 4)
            drawn.append(retrieval(images, texts[numbers], numbers))
        for way in ("image_to_text", "text_to_image"):
            for k in RECALLS:
                mean = np.mean([measured[f"{way}_at_{k}"] for measured in drawn])
                assert mean == pytest.approx(drawn[0][f"{way}_chance_at_{k}"], abs=0.05)

    def test_what_collapsed_finds_nothing(self):
        ones = np.ones((20, 3)) / np.sqrt(3)
        measured = retrieval(ones, ones, np.arange(20))
        assert measured["image_to_text_at_10"] == measured["text_to_image_at_10"] == 0
        for way in ("image_to_text", "text_to_image"):
            assert measured[f"{way}_chance_at_10"] == 0.5

    def test_vectors_of_nan_are_not_hits(self):
        images = units(6, 8)
        texts = images.copy()
        images[2] = np.nan
        texts[4] = np.nan
        measured = retrieval(images, texts, np.arange(6), chunk=4)
        for way in ("image_to_text", "text_to_image"):
            assert measured[f"{way}_at_1"] == 0  # NaN may be the nearest
            assert measured[f"{way}_at_5"] == pytest.approx(4 / 6)

    def test_fewer_than_k(self):
        pairs = units(3, 4)
        measured = retrieval(pairs, pairs, np.arange(3))
        assert measured["image_to_text_at_1"] == measured["text_to_image_chance_at_5"] == 1

    def test_same_texts(self):
        numbers = same_texts(IDS)
        np.testing.assert_array_equal(numbers[:, None] == numbers[None], EQUAL)
        assert sorted(set(numbers.tolist())) == [0, 1, 2, 3]


def captioned(**options):
    """Returns the config of a tiny training on digits with captions from class names."""
    c = small()
    c.model.name = "tests.support.tiny_resnet"
    c.train.steps = 4
    c.train.eval_every = 2
    c.text.tokenizer = "bpe"
    c.text.vocabulary = 300
    c.text.context = 12
    c.text.templates = "a {}|the number {}"
    c.objective.name = "contrastive"
    for key, value in ({"variant": "mu", "width": 8} | options).items():
        c.objective.options[key] = value
    return c


def test_a_run(tmp_path):
    c = captioned(loss="siglip")
    c.checkpoint.metric = "val/text_to_image_at_5"
    result = run(c, tmp_path / "run")
    measured = {x["step"]: x for x in lines(tmp_path / "run") if "val/loss" in x}
    assert set(measured) == {2, 4} and result["steps"] == 4
    assert {f"val/{name}" for name in MEASURES} <= measured[4].keys()
    assert (tmp_path / "run" / "tokenizer.json").is_file()
    _, _, weights = run_weights(tmp_path / "run")  # what is exported is the model alone
    assert weights and not any("tower" in name or "projection" in name for name in weights)


@pytest.fixture
def bert_file(tmp_path):
    words = published(0, positions=16)
    words["embeddings.word_embeddings.weight"] = (
        np.random.default_rng(1).normal(0, 0.3, (300, 32)).astype(np.float32)
    )
    save_file(words, tmp_path / "bert.safetensors")
    return tmp_path / "bert.safetensors"


def test_a_frozen_tower_is_kept_once(bert_file, tmp_path):
    """Checkpoints leave it out, and the run does not need the file any more."""
    options = {"tower": "bert", "pretrained": str(bert_file), "frozen": True}
    c = captioned(**options)
    c.text.vocabulary = 300
    c.text.templates = "|".join(f"{word} {{}}" for word in WORDS)
    run(c, tmp_path / "run")
    assert (tmp_path / "run" / "teachers" / "tower.safetensors").is_file()
    bert_file.unlink()
    c.train.steps = 4
    assert run(c, tmp_path / "run")["steps"] == 4


WORDS = [
    *("photograph", "picture", "drawing", "scan", "image", "sketch", "handwritten", "number"),
    *("blurry", "beautiful", "enormous", "tiny", "centered", "rotated", "italic", "digit"),
]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"loss": "hinge"},
            "objective.options.loss = 'hinge' is unknown: choose from clip, siglip",
        ),
        ({"same": "maybe"}, "objective.options.same = 'maybe' is unknown: choose from negative"),
        ({"width": 0}, "objective.options.width must be at least 1"),
        ({"frozen": True}, "objective.options.frozen would keep the text tower at ran"),
        ({"text": None}, "the objective 'contrastive' learns from captions: set text.tokenizer"),
    ],
    ids=["loss", "same", "width", "frozen", "no captions"],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrained": "x.safetensors"}, "there are no weights for the tower 'transformer'"),
        ({"tower": "bert", "pretrained": "x.safetensors"}, "there is no file x.safetensors"),
    ],
    ids=["no weights", "no file"],
)
def test_weights_that_are_not_there(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run(captioned(**options), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_source_without_captions(tmp_path):
    c = captioned()
    c.text.templates = ""
    with pytest.raises(UserError, match="the images of train have no captions: name a column"):
        run(c, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_batch_of_one_has_no_negatives():
    objective, spec = build()
    with pytest.raises(UserError, match="at least 2, got 1: raise train.batch_size"):
        gradient(objective, spec, batch(images=1))
