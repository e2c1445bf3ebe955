"""The state cut over devices: the same training, with an eighth of the state on each."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from tests.training.test_step import (
    BATCH,
    CLASSES,
    IMAGES,
    LABELS,
    SIDE,
    config,
    largest_difference,
    make,
)
from vision import parallel
from vision.models.layers.streams import Streams
from vision.models.vit import ViT
from vision.objectives.supervised import Supervised


def test_fsdp_is_the_same_training_with_an_eighth_of_the_state(float64):
    """Cut over eight devices: the same losses, parameters and moments as whole copies."""
    outcomes = {}
    for fsdp in (1, 8):
        c = config()
        c.optimizer.name = "adamw"
        c.optimizer.ema = 0.9
        c.optimizer.learning_rate = 1e-3  # a training that diverges enlarges rounding errors
        step = make(c, lambda: wide("float64"), devices=8, fsdp=fsdp)
        state = step.initialize()
        losses = []
        for i in range(5):
            state, scalars = step.update(
                state, {"index": LABELS[i], "image": IMAGES[i], "label": LABELS[i]}, {}
            )
            losses.append(float(scalars["loss"]))
        sums = step.evaluate(
            state, {"image": IMAGES[0], "label": LABELS[0], "mask": np.ones(BATCH, bool)}, {}
        )
        outcomes[fsdp] = losses, jax.device_get((state, sums)), parallel.bytes_on_one_device(state)
    np.testing.assert_allclose(outcomes[8][0], outcomes[1][0], rtol=1e-12)
    assert largest_difference(outcomes[8][1], outcomes[1][1]) < 3e-8  # sums are float32
    assert outcomes[8][2] <= 0.2 * outcomes[1][2]


def test_fsdp_moves_parameters_not_activations():
    """The compiled step gathers every cut parameter, and nothing whose first axis is the batch."""
    step = make(config("float32"), lambda: wide("float32"), devices=8, fsdp=8)
    batch = parallel.abstract_batch(
        {"image": (IMAGES[0].shape, "uint8"), "label": ((BATCH,), "int32")}, step._mesh
    )
    text = step.update.lower(step.abstract_state, batch, {}).compile().as_text()
    gathered = re.findall(r"= \(?f32\[([\d,]*)\]\S* all-gather", text)
    cut = [x for x in jax.tree.leaves(step.abstract_state["params"]) if any(x.sharding.spec)]
    assert len(cut) >= 5
    for leaf in cut:
        assert any(
            np.prod([int(n) for n in shape.split(",")]) == leaf.size for shape in gathered
        ), leaf.shape
    assert all(BATCH not in map(int, shape.split(",")) for shape in gathered)


def wide(dtype):
    """Large enough that what is cut outweighs what is not."""
    return Supervised(
        ViT(64, 1, 2, 4, CLASSES, image_size=SIDE, rngs=Streams(0), dtype=jnp.dtype(dtype))
    )
