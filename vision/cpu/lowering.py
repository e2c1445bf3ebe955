"""The rules by which convolutions, matrix products and max pooling are lowered for a CPU."""

import contextlib
import functools
import threading
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax._src.lax import convolution as convolutions  # for JAX's own rules
from jax._src.lax import lax as products
from jax._src.lax import windowed_reductions
from jax.extend.mlir.dialects import stablehlo
from jax.interpreters import mlir

from vision.cpu import parts, pooling, product
from vision.cpu.geometry import BACKWARD_DATA, recognize
from vision.cpu.primitives import Convolution, MatrixProduct
from vision.cpu.targets import find_target

# Of a matrix product for oneDNN: what a core takes some 2 ms for. With smaller ones a ViT-nano
# trains at 0.9 of XLA's speed, as each call waits for Python's interpreter while the loop runs.
LEAST_FLOPS = 200_000_000

_CONVOLUTION = jax.lax.conv_general_dilated_p
_PRODUCT = jax.lax.dot_general_p
_POOLING = windowed_reductions.select_and_scatter_add_p

_convolution_of_jax = functools.partial(
    convolutions._conv_general_dilated_lower, expand_complex_convolutions=True
)
_product_of_jax = functools.partial(products._dot_general_lower, platform="cpu")
_pooling_of_jax = mlir.lower_fun(
    functools.partial(windowed_reductions._select_and_scatter_add_impl, expand_padding=True),
    multiple_results=False,
)

_state = threading.local()  # .is_inside: whether a replacement is being lowered
_has_onednn = False


def install() -> None:
    """Registers the rules, for this process and for CPUs only."""
    mlir.register_lowering(_CONVOLUTION, _lower_convolution, platform="cpu")
    mlir.register_lowering(_PRODUCT, _lower_product, platform="cpu")
    mlir.register_lowering(_POOLING, _lower_max_pool_gradient, platform="cpu")


def use_onednn(value: bool) -> None:
    """Sets whether programs that are lowered from now on call oneDNN."""
    global _has_onednn
    _has_onednn = value


def _lower_convolution(ctx, first, second, **options):
    shapes = (aval.shape for aval in (*ctx.avals_in, *ctx.avals_out))
    dtypes = {aval.dtype for aval in (*ctx.avals_in, *ctx.avals_out)}
    form = recognize(*shapes, options)
    if form is None or _is_left_alone(ctx, dtypes):
        return _convolution_of_jax(ctx, first, second, **options)
    kind, geometry = form
    if _goes_to_onednn(ctx, dtypes):
        target = find_target(kind, geometry, functools.partial(Convolution, kind))
        if target is not None:
            second = _reverse(second) if kind == BACKWARD_DATA else second
            return jax.ffi.ffi_lowering(target)(ctx, first, second)
    convolve = functools.partial(_CONVOLUTION.bind, **options)
    replacement = parts.find(kind, geometry, convolve)
    if replacement is None:
        return _convolution_of_jax(ctx, first, second, **options)
    with _replacing():
        return mlir.lower_fun(replacement, multiple_results=False)(ctx, first, second)


def _lower_product(ctx, first, second, **options):
    dtypes = {aval.dtype for aval in (*ctx.avals_in, *ctx.avals_out)}
    if _goes_to_onednn(ctx, dtypes) and not _is_left_alone(ctx, dtypes):
        shapes = [aval.shape for aval in ctx.avals_in]
        form = product.recognize(*shapes, options["dimension_numbers"])
        if form is not None and form.flops >= LEAST_FLOPS:
            target = find_target("product", form, MatrixProduct)
            if target is not None:
                return jax.ffi.ffi_lowering(target)(ctx, first, second)
    return _product_of_jax(ctx, first, second, **options)


def _lower_max_pool_gradient(ctx, dy, x, **options):
    window = options["window_dimensions"]
    strides = options["window_strides"]
    padding = options["padding"]
    is_known = options["select_prim"] is jax.lax.ge_p and pooling.is_simple(
        window, strides, padding
    )
    if not is_known or _is_left_alone(ctx, {aval.dtype for aval in ctx.avals_in}):
        return _pooling_of_jax(ctx, dy, x, **options)
    gradient = functools.partial(
        pooling.max_pool_gradient, window=window, strides=strides, padding=padding
    )
    return mlir.lower_fun(gradient, multiple_results=False)(ctx, dy, x)


def _is_left_alone(ctx, dtypes):
    """Whether the program is written to a file, or the numbers are not plain floats."""
    return (
        ctx.module_context.lowering_parameters.for_export
        or getattr(_state, "is_inside", False)
        or not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes)
    )


@contextlib.contextmanager
def _replacing() -> Iterator[None]:
    """What a replacement consists of is not replaced."""
    _state.is_inside = True
    try:
        yield
    finally:
        _state.is_inside = False


def _goes_to_onednn(ctx, dtypes):
    """Whether oneDNN computes arrays of these types in this program.

    Not if that runs on several devices: XLA would gather the images and call oneDNN with all of
    them on each.
    """
    devices = getattr(ctx.module_context.axis_context, "num_devices", 0)
    return _has_onednn and dtypes == {jnp.dtype("float32")} and devices == 1


def _reverse(kernel):
    """Returns the kernel as it was before JAX reversed its height and width."""
    operation = kernel.owner
    if getattr(operation, "name", "") == "stablehlo.reverse":
        return operation.operands[0]
    return stablehlo.reverse(kernel, mlir.dense_int_array([0, 1]))
