"""What one image costs a model, counted from its forward pass and independent of device, compiler and implementation.

A multiplication and an addition are two operations. Only convolutions and matrix products count. Training costs three
times the forward pass (the products themselves, the gradients of their inputs and of their kernels), less the first
layer's gradient of its input, which is the image. Recomputation (`model.remat`) is no useful work and does not count.
"""

import dataclasses
import math

import jax
from flax import nnx

from vision import models


@dataclasses.dataclass(frozen=True)
class Costs:
    """Of one image.

    Attributes:
        forward: operations of the forward pass.
        train: operations of a training step.
        activations: numbers that the convolutions and matrix products of the forward pass put out, without attention's
            scores, which a fused kernel never stores.
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
    made = nnx.eval_shape(lambda: models.build(c, num_classes, image_size, channels, nnx.Rngs(0)))
    made.eval()
    graph, state = nnx.split(made)
    image = jax.ShapeDtypeStruct((1, image_size, image_size, channels), c.dtype)
    jaxpr = jax.make_jaxpr(lambda state, x: nnx.merge(graph, state)(x))(state, image)
    products = list(_products(jaxpr.jaxpr))
    forward = sum(flops for flops, _ in products)
    parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(nnx.state(made, nnx.Param)))
    stored = sum(numbers for _, numbers in products)
    return Costs(forward, 3 * forward - products[0][0], stored, parameters)


def _products(jaxpr):
    """Yields (operations, stored numbers) of each product, in the order of the computation."""
    for equation in jaxpr.eqns:
        shapes = [getattr(v.aval, "shape", ()) for v in equation.invars]
        result = equation.outvars[0].aval.shape
        if equation.primitive.name == "dot_general":
            (contracted, _), (batch, _) = equation.params["dimension_numbers"]
            flops = 2 * math.prod(result) * math.prod(shapes[0][axis] for axis in contracted)
            scores = batch and result[-1] == result[-2]
            yield flops, 0 if scores else math.prod(result)
        elif equation.primitive.name == "conv_general_dilated":
            kernel, layout = shapes[1], equation.params["dimension_numbers"].rhs_spec
            yield 2 * math.prod(result) * math.prod(kernel) // kernel[layout[0]], math.prod(result)
        else:
            times = equation.params.get("length", 1)
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    yield from list(_products(inner)) * times
