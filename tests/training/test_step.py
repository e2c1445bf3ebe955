"""The step: against `jax.pmap`, over device counts, in parts, and with objectives that keep
something frozen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from vision import parallel
from vision.config import default
from vision.models.layers.streams import Streams
from vision.models.resnet import ResNet
from vision.models.vit import ViT
from vision.objectives.supervised import Supervised
from vision.training.inputs import ImageInputs
from vision.training.optimizer import make_optimizer, make_schedule
from vision.training.state import StateSpec, select
from vision.training.step import TrainStep

BATCH = 16
SIDE = 8
CLASSES = 5
RNG = np.random.RandomState(0)
IMAGES = RNG.randint(0, 256, (20, BATCH, SIDE, SIDE, 3)).astype(np.uint8)
LABELS = RNG.randint(0, CLASSES, (20, BATCH)).astype(np.int32)


def tiny(kind, dtype="float64", groups=1, dropout=0.0):
    common = {"rngs": Streams(0), "dtype": jnp.dtype(dtype), "dropout": dropout}
    if kind == "resnet":
        model = ResNet(
            (1, 1),
            4,
            CLASSES,
            bottleneck=False,
            cifar=True,
            option_a=True,
            batch_norm_groups=groups,
            **common,
        )
    else:
        model = ViT(16, 2, 2, 4, CLASSES, image_size=SIDE, **common)
    return Supervised(model, label_smoothing=0.1)


def config(dtype="float64", **train):
    c = default()
    c.model.dtype = dtype
    c.optimizer.name = "sgd"
    c.optimizer.learning_rate = 0.1
    c.optimizer.weight_decay = 1e-3
    c.schedule.name = "constant"
    c.schedule.warmup = 0.0
    c.train.update(train)
    return c


def make(c, create, devices=1, fsdp=1, views=None):
    spec = StateSpec(create)
    mesh = parallel.make_mesh(devices, fsdp)
    inputs = ImageInputs(c, views or {"train": ("image",)}, CLASSES, {"train": 100}, mesh)
    schedule = make_schedule(c.schedule, c.optimizer.learning_rate, 20)
    optimizers = {
        player: make_optimizer(c.optimizer, schedule, select(spec.abstract_params, attributes), 20)
        for player, attributes in spec.players.items()
    }
    return TrainStep(c, spec, inputs, schedule, optimizers, 20, mesh)


@functools.cache
def beginning(kind, dtype):
    """Parameters and statistics, with noise on every one: none is at zero, where a fault could
    hide."""
    rng = np.random.RandomState(1)
    create = functools.partial(tiny, kind, dtype)
    params, rest = StateSpec(create).take_apart(create())
    params = jax.tree.map(lambda x: np.asarray(x + 0.1 * rng.randn(*x.shape), dtype), params)
    return params, jax.tree.map(lambda x: np.asarray(x, dtype), rest)


def run(step, state, steps, devices=1):
    mesh = parallel.make_mesh(devices)
    losses = []
    for i in range(steps):
        batch = parallel.put_batch({"image": IMAGES[i], "label": LABELS[i]}, mesh)
        state, scalars = step.update(state, batch, {})
        losses.append(scalars["loss"])
    return jax.device_get(state), np.array(jax.device_get(losses))


def largest_difference(a, b):
    return max(
        (np.abs(x - y).max() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)),
        default=0,
    )


@pytest.mark.parametrize("groups", [1, 4])
def test_equals_pmap(float64, groups):
    check_pmap("resnet", groups)  # a ViT: tests/slow/test_devices.py


def check_pmap(kind, groups):
    """Five steps on four devices give pmap's parameters: with synchronized statistics, and with
    each device's own."""
    start = beginning(kind, "float64")
    step = make(config(), lambda: tiny(kind, groups=groups), devices=4)
    ours, _ = run(step, step.begin(*start), 5, devices=4)

    def create():
        objective = tiny(kind)
        for _, module in nnx.iter_graph(objective):
            if isinstance(module, nnx.BatchNorm) and groups == 1:
                module.axis_name = "device"
        return objective

    theirs = StateSpec(create)
    spared = ("position", "token")

    def decays(path, x):
        return x.ndim > 1 and not any(s in jax.tree_util.keystr(path) for s in spared)

    mask = jax.tree_util.tree_map_with_path(decays, start[0])
    optimizer = optax.chain(optax.add_decayed_weights(1e-3, mask), optax.sgd(0.1, 0.9))

    def pmap_step(params, rest, opt, images, labels):
        def loss(params):
            objective = theirs.merge(params, rest, jax.random.key(0))
            objective.train()
            batch = {
                "image": images / 127.5 - 1.0,
                "label": jax.nn.one_hot(labels, CLASSES, dtype=jnp.float64),
            }
            return objective.loss(batch)[0], theirs.take_apart(objective)[1]

        gradient, rest = jax.grad(loss, has_aux=True)(params)
        gradient, rest = jax.lax.pmean((gradient, rest), "device")
        updates, opt = optimizer.update(gradient, opt, params)
        return optax.apply_updates(params, updates), rest, opt

    pmapped = jax.pmap(pmap_step, "device", devices=jax.devices()[:4])
    state = jax.tree.map(lambda x: jnp.stack([x] * 4), (*start, optimizer.init(start[0])))
    for i in range(5):
        state = pmapped(*state, IMAGES[i].reshape(4, 4, SIDE, SIDE, 3), LABELS[i].reshape(4, 4))
    params, rest, _ = jax.tree.map(lambda x: np.asarray(x[0]), state)
    assert largest_difference(start[0], ours["params"]) > 1e-2  # it has learned something
    assert largest_difference(params, ours["params"]) < 1e-12
    assert largest_difference(rest, ours["rest"]) < 1e-12


def test_any_number_of_devices(float64):
    """On all of 1, 2, 4 and 8, and a ViT: tests/slow/test_devices.py."""
    check_devices("resnet", (1, 8))


def check_devices(kind, counts):
    """20 steps with augmentation and dropout have the same losses on any number of devices, in
    double precision."""
    losses = {}
    for devices in counts:
        c = config()
        c.augment.pad_crop = 1
        c.augment.flip_horizontal = True
        c.augment.mixup = 0.4
        step = make(c, lambda: tiny(kind, dropout=0.2), devices)
        losses[devices] = run(step, step.begin(*beginning(kind, "float64")), 20, devices)[1]
    assert losses[1].std() > 1e-3
    for devices in counts[1:]:
        np.testing.assert_allclose(losses[devices], losses[1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_first_step_in_float32(kind):
    first = []
    for devices in (1, 8):
        step = make(config("float32"), lambda: tiny(kind, "float32"), devices)
        first.append(run(step, step.begin(*beginning(kind, "float32")), 1, devices)[1][0])
    np.testing.assert_allclose(first, first[0], rtol=0, atol=1e-5)


def test_accumulation_equals_the_whole_batch(float64):
    results = []
    for parts in (1, 2):
        step = make(config(accumulate=parts), lambda: tiny("vit"))
        results.append(run(step, step.begin(*beginning("vit", "float64")), 3)[0])
    assert largest_difference(results[0]["params"], results[1]["params"]) < 1e-12


def test_dropout_differs_between_steps_but_not_between_runs():
    c = config("float32")
    c.optimizer.learning_rate = 0.0
    step = make(c, lambda: tiny("vit", "float32", dropout=0.5))
    start = beginning("vit", "float32")
    _, once = run(step, step.begin(*start), 2)
    _, again = run(step, step.begin(*start), 2)
    np.testing.assert_array_equal(once, again)
    batch = {"image": IMAGES[0], "label": LABELS[0]}
    _, first = step.update(step.begin(*start), batch, {})
    _, second = step.update(step.begin(*start) | {"step": jnp.int32(1)}, batch, {})
    assert first["loss"] != second["loss"]


def test_the_initialization_is_traced_once():
    calls = []

    def create():
        calls.append(None)
        return tiny("vit", "float32")

    step = make(config("float32"), create)
    assert len(calls) == 2  # once for what the objective is, once for the state
    step.initialize()
    assert len(calls) == 2


def test_moving_average(float64):
    c = config()
    c.optimizer.ema = 0.5
    step = make(c, lambda: tiny("vit"))
    expected, _ = beginning("vit", "float64")
    state = step.begin(*beginning("vit", "float64"))
    for i in range(3):
        state, _ = step.update(state, {"image": IMAGES[i], "label": LABELS[i]}, {})
        decay = min(0.5, (1 + i) / (10 + i))
        expected = jax.tree.map(
            lambda a, p, d=decay: d * a + (1 - d) * p, expected, jax.device_get(state["params"])
        )
    # the decay itself is float32
    assert largest_difference(expected, jax.device_get(state["ema"])) < 1e-8


def test_lookahead_averages_the_statistics_with_the_weights(float64):
    """Beside a training without lookahead, whose weights are replaced by those of the one with."""
    c = config()
    plain = make(c, lambda: tiny("resnet"))
    c = c.copy_and_resolve_references()
    c.optimizer.lookahead = 2
    step = make(c, lambda: tiny("resnet"))
    state = step.begin(*beginning("resnet", "float64"))
    slow = jax.device_get(state["rest"])
    for i in range(4):
        batch = {"image": IMAGES[i], "label": LABELS[i]}
        begin = plain.begin(*jax.tree.map(np.array, (state["params"], state["rest"])))
        expected = jax.device_get(plain.update(begin, batch, {})[0]["rest"])
        if i % 2:
            decay = 0.95**2 * ((i + 1) / 20) ** 3
            fast = expected
            slow = jax.tree.map(lambda s, f, d=decay: d * s + (1 - d) * f, slow, fast)
            expected = slow
        state, _ = step.update(state, batch, {})
        # the decay itself is float32
        assert largest_difference(expected, jax.device_get(state["rest"])) < 1e-7
    assert largest_difference(slow, fast) > 1e-4


class Following(nnx.Module):
    """A model with a slow copy of itself: what momentum contrast and mean teachers need of the
    trainer."""

    frozen = ("slow",)

    def __init__(self):
        self.model = nnx.Linear(SIDE * SIDE * 3, CLASSES, rngs=Streams(0))
        self.slow = nnx.Linear(SIDE * SIDE * 3, CLASSES, rngs=Streams(1))
        self.count = nnx.Variable(jnp.int32(0))

    def loss(self, batch):
        self.count[...] += 1
        images = batch["image"].reshape(BATCH, -1)
        target = self.slow(images)  # no stop_gradient: being frozen is the trainer's promise
        loss = jnp.square(self.model(images) - target).mean()
        return loss, {"distance": loss}

    def after_update(self):
        slow = nnx.state(self.slow, nnx.Param)
        own = nnx.state(self.model, nnx.Param)
        nnx.update(self.slow, jax.tree.map(lambda s, o: 0.9 * s + 0.1 * o, slow, own))


def test_frozen_parts_and_after_update():
    step = make(config("float32"), Following)
    state = step.initialize()
    assert set(state["params"]) == {"model"}
    assert not any(
        "slow" in jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state["opt"])
    )
    before = jax.device_get(state)
    state, scalars = step.update(state, {"image": IMAGES[0], "label": LABELS[0]}, {})
    after = jax.device_get(state)
    expected = 0.9 * before["rest"]["slow"]["kernel"] + 0.1 * after["params"]["model"]["kernel"]
    np.testing.assert_allclose(after["rest"]["slow"]["kernel"], expected, atol=1e-6)
    assert not np.allclose(after["params"]["model"]["kernel"], before["params"]["model"]["kernel"])
    assert after["rest"]["count"] == 1
    assert scalars["distance"] == scalars["loss"]


def test_many_steps_in_one_dispatch(float64):
    check_many_steps("resnet")  # a ViT: tests/slow/test_devices.py


def check_many_steps(kind):
    """A call of four steps is four calls of one: the same state, and the metrics of each."""
    data = {"image": IMAGES.reshape(-1, SIDE, SIDE, 3), "label": LABELS.reshape(-1)}
    indices = (
        np.random.RandomState(2).permutation(len(data["label"]))[: 4 * BATCH].reshape(4, BATCH)
    )
    c = config()
    c.augment.flip_alternating = True
    step = make(c, lambda: tiny(kind, dropout=0.1), devices=2)
    state = step.begin(*beginning(kind, "float64"))
    each = []
    for row in indices:
        state, scalars = step.update(state, {"index": row}, data)
        each.append(jax.device_get(scalars))
    many, stacked = step.update_many(
        step.begin(*beginning(kind, "float64")), {"index": indices}, data
    )
    assert largest_difference(jax.device_get(many), jax.device_get(state)) < 1e-12
    for name, values in jax.device_get(stacked).items():
        np.testing.assert_allclose(values, [scalars[name] for scalars in each], rtol=1e-10)


def test_alternating_flips_reach_the_batch():
    """Each image comes as it is in one epoch and flipped in the next, wherever it lies in a
    batch."""
    c = config("float32")
    c.augment.flip_alternating = True
    step = make(c, lambda: tiny("vit", "float32"))  # of 100 images
    data = {"image": IMAGES.reshape(-1, SIDE, SIDE, 3)[:100], "label": LABELS.reshape(-1)[:100]}
    state = step.begin(*beginning("vit", "float32"))
    seen = {}
    for number in range(13):  # 208 images: two epochs
        index = (np.arange(BATCH) + number * BATCH) % 100
        images = np.asarray(
            step.preview(state | {"step": jnp.int32(number)}, {"index": index}, data)
        )
        for place, image in zip(index, images, strict=True):
            seen.setdefault(int(place), []).append((image != data["image"][place]).any())
    assert all(first != second for first, second, *_ in seen.values())
    assert 20 < sum(first for first, *_ in seen.values()) < 80


def test_evaluation_over_views():
    """Test-time augmentation: a mirrored image is evaluated as the image is."""
    c = config("float32")
    c.train.test_time_augmentation = "flip"
    step = make(c, lambda: tiny("vit", "float32"))
    state = step.begin(*beginning("vit", "float32"))
    mask = np.ones(BATCH, bool)
    sums = [
        step.evaluate(state, {"image": x, "label": LABELS[0], "mask": mask}, {})
        for x in (IMAGES[0], IMAGES[0][:, :, ::-1])
    ]
    assert largest_difference(*jax.device_get(sums)) < 1e-4
