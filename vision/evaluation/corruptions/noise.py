"""Noise: of a sensor in low light (Gaussian, shot), and of flipped bits (impulse).

See the package.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr

from vision.evaluation.corruptions.tables import between, pick

EXACT = 8  # photons, up to which Poisson draws are exact


def gaussian_noise(key, images, severity):
    """Adds normal noise, separately for each pixel and channel."""
    small = (0.04, 0.06, 0.08, 0.09, 0.10)  # sigma
    large = (0.08, 0.12, 0.18, 0.26, 0.38)
    sigma = pick(between(small, large, images.shape[1]), severity)
    return images + 255 * sigma * jax.random.normal(key, images.shape)


def shot_noise(key, images, severity):
    """Counts photons: Poisson noise, given the number of photons of a white pixel."""
    photons = pick(between((500, 250, 100, 75, 50), (60, 25, 12, 5, 3), images.shape[1]), severity)
    return 255 / photons * poisson(jax.random.normal(key, images.shape), images / 255 * photons)


def poisson(z: jax.Array, rate: jax.Array) -> jax.Array:
    """Turns standard normal draws into Poisson draws of given rates; `jax.random`'s is far slower.

    Below a rate of `EXACT` the distribution is summed up; above, the Cornish-Fisher expansion of
    third order is used, which is off by one in one draw of a hundred.

    Args:
        z: standard normal draws, float32.
        rate: the rates, float32 of the same shape.
    """
    low = jnp.minimum(rate, EXACT)
    high = jnp.maximum(rate, EXACT)
    below = ndtr(z)
    term = jnp.exp(-low)
    total = term
    count = jnp.zeros_like(rate)
    for k in range(1, 4 * EXACT):
        count += below > total
        term = term * low / k
        total += term
    bend = (z**2 - 1) / 6 + ((z**3 - 3 * z) / 24 - (2 * z**3 - 5 * z) / 36) / jnp.sqrt(high)
    expanded = jnp.maximum(jnp.round(high + jnp.sqrt(high) * z + bend), 0)
    return jnp.where(rate < EXACT, count, expanded)


def impulse_noise(key, images, severity):
    """Sets a share of the values to 0 or 255, equally likely (salt and pepper)."""
    small = (0.01, 0.02, 0.03, 0.05, 0.07)
    large = (0.03, 0.06, 0.09, 0.17, 0.27)
    share = pick(between(small, large, images.shape[1]), severity)
    draw = jax.random.uniform(key, images.shape)
    return jnp.where(draw < share / 2, 0, jnp.where(draw < share, 255, images))
