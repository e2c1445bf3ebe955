"""Optimizers and learning-rate schedules, from Optax, by name."""

import jax
import optax
from flax import traverse_util

from vision.errors import check_choice

SCHEDULES = ("warmup_cosine", "cosine", "step", "linear", "constant", "rsqrt", "plateau")
OPTIMIZERS = ("sgd", "adam", "adamw", "lamb", "lion", "muon")


def make_schedule(c, peak, steps):
    """Builds the learning rate as a function of the step.

    Args:
        c: config.schedule.
        peak: the highest rate.
        steps: length of the training.

    Returns:
        An Optax schedule. "plateau" is constant here: the loop scales it when the validation loss stalls.
    """
    check_choice("schedule.name", c.name, SCHEDULES)
    warmup = round(c.warmup * steps)
    rest = max(steps - warmup, 1)
    if c.name == "cosine":
        return optax.cosine_decay_schedule(peak, max(steps, 1), alpha=c.final)
    if c.name == "warmup_cosine":
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, warmup + 1), peak * c.final)
    if c.name == "linear":
        after = optax.linear_schedule(peak, peak * c.final, rest)
    elif c.name == "rsqrt":
        # Zhai et al. 2021 (arXiv:2106.04560), section 3.5: 1 / sqrt of time, after a timescale.
        scale = max(c.timescale * steps, 1.0)
        after = lambda t: peak * (scale / jax.numpy.maximum(t + warmup, scale)) ** 0.5  # noqa: E731
    else:
        after = optax.constant_schedule(peak)
    schedule = optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup]) if warmup else after
    if c.name != "step":
        return schedule
    drops_at = [round(share * steps) for share in c.boundaries]  # in a short run two may fall on one step
    drops = optax.piecewise_constant_schedule(1.0, {step: c.factor ** drops_at.count(step) for step in drops_at})
    return lambda t: schedule(t) * drops(t)


def make_optimizer(c, schedule, params):
    """Builds the Optax transformation of `config.optimizer`.

    Args:
        c: config.optimizer.
        schedule: from `make_schedule`.
        params: nested dict of arrays, to decide by name and shape what decays.
    """
    check_choice("optimizer.name", c.name, OPTIMIZERS)
    mask = jax.tree.map(lambda _: True, params) if c.decay_all else decay_mask(params)
    decoupled = {"weight_decay": c.weight_decay, "mask": mask}
    if c.name == "sgd":
        core = optax.sgd(schedule, momentum=c.momentum or None, nesterov=c.nesterov)
    elif c.name == "adam":
        core = optax.adam(schedule, c.b1, c.b2, c.eps)
    elif c.name == "adamw":
        core = optax.adamw(schedule, c.b1, c.b2, c.eps, **decoupled)
    elif c.name == "lamb":
        core = optax.lamb(schedule, c.b1, c.b2, c.eps, **decoupled)
    elif c.name == "lion":
        core = optax.lion(schedule, c.b1, c.b2, **decoupled)
    else:
        core = _muon(c, schedule, mask)
    chain = [optax.clip_by_global_norm(c.clip_norm)] if c.clip_norm else []
    if c.name in ("sgd", "adam") and c.weight_decay:
        chain.append(optax.add_decayed_weights(c.weight_decay, mask))
    return optax.chain(*chain, core)


def decay_mask(params):
    """True for what weight decay applies to: arrays of two and more axes that are no positions or tokens."""
    flat = traverse_util.flatten_dict(params)
    spared = ("position", "token")
    return traverse_util.unflatten_dict(
        {path: v.ndim > 1 and not any(s in part for part in path for s in spared) for path, v in flat.items()}
    )


def _muon(c, schedule, mask):
    """Muon (Jordan 2024) for the hidden layers' matrices and filters, AdamW for the rest.

    Its updates are scaled to AdamW's root mean square of 0.2 (Liu et al. 2025, arXiv:2502.16982, section 2.2), so that
    one learning rate and one weight decay serve both.
    """

    def dimensions(params):
        flat = traverse_util.flatten_dict(params)
        return traverse_util.unflatten_dict({path: _matrix_axes(path, v) for path, v in flat.items()})

    direction = optax.contrib.muon(
        1.0,
        beta=c.momentum,
        eps=c.eps,
        adam_b1=c.b1,
        adam_b2=c.b2,
        muon_weight_dimension_numbers=dimensions,
        consistent_rms=0.2,
    )
    # Decay is added here, downhill as the direction, for Optax's Muon cannot spare the biases that Adam learns.
    return optax.chain(direction, optax.add_decayed_weights(-c.weight_decay, mask), optax.scale_by_schedule(schedule))


def _matrix_axes(path, value):
    """Which axes of a kernel multiply the input and which make the output; None for what is no hidden matrix."""
    hidden = path[-1] == "kernel" and not {"head", "patches", "stem"} & set(path)
    if not hidden or value.ndim not in (2, 4):
        return None
    last = value.ndim - 1
    return optax.contrib.MuonDimensionNumbers(reduction_axis=tuple(range(last)), output_axis=last)
