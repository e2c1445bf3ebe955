"""Optimizers and lookahead: their updates, what decays, and that every state survives a
checkpoint."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from vision.config import default
from vision.errors import UserError
from vision.models.layers.streams import Streams
from vision.models.resnet import ResNet
from vision.models.vit import ViT
from vision.objectives.supervised import Supervised
from vision.run.checkpoints import Checkpoints
from vision.training.optimizer import OPTIMIZERS, decay_mask, make_optimizer
from vision.training.state import StateSpec

RATE = 0.01


def config(name, **keys):
    c = default().optimizer
    c.name = name
    c.update(keys)
    return c


def run(c, params, gradient_of, steps, rate=RATE):
    """Parameters after some steps at a constant rate."""
    optimizer = make_optimizer(c, optax.constant_schedule(rate), params, steps)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(gradient_of(params), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params


@functools.cache
def abstract(kind):
    """The parameters of a real model, by name and shape."""
    if kind == "resnet":
        model = functools.partial(ResNet, (1, 1), 4, 3, bottleneck=True, cifar=False)
    else:
        model = functools.partial(ViT, 16, 1, 2, 4, 3, image_size=8, pool=kind, positions="learned")
    return StateSpec(lambda: Supervised(model(rngs=Streams(0)))).abstract_params


def paths(tree):
    return {"/".join(path): leaf for path, leaf in traverse_util.flatten_dict(tree).items()}


# Formulas


def test_unknown_names():
    with pytest.raises(
        UserError, match=r"optimizer.name = 'adamv' is unknown \(did you mean 'adamw?'\?\).*muon"
    ):
        run(config("adamv"), {}, None, 0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_lowers_a_quadratic(name):
    target = jax.random.normal(jax.random.key(0), (6, 4))
    params = {"layer": {"kernel": jnp.zeros((6, 4)), "bias": jnp.ones(4)}}

    def loss(p):
        return jnp.sum((p["layer"]["kernel"] - target) ** 2) + jnp.sum(p["layer"]["bias"] ** 2)

    rate = {"sgd": 0.05, "lion": 0.02}.get(name, 0.05)
    after = run(config(name), params, jax.grad(loss), 60, rate)
    assert loss(after) < 0.35 * loss(params)
    assert jnp.sum(after["layer"]["bias"] ** 2) < 1  # both parts learn


def numpy_steps(c, value, gradients, decays):
    """sgd, adam, adamw, lars and lion as their papers write them, one array, in NumPy."""
    first = np.zeros_like(value)
    second = np.zeros_like(value)
    l2 = c.weight_decay * decays
    for t, gradient in enumerate(gradients, 1):
        if c.name == "sgd":
            gradient = gradient + l2 * value
            first = c.momentum * first + gradient
            value = value - RATE * (gradient + c.momentum * first if c.nesterov else first)
        elif c.name == "lars":
            gradient = gradient + l2 * value
            if value.ndim > 1:  # SimCLR: not for biases and norms
                gradient = gradient * 0.001 * np.linalg.norm(value) / np.linalg.norm(gradient)
            first = c.momentum * first + RATE * gradient
            value = value - (RATE * gradient + c.momentum * first if c.nesterov else first)
        elif c.name == "lion":
            direction = np.sign(c.b1 * first + (1 - c.b1) * gradient)
            first = c.b2 * first + (1 - c.b2) * gradient
            value = value - RATE * (direction + l2 * value)
        else:
            gradient = gradient + (l2 * value if c.name == "adam" else 0)
            first = c.b1 * first + (1 - c.b1) * gradient
            second = c.b2 * second + (1 - c.b2) * gradient**2
            direction = first / (1 - c.b1**t) / (np.sqrt(second / (1 - c.b2**t)) + c.eps)
            value = value - RATE * (direction + (l2 * value if c.name == "adamw" else 0))
    return value


@pytest.mark.parametrize("decay_all", [False, True])
@pytest.mark.parametrize(
    "c",
    [
        config("sgd", weight_decay=0.1),
        config("sgd", weight_decay=0.1, nesterov=True),
        config("sgd", weight_decay=0.1, momentum=0.0),
        config("adam", weight_decay=0.1),
        config("adamw", weight_decay=0.1, b2=0.99),
        config("lion", weight_decay=0.1, b2=0.99),
        config("lars", weight_decay=0.1),
        config("lars", weight_decay=0.1, nesterov=True),
    ],
    ids=lambda c: f"{c.name}-{c.momentum}-{c.nesterov}",
)
def test_updates_and_decay_are_the_formulas(c, decay_all, float64):
    """L2 goes through momentum and Adam's denominator; decoupled decay does not. Biases decay with
    decay_all only."""
    c = c.copy_and_resolve_references()
    c.decay_all = decay_all
    rng = np.random.RandomState(0)
    start = {"kernel": rng.randn(3, 4), "bias": rng.randn(4)}
    gradients = {name: rng.randn(5, *value.shape) for name, value in start.items()}
    optimizer = make_optimizer(c, optax.constant_schedule(RATE), start, 5)
    params = jax.tree.map(jnp.asarray, start)
    state = optimizer.init(start)
    for i in range(5):
        updates, state = optimizer.update(
            {k: jnp.asarray(g[i]) for k, g in gradients.items()}, state, params
        )
        params = optax.apply_updates(params, updates)
    for name in start:
        decays = name == "kernel" or decay_all
        theirs = numpy_steps(c, start[name], gradients[name], decays)
        np.testing.assert_allclose(params[name], theirs, rtol=1e-7, err_msg=name)


@pytest.mark.parametrize(
    "name, decay_all", [*((name, False) for name in OPTIMIZERS), ("muon", True)]
)
def test_without_gradient_only_what_decays_moves(name, decay_all):
    """In every optimizer, Muon's part for Adam included."""
    params = jax.tree.map(lambda x: jnp.ones(x.shape), abstract("token"))
    c = config(name, weight_decay=0.1, decay_all=decay_all)
    after = paths(run(c, params, lambda p: jax.tree.map(jnp.zeros_like, p), 1))
    moved = {path for path, value in after.items() if not np.allclose(value, 1, 0, 1e-7)}
    assert moved == {path for path in after if decay_all or path.endswith("kernel")}
    if name in ("adamw", "lion", "muon"):
        for path in moved:
            np.testing.assert_allclose(after[path], 1 - RATE * 0.1, rtol=1e-6)


@pytest.mark.parametrize("kind", ["token", "mean", "resnet"])
def test_kernels_decay_and_nothing_else(kind):
    mask = paths(decay_mask(abstract(kind)))
    assert {path for path, decays in mask.items() if decays} == {
        path for path in mask if path.endswith("kernel")
    }
    if kind == "token":
        assert (
            not mask["model/positions"]
            and not mask["model/class_token"]
            and mask["model/patches/kernel"]
        )


def test_clip_norm_bounds_the_global_norm():
    params = {"a": jnp.zeros(3), "b": jnp.zeros((2, 2))}
    gradients = {"a": jnp.full(3, 10.0), "b": jnp.full((2, 2), -10.0)}
    clipped = run(
        config("sgd", momentum=0.0, clip_norm=2.0), params, lambda p: gradients, 1, rate=1.0
    )
    assert optax.global_norm(clipped) == pytest.approx(2.0, rel=1e-5)
    # in the gradient's direction
    assert float(clipped["a"][0]) == pytest.approx(-2 / 7**0.5, rel=1e-5)
    small = jax.tree.map(lambda g: g * 1e-3, gradients)
    kept = run(config("sgd", momentum=0.0, clip_norm=2.0), params, lambda p: small, 1, rate=1.0)
    np.testing.assert_allclose(kept["a"], -0.01, rtol=1e-6)


def test_the_schedule_is_followed_by_each():
    ramp = optax.linear_schedule(0.0, 1.0, 4)
    params = {"layer": {"kernel": jnp.ones((4, 3))}}
    for name in OPTIMIZERS:
        optimizer = make_optimizer(config(name, weight_decay=0.1), ramp, params, 4)
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        # the rate at step 0 is 0
        np.testing.assert_array_equal(updates["layer"]["kernel"], 0, err_msg=name)


# Scaled biases and lookahead


def paper_steps(start, gradients, c, rate, period, steps):
    """SGD with a rate and an L2 of their own for the norms' biases, and lookahead, as in
    arXiv:2404.00498's code."""
    fast = {path: value.copy() for path, value in start.items()}
    slow = {path: value.copy() for path, value in start.items()}
    velocity = {path: np.zeros_like(value) for path, value in start.items()}
    for t in range(steps):
        for path, value in fast.items():
            scale = c.norm_bias_scale if path in ("block/norm1/bias", "norm/bias") else 1
            gradient = gradients[path][t] + c.weight_decay / scale * value
            velocity[path] = c.momentum * velocity[path] + gradient
            value -= rate(t) * scale * (gradient + c.momentum * velocity[path])
        if period and (t + 1) % period == 0:
            decay = 0.95**period * ((t + 1) / steps) ** 3
            for path in fast:
                slow[path] = decay * slow[path] + (1 - decay) * fast[path]
                fast[path] = slow[path].copy()
    return slow if period else fast


@pytest.mark.parametrize("period", [0, 3, 4])
def test_scaled_norm_biases_and_lookahead_are_the_papers(period, float64):
    """8 steps: with a period of 3 the last two are undone, for the training ends at the slow
    weights."""
    rng = np.random.RandomState(0)
    start = {
        "block": {
            "norm1": {"bias": rng.randn(4)},
            "conv": {"kernel": rng.randn(3, 4), "bias": rng.randn(4)},
        },
        "norm": {"bias": rng.randn(3), "scale": rng.randn(3)},
        "normal_bias": rng.randn(2),
    }
    gradients = {path: rng.randn(8, *value.shape) for path, value in paths(start).items()}
    keys = {"momentum": 0.85, "nesterov": True, "weight_decay": 0.02, "decay_all": True}
    c = config("sgd", norm_bias_scale=64.0, lookahead=period, **keys)
    ramp = optax.linear_schedule(2 * RATE, RATE, 8)
    optimizer = make_optimizer(c, ramp, start, 8)
    params = jax.tree.map(jnp.asarray, start)
    state = optimizer.init(start)
    for t in range(8):
        now = traverse_util.unflatten_dict(
            {path: jnp.asarray(g[t]) for path, g in gradients.items()}, "/"
        )
        updates, state = optimizer.update(now, state, params)
        params = optax.apply_updates(params, updates)
    theirs = paper_steps(paths(start), gradients, c, lambda t: RATE * (2 - t / 8), period, 8)
    for path, value in paths(params).items():
        np.testing.assert_allclose(value, theirs[path], rtol=1e-6, err_msg=path)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_lookahead_goes_around_any(name):
    """Whatever the optimizer, two steps and a pull are the plain two steps, mixed with the
    start."""
    params = {"block": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}}

    def gradient_of(p):
        return jax.tree.map(lambda x: x + 0.1, p)

    plain = run(config(name), params, gradient_of, 2)
    pulled = run(config(name, lookahead=2), params, gradient_of, 2)
    for path, value in paths(pulled).items():
        expected = 0.95**2 * paths(params)[path] + (1 - 0.95**2) * paths(plain)[path]
        np.testing.assert_allclose(value, expected, rtol=1e-6, err_msg=path)


def test_a_training_shorter_than_lookaheads_period_is_plain():
    params = {"kernel": jnp.ones((4, 3))}
    after = [
        run(config("sgd", lookahead=period), params, lambda p: p, 3)["kernel"] for period in (0, 4)
    ]
    np.testing.assert_array_equal(*after)


@pytest.mark.parametrize("period", [0, 2])
def test_frozen_parameters_stop_and_the_others_do_not_notice(period):
    """PyTorch's SGD passes over a parameter without a gradient: no momentum, no decay."""
    params = {"model": {"whiten": {"bias": jnp.ones(3)}, "conv": {"bias": jnp.ones(3)}}}
    keys = {"momentum": 0.9, "weight_decay": 0.1, "decay_all": True, "lookahead": period}
    frozen = config("sgd", freeze="whiten", freeze_at=0.5, **keys)
    after = run(frozen, params, lambda p: p, 8)["model"]
    plain = config("sgd", **keys)
    unfrozen = run(plain, params, lambda p: p, 8)["model"]
    np.testing.assert_array_equal(after["conv"]["bias"], unfrozen["conv"]["bias"])
    expected = config("sgd", freeze="whiten", freeze_at=1.0, **keys)
    np.testing.assert_array_equal(
        run(expected, params, lambda p: p, 8)["model"]["whiten"]["bias"], unfrozen["whiten"]["bias"]
    )
    if not period:  # four steps, as if the training ended there
        four = run(plain, params, lambda p: p, 4)["model"]["whiten"]["bias"]
        np.testing.assert_array_equal(after["whiten"]["bias"], four)
    assert after["whiten"]["bias"][0] > unfrozen["whiten"]["bias"][0]


def test_norm_biases_are_found_by_name():
    """Without momentum and decay, one step of a gradient of ones shows each rate."""
    shapes = abstract("resnet")
    after = run(
        config("sgd", momentum=0.0, norm_bias_scale=64.0),
        jax.tree.map(lambda x: jnp.zeros(x.shape), shapes),
        lambda p: jax.tree.map(jnp.ones_like, p),
        1,
    )
    scaled = {path for path, value in paths(after).items() if value.ravel()[0] < -2 * RATE}
    assert scaled == {path for path in paths(shapes) if path.endswith("norm/bias")} != set()
    for path in scaled:
        np.testing.assert_allclose(paths(after)[path], -64 * RATE, rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "sgd"])
def test_scaled_norm_biases_are_for_sgd(name):
    with pytest.raises(
        UserError, match=f"optimizer.norm_bias_scale = 64 is for sgd only, not {name}"
    ):
        run(config(name, norm_bias_scale=64.0), {}, None, 0)


# Muon


@pytest.mark.parametrize("kind", ["token", "resnet"])
def test_muon_takes_the_hidden_kernels(kind):
    """Muon keeps one moment and Adam two: whatever has a second moment is Adam's."""
    params = jax.tree.map(lambda x: jnp.ones(x.shape), abstract(kind))
    state = make_optimizer(config("muon"), optax.constant_schedule(RATE), params, 1).init(params)
    named = [
        "/".join(str(getattr(k, "key", getattr(k, "name", k))) for k in p)
        for p, _ in _leaves(state)
    ]
    by_adam = {name.split("nu/")[1] for name in named if "nu/" in name}
    outer = ("head", "patches", "stem")
    kernels = {path: value for path, value in paths(params).items() if path.endswith("kernel")}
    hidden = {path for path in kernels if path.split("/")[1] not in outer}
    assert by_adam == set(paths(params)) - hidden
    assert {path.split("/")[1] for path in set(kernels) - hidden} == {
        "head",
        "stem" if kind == "resnet" else "patches",
    }
    assert {kernels[path].ndim for path in hidden} == {4 if kind == "resnet" else 2}


def _leaves(tree):
    return jax.tree_util.tree_flatten_with_path(tree)[0]


@pytest.mark.parametrize("shape", [(48, 16), (3, 3, 8, 16)])
def test_muons_update_is_near_orthogonal_and_of_adams_size(shape):
    """As a matrix of inputs by outputs; root mean square 0.2 (arXiv:2502.16982)."""
    gradient = jax.random.normal(jax.random.key(0), shape)
    params = {"block": {"kernel": jnp.zeros(shape)}}
    after = run(config("muon"), params, lambda p: {"block": {"kernel": gradient}}, 1, rate=1.0)
    update = np.asarray(after["block"]["kernel"]).reshape(-1, shape[-1])
    singular = np.linalg.svd(update, compute_uv=False)
    assert singular.max() / singular.min() < 2  # five Newton-Schulz steps bring them all to about 1
    assert np.sqrt((update**2).mean()) == pytest.approx(0.2, rel=0.3)
    assert (update * np.asarray(gradient).reshape(update.shape)).sum() < 0  # downhill


# Checkpoints


@pytest.mark.parametrize("name, period", [*((name, 0) for name in OPTIMIZERS), ("sgd", 2)])
def test_the_state_survives_a_checkpoint(name, period, tmp_path):
    rng = np.random.RandomState(0)
    params = {
        "block": {"kernel": rng.randn(3, 3, 2, 4), "bias": rng.randn(4)},
        "head": {"kernel": rng.randn(4, 2), "bias": rng.randn(2)},
    }
    params = jax.tree.map(jnp.float32, params)
    c = config(name, weight_decay=0.1, clip_norm=1.0, lookahead=period)
    optimizer = make_optimizer(c, optax.linear_schedule(0.1, 0.0, 10), params, 10)
    gradient = jax.tree.map(lambda p: 0.1 + p, params)
    _, state = optimizer.update(gradient, optimizer.init(params), params)
    checkpoints = Checkpoints(tmp_path, default().checkpoint)
    checkpoints.save(1, {"params": params, "opt": state}, {})
    checkpoints.wait()
    restored, _ = checkpoints.restore_latest({"params": params, "opt": optimizer.init(params)})
    _, read = checkpoints.read_best()  # without knowing what it was; intact all the same
    jax.tree.map(np.testing.assert_array_equal, read["params"], params)
    checkpoints.close()
    assert jax.tree.structure(restored["opt"]) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored["opt"], state)
    ours, _ = optimizer.update(gradient, restored["opt"], restored["params"])
    theirs, _ = optimizer.update(gradient, state, params)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
