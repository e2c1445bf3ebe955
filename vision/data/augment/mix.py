"""Operations that cover a part of an image, or mix it with another image of the batch.

Mixup: Zhang et al. 2017 (arXiv:1710.09412). CutMix: Yun et al. 2019 (arXiv:1905.04899). Random
erasing: Zhong et al. 2017 (arXiv:1708.04896).

An image's partner is the one before it in the batch, which is already shuffled: so each image is a
partner once, never its own, and a batch over several devices exchanges no more than necessary. Each
image draws its own share; the papers draw one per batch.

Images are uint8 or float (B, H, W, C) and keep shape and dtype; labels are float32 (B, classes),
each row summing to 1.
"""

import jax
import jax.numpy as jnp

from vision.data.augment.pixels import from_float, mean_color, per_image, to_float


def mixup(
    key: jax.Array, images: jax.Array, labels: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Averages images and labels with their partners'.

    An image's own share is drawn from Beta(alpha, alpha).
    """
    share = _beta(key, alpha, len(images))
    return _combine(images, labels, per_image(share), share)


def cutmix(
    key: jax.Array, images: jax.Array, labels: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Pastes a box of its partner into each image, and weights the labels by the actual areas.

    The box's area is 1 - Beta(alpha, alpha) of the image, its center anywhere; the image's border
    may cut it.
    """
    key_share, key_box = jax.random.split(key)
    share = _beta(key_share, alpha, len(images))
    return _combine(images, labels, *_cut(key_box, images, share))


def mixup_or_cutmix(
    key: jax.Array, images: jax.Array, labels: jax.Array, mixup_alpha: float, cutmix_alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Applies mixup or CutMix to the whole batch, each with probability 1/2."""
    key_choice, key_share, key_box = jax.random.split(key, 3)
    cuts = jax.random.bernoulli(key_choice)
    alpha = jnp.where(cuts, cutmix_alpha, mixup_alpha)
    share = _beta(key_share, alpha, len(images))
    kept, share_cut = _cut(key_box, images, share)
    pixel_weights = jnp.where(cuts, kept, per_image(share))
    return _combine(images, labels, pixel_weights, jnp.where(cuts, share_cut, share))


def random_erasing(
    key: jax.Array,
    images: jax.Array,
    probability: float,
    area: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 1 / 0.3),
) -> jax.Array:
    """Covers a random box of each image with the image's mean color.

    The paper finds the mean about as good as noise, and it needs no random number for each pixel. A
    box that would be wider or higher than the image is cut to the image's side.

    Args:
        key: a random key.
        images: (B, H, W, C).
        probability: probability that an image gets a box.
        area: the box's share of the image's area, (low, high), drawn uniformly.
        ratio: the box's width over its height, (low, high), drawn log-uniformly.
    """
    batch, height, width, _ = images.shape
    draws = jax.random.uniform(key, (5, batch))
    pixels = height * width * (area[0] + (area[1] - area[0]) * draws[0])
    low = jnp.log(ratio[0])
    high = jnp.log(ratio[1])
    aspect = jnp.exp(low + (high - low) * draws[1])
    box_h = jnp.clip(jnp.round(jnp.sqrt(pixels / aspect)), 1, height)
    box_w = jnp.clip(jnp.round(jnp.sqrt(pixels * aspect)), 1, width)
    top = jnp.floor(draws[2] * (height - box_h + 1))
    left = jnp.floor(draws[3] * (width - box_w + 1))
    box = _box(images.shape, top, top + box_h, left, left + box_w)
    covered = box & per_image(draws[4] < probability)
    return jnp.where(covered, from_float(mean_color(images), images.dtype), images)


def _beta(key, alpha, batch):
    """Draws (batch,) from Beta(alpha, alpha), as `jax.random.beta` does.

    One sampler instead of two halves the compile time.
    """
    log_gamma = jax.random.loggamma(key, alpha, (2, batch))
    return jax.nn.sigmoid(log_gamma[0] - log_gamma[1])


def _cut(key, images, share):
    """Returns (kept, share): 1 for each pixel outside a random box, and the share kept in the end.

    Args:
        key: a random key.
        images: (B, H, W, C).
        share: (B,), the share to keep, before the border cuts the box.

    Returns:
        kept: float32 (B, H, W, 1), 0 or 1.
        share: (B,).
    """
    batch, height, width, _ = images.shape
    centers = jax.random.uniform(key, (2, batch))
    side = jnp.sqrt(1 - share)

    def span(center, size):
        half = jnp.round(side * size) / 2
        return (jnp.clip(jnp.floor(center * size + end), 0, size) for end in (-half, half))

    top, bottom = span(centers[0], height)
    left, right = span(centers[1], width)
    kept = 1 - _box(images.shape, top, bottom, left, right).astype(jnp.float32)
    return kept, 1 - (bottom - top) * (right - left) / (height * width)


def _combine(images, labels, pixel_weights, label_weights):
    """Averages images and labels with their partners', with the given weights of their own."""

    def mix(own, weight):
        return weight * own + (1 - weight) * jnp.roll(own, 1, 0)

    mixed = from_float(mix(to_float(images), pixel_weights), images.dtype)
    return mixed, mix(labels, label_weights[:, None])


def _box(shape, top, bottom, left, right):
    """Returns a mask (B, H, W, 1), True if top <= row < bottom and left <= column < right.

    Args:
        shape: (B, H, W, C) of the images.
        top: (B,).
        bottom: (B,).
        left: (B,).
        right: (B,).
    """
    _, height, width, _ = shape
    row = jnp.arange(height)[None, :, None]
    column = jnp.arange(width)[None, None, :]
    top, bottom, left, right = (edge[:, None, None] for edge in (top, bottom, left, right))
    return ((row >= top) & (row < bottom) & (column >= left) & (column < right))[..., None]
