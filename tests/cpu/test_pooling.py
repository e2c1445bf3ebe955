"""The gradient of max pooling on a CPU, against XLA's own."""

import jax
import numpy as np
import pytest
from jax import export

from vision import cpu
from vision.models.layers.convolution import max_pool

cpu.install()


def gradient(x, dy, window, stride, padding):
    return jax.vjp(lambda x: max_pool(x, window, stride, padding), x)[1](dy)[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("shape", "window", "stride", "padding"),
    [
        ((3, 12, 12, 5), 3, 2, 1),
        ((2, 11, 13, 4), 3, 2, 0),
        ((2, 8, 8, 3), 2, 2, 0),
        ((1, 9, 7, 2), 3, 1, 1),
        ((2, 10, 10, 2), 2, 3, 0),
        ((2, 13, 9, 1), 5, 3, 2),
    ],
)
def test_gradient(shape, window, stride, padding, dtype):
    """Also of values that are equal, of which the first gets it: zeros behind a ReLU."""
    random = np.random.default_rng(0)
    x = np.maximum(random.standard_normal(shape), 0).astype(dtype)

    def run(x, dy):
        return gradient(x, dy, window, stride, padding)

    outputs = jax.eval_shape(lambda x: max_pool(x, window, stride, padding), x)
    dy = random.integers(-8, 9, outputs.shape).astype(dtype)  # whose sums are exact
    compiled = jax.jit(run).lower(x, dy).compile()
    assert "select-and-scatter" not in compiled.as_text()
    exported = export.export(jax.jit(run))(x, dy)
    assert "select_and_scatter" in exported.mlir_module()
    np.testing.assert_array_equal(compiled(x, dy), exported.call(x, dy))


def test_other_windows_are_left_to_xla():
    """A maximum over the batch."""

    def total(x):
        window = (2, 1, 1, 1)
        return jax.lax.reduce_window(x, -np.inf, jax.lax.max, window, window, "VALID").sum()

    x = np.random.default_rng(0).standard_normal((4, 3, 3, 2)).astype("float32")
    assert "select_and_scatter" in jax.jit(jax.grad(total)).lower(x).as_text()
