"""Learning from labels: cross-entropy, and its variants for smoothed, mixed and imbalanced
labels."""

import ast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vision.errors import UserError
from vision.models.layers.heads import CosineHead


class Supervised(nnx.Module):
    """Weighted cross-entropy or focal loss on soft labels.

    Args:
        model: the classifier.
        label_smoothing: share of the label that is spread over all classes.
        class_weights: float (C,); an image's loss is weighted by its own classes' weights, and the
            sum divided by the weights' sum, as `torch.nn.CrossEntropyLoss(weight=...)` does for
            plain labels.
        weights_from: the share of the training after which the class weights count: deferred
            re-weighting (DRW), Cao et al. 2019 (arXiv:1906.07413), algorithm 1.
        margins: float (C,), what the true class's cosine is lowered by in the loss only; the
            model's head is then a `CosineHead`. LDAM, eq. 13 there.
        focal_gamma: 0 = cross-entropy.
        offsets: float (C,), added to the logits in the loss only.
        auxiliary_weight: of the same loss on the model's auxiliary head, where it has one (Szegedy
            et al. 2014, arXiv:1409.4842, section 5): on `model.auxiliary_logits(features)`.
    """

    def __init__(
        self,
        model,
        *,
        label_smoothing=0.0,
        class_weights=None,
        weights_from=0.0,
        margins=None,
        focal_gamma=0.0,
        offsets=None,
        auxiliary_weight=0.4,
    ):
        self.model = model
        self.auxiliary_weight = auxiliary_weight
        self.label_smoothing = label_smoothing
        self.focal_gamma = focal_gamma
        self.weights_from = weights_from
        self.class_weights, self.margins, self.offsets = map(
            _tuple, (class_weights, margins, offsets)
        )

    def loss(self, batch):
        """Returns the mean loss in nats and {"accuracy"}, of the class with the largest share of a
        mixed label."""
        images = batch["image"]
        auxiliary = None
        # Embeddings that stand for images have no maps for an auxiliary head to look at.
        if getattr(self.model, "auxiliary", None) is not None and images.ndim == 4:
            features = self.model.features(images)
            *_, last = features.values()
            logits = self.model.head(self.model.pool(last))
            auxiliary = self.model.auxiliary_logits(features)
        else:
            logits = self.model(images)
        labels = batch["label"].astype(logits.dtype)
        weights = self._weights(labels, batch.get("progress"))
        lowered = (
            logits
            if self.margins is None
            else logits - self.model.head.scale * self._margins(labels)
        )
        loss = self._mean(lowered, labels, weights)
        if auxiliary is not None:
            loss += self.auxiliary_weight * self._mean(auxiliary, labels, weights)
        return loss, {"accuracy": (logits.argmax(-1) == labels.argmax(-1)).mean()}

    def _weights(self, labels, progress):
        """Returns each image's weight, (B,), or None."""
        if self.class_weights is None:
            return None
        weights = labels @ jnp.array(self.class_weights, labels.dtype)
        return (
            jnp.where(progress >= self.weights_from, weights, 1.0) if self.weights_from else weights
        )

    def _margins(self, labels):
        return labels * jnp.array(self.margins, labels.dtype)

    def _mean(self, logits, labels, weights):
        shifted = logits if self.offsets is None else logits + jnp.array(self.offsets, logits.dtype)
        each = cross_entropy(shifted, smooth(labels, self.label_smoothing), self.focal_gamma)
        if weights is None:
            return each.mean()
        return (weights * each).sum() / jnp.maximum(weights.sum(), jnp.finfo(each.dtype).tiny)


def _tuple(values):
    return None if values is None else tuple(map(float, values))


def smooth(labels, amount):
    """Label smoothing (Szegedy et al. 2015, arXiv:1512.00567, section 7): (1 - amount) label +
    amount / C."""
    return labels if amount == 0 else (1 - amount) * labels + amount / labels.shape[-1]


def cross_entropy(logits, labels, focal_gamma=0.0):
    """Cross-entropy of soft labels, or with gamma > 0 the focal loss (Lin et al. 2017,
    arXiv:1708.02002, eq. 4).

    Args:
        logits: float (B, C).
        labels: float (B, C), rows that sum to 1.

    Returns:
        float (B,), in nats.
    """
    log_p = jax.nn.log_softmax(logits)
    if focal_gamma:
        # Away from 0, where the power of a gamma below 1 has no finite gradient.
        missing = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(log_p.dtype).tiny)
        log_p = missing**focal_gamma * log_p
    return -(labels * log_p).sum(-1)


def class_weights(name, counts, beta):
    """Turns `config.objective.class_weights` into weights.

    Args:
        name: "none"; "inverse", N / (C n_c), scikit-learn's "balanced"; "effective_number", (1 -
            beta) / (1 - beta^n_c) scaled to sum to C (Cui et al. 2019, arXiv:1901.05555, eq. 5 and
            6); or a list such as "[1, 2.5]".
        counts: int (C,), training images of each class.
        beta: for effective_number, in [0, 1).

    Returns:
        float (C,), or None for "none". A class with no images weighs as if it had one.
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
            f"objective.class_weights = '{name}': use none, inverse, effective_number or a list such as '[1.0, 2.5]'"
        ) from error
    if weights.shape != n.shape or not (
        np.isfinite(weights).all() and (weights >= 0).all() and weights.any()
    ):
        raise UserError(
            f"objective.class_weights = '{name}': give {len(n)} weights of at least 0, one a class"
        )
    return weights


def ldam_margins(counts, largest):
    """Returns the margins of LDAM, n_c^(-1/4) scaled so that the rarest class has the largest one.

    Cao et al. 2019 (arXiv:1906.07413), eq. 12, with the scale of the authors' code.

    Args:
        counts: int (C,), training images of each class; one with none has the margin of one with 1.
        largest: of the margins, a cosine's difference.

    Returns:
        float64 (C,).
    """
    margins = np.maximum(np.asarray(counts, np.float64), 1) ** -0.25
    return margins * (largest / margins.max())


def build(c, model, *, class_counts, rngs):
    """Builds `Supervised` from `config.objective`; see `vision.objectives`."""
    del rngs  # nothing here is random
    if c.ldam_margin and not isinstance(getattr(model, "head", None), CosineHead):
        raise UserError(
            "objective.ldam_margin is a margin between cosines: set model.head=cosine too"
        )
    prior = np.maximum(class_counts, 1) / np.maximum(class_counts, 1).sum()
    return Supervised(
        model,
        label_smoothing=c.label_smoothing,
        class_weights=class_weights(c.class_weights, class_counts, c.effective_number_beta),
        weights_from=c.weights_from,
        margins=ldam_margins(class_counts, c.ldam_margin) if c.ldam_margin else None,
        focal_gamma=c.focal_gamma,
        # Menon et al. 2020 (arXiv:2007.07314), eq. 10: train on logits + tau log prior, predict
        # with the logits.
        offsets=c.logit_adjustment * np.log(prior) if c.logit_adjustment else None,
        auxiliary_weight=c.auxiliary_weight,
    )
