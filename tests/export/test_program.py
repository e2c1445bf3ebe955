"""The reference that exports are compared to."""

import jax.numpy as jnp
import numpy as np

from tests.support import classifiers
from vision.export.program import served


def test_a_new_head_of_zeros_gives_equal_probabilities():
    model = classifiers.classifier("vit", classes=1000)
    head = model.model.head
    head.kernel.set_value(jnp.zeros_like(head.kernel.get_value()))
    head.bias.set_value(jnp.zeros_like(head.bias.get_value()))
    probabilities, embedding = served(model)(classifiers.images(model, 8))
    np.testing.assert_allclose(probabilities, np.full((8, 1000), 1e-3), rtol=1e-5)
    assert np.isfinite(embedding).all()
