"""Alternating flips, mirrored padding and test-time views against NumPy, and what the three
promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.config import default
from vision.data.augment import alternating_flips, augment, geometry, views
from vision.errors import UserError

KEY = jax.random.key(0)
EPOCHS = 6


def config(**values):
    c = default().augment
    c.update(values)
    return c


@pytest.fixture(scope="module")
def photos():
    return np.random.default_rng(0).integers(0, 256, (8, 7, 6, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def flips():
    """Which of 4,000 images are flipped in each epoch, for two seeds: bool (2, epochs, images)."""
    draw = jax.jit(alternating_flips, static_argnums=0)
    return np.array(
        [[draw(s, jnp.arange(4000), jnp.full(4000, e)) for e in range(EPOCHS)] for s in (0, 1)]
    )


# Alternating flips


def test_every_image_is_flipped_in_every_second_epoch(flips):
    np.testing.assert_array_equal(flips[:, 1:], ~flips[:, :-1])


def test_about_half_are_flipped_in_the_first_epoch_and_the_seed_says_which(flips):
    first = flips[:, 0]
    deviation = np.sqrt(4000) / 2
    assert (np.abs(first.sum(1) - 2000) < 4 * deviation).all()
    assert abs((first[0] ^ first[1]).sum() - 2000) < 4 * deviation  # two seeds are independent
    assert abs((first[0, 1:] ^ first[0, :-1]).sum() - 2000) < 4 * deviation  # and so are neighbors


def test_an_images_draw_depends_on_its_index_alone(flips):
    """In a batch that crosses from one epoch into the next, in any order."""
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 4000, 64)
    epochs = rng.integers(0, EPOCHS, 64).astype(np.uint32)
    ours = jax.jit(alternating_flips, static_argnums=0)(1, indices, epochs)
    np.testing.assert_array_equal(ours, flips[1][epochs, indices])
    assert ours.dtype == bool


def test_the_batch_is_flipped_where_asked(photos):
    mask = np.arange(8) % 3 == 0
    c = config(flip_alternating=True)
    result, _ = augment(c, KEY, photos, jnp.zeros(8, jnp.int32), 2, flips=jnp.asarray(mask))
    assert result.dtype == jnp.uint8
    np.testing.assert_array_equal(
        result, np.where(mask[:, None, None, None], photos[:, :, ::-1], photos)
    )
    ignored, _ = augment(config(), KEY, photos, jnp.zeros(8, jnp.int32), 2, flips=jnp.asarray(mask))
    np.testing.assert_array_equal(ignored, photos)


# Padding


@pytest.mark.parametrize("mode, theirs", [("zeros", "constant"), ("reflect", "reflect")])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_crop_is_a_window_of_the_padded_image(photos, mode, theirs, dtype):
    c = config(pad_crop=2, pad_mode=mode)
    result, _ = augment(c, KEY, jnp.asarray(photos, dtype), jnp.zeros(8, jnp.int32), 2)
    assert result.dtype == dtype
    padded = np.pad(photos, ((0, 0), (2, 2), (2, 2), (0, 0)), theirs)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 6), (1, 2))  # (B, 5, 5, C, 7, 6)
    same = (windows == np.asarray(result).transpose(0, 3, 1, 2)[:, None, None]).all((-1, -2, -3))
    assert same.any((1, 2)).all()
    # each image has its own corner
    assert len({tuple(np.argwhere(changed)[0]) for changed in same}) > 2


def test_both_modes_draw_the_same_corners(photos):
    zeros, reflect = (
        np.asarray(geometry.pad_crop(KEY, jnp.asarray(photos), 2, mode))
        for mode in geometry.PAD_MODES
    )
    inside = (zeros != 0).any(-1)
    assert inside.any((1, 2)).all()
    np.testing.assert_array_equal(zeros[inside], reflect[inside])


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"pad_mode": "reflct"},
            "augment.pad_mode = 'reflct' is unknown .did you mean 'reflect'.*zeros, reflect",
        ),
        (
            {"flip_horizontal": True, "flip_alternating": True},
            "flip_horizontal and augment.flip_alternating are both",
        ),
    ],
)
def test_mistakes(photos, values, message):
    with pytest.raises(UserError, match=message):
        augment(config(**values), KEY, photos, jnp.zeros(8, jnp.int32), 2, flips=jnp.zeros(8, bool))


# Test-time augmentation


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, jnp.bfloat16])
def test_the_six_views_are_those_of_numpy(photos, dtype):
    """Flipped with probability 1/2, and moved by a pixel to the upper left or lower right with
    1/2."""
    padded = np.pad(photos, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    # (rows, columns) that the view looks further down and right
    expected = {(0, 0): 0.5, (1, 1): 0.25, (-1, -1): 0.25}
    weighted_views = views.test_time_views("flip_shift", jnp.asarray(photos, dtype))
    assert len(weighted_views) == 6 and all(
        view.dtype == dtype and view.shape == photos.shape for _, view in weighted_views
    )
    for (y, x), share in expected.items():
        moved = padded[:, 1 + y : 8 + y, 1 + x : 7 + x]
        for view in (moved, moved[:, :, ::-1]):
            weights = [
                w for w, v in weighted_views if (np.asarray(v) == view.astype(v.dtype)).all()
            ]
            assert weights == [share / 2]


def test_fewer_views(photos):
    ((weight, view),) = views.test_time_views("none", photos)
    assert weight == 1 and view is photos
    (a, plain), (b, mirrored) = views.test_time_views("flip", photos)
    assert a == b == 0.5
    np.testing.assert_array_equal(plain, photos)
    np.testing.assert_array_equal(mirrored, photos[:, :, ::-1])


def test_an_unknown_view():
    with pytest.raises(
        UserError, match="train.test_time_augmentation = 'flips' is unknown .did you mean 'flip'"
    ):
        views.test_time_views("flips", np.zeros((1, 2, 2, 1)))
