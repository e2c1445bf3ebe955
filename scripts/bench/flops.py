"""Counts a model's operations per image, from its forward pass.

The count depends on no device, compiler or implementation. A multiplication and an addition are two
operations. Only convolutions and matrix products count. Training costs three times the forward pass
(the products themselves, the gradients of their inputs and of their kernels), minus the gradient of
the first layer's input, which is the image. Recomputation (`model.remat`) is not useful work and
does not count.
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
    """The costs of one image.

    Attributes:
        forward: operations of the forward pass.
        train: operations of a training step.
        activations: number of outputs of the convolutions and matrix products of the forward pass,
            without attention's scores, which a fused kernel never stores.
        parameters: number of learned parameters.
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
        c.attention = "plain"  # its products are visible in the jaxpr
    model = nnx.eval_shape(lambda: models.build(c, num_classes, image_size, channels, Streams(0)))
    model.eval()
    graph, state = nnx.split(model)
    image = jax.ShapeDtypeStruct((1, image_size, image_size, channels), c.dtype)
    jaxpr = jax.make_jaxpr(lambda state, x: nnx.merge(graph, state)(x))(state, image)
    counts = list(products(jaxpr.jaxpr))  # (operations, outputs) of each
    forward = sum(flops for flops, _ in counts)
    parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    activations = sum(outputs for _, outputs in counts)
    return Costs(forward, 3 * forward - counts[0][0], activations, parameters)
