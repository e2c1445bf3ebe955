"""Contrastive learning of images and captions: each finds the other in the batch.

CLIP: Radford et al. 2021 (arXiv:2103.00020), figure 3. SigLIP: Zhai et al. 2023 (arXiv:2303.15343),
algorithm 1. The negatives are those of the global batch, on any number of devices. Labels reach
only the linear probe, which learns during the training (`vision.objectives.representation`).

Captions that repeat within a batch, as those made from class names do, are not each other's
negatives with `same="positive"`: Yang et al. 2022 (arXiv:2204.03610), eq. 3, with captions in the
place of labels.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from vision.data.captions import FIELD
from vision.data.tokenizer import TextShape
from vision.errors import UserError, check_choice, check_range
from vision.metrics import RECALLS, retrieval
from vision.models.layers.dtypes import at_least_float32
from vision.models.layers.linear import Linear
from vision.models.text import build_tower, module_of
from vision.objectives.representation import check_batch, online_probe, unit
from vision.support.packaged import file_of

USES = ()
LOSSES = ("clip", "siglip")
SAME = ("negative", "positive")
OPTIONS = {
    "loss": "clip",  # or siglip
    "tower": "transformer",  # a file of vision/models/text/
    "variant": "Ti",  # of the tower
    "pretrained": "",  # weights of the tower: a .safetensors file or package:MODULE/PATH
    "frozen": False,  # whether the tower stays as it is pretrained
    "width": 256,  # length of the embeddings that are compared
    "same": "negative",  # what images are to other images with the same caption, or positive
}
LARGEST_SCALE = 100.0  # of CLIP's logits (section 2.5)
TOWER = "tower"
WAYS = ("image_to_text", "text_to_image")
MEASURES = {f"{way}_at_{k}": "max" for way in WAYS for k in RECALLS} | {
    f"{way}_chance_at_1": "max" for way in WAYS
}


class Contrastive(nnx.Module):
    """An image network and a text tower with a space in common.

    Args:
        model: the image network.
        tower: see `vision.models.text`.
        width: of the space, D.
        loss: one of `LOSSES`.
        same: one of `SAME`.
        rngs: random streams; `params` is used.
    """

    whole_batch = True

    def __init__(self, model: Any, tower: Any, width: int, loss: str, same: str, *, rngs: nnx.Rngs):
        self.model = model
        self.tower = tower
        self.same = same
        dtype = at_least_float32(_dtype(model))
        project = functools.partial(Linear, use_bias=False, dtype=dtype, rngs=rngs)
        self.image_projection = project(model.head.in_features, width)
        self.text_projection = project(tower.width, width)
        # CLIP begins with a temperature of 0.07; SigLIP with t' = log 10 and b = -10.
        is_clip = loss == "clip"
        self.log_scale = nnx.Param(jnp.log(jnp.float32(1 / 0.07 if is_clip else 10)))
        self.bias = None if is_clip else nnx.Param(jnp.float32(-10))

    def images(self, images: jax.Array) -> jax.Array:
        """Returns the vectors (B, D) of length 1 of normalized images (B, H, W, C)."""
        return unit(self.image_projection(self.model.embed(images)))

    def texts(self, ids: jax.Array) -> jax.Array:
        """Returns the vectors (B, D) of length 1 of token ids (B, L)."""
        return unit(self.text_projection(self.tower(ids)))

    def scale(self) -> jax.Array:
        """Returns the factor of the cosines."""
        return jnp.exp(self.log_scale[...])

    def after_update(self) -> None:
        """Keeps the factor of CLIP's cosines at 100 or below."""
        if self.bias is None:
            self.log_scale[...] = jnp.minimum(self.log_scale[...], np.log(LARGEST_SCALE))

    def loss(self, batch: Mapping[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the contrast plus the probe's cross-entropy, in nats, and both apart.

        Also logged: "accuracy" is the probe's, "top1" the share of images whose likeliest caption
        in the batch is their own or the same text, "scale" that of the cosines.

        Raises:
            UserError: the batch has a single image.
        """
        check_batch(batch["image"], "contrastive")
        ids = batch[FIELD]
        embeddings = self.model.embed(batch["image"])
        images = unit(self.image_projection(embeddings))
        scale = self.scale()
        logits = scale * images @ self.texts(ids).T
        equal = (ids[:, None] == ids[None]).all(-1)
        positive = equal if self.same == "positive" else jnp.eye(len(ids), dtype=bool)
        if self.bias is None:
            contrast = symmetric_cross_entropy(logits, positive)
        else:
            contrast = pairwise_sigmoid(logits + self.bias[...], positive)
        probe, scalars = online_probe(self.model, embeddings, batch["label"])
        chosen = jnp.take_along_axis(equal, logits.argmax(-1)[:, None], axis=-1)
        scalars |= {"contrast": contrast, "probe": probe, "top1": chosen.mean(), "scale": scale}
        return contrast + probe, scalars

    def encode(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns {"image", "text": vectors (B, D) of length 1, "ids": (B, L)} of a batch."""
        ids = batch[FIELD]
        return {"image": self.images(batch["image"]), "text": self.texts(ids), "ids": ids}


class FrozenText(Contrastive):
    """With a text tower that stays as it is: only the projection of its embeddings learns."""

    frozen = (TOWER,)
    constant = (TOWER,)


def symmetric_cross_entropy(logits: jax.Array, positive: jax.Array) -> jax.Array:
    """Returns the mean of the cross-entropies of rows and of columns, in nats.

    Args:
        logits: float (B, B), images by texts.
        positive: bool (B, B); each row's and column's target is spread evenly over them.
    """
    targets = positive.astype(logits.dtype)
    rows = targets / targets.sum(1, keepdims=True)
    columns = targets / targets.sum(0, keepdims=True)
    images = (rows * jax.nn.log_softmax(logits, axis=1)).sum(1).mean()
    texts = (columns * jax.nn.log_softmax(logits, axis=0)).sum(0).mean()
    return -(images + texts) / 2


def pairwise_sigmoid(logits: jax.Array, positive: jax.Array) -> jax.Array:
    """Returns the sum over all pairs of -log sigmoid(+-logit), divided by B, in nats.

    Args:
        logits: float (B, B), images by texts, with the bias.
        positive: bool (B, B), the pairs whose sign is +.
    """
    signed = jnp.where(positive, logits, -logits)
    return -jax.nn.log_sigmoid(signed).sum() / len(logits)


def validate(
    embed: Callable[[Any], Any], loaders: Mapping[str, Any], encode: Callable[[Any], dict]
) -> dict[str, float]:
    """Returns `vision.metrics.retrieval` of the validation split, with chance at 1 beside.

    Args:
        embed: is not used.
        loaders: {split: loader}.
        encode: returns what `Contrastive.encode` does, of all readable images of a loader.
    """
    del embed
    vectors = encode(loaders["val"])
    measured = retrieval(vectors["image"], vectors["text"], same_texts(vectors["ids"]))
    return {name: measured[name] for name in MEASURES}


def same_texts(ids: np.ndarray) -> np.ndarray:
    """Returns the number of each text, int (N,): the same for the same token ids (N, L)."""
    return np.unique(ids, axis=0, return_inverse=True)[1].reshape(-1)


def starts(c: ConfigDict) -> dict[str, str]:
    """Says what the tower starts from."""
    return {TOWER: c.options.pretrained}


def read_start(c: ConfigDict, attribute: str, start: str, text: TextShape) -> dict[str, np.ndarray]:
    """Returns {name in the tower: array} of published weights.

    Raises:
        UserError: there is no such file, or the tower has no published weights.
    """
    del attribute
    module = module_of(c.options.tower)
    if not hasattr(module, "read"):
        raise UserError(
            f"objective.options.pretrained: there are no weights for the tower "
            f"'{c.options.tower}': set it to \"\", or the tower to bert"
        )
    path = pathlib.Path(file_of("objective.options.pretrained", start))
    return module.read(path, text)


def build(c: ConfigDict, model: Any, *, rngs: nnx.Rngs, text: TextShape | None) -> Contrastive:
    """Builds `Contrastive`, or `FrozenText`.

    Raises:
        UserError: an option is wrong, or the run has no captions.
    """
    options = c.options
    if text is None:
        raise UserError(
            "the objective 'contrastive' learns from captions: set text.tokenizer=bpe, and name "
            "the source's captions, such as csv:FILE?text=COLUMN, or set text.templates"
        )
    check_choice("objective.options.loss", options.loss, LOSSES)
    check_choice("objective.options.same", options.same, SAME)
    check_range("objective.options.width", options.width, options.width >= 1, "at least 1")
    if options.frozen and not options.pretrained:
        raise UserError(
            "objective.options.frozen would keep the text tower at random weights: set "
            "objective.options.pretrained, or set frozen to False"
        )
    tower = build_tower(options.tower, options.variant, text, dtype=_dtype(model), rngs=rngs)
    kind = FrozenText if options.frozen else Contrastive
    return kind(model, tower, options.width, options.loss, options.same, rngs=rngs)


def _dtype(model):
    """Returns the dtype in which a model's head computes."""
    return getattr(model.head, "dtype", None) or jnp.float32
