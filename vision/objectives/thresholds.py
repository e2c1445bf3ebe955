"""How confident a pseudo-label must be: a fixed threshold, or thresholds that follow the training.

FixMatch: Sohn et al. 2020 (arXiv:2001.07685), eq. 4. FlexMatch: Zhang et al. 2021
(arXiv:2110.08263), section 3. FreeMatch: Wang et al. 2022 (arXiv:2205.07246), section 4.

A rule is an `nnx.Module` that is called once per step with the probabilities of the weakly
augmented images and returns a threshold per class. What it remembers lies in its `nnx.Variable`s,
so a resumed run continues with it. Probabilities are float (B, C), without a gradient.
"""

import jax
import jax.numpy as jnp
from flax import nnx

NO_LABEL = -1  # of an image without a confident pseudo-label so far


class Rule(nnx.Module):
    """What all rules have; a rule of its own only overrides what differs.

    Args:
        classes: C.
    """

    def __init__(self, classes: int):
        self.classes = classes

    def __call__(self, p: jax.Array, index: jax.Array) -> jax.Array:
        """Returns the thresholds, float (C,).

        Args:
            p: see the top of the file.
            index: int (B,), which of the unlabeled images they are.
        """
        raise NotImplementedError

    def penalty(self, logits: jax.Array, confident: jax.Array) -> jax.Array:
        """Returns a further loss on strongly augmented images, a scalar: none.

        Args:
            logits: of the strongly augmented images, float (B, C).
            confident: bool (B,), which pseudo-labels count.
        """
        del confident
        return jnp.zeros((), logits.dtype)


class FixedRule(Rule):
    """The same threshold for all classes, at all times.

    Args:
        classes: C.
        threshold: in [0, 1].
    """

    def __init__(self, classes: int, threshold: float):
        super().__init__(classes)
        self.threshold = threshold

    def __call__(self, p: jax.Array, index: jax.Array) -> jax.Array:
        """Returns the thresholds, float (C,)."""
        del index
        return jnp.full(self.classes, self.threshold, p.dtype)


class FlexRule(FixedRule):
    """FlexMatch: a class that has few confident pseudo-labels gets a lower threshold.

    Each unlabeled image's latest pseudo-label above the threshold is remembered. The thresholds of
    a step follow from the steps before it.

    Args:
        classes: C.
        threshold: of the class with the most pseudo-labels, in [0, 1].
        images: number of unlabeled images, N.
    """

    def __init__(self, classes: int, threshold: float, images: int):
        super().__init__(classes, threshold)
        self.labels = nnx.Variable(jnp.full(images, NO_LABEL, jnp.int32))

    def __call__(self, p: jax.Array, index: jax.Array) -> jax.Array:
        """Returns the thresholds, float (C,), and remembers the pseudo-labels of images `index`."""
        labels = self.labels[...]
        thresholds = flexible_thresholds(labels, self.classes, self.threshold)
        confident = p.max(-1) >= self.threshold
        self.labels[...] = remember(labels, index, p.argmax(-1), confident)
        return thresholds.astype(p.dtype)


class FreeRule(Rule):
    """FreeMatch: thresholds at the model's average confidence, and a loss for diverse predictions.

    Args:
        classes: C.
        momentum: of the averages over steps, lambda, in [0, 1).
        fairness: weight of the fairness loss, w_f.

    Attributes:
        confidence: average of the largest probability, float (): eq. 5.
        shares: average probability of each class, float (C,): eq. 6.
        histogram: average share of each class among the pseudo-labels, float (C,): eq. 11.
    """

    def __init__(self, classes: int, momentum: float, fairness: float):
        super().__init__(classes)
        self.momentum = momentum
        self.fairness = fairness
        self.confidence = nnx.Variable(jnp.full((), 1 / classes))
        self.shares = nnx.Variable(jnp.full(classes, 1 / classes))
        self.histogram = nnx.Variable(jnp.full(classes, 1 / classes))

    def __call__(self, p: jax.Array, index: jax.Array) -> jax.Array:
        """Returns the thresholds, float (C,): eq. 7, after this step's part in the averages."""
        del index
        self._follow(self.confidence, p.max(-1).mean())
        self._follow(self.shares, p.mean(0))
        self._follow(self.histogram, label_shares(p, jnp.ones(len(p), bool)))
        shares = self.shares[...]
        return (shares / shares.max() * self.confidence[...]).astype(p.dtype)

    def _follow(self, average: nnx.Variable, value: jax.Array) -> None:
        old = average[...]
        average[...] = (self.momentum * old + (1 - self.momentum) * value).astype(old.dtype)

    def penalty(self, logits: jax.Array, confident: jax.Array) -> jax.Array:
        """Returns the weighted fairness loss, a scalar: w_f L_f of eq. 13."""
        loss = fairness_loss(logits, confident, self.shares[...], self.histogram[...])
        return self.fairness * loss


def flexible_thresholds(labels: jax.Array, classes: int, threshold: float) -> jax.Array:
    """Returns FlexMatch's threshold of each class: M(beta) threshold, M(x) = x / (2 - x).

    beta is the class's number of pseudo-labels, over that of the class with the most; or over the
    number of images without any if those are more, which keeps the thresholds low at first: the
    paper's threshold warm-up.

    Args:
        labels: int (N,), each image's latest confident pseudo-label, or `NO_LABEL`.
        classes: C.
        threshold: tau, in [0, 1].

    Returns:
        float (C,), in [0, threshold].
    """
    counts = jnp.bincount(labels + 1, length=classes + 1)  # of images without, then of each class
    beta = counts[1:] / counts.max()
    return threshold * beta / (2 - beta)


def remember(
    labels: jax.Array, index: jax.Array, new: jax.Array, confident: jax.Array
) -> jax.Array:
    """Returns the images' labels with the new ones of those that are confident.

    If a batch has an image twice, its last confident label counts, on every device.

    Args:
        labels: int (N,).
        index: int (B,), places in `labels`.
        new: int (B,).
        confident: bool (B,).
    """
    # The order in which a scatter writes to one place is open; the largest row is not.
    place = jnp.where(confident, index, len(labels))
    rows = jnp.full(len(labels), -1).at[place].max(jnp.arange(len(index)), mode="drop")
    return jnp.where(rows >= 0, new.astype(labels.dtype)[rows], labels)


def label_shares(p: jax.Array, counted: jax.Array) -> jax.Array:
    """Returns the share of each class among the most probable ones, float (C,); 0 if none counts.

    Args:
        p: float (B, C).
        counted: bool (B,), the rows that count.
    """
    votes = jax.nn.one_hot(p.argmax(-1), p.shape[-1], dtype=p.dtype) * counted[:, None]
    return votes.sum(0) / jnp.maximum(votes.sum(), 1)


def fairness_loss(
    logits: jax.Array, confident: jax.Array, shares: jax.Array, histogram: jax.Array
) -> jax.Array:
    """Returns FreeMatch's self-adaptive fairness loss, eq. 9 to 12.

    The negative cross-entropy between two distributions over the classes: the average prediction of
    the training, and that of the confident strongly augmented images, each divided by how often
    each class is predicted. As in the authors' code, a class that is never predicted counts 0, and
    the loss is 0 if no image is confident.

    Args:
        logits: of the strongly augmented images, float (B, C).
        confident: bool (B,).
        shares: average probability of each class, float (C,), without a gradient.
        histogram: average share of each class among the pseudo-labels, float (C,).
    """
    p = jax.nn.softmax(logits)
    count = jnp.maximum(confident.sum(), 1)
    mean = (confident[:, None] * p).sum(0) / count
    wanted = _normalized(shares, histogram)
    predicted = _normalized(mean, label_shares(p, confident))
    tiny = 1e-12  # as in the authors' code: a class that is never predicted has no logarithm
    loss = (wanted * jnp.log(predicted + tiny)).sum()
    return jnp.where(confident.any(), loss, 0.0)


def _normalized(values: jax.Array, divisors: jax.Array) -> jax.Array:
    """Returns values / divisors, 0 for divisors of 0, scaled to a sum of 1 unless all are 0."""
    ratios = jnp.where(divisors > 0, values / jnp.where(divisors > 0, divisors, 1), 0)
    return ratios / jnp.maximum(ratios.sum(), jnp.finfo(ratios.dtype).tiny)
