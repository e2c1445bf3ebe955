"""BYOL: from one view of an image, predict what a slow copy of the network makes of the other.

Grill et al. 2020 (arXiv:2006.07733), eq. 2, without any negatives. The second view is augmented as
config.strong says, because the paper's two differ (table 6). Labels reach only the linear probe on
the way (`vision.objectives.representation`).

Not as in the paper: the slow copy normalizes by BatchNorm statistics that follow the network's, not
by the batch's: EMAN, Cai et al. 2021 (arXiv:2101.08482), whose section 4 finds BYOL no worse.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from vision.objectives import representation
from vision.objectives.representation import (
    Head,
    MomentumPair,
    check_batch,
    matched,
    online_probe,
    spread,
    unit,
)

USES = ()
INPUTS = {"train": ("first", "strong")}
OPTIONS = {
    "momentum": 0.996,  # of the slow copy at the start, tau_base
    "momentum_rises": True,  # to 1 by a cosine (section 3.3)
    "hidden": 4096,  # units of the hidden layers of projection and prediction
    "width": 256,  # length of the projections
}
MEASURES = representation.MEASURES
validate = representation.neighbors
starts = representation.starts


class BYOL(MomentumPair):
    """Predicts the slow projection of the other view.

    Its loss is a mean over images, so `train.accumulate` may cut the batch; BatchNorm then sees
    each part alone.

    Args:
        model: the network.
        projection: on its embeddings; exports leave it out.
        prediction: on the projections.
        momentum: of the slow copy; see `MomentumPair`.
        momentum_rises: see `MomentumPair`.
    """

    def __init__(
        self,
        model: Any,
        projection: Head,
        prediction: Head,
        *,
        momentum: float,
        momentum_rises: bool,
    ):
        super().__init__(model, projection, momentum, momentum_rises)
        self.prediction = prediction

    def loss(self, batch: Mapping[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns eq. 2 for both views, plus the probe's cross-entropy in nats, and both apart.

        Also logged: "accuracy" is the probe's, "top1" the share of predictions whose nearest target
        in the batch is their own, "spread" `representation.spread` of the projections.

        Raises:
            UserError: the batch has a single image, of which BatchNorm leaves nothing.
        """
        check_batch(batch["first"], "byol")
        self.note_progress(batch)
        # Each view on its own, as in the authors' code: BatchNorm sees one kind of view at a time.
        embeddings = [self.model.embed(batch[view]) for view in ("first", "strong")]
        projections = [self.projection(x) for x in embeddings]
        predictions = [self.prediction(x) for x in projections]
        targets = [self.targets(batch[view]) for view in ("strong", "first")]
        pairs = zip(predictions, targets, strict=True)
        first, second = (representation.distances(*pair).mean() for pair in pairs)
        regression = first + second
        probe, scalars = online_probe(self.model, jnp.concatenate(embeddings), batch["label"])
        scalars |= {"regression": regression, "probe": probe}
        scalars |= {"top1": matched(unit(predictions[0]) @ targets[0].T)}
        scalars |= {"spread": spread(unit(jnp.concatenate(projections)))}
        return regression + probe, scalars


def build(c: ConfigDict, model: Any, *, rngs: nnx.Rngs) -> BYOL:
    """Builds `BYOL`. As in the paper, the outputs of both MLPs have no BatchNorm.

    Raises:
        UserError: an option is out of range.
    """
    options = c.options
    representation.check_options(options)
    return BYOL(
        model,
        Head(model.head.in_features, options.hidden, options.width, rngs=rngs),
        Head(options.width, options.hidden, options.width, rngs=rngs),
        momentum=options.momentum,
        momentum_rises=options.momentum_rises,
    )
