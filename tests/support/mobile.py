"""A small space of mobile networks, and its largest network with numbers that are not initial."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.support.architectures import filled
from vision.models import mobile_space
from vision.models.layers import elastic
from vision.models.layers.streams import Streams
from vision.models.layers.variants import parse, spell
from vision.models.weights import pretrained

SPACE = "c8-w8.16d1.2k3.5.7e2.3-w16.24d1.2.3k3.5e2.4s2se0.1-h32"
CLASSES = 5


def largest(space=SPACE):
    """Returns the largest network of a space."""
    model = filled(lambda: mobile_space.build(space, CLASSES, rngs=Streams(0)))
    random = np.random.default_rng(1)
    for _, variable in nnx.to_flat_state(nnx.state(model, nnx.BatchStat)):
        variable.set_value(jnp.asarray(random.uniform(0.5, 1.5, variable.shape), jnp.float32))
    return model


def cut(arrays, choice):
    """Returns a network of the space as an ordinary model, with its part of the arrays."""
    variant = spell(choice)
    model = nnx.eval_shape(lambda: mobile_space.build(variant, CLASSES, rngs=Streams(0)))
    return pretrained.fill(model, elastic.cut(arrays, pretrained.shapes(model)))


def choices(count, space=SPACE):
    """Returns the smallest network, the largest, and `count` others."""
    space = parse(space)
    random = np.random.default_rng(0)
    return [space.smallest(), space.largest(), *(space.sample(random) for _ in range(count))]
