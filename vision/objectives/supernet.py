"""A supernet: one set of weights for all networks of a space, which a search then compares.

model.name=mobile_space with a space as its variant. Every step trains the largest network, the
smallest, and some that are drawn: the sandwich rule of Yu and Huang 2019 (arXiv:1903.05134),
section 3.1; their gradients are summed. The largest learns from the labels, the others from what it
says: in-place distillation, section 3.3. Which networks are drawn is traced, so that one compiled
step serves all.

The largest network is what is validated, exported and served. Its passes alone move the running
averages of BatchNorm; another network needs averages of its own, which
`python -m vision.search.architecture.extract` takes (section 3.2).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from vision.errors import UserError, check_count
from vision.models.layers import elastic
from vision.models.layers.variants import check_elastic, parse
from vision.models.mobile_space import MobileSpace
from vision.objectives.supervised import cross_entropy, smooth

USES = ("label_smoothing",)
OPTIONS = {
    "drawn": 2,  # networks of a step beside the largest and the smallest
    "distill": True,  # whether they learn from the largest, not from the labels
}


class Supernet(nnx.Module):
    """The sum of the losses of the largest network, the smallest, and drawn ones.

    Args:
        model: the largest network of its space.
        drawn: number of networks that are drawn in each step.
        distill: whether all but the largest learn from its probabilities; else from the labels.
        label_smoothing: see `vision.objectives.supervised.smooth`.
        rngs: random streams; `params` is used.
    """

    def __init__(
        self,
        model: MobileSpace,
        *,
        drawn: int,
        distill: bool,
        label_smoothing: float,
        rngs: nnx.Rngs,
    ):
        self.model = model
        self.drawn = drawn
        self.distill = distill
        self.label_smoothing = label_smoothing
        self.rngs = nnx.Rngs(network=rngs.params())

    def loss(self, batch: Mapping[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the loss, and {"accuracy", "smallest_accuracy", "others_loss"}.

        The first is the largest network's; the last the mean loss of all others.
        """
        images = batch["image"]
        logits = self.model(images)
        labels = smooth(batch["label"].astype(logits.dtype), self.label_smoothing)
        loss = cross_entropy(logits, labels).mean()
        targets = jax.lax.stop_gradient(jax.nn.softmax(logits)) if self.distill else labels
        statistics = jax.tree.map(lambda x: x, nnx.state(self.model, nnx.BatchStat))
        outputs = [elastic.logits(self.model, images, choice) for choice in self.draw()]
        nnx.update(self.model, statistics)
        others = [cross_entropy(output, targets).mean() for output in outputs]
        right = batch["label"].argmax(-1)
        scalars = {
            "accuracy": (logits.argmax(-1) == right).mean(),
            "smallest_accuracy": (outputs[0].argmax(-1) == right).mean(),
            "others_loss": jnp.stack(others).mean(),
        }
        return sum(others, loss), scalars

    def draw(self) -> list[elastic.Traced]:
        """Returns the networks of a step beside the largest: the smallest, then the drawn ones."""
        space = parse(self.model.variant)
        smallest = elastic.as_arrays(space.smallest())
        return [smallest, *(elastic.draw(space, self.rngs.network()) for _ in range(self.drawn))]


def build(c: ConfigDict, model: nnx.Module, *, rngs: nnx.Rngs) -> Supernet:
    """Builds `Supernet` from `config.objective`; see `vision.objectives.contract`.

    Raises:
        UserError: the model is none of a space, or an option is out of range.
    """
    if not isinstance(model, MobileSpace):
        raise UserError(
            f"objective.name = '{c.name}' trains the networks of a space: it needs "
            "model.name=mobile_space, without transfer.cache_embeddings"
        )
    check_elastic(parse(model.variant))
    check_count("objective.options.drawn", c.options.drawn, 0, 64)
    return Supernet(
        model,
        drawn=c.options.drawn,
        distill=c.options.distill,
        label_smoothing=c.label_smoothing,
        rngs=rngs,
    )
