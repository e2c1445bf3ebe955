"""The interpreter's operations give what JAX gives, and each of them is tried."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.export.coreml.operations import OPERATIONS
from vision.export.coreml.windows import conv, max_pool

LAYOUT = ("NCHW", "OIHW", "NCHW")
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 4, 9, 11)).astype(np.float32)
POSITIVE = np.abs(X) + np.float32(0.1)
ROUNDED = X.round()  # of which many are equal
TOKENS = RANDOM.normal(size=(3, 2, 5, 4)).astype(np.float32)
MASK = RANDOM.random((5, 5)) < 0.7
MASK[:, 0] = True

# kind: (MIL's parameters, a function that computes the same in JAX)
CASES = {
    "abs": ({"x": X}, lambda: jnp.abs(X)),
    "add": ({"x": X, "y": X[0]}, lambda: jnp.add(X, X[0])),
    "cast": ({"x": X, "dtype": "fp32"}, lambda: X),
    "concat": ({"values": [X, X[:, :1]], "axis": 1}, lambda: jnp.concatenate([X, X[:, :1]], 1)),
    "equal": ({"x": ROUNDED, "y": ROUNDED[:1]}, lambda: jnp.equal(ROUNDED, ROUNDED[:1])),
    "erf": ({"x": X}, lambda: jax.scipy.special.erf(X)),
    "exp": ({"x": X}, lambda: jnp.exp(X)),
    "floor": ({"x": X}, lambda: jnp.floor(X)),
    "gather": (
        {"x": X, "indices": np.array([3, 0, 0]), "axis": 1},
        lambda: jnp.take(X, np.array([3, 0, 0]), 1),
    ),
    "gelu": ({"x": X, "mode": "EXACT"}, lambda: jax.nn.gelu(X, approximate=False)),
    "greater": ({"x": ROUNDED, "y": ROUNDED[:1]}, lambda: jnp.greater(ROUNDED, ROUNDED[:1])),
    "greater_equal": (
        {"x": ROUNDED, "y": ROUNDED[:1]},
        lambda: jnp.greater_equal(ROUNDED, ROUNDED[:1]),
    ),
    "less": ({"x": ROUNDED, "y": ROUNDED[:1]}, lambda: jnp.less(ROUNDED, ROUNDED[:1])),
    "less_equal": ({"x": ROUNDED, "y": ROUNDED[:1]}, lambda: jnp.less_equal(ROUNDED, ROUNDED[:1])),
    "linear": (
        {"x": X, "weight": X[0, 0], "bias": X[0, 0, :, 0]},
        lambda: X @ X[0, 0].T + X[0, 0, :, 0],
    ),
    "log": ({"x": POSITIVE, "epsilon": 0.5}, lambda: jnp.log(POSITIVE + 0.5)),
    "logical_and": ({"x": X > 0, "y": X > 1}, lambda: jnp.logical_and(X > 0, X > 1)),
    "logical_not": ({"x": X > 0}, lambda: jnp.logical_not(X > 0)),
    "logical_or": ({"x": X > 0, "y": X < -1}, lambda: jnp.logical_or(X > 0, X < -1)),
    "logical_xor": ({"x": X > 0, "y": X < 1}, lambda: jnp.logical_xor(X > 0, X < 1)),
    "matmul": ({"x": X, "y": X, "transpose_y": True}, lambda: jnp.einsum("abij,abkj->abik", X, X)),
    "maximum": ({"x": X, "y": np.float32(0)}, lambda: jnp.maximum(X, 0)),
    "minimum": ({"x": X, "y": X[0]}, lambda: jnp.minimum(X, X[0])),
    "mul": ({"x": X, "y": X[0]}, lambda: jnp.multiply(X, X[0])),
    "not_equal": ({"x": ROUNDED, "y": ROUNDED[:1]}, lambda: jnp.not_equal(ROUNDED, ROUNDED[:1])),
    "pad": (
        {"x": X, "pad": np.array([1, 2, 0, 3]), "constant_val": 2.0},
        lambda: jnp.pad(X, ((0, 0), (0, 0), (1, 2), (0, 3)), constant_values=2.0),
    ),
    "pow": ({"x": POSITIVE, "y": np.float32(2.5)}, lambda: jnp.power(POSITIVE, 2.5)),
    "real_div": ({"x": X, "y": POSITIVE}, lambda: jnp.divide(X, POSITIVE)),
    "reduce_max": ({"x": X, "axes": np.array([1, -1])}, lambda: jnp.max(X, (1, -1))),
    "reduce_mean": (
        {"x": X, "axes": np.array([2]), "keep_dims": True},
        lambda: jnp.mean(X, 2, keepdims=True),
    ),
    "reduce_min": ({"x": X, "axes": np.array([0])}, lambda: jnp.min(X, 0)),
    "reduce_prod": ({"x": X, "axes": np.array([1])}, lambda: jnp.prod(X, 1)),
    "reduce_sum": ({"x": X}, lambda: jnp.sum(X)),
    "reshape": ({"x": X, "shape": np.array([0, -1, 3])}, lambda: jnp.reshape(X, (2, -1, 3))),
    "reverse": ({"x": X, "axes": np.array([1, 3])}, lambda: jnp.flip(X, (1, 3))),
    "round": ({"x": X * 2}, lambda: jnp.round(X * 2)),
    "rsqrt": ({"x": POSITIVE, "epsilon": 0.5}, lambda: jax.lax.rsqrt(POSITIVE + 0.5)),
    "scaled_dot_product_attention": (
        {"query": TOKENS, "key": 2 * TOKENS, "value": TOKENS, "attn_mask": MASK},
        lambda: jax.nn.dot_product_attention(
            *(a.swapaxes(1, 2) for a in (TOKENS, 2 * TOKENS, TOKENS)), mask=MASK
        ).swapaxes(1, 2),
    ),
    "select": ({"cond": X > 0, "a": X, "b": np.float32(3)}, lambda: jnp.where(X > 0, X, 3)),
    "sign": ({"x": ROUNDED}, lambda: jnp.sign(ROUNDED)),
    "slice_by_index": (
        {
            "x": X,
            "begin": np.array([1, 0, 2, -9]),
            "end": np.array([2, 0, -1, -1]),
            "stride": np.array([1, 2, 1, 3]),
            "end_mask": np.array([False, True, False, False]),
            "squeeze_mask": np.array([True, False, False, False]),
        },
        lambda: X[1, 0::2, 2:-1, -9:-1:3],
    ),
    "softmax": ({"x": X, "axis": 1}, lambda: jax.nn.softmax(X, 1)),
    "sqrt": ({"x": POSITIVE}, lambda: jnp.sqrt(POSITIVE)),
    "sub": ({"x": X, "y": X[0]}, lambda: jnp.subtract(X, X[0])),
    "tanh": ({"x": X}, lambda: jnp.tanh(X)),
    "tile": ({"x": X, "reps": np.array([1, 2, 1, 3])}, lambda: jnp.tile(X, (1, 2, 1, 3))),
    "transpose": ({"x": X, "perm": np.array([2, 0, 3, 1])}, lambda: jnp.transpose(X, (2, 0, 3, 1))),
}
ELSEWHERE = {"conv", "max_pool", "constexpr_blockwise_shift_scale"}


@pytest.fixture(scope="module")
def references():
    """{kind: what JAX gives}, by a single program."""
    return jax.jit(lambda: {kind: reference() for kind, (_, reference) in CASES.items()})()


@pytest.mark.parametrize("kind", CASES)
def test_it_gives_what_jax_gives(kind, references):
    expected = references[kind]
    actual = OPERATIONS[kind](**CASES[kind][0])
    assert np.shape(actual) == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-6)


def test_every_operation_is_tried():
    assert set(OPERATIONS) == set(CASES) | ELSEWHERE


def test_approximate_gelu():
    actual = OPERATIONS["gelu"](X, mode="TANH_APPROXIMATION")
    np.testing.assert_allclose(actual, jax.nn.gelu(X, approximate=True), atol=1e-6)


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_padding_with_pixels(mode):
    actual = OPERATIONS["pad"](X, np.array([1, 2, 2, 1]), mode=mode)
    widths = ((0, 0), (0, 0), (1, 2), (2, 1))
    expected = jnp.pad(X, widths, mode={"reflect": "reflect", "replicate": "edge"}[mode])
    np.testing.assert_array_equal(actual, expected)


def test_what_is_not_implemented_is_refused():
    for kind, parameters in (
        ("concat", {"values": [X, X], "axis": 1, "interleave": True}),
        ("gather", {"x": X, "indices": np.array([0]), "batch_dims": 1}),
        ("gelu", {"x": X, "mode": "SIGMOID_APPROXIMATION"}),
        ("max_pool", {"x": X, "kernel_sizes": [2, 2], "ceil_mode": True}),
    ):
        with pytest.raises(ValueError, match="is not implemented"):
            OPERATIONS[kind](**parameters)


def test_weights_of_int8_by_blocks():
    """scale (data - offset), as Apple's reference defines it, written out."""
    data = RANDOM.integers(-128, 128, (4, 6)).astype(np.int8)
    scale = RANDOM.random((4, 2)).astype(np.float32)
    offset = np.array([[1, -3]] * 4, np.int8)
    actual = OPERATIONS["constexpr_blockwise_shift_scale"](data, scale, offset)
    for i in range(4):
        for j in range(6):
            expected = scale[i, j // 3] * (int(data[i, j]) - int(offset[i, j // 3]))
            assert actual[i, j] == pytest.approx(expected)
    plain = OPERATIONS["constexpr_blockwise_shift_scale"](data, scale[:, :1])
    np.testing.assert_allclose(plain, data * scale[:, :1], rtol=1e-6)


CONVOLUTIONS = [  # strides, padding, dilations, groups
    ((1, 1), ("valid", (0, 0, 0, 0)), (1, 1), 1),
    ((2, 1), ("custom", (1, 0, 2, 1)), (1, 1), 1),
    ((2, 3), ("same", (0, 0, 0, 0)), (1, 1), 2),
    ((2, 3), ("same_lower", (0, 0, 0, 0)), (1, 1), 2),
    ((1, 1), ("same", (0, 0, 0, 0)), (2, 1), 4),
]


@pytest.mark.parametrize(("strides", "padding", "dilations", "groups"), CONVOLUTIONS)
def test_convolutions(strides, padding, dilations, groups):
    kernels = RANDOM.normal(size=(8, 4 // groups, 3, 2)).astype(np.float32)
    bias = np.arange(8, dtype=np.float32)
    expected = jax.lax.conv_general_dilated(
        X,
        kernels,
        strides,
        in_jax(padding),
        rhs_dilation=dilations,
        dimension_numbers=LAYOUT,
        feature_group_count=groups,
    )
    options = {"strides": strides, "dilations": dilations, "groups": groups}
    actual = conv(X, kernels, bias, pad_type=padding[0], pad=padding[1], **options)
    np.testing.assert_allclose(actual, expected + bias[:, None, None], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("strides", "padding", "dilations", "groups"), CONVOLUTIONS[:4])
def test_pools(strides, padding, dilations, groups):
    expected = jax.lax.reduce_window(
        X,
        -jnp.inf,
        jax.lax.max,
        (1, 1, 3, 2),
        (1, 1, *strides),
        padding=[(0, 0), (0, 0), *in_jax(padding)] if padding[0] == "custom" else in_jax(padding),
    )
    actual = max_pool(X, (3, 2), strides=strides, pad_type=padding[0], pad=padding[1])
    np.testing.assert_array_equal(actual, expected)


def in_jax(padding):
    """Returns JAX's name of MIL's padding, or the widths."""
    kind, (top, bottom, left, right) = padding
    names = {"valid": "VALID", "same": "SAME", "same_lower": "SAME_LOWER"}
    return names.get(kind, [(top, bottom), (left, right)])
