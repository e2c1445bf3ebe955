"""The convolution with a filter gradient in parts, against lax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vision.models.convolution import convolve

LAYOUT = ("NHWC", "HWIO", "NHWC")


def both(x, kernel, stride, padding, groups):
    """Returns (result, gradients of x and kernel) of ours and of lax's."""

    def run(convolution):
        def f(x, kernel):
            return convolution(
                x, kernel, (stride, stride), padding, dimension_numbers=LAYOUT, feature_group_count=groups
            )

        result, backward = jax.vjp(f, x, kernel)
        return result, *backward(jnp.cos(1.0 * jnp.arange(result.size)).reshape(result.shape).astype(result.dtype))

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
        np.testing.assert_allclose(gradient, reference, rtol=0, atol=1e-12 * np.abs(reference).max())


def test_bfloat16_sums_its_parts_in_float32():
    """The rounding of the parts' sum is that of one bfloat16, not of eight."""
    random = np.random.default_rng(0)
    x, kernel = (random.standard_normal(shape).astype("bfloat16") for shape in ((64, 8, 8, 4), (3, 3, 4, 4)))
    exact = both(x.astype("float32"), kernel.astype("float32"), 1, "SAME", 1)[1][2]
    ours = both(x, kernel, 1, "SAME", 1)[0][2]
    assert ours.dtype == jnp.bfloat16
    assert np.abs(ours.astype("float32") - exact).max() < 0.02 * np.abs(exact).max()


def test_the_split_is_on_cpus_only(monkeypatch):
    """Elsewhere the program is lax's: one convolution for the filter gradient."""
    layer = nnx.eval_shape(lambda: nnx.Conv(2, 3, (3, 3), conv_general_dilated=convolve, rngs=nnx.Rngs(0)))
    graph, params = nnx.split(layer)

    def convolutions():
        def loss(params):
            return nnx.merge(graph, params)(jnp.ones((16, 8, 8, 2))).sum()

        return str(jax.make_jaxpr(jax.grad(loss))(params)).count("= conv_general_dilated[")

    split = convolutions()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert convolutions() == 2  # forward and filter gradient
    assert split == 1 + 8 + 1  # and x's gradient, which the compiler drops, as nothing reads it
