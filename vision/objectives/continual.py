"""Learning new classes or new images without forgetting the old ones, from a finished run.

`config.continual.previous` names the run, `config.continual.memory` what is remembered of its
images. Further terms of the loss, each off at 0:

lwf: new answers stay near to the old ones. Learning without forgetting, Li and Hoiem 2016
(arXiv:1606.09282), eq. 4, on the new images and on the remembered ones.

ewc: weights that mattered stay near to their values: elastic weight consolidation, Kirkpatrick et
al. 2017 (arXiv:1612.00796), eq. 3. `python -m vision.continual.importance` measures what mattered.

si: the same with what the weights contributed to the training: synaptic intelligence, Zenke et al.
2017 (arXiv:1703.04200), eq. 4. The run before must have had si above 0 too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util
from ml_collections import ConfigDict

from vision.errors import check_range
from vision.objectives.distillation import soft_loss
from vision.objectives.importance import PathIntegral, Quadratic, importance_file, parameters
from vision.objectives.supervised import cross_entropy, smooth

USES = ("label_smoothing",)
OPTIONS = {
    "lwf": 0.0,  # weight of the old answers
    "temperature": 2.0,  # of lwf
    "ewc": 0.0,  # lambda
    "si": 0.0,  # c
    "new_share": 0.0,  # weight of the new images in the loss; 0 = the new classes' share of all
    "within_task": False,  # only the classes of an image's own task can be the answer
}
INPUTS = {"train": ("image",), "memory": ("image",)}
MASKED = -1e9  # the logit of a class that cannot be the answer


class Continual(nnx.Module):
    """share x cross-entropy of new images + (1 - share) x what keeps the old ones + penalties.

    Without a memory and without lwf, the cross-entropy has the whole weight. Those remembered are
    in the same forward pass as the new ones, so that BatchNorm sees both.

    Args:
        model: the model that learns, with the old classes first.
        previous: the model before, which lwf needs; None without.
        groups: class numbers of each task, in their order; one group if there are no tasks.
        options: see `OPTIONS`.
        share: weight of the new images, in (0, 1].
        penalizes: which of "ewc" and "si" have an importance to start from.
        label_smoothing: see `vision.objectives.supervised.smooth`.
    """

    def __init__(
        self,
        model: Any,
        previous: Any,
        groups: Sequence[Sequence[int]],
        options: ConfigDict,
        *,
        share: float,
        penalizes: Sequence[str] = (),
        label_smoothing: float = 0.0,
    ):
        self.model = model
        frozen = []
        constant = []
        if previous is not None:
            self.previous = previous
            constant.append("previous")
        if "ewc" in penalizes:
            self.ewc = Quadratic(model)
            constant.append("ewc")
        if "si" in penalizes:
            self.si = Quadratic(model)
            constant.append("si")
        self.tracks = options.si > 0
        if self.tracks:
            self.path = PathIntegral(model)
            self.first = nnx.clone(model)
            self.last = nnx.clone(model)
            frozen = ["first", "last"]
        self.frozen = (*constant, *frozen)
        self.constant = tuple(constant)
        self.groups = tuple(tuple(group) for group in groups)
        self.lwf = options.lwf
        self.temperature = options.temperature
        self.factors = {"ewc": options.ewc / 2, "si": options.si}
        self.within_task = options.within_task
        self.share = share
        self.label_smoothing = label_smoothing

    def loss(self, batch: Mapping[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the loss, and its parts.

        {"accuracy"}, of the new images; "memory_accuracy" of those remembered; "lwf", "ewc" and
        "si", without their factors.
        """
        count = len(batch["image"])
        images = batch["image"]
        labels = batch["label"]
        if "memory" in batch:
            images = jnp.concatenate([images, batch["memory"]["image"]])
            labels = jnp.concatenate([labels, batch["memory"]["label"]])
        logits = self.model(images)
        told = self._among(logits, labels)
        losses = cross_entropy(told, self._smooth(labels).astype(told.dtype))
        right = told.argmax(-1) == labels.argmax(-1)
        scalars = {"accuracy": right[:count].mean()}
        kept = jnp.zeros(())
        if "memory" in batch:
            kept += losses[count:].mean()
            scalars["memory_accuracy"] = right[count:].mean()
        if self.lwf and hasattr(self, "previous"):
            scalars["lwf"] = self._distance(logits, images)
            kept += self.lwf * scalars["lwf"]
        has_kept = len(scalars) > 1
        share = self.share if has_kept else 1.0
        loss = share * losses[:count].mean() + (1 - share) * kept
        for name in ("ewc", "si"):
            if hasattr(self, name):
                scalars[name] = getattr(self, name)(self.model)
                loss += self.factors[name] * scalars[name]
        return loss, scalars

    def after_update(self, gradients: Mapping[str, Any]) -> None:
        """Adds the step to the path integral, if SI is on.

        Args:
            gradients: {attribute: gradients of its parameters, as nested dicts}.
        """
        if not self.tracks:
            return
        flat = traverse_util.flatten_dict(gradients["model"], sep=".")
        self.path.add(self.last, self.model, flat)
        for name, parameter in parameters(self.model).items():
            parameters(self.last)[name].set_value(parameter.get_value())

    def _among(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """Returns the logits of the classes that an image is distinguished from."""
        if not self.within_task:
            return logits
        tasks = self._tasks(logits.shape[-1])
        is_own = tasks[labels.argmax(-1)][:, None] == tasks[None]
        return jnp.where(is_own, logits, MASKED)

    def _smooth(self, labels: jax.Array) -> jax.Array:
        if not self.within_task or not self.label_smoothing:
            return smooth(labels, self.label_smoothing)
        tasks = self._tasks(labels.shape[-1])
        own = (tasks[labels.argmax(-1)][:, None] == tasks[None]).astype(labels.dtype)
        amount = self.label_smoothing
        return (1 - amount) * labels + amount * own / own.sum(-1, keepdims=True)

    def _tasks(self, classes: int) -> jax.Array:
        """Returns the number of the task of each class, int (C,)."""
        tasks = np.zeros(classes, np.int32)
        for number, group in enumerate(self.groups):
            tasks[list(group)] = number
        return jnp.array(tasks)

    def _distance(self, logits: jax.Array, images: jax.Array) -> jax.Array:
        """Returns T^2 KL(old answers || new ones), nats, the mean over images and old tasks."""
        old = jax.lax.stop_gradient(self.previous(images))
        count = old.shape[-1]
        columns = [np.arange(count)]
        if self.within_task:
            columns = [np.array(group) for group in self.groups if group and max(group) < count]
        terms = [soft_loss(logits[:, c], old[:, c], self.temperature).mean() for c in columns]
        return jnp.stack(terms).mean()


def starts(c: ConfigDict, previous: str) -> dict[str, str]:
    """Returns what the attributes start from.

    Args:
        c: config.objective, its options complete.
        previous: config.continual.previous.
    """
    options = c.options
    starts = {"first": "model", "last": "model"} if options.si else {}
    if previous and options.lwf:
        starts["previous"] = previous
    if previous and options.ewc:
        starts["ewc"] = importance_file(previous, "fisher")
    if previous and options.si:
        starts["si"] = importance_file(previous, "si")
    return starts


def build(
    c: ConfigDict,
    model: nnx.Module,
    *,
    classes: Sequence[str],
    tasks: Sequence[Any],
    architectures: Any,
) -> Continual:
    """Builds `Continual` from `config.objective`; see `vision.objectives.contract`.

    Raises:
        UserError: an option is out of range.
    """
    options = c.options
    _check(options)
    ends = np.cumsum([len(task.classes) for task in tasks])
    groups = [range(end - len(task.classes), end) for end, task in zip(ends, tasks, strict=True)]
    penalizes = [name for name in ("ewc", "si") if options[name] and len(tasks) > 1]
    return Continual(
        model,
        architectures["previous"] if options.lwf and len(tasks) > 1 else None,
        groups or [range(len(classes))],
        options,
        share=options.new_share or _share(tasks),
        penalizes=penalizes,
        label_smoothing=c.label_smoothing,
    )


def _share(tasks: Sequence[Any]) -> float:
    """Returns the new classes' share of all; of tasks with the same classes, one task's share."""
    if len(tasks) < 2:
        return 1.0
    sizes = [len(task.classes) for task in tasks]
    return sizes[-1] / sum(sizes) if sizes[-1] else 1 / len(tasks)


def _check(c: ConfigDict) -> None:
    prefix = "objective.options"
    for name in ("lwf", "ewc", "si"):
        is_weight = 0 <= c[name] < float("inf")
        check_range(f"{prefix}.{name}", c[name], is_weight, "at least 0")
    check_range(f"{prefix}.temperature", c.temperature, 0 < c.temperature < np.inf, "above 0")
    check_range(f"{prefix}.new_share", c.new_share, 0 <= c.new_share < 1, "in [0, 1)")
