"""Operations that move pixels.

Crops, flips and quarter turns copy pixels and so are exact. Everything else is an affine map and
shares one kernel, `resample`: four gathers per image, about a hundred times faster on a CPU than a
general rotation.

Every operation takes uint8 or float images (B, H, W, C) and returns the same shape and dtype; each
image has its own draw. Coordinates are (x, y) in pixels, y downwards.
"""

import math

import jax
import jax.numpy as jnp

from vision.data.augment.pixels import from_float, per_image, to_float

PAD_MODES = {"zeros": "constant", "reflect": "reflect"}  # our name: NumPy's

ALTERNATING = 0x666C6970  # folded into the seed, so that the key differs from every step's


def pad_crop(key: jax.Array, images: jax.Array, pad: int, mode: str = "zeros") -> jax.Array:
    """Pads each side by `pad` pixels, then crops the original size at a random position.

    Args:
        key: a random key.
        images: (B, H, W, C).
        pad: pixels.
        mode: one of `PAD_MODES`.
    """
    _, height, width, channels = images.shape
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * pad + 1)
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), PAD_MODES[mode])

    def crop(image, corner):
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, channels))

    return jax.vmap(crop)(padded, corners)


def flip_horizontal(key: jax.Array, images: jax.Array) -> jax.Array:
    """Swaps left and right with probability 1/2."""
    return mirror(images, jax.random.bernoulli(key, shape=(len(images),)))


def mirror(images: jax.Array, mask: jax.Array) -> jax.Array:
    """Swaps left and right of the images for which `mask`, bool (B,), is true."""
    return jnp.where(per_image(mask), images[:, :, ::-1], images)


def alternating_flips(
    seed: int | jax.Array, indices: jax.Array, epochs: jax.Array | int
) -> jax.Array:
    """Returns which images to flip, so that each is flipped in every second epoch.

    Jordan 2024 (arXiv:2404.00498), section 3.6. In epoch 0 about half of the images are flipped,
    drawn only by (seed, index); in epoch 1 the other half, and so on. So two epochs show every
    image both ways, whereas independent flips show half of the images twice the same way.

    Args:
        seed: int.
        indices: int (B,), the images' positions in the dataset, at least 0.
        epochs: int (B,) or (), from 0: how many times each image was seen before.

    Returns:
        bool (B,).
    """
    key = jax.random.fold_in(jax.random.key(seed), ALTERNATING)
    first = jax.vmap(lambda index: jax.random.bernoulli(jax.random.fold_in(key, index)))(indices)
    return first ^ (epochs % 2 == 1)


def flip_vertical(key: jax.Array, images: jax.Array) -> jax.Array:
    """Swaps top and bottom with probability 1/2."""
    mask = jax.random.bernoulli(key, shape=(len(images),))
    return jnp.where(per_image(mask), images[:, ::-1], images)


def rot90(key: jax.Array, images: jax.Array) -> jax.Array:
    """Rotates by 0, 90, 180 or 270 degrees, equally likely; by 0 or 180 if not square."""
    if images.shape[1] == images.shape[2]:
        turns = jax.random.randint(key, (len(images),), 0, 4)
    else:
        turns = 2 * jax.random.randint(key, (len(images),), 0, 2)
    return quarter_turns(images, turns)


def quarter_turns(images: jax.Array, turns: jax.Array) -> jax.Array:
    """Rotates each image counterclockwise by its number of right angles, (B,) in 0 .. 3.

    Images that are not square keep their shape: for them `turns` must be 0 or 2.
    """
    if images.shape[1] == images.shape[2]:
        images = jnp.where(per_image(turns % 2 == 1), images.swapaxes(1, 2), images)
    images = jnp.where(per_image((turns == 1) | (turns == 2)), images[:, ::-1], images)
    return jnp.where(per_image((turns == 2) | (turns == 3)), images[:, :, ::-1], images)


def random_resized_crop(
    key: jax.Array,
    images: jax.Array,
    area: tuple[float, float] = (0.8, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> jax.Array:
    """Crops a random box and resizes it back, bilinearly.

    Szegedy et al. 2014 (arXiv:1409.4842), section 6. The box has real-valued corners. One that
    would be wider or higher than the image is cut to the image's side, whereas other code draws
    again.

    Args:
        key: a random key.
        images: (B, H, W, C).
        area: the box's share of the image's area, (low, high) within (0, 1], drawn uniformly.
        ratio: the box's width over its height, (low, high), drawn log-uniformly.
    """
    _, height, width, _ = images.shape
    draws = jax.random.uniform(key, (4, len(images)))
    share = area[0] + (area[1] - area[0]) * draws[0]
    aspect = _log_uniform(draws[1], *ratio)
    box_w = jnp.minimum(jnp.sqrt(share * height * width * aspect), width)
    box_h = jnp.minimum(jnp.sqrt(share * height * width / aspect), height)
    # A box in the center has offset 0; it may move by half of the remaining space on either side.
    shift_x = (draws[2] - 0.5) * (width - box_w)
    shift_y = (draws[3] - 0.5) * (height - box_h)
    zero = jnp.zeros(len(images))
    inverse = _matrices((box_w / width, zero, shift_x), (zero, box_h / height, shift_y))
    return resample(images, inverse, edge=True)


def affine(
    key: jax.Array,
    images: jax.Array,
    rotate: float = 0.0,
    shear: float = 0.0,
    translate: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
) -> jax.Array:
    """Rotates, shears, shifts and zooms about the center in one bilinear resampling.

    Pixels from outside the image are zero.

    Args:
        key: a random key.
        images: (B, H, W, C).
        rotate: largest angle in either direction, degrees.
        shear: largest angle in either direction along each axis, degrees; below 45.
        translate: largest shift in either direction, as a share of the width and of the height.
        scale: zoom (low, high), drawn log-uniformly; above 1 enlarges.
    """
    _, height, width, _ = images.shape
    draws = jax.random.uniform(key, (6, len(images)))
    signed = 2 * draws - 1
    slope_x, slope_y = (jnp.tan(signed[i] * math.radians(shear)) for i in (1, 2))
    inverse = inverse_map(
        signed[0] * math.radians(rotate),
        slope_x,
        slope_y,
        signed[3] * translate * width,
        signed[4] * translate * height,
        _log_uniform(draws[5], *scale),
    )
    return resample(images, inverse)


def inverse_map(
    angle: jax.Array,
    slope_x: jax.Array,
    slope_y: jax.Array,
    shift_x: jax.Array,
    shift_y: jax.Array,
    zoom: jax.Array,
) -> jax.Array:
    """Returns the map from positions in the result to positions in the image, for `resample`.

    In the forward direction, an image is sheared, then rotated, then zoomed, all about its center,
    then shifted.

    Args:
        angle: radians, counterclockwise, (B,).
        slope_x: x increases by slope_x * y, (B,).
        slope_y: y increases by slope_y * x, (B,).
        shift_x: pixels to the right, (B,).
        shift_y: pixels down, (B,).
        zoom: factor, (B,).

    Returns:
        (B, 2, 3).
    """
    cos = jnp.cos(angle)
    sin = jnp.sin(angle)
    det = zoom * (1 - slope_x * slope_y)
    xx = (cos - slope_x * sin) / det
    xy = -(sin + slope_x * cos) / det
    yx = (sin - slope_y * cos) / det
    yy = (cos + slope_y * sin) / det
    row_x = xx, xy, -(xx * shift_x + xy * shift_y)
    row_y = yx, yy, -(yx * shift_x + yy * shift_y)
    return _matrices(row_x, row_y)


def resample(images: jax.Array, inverse: jax.Array, edge: bool = False) -> jax.Array:
    """Reads images at affinely mapped positions with bilinear weights.

    Args:
        images: (B, H, W, C).
        inverse: (B, 2, 3); the rows give x and y in the image for (x, y, 1) in the result, both
            relative to the image's center.
        edge: True repeats the border outwards; False reads zeros outside.
    """
    batch, height, width, channels = images.shape
    flat = to_float(images).reshape(batch, height * width, channels)
    out_x = jnp.tile(jnp.arange(width) - (width - 1) / 2, height)
    out_y = jnp.repeat(jnp.arange(height) - (height - 1) / 2, width)

    def neighbors(row, size):
        # Written out, since a matrix product may run at a lower precision on an accelerator.
        position = row[:, :1] * out_x + row[:, 1:2] * out_y + row[:, 2:] + (size - 1) / 2
        if edge:
            position = jnp.clip(position, 0, size - 1)
        low = jnp.floor(position)
        ends = ((low, 1 - (position - low)), (low + 1, position - low))
        return [_clip_index(index, weight, size) for index, weight in ends]

    result = jnp.zeros((), jnp.float32)
    for row, weight_y in neighbors(inverse[:, 1], height):
        for column, weight_x in neighbors(inverse[:, 0], width):
            result += (weight_y * weight_x)[..., None] * take_pixels(flat, row * width + column)
    return from_float(result.reshape(images.shape), images.dtype)


def take_pixels(rows: jax.Array, index: jax.Array) -> jax.Array:
    """Returns the rows at the given indices of each image.

    Args:
        rows: (B, N, ...).
        index: int (B, M), each at least 0 and below N, which is not checked.

    Returns:
        (B, M, ...).
    """
    return jax.vmap(lambda r, i: r.at[i].get(mode="promise_in_bounds"))(rows, index)


def _clip_index(index, weight, size):
    """Returns an index that is safe to read, and a weight of 0 if the index was outside."""
    weight = jnp.where((index >= 0) & (index < size), weight, 0)
    return jnp.clip(index, 0, size - 1).astype(jnp.int32), weight


def _matrices(x, y):
    """Returns (B, 2, 3) from two rows of three (B,) each."""
    return jnp.stack([jnp.stack(x, -1), jnp.stack(y, -1)], 1)


def _log_uniform(draws, low, high):
    return jnp.exp(math.log(low) + (math.log(high) - math.log(low)) * draws)
