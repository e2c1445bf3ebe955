"""Ways of learning, one file each.

An objective is an `nnx.Module` that holds the model and whatever else learning needs; the whole
contract is in `vision.objectives.contract`. The least that a file of this folder, or a research
module anywhere on the path, must have is

    class Mine(nnx.Module):
        def __init__(self, model):
            self.model = model

        def loss(self, batch):
            return mean_loss, {"accuracy": accuracy}

    def build(c, model, *, class_counts, rngs):
        return Mine(model)

The trainer knows nothing else of it.
"""

from collections.abc import Mapping
from typing import Any

from flax import nnx
from ml_collections import ConfigDict

from vision.objectives.contract import Definition, Objective, define

__all__ = ["Definition", "Objective", "build", "define"]


def build(
    c: ConfigDict,
    model: nnx.Module,
    *,
    rngs: nnx.Rngs,
    architectures: Mapping[str, nnx.Module] | None = None,
    **facts: Any,
) -> Objective:
    """Builds the objective that `config.objective` names; see `Definition.build`."""
    return define(c).build(model, rngs=rngs, architectures=architectures or {}, **facts)
