"""Learning from labels: cross-entropy, and variants for smoothed, mixed or imbalanced labels."""

import ast
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from vision.errors import UserError
from vision.models.layers.heads import CosineHead

FIELDS = True


class Supervised(nnx.Module):
    """Weighted cross-entropy or focal loss on soft labels.

    Args:
        model: the classifier.
        label_smoothing: see `smooth`.
        class_weights: float (C,); an image's loss is weighted by the weights of its own classes,
            and the sum divided by the sum of the weights, as
            `torch.nn.CrossEntropyLoss(weight=...)` does for hard labels.
        weights_from: share of the training after which the class weights count: deferred
            re-weighting (DRW), Cao et al. 2019 (arXiv:1906.07413), algorithm 1.
        margins: float (C,), subtracted from the true class's cosine in the loss only; the model's
            head must be a `CosineHead`. LDAM, eq. 13 of the same paper.
        focal_gamma: see `cross_entropy`.
        offsets: float (C,), added to the logits in the loss only.
        auxiliary_weight: weight of the same loss on `model.auxiliary_logits(features)`, if the
            model has an auxiliary head (Szegedy et al. 2014, arXiv:1409.4842, section 5).
    """

    def __init__(
        self,
        model: Any,
        *,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | np.ndarray | None = None,
        weights_from: float = 0.0,
        margins: Sequence[float] | np.ndarray | None = None,
        focal_gamma: float = 0.0,
        offsets: Sequence[float] | np.ndarray | None = None,
        auxiliary_weight: float = 0.4,
    ):
        self.model = model
        self.auxiliary_weight = auxiliary_weight
        self.label_smoothing = label_smoothing
        self.focal_gamma = focal_gamma
        self.weights_from = weights_from
        self.class_weights = _as_tuple(class_weights)
        self.margins = _as_tuple(margins)
        self.offsets = _as_tuple(offsets)

    def loss(self, batch: Mapping[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the mean loss in nats, and {"accuracy"}.

        The right class of a mixed label is the one with the largest share.
        """
        logits, auxiliary_logits = self._logits(batch["image"])
        labels = batch["label"].astype(logits.dtype)
        weights = self._image_weights(labels, batch.get("progress"))
        lowered = logits
        if self.margins is not None:
            margins = labels * jnp.array(self.margins, labels.dtype)
            lowered = logits - self.model.head.scale * margins
        loss = self._mean(lowered, labels, weights)
        if auxiliary_logits is not None:
            loss += self.auxiliary_weight * self._mean(auxiliary_logits, labels, weights)
        return loss, {"accuracy": (logits.argmax(-1) == labels.argmax(-1)).mean()}

    def _logits(self, images: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Returns (logits, logits of the auxiliary head or None), each (B, C)."""
        # Embeddings that stand for images give an auxiliary head no feature maps.
        if getattr(self.model, "auxiliary", None) is None or images.ndim != 4:
            return self.model(images), None
        features = self.model.features(images)
        last = list(features.values())[-1]
        logits = self.model.head(self.model.pool(last))
        return logits, self.model.auxiliary_logits(features)

    def _image_weights(self, labels: jax.Array, progress: Any) -> jax.Array | None:
        """Returns each image's weight, (B,), or None without class weights."""
        if self.class_weights is None:
            return None
        weights = labels @ jnp.array(self.class_weights, labels.dtype)
        if not self.weights_from:
            return weights
        return jnp.where(progress >= self.weights_from, weights, 1.0)

    def _mean(self, logits: jax.Array, labels: jax.Array, weights: jax.Array | None) -> jax.Array:
        if self.offsets is not None:
            logits = logits + jnp.array(self.offsets, logits.dtype)
        losses = cross_entropy(logits, smooth(labels, self.label_smoothing), self.focal_gamma)
        if weights is None:
            return losses.mean()
        return (weights * losses).sum() / jnp.maximum(weights.sum(), jnp.finfo(losses.dtype).tiny)


def _as_tuple(values: Sequence[float] | np.ndarray | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(map(float, values))


def smooth(labels: jax.Array, amount: float) -> jax.Array:
    """Spreads a share of each label over all classes: (1 - amount) label + amount / C.

    Label smoothing, Szegedy et al. 2015 (arXiv:1512.00567), section 7.
    """
    if amount == 0:
        return labels
    return (1 - amount) * labels + amount / labels.shape[-1]


def cross_entropy(logits: jax.Array, labels: jax.Array, focal_gamma: float = 0.0) -> jax.Array:
    """Returns the cross-entropy of soft labels, or with gamma > 0 the focal loss.

    Focal loss: Lin et al. 2017 (arXiv:1708.02002), eq. 4.

    Args:
        logits: float (B, C).
        labels: float (B, C), rows that sum to 1.
        focal_gamma: exponent of the focal loss; 0 = cross-entropy.

    Returns:
        float (B,), in nats.
    """
    log_p = jax.nn.log_softmax(logits)
    if focal_gamma:
        # Kept away from 0, where a power below 1 has no finite gradient.
        missing = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(log_p.dtype).tiny)
        log_p = missing**focal_gamma * log_p
    return -(labels * log_p).sum(-1)


def class_weights(name: str, counts: np.ndarray, beta: float) -> np.ndarray | None:
    """Returns the weights that `config.objective.class_weights` asks for.

    Args:
        name: "none"; "inverse", N / (C n_c), scikit-learn's "balanced"; "effective_number",
            (1 - beta) / (1 - beta^n_c) scaled to sum to C (Cui et al. 2019, arXiv:1901.05555,
            eq. 5 and 6); or a list such as "[1, 2.5]".
        counts: int (C,), training images of each class.
        beta: for effective_number, in [0, 1).

    Returns:
        float (C,), or None for "none". A class without images weighs as if it had one.

    Raises:
        UserError: the name is unknown, or the list does not fit.
    """
    n = np.maximum(np.asarray(counts, np.float64), 1)
    if name == "none":
        return None
    if name == "inverse":
        return n.sum() / (len(n) * n)
    if name == "effective_number":
        weights = (1 - beta) / (1 - beta**n)
        return weights * len(n) / weights.sum()
    try:
        weights = np.asarray(ast.literal_eval(name), np.float64)
    except (ValueError, SyntaxError, TypeError) as error:
        raise UserError(
            f"objective.class_weights = '{name}': use none, inverse, effective_number or a list "
            "such as '[1.0, 2.5]'"
        ) from error
    allowed = np.isfinite(weights).all() and (weights >= 0).all() and weights.any()
    if weights.shape != n.shape or not allowed:
        raise UserError(
            f"objective.class_weights = '{name}': give {len(n)} weights of at least 0, one per "
            "class, not all 0"
        )
    return weights


def ldam_margins(counts: np.ndarray, largest: float) -> np.ndarray:
    """Returns the margins of LDAM: n_c^(-1/4), scaled so that the rarest class has the largest.

    Cao et al. 2019 (arXiv:1906.07413), eq. 12, with the scale of the authors' code.

    Args:
        counts: int (C,), training images of each class; 0 counts as 1.
        largest: the largest margin, a difference of cosines.

    Returns:
        float64 (C,).
    """
    margins = np.maximum(np.asarray(counts, np.float64), 1) ** -0.25
    return margins * (largest / margins.max())


def build(
    c: ConfigDict, model: nnx.Module, *, class_counts: np.ndarray, rngs: nnx.Rngs
) -> Supervised:
    """Builds `Supervised` from `config.objective`; see `vision.objectives`."""
    del rngs  # nothing here is random
    if c.ldam_margin and not isinstance(getattr(model, "head", None), CosineHead):
        raise UserError(
            "objective.ldam_margin is a margin between cosines: set model.head=cosine too, without "
            "model.head_groups"
        )
    margins = ldam_margins(class_counts, c.ldam_margin) if c.ldam_margin else None
    offsets = None
    if c.logit_adjustment:
        # Menon et al. 2020 (arXiv:2007.07314), eq. 10: train on logits + tau log prior, predict
        # with the logits.
        prior = np.maximum(class_counts, 1) / np.maximum(class_counts, 1).sum()
        offsets = c.logit_adjustment * np.log(prior)
    return Supervised(
        model,
        label_smoothing=c.label_smoothing,
        class_weights=class_weights(c.class_weights, class_counts, c.effective_number_beta),
        weights_from=c.weights_from,
        margins=margins,
        focal_gamma=c.focal_gamma,
        offsets=offsets,
        auxiliary_weight=c.auxiliary_weight,
    )
