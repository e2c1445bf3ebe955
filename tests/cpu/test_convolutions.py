"""Convolutions on a CPU, by oneDNN and in parts, against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

from vision import cpu
from vision.cpu import onednn, targets
from vision.models.layers.streams import Streams

LAYOUT = ("NHWC", "HWIO", "NHWC")
BY = ("onednn", "parts")
# batch, height, width, input and output channels, side of the kernel, stride, padding, groups,
# dilation
SHAPES = {
    "3x3": (16, 9, 8, 16, 16, 3, 1, "SAME", 1, 1),
    "of photos": (4, 12, 12, 3, 16, 7, 2, [(3, 3), (3, 3)], 1, 1),
    "1x1": (6, 7, 7, 32, 8, 1, 1, "VALID", 1, 1),
    "shortcut": (8, 8, 8, 16, 32, 1, 2, "VALID", 1, 1),
    "stride 2": (7, 8, 8, 8, 24, 3, 2, [(1, 1), (1, 1)], 1, 1),
    "odd, SAME": (4, 11, 13, 8, 8, 3, 2, "SAME", 1, 1),
    "no padding": (5, 9, 9, 4, 6, 3, 3, "VALID", 1, 1),
    "groups": (8, 9, 9, 8, 12, 3, 1, "SAME", 4, 1),
    "groups, stride 2": (4, 9, 9, 16, 32, 3, 2, [(1, 1), (1, 1)], 4, 1),
    "depthwise": (4, 10, 9, 16, 16, 5, 1, "SAME", 16, 1),
    "depthwise, stride 2": (4, 10, 9, 16, 16, 3, 2, "SAME", 16, 1),
    "depthwise, two outputs a channel": (4, 6, 6, 8, 16, 3, 1, "SAME", 8, 1),
    "dilated": (4, 12, 12, 8, 8, 3, 1, "SAME", 1, 2),
    "dilated depthwise": (4, 12, 12, 8, 8, 3, 1, "SAME", 8, 2),
    "larger than the image": (2, 1, 2, 3, 3, 3, 2, "SAME", 3, 1),
    "rows left over": (2, 7, 5, 3, 3, 3, 3, "VALID", 3, 1),
    "unequal padding": (3, 6, 7, 8, 8, 3, 1, [(0, 3), (2, 1)], 1, 1),
}


@pytest.fixture(params=BY)
def by(request):
    """What computes the convolutions of the programs of this test; they must be new."""
    if request.param == "onednn":
        require_onednn()
    cpu.choose("auto" if request.param == "onednn" else "off")
    yield request.param
    cpu.choose("auto")


@pytest.fixture
def by_onednn():
    require_onednn()
    cpu.choose("auto")


def require_onednn():
    try:
        onednn.load()
    except OSError as error:
        pytest.skip(str(error))


def make(shape, dtype="float32"):
    """Returns (a function of images, kernel and a gradient, its arguments)."""
    batch, height, width, size_in, size_out, side, stride, padding, groups, dilation = SHAPES[shape]

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            padding,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=LAYOUT,
            feature_group_count=groups,
        )

    def run(x, kernel, dy):
        result, backward = jax.vjp(convolve, x, kernel)
        return result, *backward(dy)

    random = np.random.default_rng(0)
    x = random.standard_normal((batch, height, width, size_in)).astype(dtype)
    kernel = random.standard_normal((side, side, size_in // groups, size_out)).astype(dtype)
    dy = random.standard_normal(jax.eval_shape(convolve, x, kernel).shape).astype(dtype)
    return run, (x, kernel, dy)


def by_xla(run, *arguments):
    """Computes with XLA's own convolutions: an exported program has no others."""
    return export.export(jax.jit(run))(*arguments).call(*arguments)


def check(results, references, tolerance):
    for result, reference in zip(results, references, strict=True):
        assert (result.shape, result.dtype) == (reference.shape, reference.dtype)
        atol = tolerance * np.abs(reference).max()
        np.testing.assert_allclose(result, reference, rtol=0, atol=atol)


@pytest.mark.parametrize("shape", SHAPES)
def test_results_and_gradients(shape, by):
    run, arguments = make(shape)
    compiled = jax.jit(run).lower(*arguments).compile()
    calls = compiled.as_text().count('custom_call_target="vision_')
    assert calls == (3 if by == "onednn" else 0)
    check(compiled(*arguments), by_xla(run, *arguments), 1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_double_precision_stays_double(shape, by, float64):
    run, arguments = make(shape, "float64")
    check(jax.jit(run)(*arguments), by_xla(run, *arguments), 1e-12)


@pytest.mark.parametrize("shape", ["3x3", "depthwise", "depthwise, stride 2"])
def test_bfloat16_is_summed_in_float32(shape, by):
    """The rounding is that of one bfloat16, not of eight parts or of 25 taps."""
    run, arguments = make(shape, "bfloat16")
    exact = by_xla(run, *(a.astype("float32") for a in arguments))
    for result, reference in zip(jax.jit(run)(*arguments), exact, strict=True):
        assert result.dtype == jnp.bfloat16
        error = np.abs(result.astype("float32") - reference).max()
        assert error < 0.02 * np.abs(reference).max()


def test_a_kernel_that_jax_did_not_reverse(by_onednn):
    """A transposed convolution of a user's, which is not a gradient."""
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 5, 5, 8)).astype("float32")
    kernel = random.standard_normal((3, 3, 4, 8)).astype("float32")

    def f(x, kernel):
        return (
            jax.lax.conv_general_dilated(
                x,
                kernel,
                (1, 1),
                [(1, 2), (1, 2)],
                lhs_dilation=(2, 2),
                dimension_numbers=("NHWC", "HWOI", "NHWC"),
            ),
        )

    compiled = jax.jit(f).lower(x, kernel).compile()
    assert "vision_backward_data" in compiled.as_text()
    check(compiled(x, kernel), by_xla(f, x, kernel), 1e-5)


def test_what_is_derived_from_a_convolution(by_onednn):
    """Second derivatives, forward mode and vmap see JAX's convolution, and agree with XLA's."""
    run, (x, kernel, dy) = make("3x3")

    def derived(x, kernel):
        def loss(kernel):
            return (jnp.sin(run(x, kernel, dy)[0]) ** 2).sum()

        tangent = jnp.ones_like(kernel)
        curvature = jax.jvp(jax.grad(loss), (kernel,), (tangent,))[1]
        kernels = jnp.stack([kernel, 2 * kernel])
        of_each = jax.vmap(jax.grad(loss))(kernels)
        of_images = jax.vmap(lambda one: run(one[None], kernel, dy[:1])[0])(x)
        return curvature, of_each, of_images

    check(jax.jit(derived)(x, kernel), by_xla(derived, x, kernel), 1e-4)


def test_every_layer_goes_through_it(by_onednn):
    """Also a plain `nnx.Conv`, whose author knows nothing of this."""
    layer = nnx.Conv(3, 8, (3, 3), rngs=Streams(0))
    graph, state = nnx.split(layer)
    program = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    text = program.lower(state, jnp.ones((2, 8, 8, 3))).as_text()
    assert "vision_forward" in text


def test_a_program_for_several_devices_has_no_calls(by_onednn):
    """XLA would gather the images; and a depthwise convolution needs no communication."""
    run, (x, kernel, dy) = make("depthwise, stride 2")
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    by_batch = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))

    def forward(x, kernel):
        return run(x, kernel, dy)[0]

    program = jax.jit(forward).lower(jax.device_put(x, by_batch), kernel).compile()
    text = program.as_text()
    words = ("vision_", "all-gather", "all-to-all", "collective-permute")
    assert not any(word in text for word in words)
    result = program(jax.device_put(x, by_batch), kernel)
    assert result.sharding.is_equivalent_to(by_batch, 4)
    np.testing.assert_allclose(result, jax.jit(forward)(x, kernel), rtol=1e-4, atol=1e-4)


def test_an_exported_program_has_no_calls(by_onednn):
    run, arguments = make("3x3")
    assert "vision_" not in export.export(jax.jit(run))(*arguments).mlir_module()
    assert "vision_" in jax.jit(run).lower(*arguments).as_text()


def test_the_same_bits_each_time(by_onednn):
    """Whatever else runs: as many threads sum the same parts."""
    run, arguments = make("stride 2")
    program = jax.jit(run)
    first = jax.device_get(program(*arguments))
    several = [program(*arguments) for _ in range(20)]
    for results in several:
        for mine, reference in zip(results, first, strict=True):
            np.testing.assert_array_equal(mine, reference)


def test_memory_does_not_grow_with_the_number_of_convolutions(by_onednn):
    """Those that are computed one after the other share their scratch memory."""
    targets._idle.clear()
    for shape in ("3x3", "groups", "of photos"):
        run, arguments = make(shape)
        jax.block_until_ready(jax.jit(run)(*arguments))
    assert 1 <= len(targets._idle) <= 3  # as many as XLA ran at once
