"""A head whose outputs are summed to classes, against NumPy's softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vision.errors import UserError
from vision.models.layers.heads import GroupedHead, check_groups
from vision.models.layers.streams import Streams

GROUPS = (1, 0, 1, 2, 1, 2)
SHARES = (1, 1, 0.5, 1, 0.25, 3)


def head_and_inputs(shares):
    inner = nnx.Linear(4, 6, rngs=Streams(0), param_dtype=jnp.float64)
    return GroupedHead(inner, GROUPS, shares), np.random.RandomState(0).randn(5, 4)


@pytest.mark.parametrize("shares", [(), SHARES], ids=["plain", "shares"])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_classes_have_the_sums_of_their_outputs(float64, shares, scale):
    head, x = head_and_inputs(shares)
    x = scale * x
    outputs = np.asarray(head.inner(x)) + np.log(shares or np.ones(6))
    powers = np.exp(outputs - outputs.max(1, keepdims=True))
    expected = np.zeros((5, 3))
    for column, group in enumerate(GROUPS):
        expected[:, group] += powers[:, column]
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(jax.nn.softmax(head(x)), expected, atol=1e-12)
    np.testing.assert_array_equal(head(x)[:, 0], outputs[:, 1])  # alone in its class
    gradient = jax.grad(lambda x: jax.nn.log_softmax(head(x))[:, 1].sum())(jnp.asarray(x))
    assert np.isfinite(gradient).all()


def test_groups_must_be_those_of_the_classes():
    check_groups(GROUPS, SHARES, 3)
    check_groups((), (), 3)
    with pytest.raises(UserError, match="must name each of the 4 classes, 0 to 3"):
        check_groups(GROUPS, (), 4)
    with pytest.raises(UserError, match="has 2 numbers for the 6 outputs"):
        check_groups(GROUPS, (1.0, 2.0), 3)
