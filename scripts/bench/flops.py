"""What one image costs a model, counted from its forward pass and independent of device, compiler
and implementation.

A multiplication and an addition are two operations. Only convolutions and matrix products count.
Training costs three times the forward pass (the products themselves, the gradients of their inputs
and of their kernels), less the first layer's gradient of its input, which is the image.
Recomputation (`model.remat`) is no useful work and does not count.
"""

import dataclasses
import math

import jax
from flax import nnx

from vision import models
from vision.models.layers.streams import Streams
from vision.models.surgery.costs import products


@dataclasses.dataclass(frozen=True)
class Costs:
    """Of one image.

    Attributes:
        forward: operations of the forward pass.
        train: operations of a training step.
        activations: numbers that the convolutions and matrix products of the forward pass put out,
            without attention's scores, which a fused kernel never stores.
        parameters: learned numbers.
    """

    forward: int
    train: int
    activations: int
    parameters: int


def model_costs(c, num_classes, image_size, channels=3):
    """Returns the `Costs` of the model that `c`, a config.model, describes."""
    c = c.copy_and_resolve_references()
    c.remat = None
    if c.name == "vit":
        c.attention = "plain"  # whose products can be seen
    made = nnx.eval_shape(lambda: models.build(c, num_classes, image_size, channels, Streams(0)))
    made.eval()
    graph, state = nnx.split(made)
    image = jax.ShapeDtypeStruct((1, image_size, image_size, channels), c.dtype)
    jaxpr = jax.make_jaxpr(lambda state, x: nnx.merge(graph, state)(x))(state, image)
    found = list(products(jaxpr.jaxpr))
    forward = sum(flops for flops, _ in found)
    parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(nnx.state(made, nnx.Param)))
    stored = sum(numbers for _, numbers in found)
    return Costs(forward, 3 * forward - found[0][0], stored, parameters)
