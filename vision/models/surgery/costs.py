"""What each variant of each architecture costs, counted without computing anything."""

import dataclasses
import inspect
import math

import jax
import jax.numpy as jnp
from flax import nnx

from vision.errors import check_choice
from vision.models import surgery
from vision.models.layers.convolution import DEPTHWISE
from vision.models.layers.streams import Streams
from vision.support.modules import find, names

# side and classes of the nets that are not ImageNet's
SMALL = {"airbench": (32, 10), "cnn": (32, 10)}


@dataclasses.dataclass(frozen=True)
class Row:
    """A variant. `size` in pixels, accuracies in percent or None, `weights` what
    config.model.pretrained takes."""

    model: str
    variant: str
    parameters: int
    gmacs: float
    size: int
    paper: float | None
    best: float | None
    weights: tuple

    @property
    def cells(self):
        """The row as `python -m vision.models` prints it."""
        paper, best = ("" if v is None else f"{v:.1f}" for v in (self.paper, self.best))
        macs = round(self.gmacs, 4)
        return (
            self.model,
            self.variant,
            self.parameters,
            macs,
            self.size,
            paper,
            best,
            " ".join(self.weights),
        )


def rows(only=()):
    """Yields a `Row` for each variant of the architectures named `only`, or of all.

    Raises:
        UserError: there is no such architecture.
    """
    known = names("vision.models")
    for name in only:
        check_choice("model.name", name, known)
    for name in only or known:
        module = find("model", name, "vision.models")
        for variant in getattr(module, "LISTED", module.VARIANTS):
            if variant != "mu":
                yield _row(name, module, variant)


def _row(name, module, variant):
    size, classes = SMALL.get(name, (32, 10) if variant.startswith("cifar") else (224, 1000))
    size = getattr(module, "SIZES", {}).get(variant, size) if name != "vit" else size
    model = nnx.eval_shape(
        lambda: module.build(variant, classes, rngs=Streams(0), **_plain(module, size))
    )
    weights = {
        spec: w for spec, w in getattr(module, "WEIGHTS", {}).items() if w.variant == variant
    }
    known = [w.top1 for w in weights.values() if w.top1 is not None]
    paper = getattr(module, "PAPER_TOP1", {}).get(variant)
    macs = multiply_adds(model, size) / 1e9
    return Row(
        name,
        variant,
        surgery.count(model)[0],
        macs,
        size,
        paper,
        max(known, default=None),
        tuple(weights),
    )


def _plain(module, size):
    """Options of `build` by which every product can be seen."""
    options = {"dtype": jnp.float32, "image_size": size, "channels": 3}
    return options | (
        {"attention": "plain"} if "attention" in inspect.signature(module.build).parameters else {}
    )


def multiply_adds(model, image_size, channels=3):
    """Returns the multiplications in the convolutions and matrix products of one image's forward
    pass.

    Args:
        model: an `nnx.Module`, abstract or not.
        image_size: pixels.
        channels: of the image.
    """
    model.eval()
    graph, state = nnx.split(model)
    image = jax.ShapeDtypeStruct((1, image_size, image_size, channels), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda state, x: nnx.merge(graph, state)(x))(state, image)
    return sum(flops for flops, _ in products(jaxpr.jaxpr)) // 2


def products(jaxpr):
    """Yields (operations, numbers that are stored) of each product of a jaxpr, in the order of the
    computation.

    A multiplication and an addition are two operations. Attention's scores count as not stored: a
    fused kernel does without.
    """
    for equation in jaxpr.eqns:
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
            yield 2 * math.prod(result) * math.prod(kernel) // kernel[layout[0]], math.prod(result)
        elif equation.params.get("name") == DEPTHWISE:
            yield 2 * math.prod(result) * math.prod(shapes[1][:2]), math.prod(result)
        else:
            times = equation.params.get("length", 1)
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    yield from list(products(inner)) * times
