"""Distillation: a trained model, the teacher, says what is right beside the labels.

kind=soft: its probabilities, softened by a temperature. Hinton et al. 2015 (arXiv:1503.02531),
section 2. With alpha=1 the labels do not count, and since both see the same crop, mixed or not
(augment.mixup), this is the function matching of Beyer et al. 2021 (arXiv:2106.05237).

kind=hard: its decision. Touvron et al. 2020 (arXiv:2012.12877), section 4. A ViT of
model.distilled=True learns from the teacher by its distillation token, and from the labels by its
class token, for both kinds.

hint, hint_teacher: names of two maps, such as "stages.1", of `features` of the student and of the
teacher, the first of which predicts the second: see `vision.objectives.hints`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from vision.errors import UserError, check_choice, check_range
from vision.objectives.hints import Hint, make_hint
from vision.objectives.supervised import cross_entropy, smooth
from vision.run.teacher import check_same_classes

USES = ("label_smoothing",)
OPTIONS = {
    "teacher": "",  # see `vision.run.teacher.Teacher.spec`
    "kind": "soft",
    "alpha": 0.5,  # the teacher's share of the loss
    "temperature": 4.0,  # of kind=soft
    "hint": "",
    "hint_teacher": "",  # "" = the name in `hint`
    "hint_weight": 1.0,
}
KINDS = ("soft", "hard")


class Distillation(nnx.Module):
    """(1 - alpha) x cross-entropy of the labels + alpha x the teacher's loss, and a hint.

    Args:
        model: the student. If its head has `both`, as a distilled ViT's, the first of the two
            logits learns from the labels and the second from the teacher.
        teacher: has the same classes and sees the same images; in evaluation mode.
        kind: "soft" or "hard"; see the top of the file.
        alpha: the teacher's share of the loss, in [0, 1].
        temperature: of the softened probabilities, above 0.
        label_smoothing: for the labels, never for the teacher's decisions (arXiv:2012.12877,
            section 4).
        hint: a `Hint`, or None.
        hint_weight: its weight.
    """

    frozen = ("teacher",)
    constant = ("teacher",)

    def __init__(
        self,
        model: Any,
        teacher: Any,
        *,
        kind: str = "soft",
        alpha: float = 0.5,
        temperature: float = 4.0,
        label_smoothing: float = 0.0,
        hint: Hint | None = None,
        hint_weight: float = 1.0,
    ):
        self.model = model
        self.teacher = teacher
        self.hint = hint
        self.kind = kind
        self.alpha = alpha
        self.temperature = temperature
        self.label_smoothing = label_smoothing
        self.hint_weight = hint_weight

    def loss(self, batch: Mapping[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the mean loss in nats, and its parts.

        {"accuracy", "agreement", "teacher_loss"}: the share of images that student and teacher put
        into the same class; the teacher's loss without alpha. With a hint also "hint_loss", without
        its weight.
        """
        images = batch["image"]
        embeddings, maps = self._embed(self.model, images)
        teacher_embeddings, teacher_maps = self._embed(self.teacher, images)
        teacher_logits = jax.lax.stop_gradient(self.teacher.head(teacher_embeddings))
        logits, taught_logits = _both(self.model.head, embeddings)
        labels = smooth(batch["label"].astype(logits.dtype), self.label_smoothing)
        label_loss = cross_entropy(logits, labels).mean()
        if self.kind == "hard":
            teacher_loss = hard_loss(taught_logits, teacher_logits).mean()
        else:
            teacher_loss = soft_loss(taught_logits, teacher_logits, self.temperature).mean()
        loss = (1 - self.alpha) * label_loss + self.alpha * teacher_loss
        predicted = (logits + taught_logits).argmax(-1)
        scalars = {
            "accuracy": (predicted == batch["label"].argmax(-1)).mean(),
            "agreement": (predicted == teacher_logits.argmax(-1)).mean(),
            "teacher_loss": teacher_loss,
        }
        if self.hint is not None:
            scalars["hint_loss"] = self.hint.loss(maps, teacher_maps)
            loss += self.hint_weight * scalars["hint_loss"]
        return loss, scalars

    def _embed(self, model: Any, images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns (embeddings (B, D), the maps that a hint may need)."""
        if self.hint is None:
            return model.embed(images), {}
        maps = model.features(images)
        return model.pool(list(maps.values())[-1]), maps


def soft_loss(logits: jax.Array, teacher_logits: jax.Array, temperature: float) -> jax.Array:
    """Returns T^2 KL(softmax(teacher / T) || softmax(student / T)).

    T^2 keeps the gradient's size, whatever the temperature: Hinton et al. 2015 (arXiv:1503.02531),
    section 2; the second term of eq. 2 of Touvron et al. 2020 (arXiv:2012.12877).

    Args:
        logits: the student's, float (B, C).
        teacher_logits: float (B, C).
        temperature: T, above 0.

    Returns:
        float (B,), in nats.
    """
    log_q = jax.nn.log_softmax(logits / temperature)
    log_p = jax.nn.log_softmax(teacher_logits / temperature)
    return temperature**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(-1)


def hard_loss(logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """Returns the cross-entropy of the teacher's decision: Touvron et al. 2020, eq. 3.

    Args:
        logits: the student's, float (B, C).
        teacher_logits: float (B, C).

    Returns:
        float (B,), in nats.
    """
    decisions = jax.nn.one_hot(teacher_logits.argmax(-1), logits.shape[-1], dtype=logits.dtype)
    return cross_entropy(logits, decisions)


def check_teacher(spec: str) -> None:
    """Raises `UserError` if an objective's option names no teacher."""
    if not spec:
        raise UserError(
            "objective.options.teacher is empty: set it to the directory of a run or a bundle, or "
            "to published weights, ARCHITECTURE:VARIANT@WEIGHTS"
        )


def starts(c: ConfigDict) -> dict[str, str]:
    """Returns what the teacher's variables start from."""
    return {"teacher": c.options.teacher}


def build(
    c: ConfigDict,
    model: nnx.Module,
    *,
    classes: Sequence[str],
    rngs: nnx.Rngs,
    architectures: Any,
) -> Distillation:
    """Builds `Distillation` from `config.objective`; see `vision.objectives.contract`.

    Raises:
        UserError: an option is out of range, or the teacher does not fit.
    """
    options = c.options
    check_teacher(options.teacher)
    _check_options(options, is_distilled=_has_two_heads(model))
    teacher = architectures["teacher"]
    check_same_classes("objective.options.teacher", classes, architectures.classes["teacher"])
    return Distillation(
        model,
        teacher,
        kind=options.kind,
        alpha=options.alpha,
        temperature=options.temperature,
        label_smoothing=c.label_smoothing,
        hint=make_hint(options, model, teacher, architectures.image_shapes["teacher"], rngs),
        hint_weight=options.hint_weight,
    )


def _check_options(c: ConfigDict, is_distilled: bool) -> None:
    prefix = "objective.options"
    check_choice(f"{prefix}.kind", c.kind, KINDS)
    check_range(f"{prefix}.alpha", c.alpha, 0 <= c.alpha <= 1, "in [0, 1]")
    rule = "in (0, 1) for a model with a distillation token, where each token has its own loss"
    check_range(f"{prefix}.alpha", c.alpha, not is_distilled or 0 < c.alpha < 1, rule)
    is_finite = 0 < c.temperature < float("inf")
    check_range(f"{prefix}.temperature", c.temperature, is_finite, "above 0")
    is_weight = 0 <= c.hint_weight < float("inf")
    check_range(f"{prefix}.hint_weight", c.hint_weight, is_weight, "at least 0")


def _has_two_heads(model: Any) -> bool:
    return hasattr(getattr(model, "head", None), "both")


def _both(head: Any, embeddings: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the logits that learn from the labels, and those that learn from the teacher."""
    if hasattr(head, "both"):
        return head.both(embeddings)
    logits = head(embeddings)
    return logits, logits
