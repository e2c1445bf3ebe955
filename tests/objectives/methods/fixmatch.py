"""FixMatch: pseudo-labels of weakly augmented images teach strongly augmented ones.

Sohn et al. 2020 (arXiv:2001.07685), section 2.2.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from vision.objectives.supervised import cross_entropy, smooth

INPUTS = {"train": ("image",), "unlabeled": ("weak", "strong")}
OPTIONS = {"threshold": 0.95, "weight": 1.0}


class FixMatch(nnx.Module):
    """Cross-entropy of labeled images, and of unlabeled ones whose pseudo-label is confident.

    Args:
        model: the classifier.
        threshold: confidence from which a pseudo-label counts, tau.
        weight: weight of the unlabeled loss, lambda_u.
        label_smoothing: for the labeled loss.
    """

    def __init__(self, model, *, threshold, weight, label_smoothing):
        self.model = model
        self.threshold = threshold
        self.weight = weight
        self.label_smoothing = label_smoothing

    def loss(self, batch):
        weak, strong = batch["unlabeled"]["weak"], batch["unlabeled"]["strong"]
        images = batch["image"]
        # One pass, so that BatchNorm sees all of them.
        logits = self.model(jnp.concatenate([images, weak, strong]))
        cuts = [len(images), len(images) + len(weak)]
        labeled, weak, strong = jnp.split(logits, cuts)
        p = jax.lax.stop_gradient(jax.nn.softmax(weak))
        confident = p.max(-1) >= self.threshold
        pseudo_labels = jax.nn.one_hot(p.argmax(-1), p.shape[-1])
        labels = smooth(batch["label"], self.label_smoothing)
        supervised = cross_entropy(labeled, labels).mean()
        unsupervised = (confident * cross_entropy(strong, pseudo_labels)).mean()
        loss = supervised + self.weight * unsupervised
        return loss, {"confident": confident.mean()}


def build(c, model):
    return FixMatch(model, **c.options, label_smoothing=c.label_smoothing)
