"""SimCLR: the two views of an image find each other among all views of the batch.

Chen et al. 2020 (arXiv:2002.05709), eq. 1 and algorithm 1. Labels reach only the linear probe on
the way (`vision.objectives.representation`): the network before the head never learns from them.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from vision.objectives import representation
from vision.objectives.representation import Head, check_batch, online_probe, spread, unit

USES = ()
INPUTS = {"train": ("first", "second")}
OPTIONS = {
    "temperature": 0.1,  # tau of eq. 1; 0.5 is the paper's on CIFAR-10 (appendix B.9)
    "hidden": 2048,  # units of the projection's hidden layers
    "width": 128,  # length of the projections
    "layers": 2,  # of the projection
}
MEASURES = representation.MEASURES
validate = representation.neighbors


class SimCLR(nnx.Module):
    """Contrasts projections of two views, and trains the probe.

    Args:
        model: the network.
        projection: on its embeddings; exports leave it out.
        temperature: see `nt_xent`.
    """

    whole_batch = True

    def __init__(self, model: Any, projection: Head, *, temperature: float):
        self.model = model
        self.projection = projection
        self.temperature = temperature

    def loss(self, batch: Mapping[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns NT-Xent plus the probe's cross-entropy, in nats, and both apart.

        Also logged: "accuracy" is the probe's, "top1" the share of views that find the other one,
        "spread" `representation.spread` of the projections.

        Raises:
            UserError: the batch has a single image.
        """
        check_batch(batch["first"], "simclr")
        # One pass, so that BatchNorm sees all of them, as in the authors' code.
        embeddings = self.model.embed(jnp.concatenate([batch["first"], batch["second"]]))
        projections = unit(self.projection(embeddings))
        contrast, top1 = nt_xent(projections, self.temperature)
        probe, scalars = online_probe(self.model, embeddings, batch["label"])
        scalars |= {"contrast": contrast, "probe": probe}
        scalars |= {"top1": top1, "spread": spread(projections)}
        return contrast + probe, scalars


def nt_xent(projections: jax.Array, temperature: float) -> tuple[jax.Array, jax.Array]:
    """Returns the normalized temperature-scaled cross-entropy in nats, and the accuracy.

    Eq. 1, averaged over both views of every image. The other 2 (B - 1) views are the negatives.

    Args:
        projections: float (2 B, D), each of length 1: the first views, then the second in the same
            order.
        temperature: tau, above 0.
    """
    views = len(projections)
    logits = projections @ projections.T / temperature
    logits = jnp.where(jnp.eye(views, dtype=bool), -jnp.inf, logits)
    positives = (jnp.arange(views) + views // 2) % views
    log_p = jax.nn.log_softmax(logits)[jnp.arange(views), positives]
    return -log_p.mean(), (logits.argmax(-1) == positives).mean()


def build(c: ConfigDict, model: Any, *, rngs: nnx.Rngs) -> SimCLR:
    """Builds `SimCLR`.

    The projection is that of the authors' code: BatchNorm after every layer, the last one's without
    a bias.

    Raises:
        UserError: an option is out of range.
    """
    options = c.options
    representation.check_options(options)
    projection = Head(
        model.head.in_features,
        options.hidden,
        options.width,
        layers=options.layers,
        output_norm=True,
        output_scale=True,
        rngs=rngs,
    )
    return SimCLR(model, projection, temperature=options.temperature)
