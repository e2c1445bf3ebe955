"""Distillation without labels: the student's embedding predicts the teacher's.

Feature regression as in SimReg, Navaneet et al. 2022 (arXiv:2201.05131): a linear layer or an MLP,
which is dropped after training, and the squared distance between vectors of length 1. Both see the
same view. The labels of the training images serve two measures only; see
`vision.objectives.representation`.
"""

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from ml_collections import ConfigDict

from vision.errors import check_range
from vision.objectives import distillation, representation

USES = ()
OPTIONS = {
    "teacher": "",  # see `vision.run.teacher.Teacher.spec`; its classes and its head do not matter
    "hidden": 0,  # width of the regressor's hidden layer; 0 = a linear regressor
}
MEASURES = representation.MEASURES
validate = representation.neighbors
starts = distillation.starts


class EmbeddingDistillation(nnx.Module):
    """The distance between a teacher's embedding and a regression of the student's.

    Args:
        model: the student, whose head learns beside it, as a probe.
        teacher: sees the same images; in evaluation mode. Only its `embed` is used.
        hidden: width of the regressor's hidden layer; 0 = a linear regressor.
        widths: lengths of the embeddings: the student's, the teacher's.
        rngs: random streams; `params` is used.
    """

    frozen = ("teacher",)
    constant = ("teacher",)

    def __init__(
        self, model: Any, teacher: Any, hidden: int, widths: tuple[int, int], *, rngs: nnx.Rngs
    ):
        width, teacher_width = widths
        self.model = model
        self.teacher = teacher
        self.regressor: Any
        if hidden:
            self.regressor = nnx.Sequential(
                nnx.Linear(width, hidden, rngs=rngs),
                jax.nn.relu,
                nnx.Linear(hidden, teacher_width, rngs=rngs),
            )
        else:
            self.regressor = nnx.Linear(width, teacher_width, rngs=rngs)

    def loss(self, batch: Mapping[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the mean of `representation.distances` plus the probe's loss.

        Also {"accuracy", "distance"}: of the probe; without the probe's loss.
        """
        images = batch["image"]
        embeddings = self.model.embed(images)
        target = jax.lax.stop_gradient(self.teacher.embed(images))
        distance = representation.distances(self.regressor(embeddings), target).mean()
        probe_loss, scalars = representation.online_probe(self.model, embeddings, batch["label"])
        return distance + probe_loss, scalars | {"distance": distance}


def build(
    c: ConfigDict, model: Any, *, rngs: nnx.Rngs, architectures: Any
) -> EmbeddingDistillation:
    """Builds `EmbeddingDistillation` from `config.objective`; see `vision.objectives.contract`.

    Raises:
        UserError: an option is out of range, or there is no teacher.
    """
    hidden = c.options.hidden
    distillation.check_teacher(c.options.teacher)
    rule = "at least 1, or 0 for a linear regressor"
    check_range("objective.options.hidden", hidden, hidden >= 0, rule)
    teacher = architectures["teacher"]
    widths = (model.head.in_features, teacher.head.in_features)
    # Published encoders have no head, and only the embedding is learned from.
    del teacher.head
    return EmbeddingDistillation(model, teacher, hidden, widths, rngs=rngs)
