"""The 15 corruptions: harder at each severity, whole pixels, the same for the same key; parity with
OpenCV and PIL."""

import functools
import io
import tarfile

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vision.errors import UserError
from vision.evaluation.corruptions import (
    GROUPS,
    NAMES,
    SEVERITIES,
    blur,
    corrupt,
    digital,
    noise,
    weather,
)
from vision.evaluation.corruptions.tables import between, gaussian_matrices
from vision.evaluation.measures import robustness

KEY = jax.random.key(0)
run = jax.jit(corrupt, static_argnums=0)
# With the released constants of these the squared change does not rise at every step at 32 px: of
# glass blur, as the later severities smooth more and move no more; of motion blur, as 6 px and
# 8 px cut the same Gaussian where nothing is left of it; of frost, as the image darkens while the
# ice thickens; of elastic, see its own test.
UNEVEN = {"glass_blur", "motion_blur", "frost", "elastic_transform"}


@pytest.fixture(scope="module")
def photos(shared_data):
    """uint8 (8, 224, 224, 3): center crops of photographs."""
    crops = []
    with tarfile.open(shared_data / "imagenet_samples.tar") as tar:
        names = sorted(name for name in tar.getnames() if name.lower().endswith((".jpg", ".jpeg")))
        for name in names[::25][:8]:
            image = Image.open(io.BytesIO(tar.extractfile(name).read())).convert("RGB")
            side = min(image.size)
            image = image.crop((0, 0, side, side)).resize((224, 224), Image.Resampling.BOX)
            crops.append(np.asarray(image))
    return np.stack(crops)


@pytest.fixture(scope="module")
def small(photos):
    """uint8 (8, 32, 32, 3), the same."""
    return np.stack([cv2.resize(photo, (32, 32), interpolation=cv2.INTER_AREA) for photo in photos])


def squared(name, images):
    """Mean squared change at each severity, float (5,), all of one draw."""
    corrupted = [
        np.asarray(run(name, images, severity, KEY), np.float64) for severity in SEVERITIES
    ]
    return np.array([((changed - images) ** 2).mean() for changed in corrupted])


def psnr(a, b):
    return 10 * np.log10(
        255**2 / np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2)
    )


def test_there_are_15_in_4_groups():
    assert len(set(NAMES)) == 15 and sum(GROUPS.values(), ()) == NAMES
    assert {group: len(names) for group, names in GROUPS.items()} == {
        "noise": 3,
        "blur": 4,
        "weather": 4,
        "digital": 4,
    }


@pytest.mark.parametrize("name", NAMES)
def test_each_severity_is_harder_and_gives_whole_pixels(small, name):
    changes = squared(name, small)
    assert (changes > 0).all()
    if name not in UNEVEN:
        assert (np.diff(changes) > 0).all(), changes
    elif name != "elastic_transform":
        assert changes[4] > changes[0], changes
    corrupted = np.asarray(run(name, small, 5, KEY))
    assert corrupted.shape == small.shape and corrupted.dtype == np.float32
    assert (
        corrupted.min() >= 0 and corrupted.max() <= 255 and (corrupted == np.round(corrupted)).all()
    )


@pytest.mark.parametrize("name", ["glass_blur", "motion_blur"])
def test_at_224_px_also_those_rise_that_do_not_at_32(photos, name):
    assert (np.diff(squared(name, photos[:3])) > 0).all()


def test_a_float_image_is_the_same_image(small):
    corrupted = run("brightness", small.astype(np.float32), jnp.int32(2), KEY)
    np.testing.assert_array_equal(corrupted, run("brightness", small, 2, KEY))


RANDOM = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "glass_blur",
    "motion_blur",
    "snow",
    "frost",
    "fog",
)


@pytest.mark.parametrize("name", [*RANDOM, "elastic_transform"])
def test_draws_follow_from_the_key_and_differ_between_images(small, name):
    twice = np.stack([small[0]] * 8)  # one image, so that what differs is the draw
    first, again = (np.asarray(run(name, twice, 4, KEY)) for _ in range(2))
    other = np.asarray(run(name, twice, 4, jax.random.key(1)))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and (first[0] != first[1]).any()


def test_mistakes(small):
    with pytest.raises(UserError, match="corruption = 'snwo' is unknown .did you mean 'snow'"):
        corrupt("snwo", small, 1, KEY)
    with pytest.raises(UserError, match="severity must be 1, 2, 3, 4 or 5, got 6"):
        corrupt("snow", small, 6, KEY)


def test_constants_are_those_of_the_papers_and_lie_between_in_between():
    small = (1, 2, 3, 4, 5)
    large = (11, 22, 33, 44, 55)
    np.testing.assert_allclose(between(small, large, 32), small)
    np.testing.assert_allclose(between(small, large, 8), small)
    np.testing.assert_allclose(between(small, large, 224), large)
    np.testing.assert_allclose(between(small, large, np.sqrt(32 * 224)), np.add(small, large) / 2)


# Against independent references


@pytest.mark.parametrize(
    "size, qualities", [(224, (25, 18, 15, 10, 7)), (32, (80, 65, 58, 50, 40))]
)
def test_jpeg_is_that_of_libjpeg(photos, small, size, qualities):
    images = photos[:2] if size == 224 else small
    for severity, quality in zip(SEVERITIES, qualities, strict=True):
        corrupted = np.asarray(run("jpeg_compression", images, severity, KEY))
        for ours, image in zip(corrupted, images, strict=True):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "jpeg", quality=quality)
            assert psnr(ours, Image.open(file)) > 38


def test_gray_jpeg_is_that_of_libjpeg(small):
    gray = small[..., 1]
    corrupted = np.asarray(run("jpeg_compression", gray[..., None], 5, KEY))[..., 0]
    for ours, image in zip(corrupted, gray, strict=True):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "jpeg", quality=40)
        assert psnr(ours, Image.open(file)) > 45


@pytest.mark.parametrize("severity, size", [(1, 30), (3, 27), (5, 20)])
def test_pixelate_is_pils(small, severity, size):
    corrupted = np.asarray(run("pixelate", small, severity, KEY))
    for ours, image in zip(corrupted, small, strict=True):
        box = (
            Image.fromarray(image)
            .resize((size, size), Image.Resampling.BOX)
            .resize((32, 32), Image.Resampling.BOX)
        )
        assert np.abs(ours - np.asarray(box, np.float32)).max() <= 2


def test_defocus_is_opencvs_filter(photos):
    image = photos[0].astype(np.float32)
    for severity, (radius, sigma) in {1: (3, 0.1), 4: (8, 0.5), 5: (10, 0.5)}.items():
        at = np.arange(-max(radius, 8), max(radius, 8) + 1)
        kernel = (at**2 + at[:, None] ** 2 <= radius**2).astype(np.float32)
        kernel = cv2.GaussianBlur(kernel / kernel.sum(), (5, 5) if radius > 8 else (3, 3), sigma)
        expected = cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
        assert np.abs(run("defocus_blur", photos[:1], severity, KEY)[0] - expected).max() < 1.0


def test_motion_is_opencvs_filter(small):
    """Along the rows, where every tap lies on a pixel: a half Gaussian to the right."""
    table = np.array([(6, 2.5)] * 5, np.float64)
    smeared = blur.smear(jnp.asarray(small, jnp.float32), table, 1, jnp.zeros(8))
    weights = np.exp(-0.5 * (np.arange(13) / 2.5) ** 2)
    # OpenCV correlates: it is turned
    kernel = np.concatenate([weights[::-1] / weights.sum(), np.zeros(12)])[None]
    for ours, image in zip(smeared, small, strict=True):
        expected = cv2.filter2D(
            image.astype(np.float32), -1, kernel, borderType=cv2.BORDER_REPLICATE
        )
        np.testing.assert_allclose(ours, expected, atol=0.01)


def test_smoothing_is_scipys():
    from scipy.ndimage import gaussian_filter1d

    row = np.random.default_rng(0).normal(size=24)
    for mode, theirs in (("edge", "nearest"), ("symmetric", "reflect")):
        matrices = gaussian_matrices((0, 0.7, 1.5, 4, 9), 24, mode, 3)
        np.testing.assert_array_equal(matrices[0] @ row, row)
        for matrix, sigma in zip(matrices[1:], (0.7, 1.5, 4, 9), strict=True):
            np.testing.assert_allclose(
                matrix @ row, gaussian_filter1d(row, sigma, mode=theirs, truncate=3), atol=1e-12
            )


def test_contrast_and_brightness_are_their_formulas(small):
    import matplotlib.colors

    mean = small.mean((1, 2), keepdims=True)
    expected = np.clip(mean + 0.15 * (small - mean), 0, 255)
    assert np.abs(run("contrast", small, 5, KEY) - expected).max() <= 0.51
    hsv = matplotlib.colors.rgb_to_hsv(small / 255)
    hsv[..., 2] = np.minimum(hsv[..., 2] + 0.2, 1)
    assert (
        np.abs(run("brightness", small, 4, KEY) - 255 * matplotlib.colors.hsv_to_rgb(hsv)).max()
        <= 0.51
    )


def test_noise_has_the_moments_of_its_constants():
    plain = np.full((4, 32, 32, 3), 128, np.uint8)
    gaussian, shot, impulse = (np.asarray(run(name, plain, 5, KEY)) for name in GROUPS["noise"])
    assert abs(gaussian.mean() - 128) < 1 and abs(gaussian.std() - 25.5) < 0.7
    assert abs(shot.mean() - 128) < 1 and abs(shot.std() - 255 * np.sqrt(128 / 255 / 50)) < 0.7
    assert (
        abs((impulse == 0).mean() - 0.035) < 0.005 and abs((impulse == 255).mean() - 0.035) < 0.005
    )


def test_poisson_draws_are_scipys_quantiles():
    from scipy import stats

    z = np.random.default_rng(0).normal(size=(400, 1)).astype(np.float32)
    rate = np.array([[0, 0.1, 1, 3, 7.9, 8, 12, 60, 500]], np.float32)
    draws = np.asarray(jax.jit(noise.poisson)(*np.broadcast_arrays(z, rate)))
    wrong = np.abs(draws - np.maximum(stats.poisson.ppf(stats.norm.cdf(z), rate), 0))
    assert wrong.max() <= 1 and wrong[:, :5].mean() < 0.001 and wrong.mean() < 0.02, wrong.mean(0)


def test_elastic_ripples_more_at_each_severity_and_moves_as_far_as_it_says():
    """Its squared change falls, as the paper's later severities shift the whole less: what rises
    are the ripples."""
    places = functools.partial(jax.jit(digital.elastic_places, static_argnums=(1, 2)), KEY, 4)
    for side in (32, 224):
        ripples = []
        for severity in SEVERITIES:
            y, _ = places(side, severity)
            # an affine map has no second difference
            ripples.append(float(jnp.abs(jnp.diff(y, 2, axis=1)).mean()))
        assert (np.diff(ripples) > 0).all(), ripples
    y, x = places(32, 1)  # without ripples
    rows, columns = np.mgrid[:32, :32]
    assert np.abs(y - rows).max() < 3.2 * 0.08 * 32 and np.abs(x - columns).max() > 0.5


def test_reading_between_pixels_is_opencvs_remap(small):
    y, x = np.random.default_rng(0).uniform(-20, 50, (2, 8, 32, 32)).astype(np.float32)
    remapped = digital.read_at(jnp.asarray(small, jnp.float32), y, x)
    for i, image in enumerate(small):
        y0, x0 = (31 - np.abs(31 - np.mod(place[i], 62)) for place in (y, x))  # mirrored by hand
        expected = cv2.remap(
            image.astype(np.float32), x0, y0, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
        # OpenCV counts in 32nds of a pixel
        assert np.abs(np.asarray(remapped[i]) - expected).max() < 8


def test_clouds_fill_the_range_and_are_finer_with_a_lower_decay():
    clouds = jax.jit(weather.plasma, static_argnums=(1, 2))
    rough, soft = (np.asarray(clouds(KEY, 4, 100, decay)) for decay in (1.2, 3.0))
    for clouds in (rough, soft):
        assert (
            clouds.shape == (4, 100, 100)
            and clouds.min() >= 0
            and clouds.max() <= 1
            and clouds.std() > 0.1
        )
    assert np.abs(np.diff(rough)).mean() > 3 * np.abs(np.diff(soft)).mean()


def test_one_compilation_serves_all_severities(small):
    run("contrast", small, 1, KEY)
    before = run._cache_size()
    for severity in SEVERITIES[1:]:
        run("contrast", small, severity, KEY)
    assert run._cache_size() == before


QUICK = [name for name in NAMES if name not in robustness.FULLY_OPTIMIZED]


@pytest.mark.parametrize("name", QUICK)
def test_compiling_quickly_changes_no_pixel(small, name):
    """Against LLVM's highest level of optimization, which is XLA's default."""
    program = robustness.program(name)
    places = np.arange(len(small))
    highest = {"xla_backend_optimization_level": 3}
    full = program.lower(1, small, places).compile(highest)
    for severity in SEVERITIES:
        np.testing.assert_array_equal(
            program(severity, small, places), full(severity, small, places)
        )
