"""Learning from few labels: predictions on unlabeled images must agree with each other.

    python -m vision.main --config configs/fixmatch_fashion_mnist.py:250

Sets `data.unlabeled` and `data.unlabeled_ratio` for the unlabeled images, and `data.labels` for a
draw of the labeled ones. The labels of unlabeled images are never looked at.

objective.options.method:

fixmatch: the pseudo-label of the weak view teaches the strong one, if it is confident. Sohn et al.
    2020 (arXiv:2001.07685), eq. 3 and 4. `rule` says what is confident: "fixed", a threshold;
    "flex", FlexMatch, or "free", FreeMatch: see `vision.objectives.thresholds`.
pi: the Pi-model, Laine and Aila 2016 (arXiv:1610.02242), section 2.1: the squared difference of two
    views' probabilities. In the paper both views are augmented alike: set config.strong to what
    config.augment is.
mean_teacher: Tarvainen and Valpola 2017 (arXiv:1703.01780), section 2: the squared difference from
    the probabilities of a teacher, the moving average of the model. It sees the weak view, the
    model the strong one. With optimizer.ema = momentum the teacher's weights are evaluated too.
pseudo_label: Lee 2013, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for
    Deep Neural Networks", eq. 15: the pseudo-label of a view teaches the same view. threshold=0
    takes all of them, as the paper does.

Passes: FixMatch needs no gradient through the weak view. One forward pass of all images, as in the
authors' code, still pays for it, because the backward pass of a convolution runs over all rows of
its input. So the weak images have a forward pass of their own, as in the benchmark USB (Wang et al.
2022, arXiv:2208.07204) with use_cat=False, and the labeled and the strong images share one. With 7
unlabeled images for each labeled one, that is 69 % of the operations (15 forward and 8 backward
passes of two forward ones each, instead of 15 and 15). Models without BatchNorm compute the same
either way. With BatchNorm, the weak images are normalized by their own statistics instead of those
of all images, and each pass moves the running averages; `one_pass` does it the authors' way. Their
interleaving of labeled and unlabeled images gives each device some of both, which is unnecessary
here: BatchNorm's statistics are those of the global batch.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from vision.data.pipeline import UNLABELED
from vision.errors import UserError, check_choice, check_range
from vision.objectives.representation import Clocked, follow
from vision.objectives.supervised import cross_entropy, smooth
from vision.objectives.thresholds import FixedRule, FlexRule, FreeRule, Rule

INPUTS = {"train": ("image",), "unlabeled": ("weak", "strong")}
USES = ("label_smoothing",)
OPTIONS = {
    "method": "fixmatch",  # fixmatch, pi, mean_teacher or pseudo_label
    "weight": None,  # of the unlabeled loss; None = the method's, see DEFAULTS
    "ramp_up": None,  # share of the training over which the weight rises; None = the method's
    "threshold": 0.95,  # fixmatch, pseudo_label: confidence from which a pseudo-label counts
    "rule": "fixed",  # fixmatch: fixed, flex or free
    "fairness": 0.01,  # rule=free: weight of the fairness loss, w_f
    "momentum": 0.999,  # rule=free: of its averages; mean_teacher: of the teacher
    "early_momentum": 0.99,  # mean_teacher: momentum during the ramp-up
    "one_pass": False,  # fixmatch: the weak images in the same pass as the others
}
# (weight, ramp_up) of each method. pi: 100 of equal means, over 80 of 300 epochs. mean_teacher:
# over 40,000 of 150,000 steps. pseudo_label: linearly over
# 0.4 of the training, as in USB.
DEFAULTS = {
    "fixmatch": (1.0, 0.0),
    "pi": (100.0, 80 / 300),
    "mean_teacher": (100.0, 40 / 150),
    "pseudo_label": (1.0, 0.4),
}
RULES = ("fixed", "flex", "free")
# The options that only some methods or rules have.
USED_BY = {
    "threshold": ("fixmatch with rule=fixed", "fixmatch with rule=flex", "pseudo_label"),
    "rule": ("fixmatch with rule=fixed", "fixmatch with rule=flex", "fixmatch with rule=free"),
    "fairness": ("fixmatch with rule=free",),
    "momentum": ("fixmatch with rule=free", "mean_teacher"),
    "early_momentum": ("mean_teacher",),
    "one_pass": ("fixmatch with rule=fixed", "fixmatch with rule=flex", "fixmatch with rule=free"),
}


class Comparison(NamedTuple):
    """What a method makes of a batch.

    Attributes:
        labeled: logits of the labeled images, float (B, C).
        loss: the unlabeled loss, a scalar.
        penalty: a further loss with a weight of its own, a scalar.
        scalars: {name: scalar} to be logged.
    """

    labeled: jax.Array
    loss: jax.Array
    penalty: jax.Array | float
    scalars: dict[str, jax.Array]


class Consistency(nnx.Module):
    """Cross-entropy of labeled images, and a weighted loss of unlabeled ones.

    Args:
        model: the classifier.
        weight: weight of the unlabeled loss.
        ramp_up: length of the `gaussian_ramp` of the weight, or of the `linear_ramp`.
        label_smoothing: see `smooth`; of the labeled images only.
    """

    ramp_is_linear = False

    def __init__(self, model: Any, *, weight: float, ramp_up: float, label_smoothing: float = 0.0):
        self.model = model
        self.weight = weight
        self.ramp_up = ramp_up
        self.label_smoothing = label_smoothing

    def loss(self, batch: Mapping[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the loss in nats, and {"accuracy", "unsupervised_loss", ...}.

        The accuracy is that of the labeled images. Both losses are means over their images.
        """
        compared = self.compare(batch)
        labels = smooth(batch["label"].astype(compared.labeled.dtype), self.label_smoothing)
        supervised = cross_entropy(compared.labeled, labels).mean()
        ramp = linear_ramp if self.ramp_is_linear else gaussian_ramp
        weight = self.weight * ramp(batch["progress"], self.ramp_up)
        loss = supervised + weight * compared.loss + compared.penalty
        accuracy = (compared.labeled.argmax(-1) == batch["label"].argmax(-1)).mean()
        scalars = {"accuracy": accuracy, "unsupervised_loss": compared.loss}
        return loss, scalars | compared.scalars

    def compare(self, batch: Mapping[str, Any]) -> Comparison:
        """Returns what the method makes of a batch."""
        raise NotImplementedError

    def _logits(self, *images: jax.Array) -> list[jax.Array]:
        """Returns the logits of several stacks of images, from one pass of the model."""
        logits = self.model(jnp.concatenate(images))
        cuts = np.cumsum([len(stack) for stack in images])[:-1]
        return jnp.split(logits, cuts.tolist())


class FixMatch(Consistency):
    """Pseudo-labels of weakly augmented images teach strongly augmented ones.

    Args:
        model: the classifier.
        rule: a rule of `vision.objectives.thresholds`.
        one_pass: whether the weak images share the pass of the others; see the top of the file.
        options: those of `Consistency`.
    """

    def __init__(self, model: Any, *, rule: Rule, one_pass: bool = False, **options: Any):
        super().__init__(model, **options)
        self.rule = rule
        self.one_pass = one_pass

    def compare(self, batch: Mapping[str, Any]) -> Comparison:
        """Also logs "confident", the share that counts, and "threshold", the classes' mean."""
        unlabeled = batch[UNLABELED]
        images = batch["image"]
        if self.one_pass:
            labeled, weak, strong = self._logits(images, unlabeled["weak"], unlabeled["strong"])
        else:
            weak = self.model(unlabeled["weak"])
            labeled, strong = self._logits(images, unlabeled["strong"])
        p = jax.nn.softmax(jax.lax.stop_gradient(weak))
        thresholds = self.rule(p, unlabeled["index"])
        confident = p.max(-1) >= thresholds[p.argmax(-1)]
        return Comparison(
            labeled,
            pseudo_label_loss(strong, p, confident),
            self.rule.penalty(strong, confident),
            {"confident": confident.mean(), "threshold": thresholds.mean()},
        )


class PseudoLabel(Consistency):
    """Confident predictions are taken for labels.

    Args:
        model: the classifier.
        threshold: confidence from which a pseudo-label counts, in [0, 1].
        options: those of `Consistency`.
    """

    ramp_is_linear = True

    def __init__(self, model: Any, *, threshold: float, **options: Any):
        super().__init__(model, **options)
        self.threshold = threshold

    def compare(self, batch: Mapping[str, Any]) -> Comparison:
        """Also logs "confident", the share that counts."""
        labeled, logits = self._logits(batch["image"], batch[UNLABELED]["weak"])
        p = jax.nn.softmax(jax.lax.stop_gradient(logits))
        confident = p.max(-1) >= self.threshold
        loss = pseudo_label_loss(logits, p, confident)
        return Comparison(labeled, loss, 0.0, {"confident": confident.mean()})


class PiModel(Consistency):
    """Two views of an image have the same probabilities; both of them learn."""

    def compare(self, batch: Mapping[str, Any]) -> Comparison:
        unlabeled = batch[UNLABELED]
        labeled, weak, strong = self._logits(batch["image"], unlabeled["weak"], unlabeled["strong"])
        return Comparison(labeled, squared_difference(weak, strong), 0.0, {})


class MeanTeacher(Consistency, Clocked):
    """The model has the probabilities of its own moving average, which sees another view.

    The teacher is in evaluation mode, with statistics of BatchNorm that are averages too; see
    `vision.objectives.representation.follow`.

    Args:
        model: the classifier.
        momentum: of the teacher, after the ramp-up of the weight.
        early_momentum: during it.
        options: those of `Consistency`.
    """

    frozen = ("slow",)

    def __init__(self, model: Any, *, momentum: float, early_momentum: float, **options: Any):
        Consistency.__init__(self, model, **options)
        Clocked.__init__(self)
        self.slow = nnx.clone(model)
        self.momentum = momentum
        self.early_momentum = early_momentum

    def compare(self, batch: Mapping[str, Any]) -> Comparison:
        """Notes the progress for `after_update`."""
        self.note_progress(batch)
        unlabeled = batch[UNLABELED]
        teacher = jax.lax.stop_gradient(self.slow(unlabeled["weak"]))
        labeled, strong = self._logits(batch["image"], unlabeled["strong"])
        return Comparison(labeled, squared_difference(strong, teacher), 0.0, {})

    def after_update(self) -> None:
        """Moves the teacher toward the model: section 3.2 of the paper for the two momenta."""
        is_early = self.progress[...] < self.ramp_up
        follow(self.slow, self.model, jnp.where(is_early, self.early_momentum, self.momentum))


def gaussian_ramp(progress: jax.Array, length: float) -> jax.Array | float:
    """Returns the share of the weight at a time: exp(-5 (1 - progress / length)^2), at most 1.

    Laine and Aila 2016 (arXiv:1610.02242), section 2.1 and appendix A.

    Args:
        progress: share of the training that is done, float ().
        length: share of the training after which it is 1; 0 = always 1.
    """
    return 1.0 if length == 0 else jnp.exp(-5 * jnp.square(1 - linear_ramp(progress, length)))


def linear_ramp(progress: jax.Array, length: float) -> jax.Array | float:
    """Returns the share of the weight at a time, as Lee 2013, eq. 16: progress / length, at most 1.

    Args:
        progress: share of the training that is done, float ().
        length: share of the training after which it is 1; 0 = always 1.
    """
    return 1.0 if length == 0 else jnp.minimum(progress / length, 1.0)


def pseudo_label_loss(logits: jax.Array, p: jax.Array, confident: jax.Array) -> jax.Array:
    """Returns the cross-entropy of hard pseudo-labels, 0 for images that do not count.

    Sohn et al. 2020 (arXiv:2001.07685), eq. 4: the mean over all images, not over those that count.

    Args:
        logits: float (B, C).
        p: probabilities, float (B, C), whose largest is the pseudo-label; without a gradient.
        confident: bool (B,), which images count.

    Returns:
        A scalar, in nats.
    """
    pseudo_labels = jax.nn.one_hot(p.argmax(-1), p.shape[-1], dtype=logits.dtype)
    return (confident * cross_entropy(logits, pseudo_labels)).mean()


def squared_difference(first: jax.Array, second: jax.Array) -> jax.Array:
    """Returns the mean squared difference of probabilities, over images and classes.

    Laine and Aila 2016 (arXiv:1610.02242), algorithm 1.

    Args:
        first: logits, float (B, C).
        second: logits, float (B, C).
    """
    return jnp.square(jax.nn.softmax(first) - jax.nn.softmax(second)).mean()


def starts(c: ConfigDict) -> dict[str, str]:
    """Returns {"slow": "model"} if there is a teacher: it starts as a copy of the model."""
    return {"slow": "model"} if c.options.method == "mean_teacher" else {}


def build(
    c: ConfigDict, model: nnx.Module, *, class_counts: np.ndarray, sizes: Mapping[str, int]
) -> Consistency:
    """Builds the method that `config.objective.options` names.

    Raises:
        UserError: an option is unknown, out of range or not the method's; or there are fewer than 2
            classes.
    """
    o = c.options
    classes = len(class_counts)
    _check(c, classes)
    weight, ramp_up = DEFAULTS[o.method]
    common = {
        "weight": weight if o.weight is None else float(o.weight),
        "ramp_up": ramp_up if o.ramp_up is None else float(o.ramp_up),
        "label_smoothing": c.label_smoothing,
    }
    if o.method == "pi":
        return PiModel(model, **common)
    if o.method == "pseudo_label":
        return PseudoLabel(model, threshold=o.threshold, **common)
    if o.method == "mean_teacher":
        momenta = {"momentum": o.momentum, "early_momentum": o.early_momentum}
        return MeanTeacher(model, **momenta, **common)
    return FixMatch(model, rule=_rule(o, classes, sizes), one_pass=o.one_pass, **common)


def _rule(o: ConfigDict, classes: int, sizes: Mapping[str, int]) -> Rule:
    if o.rule == "flex":
        # Without unlabeled images the trainer refuses the run, after it has built this.
        return FlexRule(classes, o.threshold, sizes.get(UNLABELED, 1))
    if o.rule == "free":
        return FreeRule(classes, o.momentum, o.fairness)
    return FixedRule(classes, o.threshold)


def _check(c: ConfigDict, classes: int) -> None:
    """Raises `UserError` as `build` says."""
    o = c.options
    key = "objective.options"
    check_choice(f"{key}.method", o.method, tuple(DEFAULTS))
    check_choice(f"{key}.rule", o.rule, RULES)
    who = f"fixmatch with rule={o.rule}" if o.method == "fixmatch" else o.method
    for name, users in USED_BY.items():
        if o[name] != OPTIONS[name] and who not in users:
            raise UserError(
                f"{key}.{name} = {o[name]!r} has no effect on {who}, only on {', '.join(users)}: "
                "leave it out"
            )
    for name in ("weight", "ramp_up"):
        if o[name] is not None:
            check_range(f"{key}.{name}", o[name], _is_number(o[name]), "a number")
    check_range(f"{key}.weight", o.weight, o.weight is None or o.weight >= 0, "at least 0")
    check_range(f"{key}.fairness", o.fairness, o.fairness >= 0, "at least 0")
    for name in ("ramp_up", "threshold"):
        check_range(f"{key}.{name}", o[name], o[name] is None or 0 <= o[name] <= 1, "in [0, 1]")
    for name in ("momentum", "early_momentum"):
        check_range(f"{key}.{name}", o[name], 0 <= o[name] < 1, "in [0, 1)")
    if classes < 2:
        raise UserError(f"the objective 'consistency' needs at least 2 classes, got {classes}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and bool(np.isfinite(value))
