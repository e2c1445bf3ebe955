"""Programs of any function, and images for them.

Those of the architectures: `tests.support.classifiers`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tests.support.tiny_bundle import RESIZE, weights
from vision.export.program import Program


def images(count, size, channels=3, seed=1):
    """Returns random images, uint8 (count, size, size, channels)."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, channels), np.uint8)


def program_of(function, size=8, channels=1, classes=10):
    """Returns the `Program` of a function of uint8 images (B, size, size, channels)."""
    reference = (lambda _, images: function(images), ())
    return Program(function, reference, tuple(map(str, range(classes))), size, channels, RESIZE)


def linear(images):
    """Computes the same as the graph of `tests.support.tiny_bundle`."""
    first, second = weights()
    embedding = images.reshape(images.shape[0], -1).astype(jnp.float32) @ first
    return jax.nn.softmax(embedding @ second), embedding
