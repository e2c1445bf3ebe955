"""The convolution with a filter gradient in parts, against lax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vision.models.layers.convolution import convolve

LAYOUT = ("NHWC", "HWIO", "NHWC")


def both(x, kernel, stride, padding, groups):
    """Returns (result, gradients of x and kernel) of ours and of lax's."""

    def run(convolution):
        def f(x, kernel):
            return convolution(
                x,
                kernel,
                (stride, stride),
                padding,
                dimension_numbers=LAYOUT,
                feature_group_count=groups,
            )

        result, backward = jax.vjp(f, x, kernel)
        return result, *backward(
            jnp.cos(1.0 * jnp.arange(result.size)).reshape(result.shape).astype(result.dtype)
        )

    return jax.jit(lambda: (run(convolve), run(jax.lax.conv_general_dilated)))()


@pytest.mark.parametrize(
    ("batch", "size", "features", "stride", "padding", "groups"),
    [
        (8, 3, (2, 3), 1, [(1, 1), (1, 1)], 1),
        (16, 3, (3, 2), 2, [(1, 1), (1, 1)], 1),
        (6, 3, (2, 4), 1, "SAME", 1),  # in 2 parts
        (8, 1, (2, 4), 2, "SAME", 1),  # in one
        (7, 7, (3, 2), 2, [(3, 3), (3, 3)], 1),  # in one
        (8, 3, (4, 6), 1, "VALID", 2),
    ],
)
def test_equals_lax(float64, batch, size, features, stride, padding, groups):
    random = np.random.default_rng(0)
    x = random.standard_normal((batch, 9, 8, features[0]))
    kernel = random.standard_normal((size, size, features[0] // groups, features[1]))
    ours, expected = both(x, kernel, stride, padding, groups)
    np.testing.assert_array_equal(ours[0], expected[0])
    for gradient, reference in zip(ours[1:], expected[1:], strict=True):
        assert (gradient.shape, gradient.dtype) == (reference.shape, reference.dtype)
        np.testing.assert_allclose(
            gradient, reference, rtol=0, atol=1e-12 * np.abs(reference).max()
        )


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["SAME", "symmetric"])
def test_depthwise_equals_lax(float64, size, stride, padding):
    """Of odd and even sides; result and gradients, which a CPU computes tap by tap."""
    random = np.random.default_rng(0)
    x = random.standard_normal((3, 9, 6, 4))
    kernel = random.standard_normal((size, size, 1, 4))
    padding = [(size // 2, size // 2)] * 2 if padding == "symmetric" else padding
    for mine, reference in zip(*both(x, kernel, stride, padding, 4), strict=True):
        assert (mine.shape, mine.dtype) == (reference.shape, reference.dtype)
        np.testing.assert_allclose(mine, reference, rtol=0, atol=1e-13 * np.abs(reference).max())


@pytest.mark.parametrize(
    ("shape", "stride", "padding"), [((2, 1, 2, 3), 2, "SAME"), ((2, 7, 5, 3), 3, "VALID")]
)
def test_depthwise_of_other_shapes(float64, shape, stride, padding):
    """An image smaller than the kernel; a stride that leaves pixels over."""
    random = np.random.default_rng(0)
    x = random.standard_normal(shape)
    kernel = random.standard_normal((3, 3, 1, 3))
    for mine, reference in zip(*both(x, kernel, stride, padding, 3), strict=True):
        np.testing.assert_allclose(mine, reference, rtol=0, atol=1e-13)


def test_depthwise_sums_bfloat16_in_float32():
    """Result and gradient of x differ only by rounding; the kernel's has rounded summands."""
    random = np.random.default_rng(0)
    x, kernel = (
        random.standard_normal(shape).astype("bfloat16") for shape in ((4, 8, 8, 6), (5, 5, 1, 6))
    )
    exact = both(x.astype("float32"), kernel.astype("float32"), 1, "SAME", 6)[1]
    for mine, reference, tolerance in zip(
        both(x, kernel, 1, "SAME", 6)[0], exact, (0.004, 0.02, 0.02), strict=True
    ):
        assert mine.dtype == jnp.bfloat16
        assert (
            np.abs(mine.astype("float32") - reference).max() < tolerance * np.abs(reference).max()
        )


def test_depthwise_with_several_results_a_channel_is_not_summed_by_taps(float64):
    """Nor is one with holes in its kernel: those are lax's."""
    random = np.random.default_rng(0)
    x = random.standard_normal((8, 5, 5, 2))
    kernel = random.standard_normal((3, 3, 1, 4))
    for mine, reference in zip(*both(x, kernel, 1, "SAME", 2), strict=True):
        np.testing.assert_allclose(mine, reference, rtol=0, atol=1e-12)
    options = {"dimension_numbers": LAYOUT, "feature_group_count": 2, "rhs_dilation": (2, 2)}
    arguments = x, kernel[..., :2], (1, 1), "SAME"
    np.testing.assert_allclose(
        convolve(*arguments, **options),
        jax.lax.conv_general_dilated(*arguments, **options),
        atol=1e-12,
    )


def test_depthwise_keeps_a_sharded_batch_where_it_is():
    """No device sends images to another: the program of the forward pass has no communication."""
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    by_batch = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    random = np.random.default_rng(0)
    x = random.standard_normal((16, 6, 6, 4))
    kernel = random.standard_normal((3, 3, 1, 4))
    x = x.astype("float32")
    kernel = kernel.astype("float32")

    def f(x, kernel):
        return convolve(x, kernel, (2, 2), "SAME", dimension_numbers=LAYOUT, feature_group_count=4)

    program = jax.jit(f).lower(jax.device_put(x, by_batch), kernel).compile()
    assert not any(
        word in program.as_text() for word in ("all-gather", "all-to-all", "collective-permute")
    )
    result = program(jax.device_put(x, by_batch), kernel)
    assert result.sharding.is_equivalent_to(by_batch, 4)
    np.testing.assert_allclose(result, jax.jit(f)(x, kernel), rtol=1e-5, atol=1e-5)


def test_bfloat16_sums_its_parts_in_float32():
    """The rounding of the parts' sum is that of one bfloat16, not of eight."""
    random = np.random.default_rng(0)
    x, kernel = (
        random.standard_normal(shape).astype("bfloat16") for shape in ((64, 8, 8, 4), (3, 3, 4, 4))
    )
    exact = both(x.astype("float32"), kernel.astype("float32"), 1, "SAME", 1)[1][2]
    ours = both(x, kernel, 1, "SAME", 1)[0][2]
    assert ours.dtype == jnp.bfloat16
    assert np.abs(ours.astype("float32") - exact).max() < 0.02 * np.abs(exact).max()


def test_the_split_is_on_cpus_only(monkeypatch):
    """Elsewhere the program is lax's: one convolution for the filter gradient."""
    layer = nnx.eval_shape(
        lambda: nnx.Conv(2, 3, (3, 3), conv_general_dilated=convolve, rngs=nnx.Rngs(0))
    )
    graph, params = nnx.split(layer)

    def convolutions():
        def loss(params):
            return nnx.merge(graph, params)(jnp.ones((16, 8, 8, 2))).sum()

        return str(jax.make_jaxpr(jax.grad(loss))(params)).count("= conv_general_dilated[")

    split = convolutions()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert convolutions() == 2  # forward and filter gradient
    assert split == 1 + 8 + 1  # and x's gradient, which the compiler drops, as nothing reads it
