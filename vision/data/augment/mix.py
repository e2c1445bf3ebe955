"""Operations that cover a part of an image, or mix it with its neighbor in the batch.

Mixup: Zhang et al. 2017 (arXiv:1710.09412). CutMix: Yun et al. 2019 (arXiv:1905.04899). Random
erasing: Zhong et al. 2017 (arXiv:1708.04896).

An image's partner is the one before it in the batch, which is shuffled already: so each image is a
partner once, never its own, and a batch over several devices exchanges no more than it must. Each
image draws its own share; the papers draw one a batch.

Images are uint8 or float (B, H, W, C) and keep shape and dtype; labels are float32 (B, classes),
each row summing to 1.
"""

import jax
import jax.numpy as jnp

from vision.data.augment.pixels import mean_color, per_image, restore, to_float


def mixup(key, images, labels, alpha):
    """Returns images and labels averaged with their partners', the own share drawn from Beta(alpha,
    alpha)."""
    share = _beta(key, alpha, len(images))
    return _combine(images, labels, per_image(share), share)


def cutmix(key, images, labels, alpha):
    """Returns images with a box of their partner pasted in, and labels weighted by the area that
    each really has.

    The box's area is 1 - Beta(alpha, alpha) of the image, its center anywhere; the image's border
    may cut it.
    """
    key_share, key_box = jax.random.split(key)
    share = _beta(key_share, alpha, len(images))
    return _combine(images, labels, *_cut(key_box, images, share))


def mixup_or_cutmix(key, images, labels, mixup_alpha, cutmix_alpha):
    """Returns the whole batch under mixup or under CutMix, each with probability 1/2."""
    key_choice, key_share, key_box = jax.random.split(key, 3)
    cuts = jax.random.bernoulli(key_choice)
    alpha = jnp.where(cuts, cutmix_alpha, mixup_alpha)
    share = _beta(key_share, alpha, len(images))
    kept, share_cut = _cut(key_box, images, share)
    return _combine(
        images, labels, jnp.where(cuts, kept, per_image(share)), jnp.where(cuts, share_cut, share)
    )


def random_erasing(key, images, probability, area=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3)):
    """Covers a random box of each image with the image's mean color.

    The paper finds the mean about as good as noise, and it needs no random number for each pixel. A
    box that would be wider or higher than the image is cut to the image's side.

    Args:
      key: a random key.
      images: (B, H, W, C).
      probability: that an image gets a box.
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
    covered = _box(height, width, top, top + box_h, left, left + box_w) & per_image(
        draws[4] < probability
    )
    return jnp.where(covered, restore(mean_color(images), images.dtype), images)


def _beta(key, alpha, batch):
    """Draws (batch,) from Beta(alpha, alpha), as `jax.random.beta` does; one sampler, so half the
    compile time."""
    log_gamma = jax.random.loggamma(key, alpha, (2, batch))
    return jax.nn.sigmoid(log_gamma[0] - log_gamma[1])


def _cut(key, images, share):
    """Returns what each pixel keeps of itself, 0 or 1 in (B, H, W, 1), and the share that is kept
    in the end, (B,)."""
    batch, height, width, _ = images.shape
    centers = jax.random.uniform(key, (2, batch))
    side = jnp.sqrt(1 - share)

    def span(center, size):
        half = jnp.round(side * size) / 2
        return (jnp.clip(jnp.floor(center * size + end), 0, size) for end in (-half, half))

    (top, bottom) = span(centers[0], height)
    (left, right) = span(centers[1], width)
    kept = 1 - _box(height, width, top, bottom, left, right).astype(jnp.float32)
    return kept, 1 - (bottom - top) * (right - left) / (height * width)


def _combine(images, labels, kept, share):
    def mix(own, weight):
        return weight * own + (1 - weight) * jnp.roll(own, 1, 0)

    return restore(mix(to_float(images), kept), images.dtype), mix(labels, share[:, None])


def _box(height, width, top, bottom, left, right):
    """Returns a mask (B, height, width, 1), True within top <= row < bottom and left <= column <
    right, each (B,)."""
    row = jnp.arange(height)[None, :, None]
    column = jnp.arange(width)[None, None, :]
    top, bottom, left, right = (end[:, None, None] for end in (top, bottom, left, right))
    return ((row >= top) & (row < bottom) & (column >= left) & (column < right))[..., None]
