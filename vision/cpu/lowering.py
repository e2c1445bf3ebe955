"""The rules by which convolutions, and the gradient of max pooling, are lowered for a CPU."""

import contextlib
import functools
import hashlib
import threading
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax._src.lax import convolution as convolutions  # for JAX's own rules
from jax._src.lax import windowed_reductions
from jax.extend.mlir.dialects import stablehlo
from jax.interpreters import mlir

from vision.cpu import calls, parts, pooling
from vision.cpu.geometry import BACKWARD_DATA, recognize
from vision.cpu.onednn import Convolution, OneDnnError, Workspace

_CONVOLUTION = jax.lax.conv_general_dilated_p
_POOLING = windowed_reductions.select_and_scatter_add_p

_convolution_of_jax = functools.partial(
    convolutions._conv_general_dilated_lower, expand_complex_convolutions=True
)
_pooling_of_jax = mlir.lower_fun(
    functools.partial(windowed_reductions._select_and_scatter_add_impl, expand_padding=True),
    multiple_results=False,
)

_state = threading.local()  # .is_inside: whether a replacement is being lowered
_lock = threading.Lock()
_idle: list[Workspace] = []  # as many as convolutions were ever computed at once
_has_onednn = False


def install() -> None:
    """Registers the rules, for this process and for CPUs only."""
    mlir.register_lowering(_CONVOLUTION, _lower_convolution, platform="cpu")
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
    if _has_onednn and dtypes == {jnp.dtype("float32")} and _is_local(ctx):
        target = _find_target(kind, geometry)
        if target is not None:
            second = _reverse(second) if kind == BACKWARD_DATA else second
            return jax.ffi.ffi_lowering(target)(ctx, first, second)
    convolve = functools.partial(_CONVOLUTION.bind, **options)
    replacement = parts.find(kind, geometry, convolve)
    if replacement is None:
        return _convolution_of_jax(ctx, first, second, **options)
    with _replacing():
        return mlir.lower_fun(replacement, multiple_results=False)(ctx, first, second)


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
    """Whether the program is written to a file, or the numbers are no plain floats."""
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


def _is_local(ctx):
    """Whether the program runs on one device: XLA would collect a divided batch on each of several.

    Seen with two devices: it gathers the images and calls oneDNN with all of them on both.
    """
    return getattr(ctx.module_context.axis_context, "num_devices", 0) == 1


def _find_target(kind, geometry):
    """Returns the name of a convolution's custom call, None if oneDNN has none.

    Each has a call of its own, registered whenever a program is lowered, so also before one runs
    that was compiled by another process. The handler needs only the addresses of the arrays.
    """
    digest = hashlib.sha256(repr((kind, geometry)).encode()).hexdigest()
    target = f"vision_{kind}_{digest[:20]}"
    with _lock:
        if not calls.is_registered(target):
            try:
                convolution = Convolution(kind, geometry)
            except OneDnnError:
                return None
            calls.register(target, functools.partial(_execute, convolution))
    return target


def _execute(convolution, inputs, outputs):
    """Runs a convolution in a workspace of its own: several may be computed at once."""
    try:
        workspace = _idle.pop()
    except IndexError:
        workspace = Workspace()
    try:
        convolution.execute(workspace, inputs, outputs[0])
    finally:
        _idle.append(workspace)


def _reverse(kernel):
    """Returns the kernel as it was before JAX reversed its height and width."""
    operation = kernel.owner
    if getattr(operation, "name", "") == "stablehlo.reverse":
        return operation.operands[0]
    return stablehlo.reverse(kernel, mlir.dense_int_array([0, 1]))
