"""The costs of each variant of each architecture, counted without computing anything."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vision.errors import check_choice
from vision.models import select_accepted, surgery
from vision.models.layers.streams import Streams
from vision.support.modules import find, names

# Image side and number of classes of the nets that are not for ImageNet.
SMALL = dict.fromkeys(("airbench", "cnn", "mobile_space", "wide_resnet"), (32, 10))


@dataclasses.dataclass(frozen=True)
class Row:
    """The costs of a variant.

    Attributes:
        model, variant: what config.model calls it.
        parameters: number of parameters.
        gmacs: billions of multiplications in one image's forward pass.
        size: side of the image, pixels.
        paper: top-1 accuracy that the paper reports, percent, or None.
        best: highest top-1 accuracy among the published weights, percent, or None.
        weights: what config.model.pretrained takes.
    """

    model: str
    variant: str
    parameters: int
    gmacs: float
    size: int
    paper: float | None
    best: float | None
    weights: tuple[str, ...]

    @property
    def cells(self) -> tuple:
        """The row as `python -m vision.models` prints it."""
        paper, best = ("" if v is None else f"{v:.1f}" for v in (self.paper, self.best))
        gmacs = round(self.gmacs, 4)
        weights = " ".join(self.weights)
        return self.model, self.variant, self.parameters, gmacs, self.size, paper, best, weights


def rows(only: Sequence[str] = ()) -> Iterator[Row]:
    """Yields a `Row` for each variant of the architectures in `only`, or of all if it is empty.

    Raises:
        UserError: an architecture is unknown.
    """
    architectures = names("vision.models")
    for name in only:
        check_choice("model.name", name, architectures)
    for name in only or architectures:
        module = find("model", name, "vision.models")
        for variant in getattr(module, "LISTED", module.VARIANTS):
            if variant != "mu":
                yield _row(name, module, variant)


def _row(name, module, variant):
    size, classes = SMALL.get(name, (32, 10) if "cifar" in variant else (224, 1000))
    if name != "vit":
        size = getattr(module, "SIZES", {}).get(variant, size)
    options = _build_options(module, size)
    model = nnx.eval_shape(lambda: module.build(variant, classes, rngs=Streams(0), **options))
    weights = {
        spec: w for spec, w in getattr(module, "WEIGHTS", {}).items() if w.variant == variant
    }
    accuracies = [w.top1 for w in weights.values() if w.top1 is not None]
    return Row(
        model=name,
        variant=variant,
        parameters=surgery.count(model)[0],
        gmacs=multiply_adds(model, size) / 1e9,
        size=size,
        paper=getattr(module, "PAPER_TOP1", {}).get(variant),
        best=max(accuracies, default=None),
        weights=tuple(weights),
    )


def _build_options(module, size):
    """Returns options of `build` that leave every matrix product visible in the jaxpr."""
    offered = {"dtype": jnp.float32, "image_size": size, "channels": 3, "attention": "plain"}
    return select_accepted(module.build, offered)


def multiply_adds(model: nnx.Module, image_size: int, channels: int = 3) -> int:
    """Returns the number of multiplications in one image's convolutions and matrix products.

    Args:
        model: an `nnx.Module`, abstract or not.
        image_size: side of the image, pixels.
        channels: channels of the image.
    """
    model.eval()
    graph, state = nnx.split(model)
    image = jax.ShapeDtypeStruct((1, image_size, image_size, channels), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda state, x: nnx.merge(graph, state)(x))(state, image)
    return sum(flops for flops, _ in products(jaxpr.jaxpr)) // 2


def products(jaxpr: Any) -> Iterator[tuple[int, int]]:
    """Yields (FLOPs, numbers written to memory) of each product of a jaxpr, in order.

    A multiplication and an addition are two operations. Attention scores count as not written: a
    fused kernel does not store them.
    """
    for equation in jaxpr.eqns:
        if not equation.outvars:  # a check, not a computation
            continue
        shapes = [getattr(v.aval, "shape", ()) for v in equation.invars]
        result = equation.outvars[0].aval.shape
        if equation.primitive.name == "dot_general":
            (contracted, _), (batch, _) = equation.params["dimension_numbers"]
            flops = 2 * math.prod(result) * math.prod(shapes[0][axis] for axis in contracted)
            scores = batch and result[-1] == result[-2]
            yield flops, 0 if scores else math.prod(result)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = shapes[1]
            layout = equation.params["dimension_numbers"].rhs_spec
            flops = 2 * math.prod(result) * math.prod(kernel) // kernel[layout[0]]
            # Zeros between the rows, in the gradient of a convolution with strides, are no work.
            yield flops // math.prod(equation.params["lhs_dilation"]), math.prod(result)
        else:
            times = equation.params.get("length", 1)
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    yield from list(products(inner)) * times
