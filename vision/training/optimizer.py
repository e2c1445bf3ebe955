"""Optimizers and learning-rate schedules, from Optax, by name."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from ml_collections import ConfigDict

from vision.errors import UserError, check_choice
from vision.training.freezing import freeze_at
from vision.training.layerwise import by_layer
from vision.training.lookahead import lookahead
from vision.training.muon import muon

SCHEDULES = (
    "warmup_cosine",
    "cosine",
    "cosine7_16",
    "step",
    "linear",
    "constant",
    "rsqrt",
    "plateau",
)
OPTIMIZERS = ("sgd", "adam", "adamw", "lamb", "lars", "lion", "muon")
# Parameters without weight decay, by parts of their names. Swin's biases of relative positions are
# a table.
UNDECAYED = ("position", "token", "bias")


def make_schedule(c: ConfigDict, peak: float, steps: int) -> optax.Schedule:
    """Returns the learning rate as a function of the step.

    "plateau" is constant here: the training scales it when the validation loss stalls.

    Args:
        c: config.schedule.
        peak: the highest rate.
        steps: length of the training.

    Raises:
        UserError: the name is unknown.
    """
    check_choice("schedule.name", c.name, SCHEDULES)
    warmup = round(c.warmup * steps)
    start = peak * c.start
    if c.name == "cosine":
        return optax.cosine_decay_schedule(peak, max(steps, 1), alpha=c.final)
    if c.name == "warmup_cosine":
        return optax.warmup_cosine_decay_schedule(
            start, peak, warmup, max(steps, warmup + 1), peak * c.final
        )
    schedule = _after_warmup(c, peak, steps, warmup)
    if warmup:
        rise = optax.linear_schedule(start, peak, warmup)
        schedule = optax.join_schedules([rise, schedule], [warmup])
    return _with_drops(c, schedule, steps) if c.name == "step" else schedule


def _after_warmup(c: ConfigDict, peak: float, steps: int, warmup: int) -> optax.Schedule:
    """Returns the schedule after the warmup, whose steps count from the end of the warmup."""
    if c.name == "linear":
        return optax.linear_schedule(peak, peak * c.final, max(steps - warmup, 1))
    if c.name == "cosine7_16":
        # Sohn et al. 2020 (arXiv:2001.07685), section 2.4: it ends at a fifth of the peak.
        return lambda t: (
            peak * jnp.cos(7 * jnp.pi / 16 * jnp.minimum(t / max(steps - warmup, 1), 1))
        )
    if c.name == "rsqrt":
        # Zhai et al. 2021 (arXiv:2106.04560), section 3.5: 1 / sqrt of time, after a timescale.
        scale = max(c.timescale * steps, 1.0)
        return lambda t: peak * (scale / jnp.maximum(t + warmup, scale)) ** 0.5
    return optax.constant_schedule(peak)


def _with_drops(c: ConfigDict, schedule: optax.Schedule, steps: int) -> optax.Schedule:
    """Returns a schedule multiplied by `c.factor` at each of the boundaries."""
    drops_at = [round(share * steps) for share in c.boundaries]
    # In a short run two boundaries may fall on one step.
    drops = optax.piecewise_constant_schedule(
        1.0, {step: c.factor ** drops_at.count(step) for step in drops_at}
    )
    return lambda t: schedule(t) * drops(t)


def make_optimizer(
    c: ConfigDict,
    schedule: optax.Schedule,
    params: Any,
    steps: int,
    transfer: ConfigDict | None = None,
    layers: Mapping[str, int] | None = None,
    weight_decay: jax.Array | None = None,
) -> optax.GradientTransformation:
    """Returns the Optax transformation of `config.optimizer`.

    In this order: the gradient is clipped, the gradients of the norms' biases are scaled, L2 is
    added, the optimizer computes the update, what is frozen by then gets none, and lookahead may
    replace it.

    Args:
        c: config.optimizer.
        schedule: from `make_schedule`.
        params: nested dict of arrays; their names and shapes decide which decay.
        steps: length of the training, which lookahead needs.
        transfer: config.transfer, if the layers may learn differently; needs `layers`.
        layers: {name in the model: layer}, from `vision.models.surgery.transfer.prepare`.
        weight_decay: float32 (), in place of `c.weight_decay`, which still says whether there is
            any; None takes the config's as a constant.

    Raises:
        UserError: the name is unknown, or norm_bias_scale is set for another optimizer than sgd.
    """
    check_choice("optimizer.name", c.name, OPTIMIZERS)
    if c.norm_bias_scale != 1 and c.name != "sgd":
        raise UserError(
            f"optimizer.norm_bias_scale = {c.norm_bias_scale:g} is for sgd only, not {c.name}: "
            "set it to 1, or optimizer.name to sgd"
        )

    def make(schedule: optax.Schedule, params: Any) -> optax.GradientTransformation:
        decay = c.weight_decay if weight_decay is None else weight_decay
        return _without_clipping(c, schedule, params, decay)

    if transfer is None or (transfer.layer_decay == 1 and not transfer.unfreeze):
        optimizer = make(schedule, params)
    else:
        optimizer = by_layer(transfer, make, schedule, params, layers or {}, steps)
    if c.clip_norm:
        optimizer = optax.chain(optax.clip_by_global_norm(c.clip_norm), optimizer)
    if c.freeze:
        optimizer = optax.chain(optimizer, freeze_at(c.freeze, round(c.freeze_at * steps)))
    return lookahead(optimizer, c.lookahead, steps) if c.lookahead else optimizer


def _without_clipping(
    c: ConfigDict, schedule: optax.Schedule, params: Any, weight_decay: Any
) -> optax.GradientTransformation:
    """Returns the optimizer of gradients that are clipped already."""
    mask = jax.tree.map(lambda _: True, params) if c.decay_all else decay_mask(params)
    decay: dict[str, Any] = {"weight_decay": weight_decay, "mask": mask}
    if c.name == "sgd":
        core = optax.sgd(schedule, momentum=c.momentum or None, nesterov=c.nesterov)
    elif c.name == "adam":
        core = optax.adam(schedule, c.b1, c.b2, c.eps)
    elif c.name == "adamw":
        core = optax.adamw(schedule, c.b1, c.b2, c.eps, **decay)
    elif c.name == "lamb":
        core = optax.lamb(schedule, c.b1, c.b2, c.eps, **decay)
    elif c.name == "lars":
        # You et al. 2017 (arXiv:1708.03888), algorithm 1. SimCLR (arXiv:2002.05709, appendix B.6)
        # neither decays biases and norms nor scales their rates, with a trust coefficient of 0.001.
        core = optax.lars(
            schedule,
            weight_decay,
            weight_decay_mask=mask,
            trust_ratio_mask=decay_mask(params),
            momentum=c.momentum,
            nesterov=c.nesterov,
        )
    elif c.name == "lion":
        core = optax.lion(schedule, c.b1, c.b2, **decay)
    else:
        # Decay is added here, downhill like the direction, since it is not for all of Muon's part.
        core = optax.chain(
            muon(c.momentum, c.b1, c.b2, c.eps),
            optax.add_decayed_weights(-weight_decay, mask),
            optax.scale_by_schedule(schedule),
        )
    chain = []
    if c.norm_bias_scale != 1:
        chain.append(_scale_norm_biases(c.norm_bias_scale))
    if c.name in ("sgd", "adam") and c.weight_decay:
        chain.append(optax.add_decayed_weights(weight_decay, mask))
    return optax.chain(*chain, core)


def decay_mask(params: Any) -> Any:
    """Returns True for each parameter that weight decay applies to.

    These are the arrays of two and more axes, except those named in `UNDECAYED`.
    """

    def decays(path: tuple[str, ...], value: Any) -> bool:
        return value.ndim > 1 and not any(part in path[-1] for part in UNDECAYED)

    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict({path: decays(path, v) for path, v in flat.items()})


def _scale_norm_biases(scale: float) -> optax.GradientTransformation:
    """Multiplies the gradient of every bias of a module whose name begins with "norm".

    Applied before decay and momentum, it multiplies the biases' rate but not their decay. Page 2018
    and Jordan 2024 (arXiv:2404.00498, section 3.4) train BatchNorm's biases this way.
    """

    def update(updates: Any, _: Any) -> Any:
        flat = traverse_util.flatten_dict(updates)
        return traverse_util.unflatten_dict(
            {path: value * scale if _is_norm_bias(path) else value for path, value in flat.items()}
        )

    return optax.stateless(update)


def _is_norm_bias(path: tuple[str, ...]) -> bool:
    return len(path) > 1 and path[-1] == "bias" and path[-2].startswith("norm")
