"""Optimizers and learning-rate schedules, from Optax, by name; and lookahead around any of them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from vision.errors import UserError, check_choice
from vision.training.layerwise import by_layer

SCHEDULES = ("warmup_cosine", "cosine", "step", "linear", "constant", "rsqrt", "plateau")
OPTIMIZERS = ("sgd", "adam", "adamw", "lamb", "lion", "muon")


def make_schedule(c, peak, steps):
    """Builds the learning rate as a function of the step.

    Args:
        c: config.schedule.
        peak: the highest rate.
        steps: length of the training.

    Returns:
        An Optax schedule. "plateau" is constant here: the loop scales it when the validation loss
        stalls.
    """
    check_choice("schedule.name", c.name, SCHEDULES)
    warmup = round(c.warmup * steps)
    start = peak * c.start
    rest = max(steps - warmup, 1)
    if c.name == "cosine":
        return optax.cosine_decay_schedule(peak, max(steps, 1), alpha=c.final)
    if c.name == "warmup_cosine":
        return optax.warmup_cosine_decay_schedule(
            start, peak, warmup, max(steps, warmup + 1), peak * c.final
        )
    if c.name == "linear":
        after = optax.linear_schedule(peak, peak * c.final, rest)
    elif c.name == "rsqrt":
        # Zhai et al. 2021 (arXiv:2106.04560), section 3.5: 1 / sqrt of time, after a timescale.
        scale = max(c.timescale * steps, 1.0)
        after = lambda t: peak * (scale / jnp.maximum(t + warmup, scale)) ** 0.5  # noqa: E731
    else:
        after = optax.constant_schedule(peak)
    schedule = (
        optax.join_schedules([optax.linear_schedule(start, peak, warmup), after], [warmup])
        if warmup
        else after
    )
    if c.name != "step":
        return schedule
    # in a short run two may fall on one step
    drops_at = [round(share * steps) for share in c.boundaries]
    drops = optax.piecewise_constant_schedule(
        1.0, {step: c.factor ** drops_at.count(step) for step in drops_at}
    )
    return lambda t: schedule(t) * drops(t)


def make_optimizer(c, schedule, params, steps, transfer=None, layers=None):
    """Builds the Optax transformation of `config.optimizer`.

    In this order: the gradient is clipped, the norms' biases are scaled, L2 is added, the optimizer
    makes an update of it, and lookahead may replace that.

    Args:
        c: config.optimizer.
        schedule: from `make_schedule`.
        params: nested dict of arrays, to decide by name and shape what decays.
        steps: length of the training, which lookahead needs.
        transfer: config.transfer, where the layers may learn differently; with
        layers: {name in the model: layer}, from `vision.training.transfer.prepare`.

    Raises:
        UserError: an unknown name, or norm_bias_scale with another optimizer than sgd.
    """
    check_choice("optimizer.name", c.name, OPTIMIZERS)
    if c.norm_bias_scale != 1 and c.name != "sgd":
        raise UserError(
            f"optimizer.norm_bias_scale = {c.norm_bias_scale:g} is for sgd only, not {c.name}: set it to 1, "
            "or optimizer.name to sgd"
        )

    def make(schedule, params):
        return _one(c, schedule, params)

    if transfer is None or (transfer.layer_decay == 1 and not transfer.unfreeze):
        core = make(schedule, params)
    else:
        core = by_layer(transfer, make, schedule, params, layers, steps)
    whole = optax.chain(optax.clip_by_global_norm(c.clip_norm), core) if c.clip_norm else core
    return lookahead(whole, c.lookahead, steps) if c.lookahead else whole


def _one(c, schedule, params):
    """Returns what turns gradients, already clipped, into updates."""
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
    chain = []
    if c.norm_bias_scale != 1:
        chain.append(_scale_norm_biases(c.norm_bias_scale))
    if c.name in ("sgd", "adam") and c.weight_decay:
        chain.append(optax.add_decayed_weights(c.weight_decay, mask))
    return optax.chain(*chain, core)


def decay_mask(params):
    """True for what weight decay applies to: arrays of two and more axes that are no positions,
    tokens or biases."""
    flat = traverse_util.flatten_dict(params)
    spared = ("position", "token", "bias")  # Swin's biases of relative positions are a table
    return traverse_util.unflatten_dict(
        {path: v.ndim > 1 and not any(s in path[-1] for s in spared) for path, v in flat.items()}
    )


class LookaheadState(NamedTuple):
    """What `lookahead` keeps: the inner optimizer's state, the slow weights, and the steps so far,
    int32."""

    inner: Any
    slow: Any
    count: jax.Array


def lookahead(inner, period, steps):
    """Pulls the weights back to a slow average of themselves after every `period` steps.

    Zhang et al. 2019 (arXiv:1907.08610), with the schedule of Jordan 2024 (arXiv:2404.00498,
    section 3.4): then slow = d slow + (1 - d) weights, and the weights become the slow ones, with d
    = 0.95^period (t / steps)^3 at step t. After the last step they do so in any case, unless there
    were fewer than a period.

    An update must be applied as it is: scaled, it would not arrive at the slow weights.

    Args:
        inner: the optimizer, an Optax transformation.
        period: steps, at least 1.
        steps: length of the training.
    """

    def init(params):
        # Copies: the trainer donates the parameters' buffers.
        return LookaheadState(
            inner.init(params), jax.tree.map(jnp.array, params), jnp.zeros((), jnp.int32)
        )

    def update(updates, state, params):
        updates, new = inner.update(updates, state.inner, params)
        count = state.count + 1
        decay = 0.95**period * (count / steps) ** 3
        averages = count % period == 0
        returns = averages | ((count == steps) & (steps >= period))

        def follow(slow, value, change):
            return jnp.where(averages, decay * slow + (1 - decay) * (value + change), slow).astype(
                slow.dtype
            )

        slow = jax.tree.map(follow, state.slow, params, updates)
        updates = jax.tree.map(lambda s, p, u: jnp.where(returns, s - p, u), slow, params, updates)
        return updates, LookaheadState(new, slow, count)

    return optax.GradientTransformation(init, update)


def _scale_norm_biases(scale):
    """Multiplies the gradient of every bias of a module whose name begins with "norm".

    Before decay and momentum, that is a rate so many times higher with a decay that is not. Page
    2018 and Jordan 2024 (arXiv:2404.00498, section 3.4) let BatchNorm's biases learn so.
    """

    def update(updates, _):
        flat = traverse_util.flatten_dict(updates)
        return traverse_util.unflatten_dict(
            {path: value * scale if _is_norm_bias(path) else value for path, value in flat.items()}
        )

    return optax.stateless(update)


def _is_norm_bias(path):
    return len(path) > 1 and path[-1] == "bias" and path[-2].startswith("norm")


def _muon(c, schedule, mask):
    """Muon (Jordan 2024) for the hidden layers' matrices and filters, AdamW for the rest.

    Its updates are scaled to AdamW's root mean square of 0.2 (Liu et al. 2025, arXiv:2502.16982,
    section 2.2), so that one learning rate and one weight decay serve both.
    """

    def dimensions(params):
        flat = traverse_util.flatten_dict(params)
        return traverse_util.unflatten_dict(
            {path: _matrix_axes(path, v) for path, v in flat.items()}
        )

    direction = optax.contrib.muon(
        1.0,
        beta=c.momentum,
        eps=c.eps,
        adam_b1=c.b1,
        adam_b2=c.b2,
        muon_weight_dimension_numbers=dimensions,
        consistent_rms=0.2,
    )
    # Decay is added here, downhill as the direction, for Optax's Muon cannot spare the biases that
    # Adam learns.
    return optax.chain(
        direction,
        optax.add_decayed_weights(-c.weight_decay, mask),
        optax.scale_by_schedule(schedule),
    )


def _matrix_axes(path, value):
    """Which axes of a kernel multiply the input and which make the output; None for what is no
    hidden matrix."""
    hidden = path[-1] == "kernel" and not {"head", "patches", "stem"} & set(path)
    if not hidden or value.ndim not in (2, 4):
        return None
    last = value.ndim - 1
    return optax.contrib.MuonDimensionNumbers(reduction_axis=tuple(range(last)), output_axis=last)
