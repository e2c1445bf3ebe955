"""Where tiles are, and how what they give is averaged, against every pixel counted by itself."""

import numpy as np
import pytest

from vision.errors import UserError
from vision.tiles.grid import Tiling, check_normal, grid_of, tiling_of


def coverage(grid):
    """Returns how many tiles cover each pixel, (height, width)."""
    counts = np.zeros((grid.height, grid.width), int)
    for number in range(len(grid)):
        x, y, width, height = grid[number]
        assert 0 <= x <= grid.width - width and 0 <= y <= grid.height - height
        counts[y : y + height, x : x + width] += 1
    return counts


def test_a_line_scan_image():
    """The last row and the last column are shifted inward; the others are 168 pixels apart."""
    grid = grid_of(4096, 1024, Tiling(224), 200)
    assert grid.x == (*range(0, 3872, 168), 3872) and grid.y == (*range(0, 800, 168), 800)
    assert len(grid) == 25 * 6 and grid[26] == (168, 168, 224, 224)
    assert coverage(grid).min() == 1


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("size", [(8, 19), (20, 33), (61, 8), (40, 16), (17, 17), (100, 12)])
def test_every_pixel_is_covered_and_neighbors_overlap(size, overlap):
    grid = grid_of(*size, Tiling(12, overlap), 10_000)
    assert coverage(grid).min() >= 1
    side = grid.tile_width
    assert side == grid.tile_height == min(12, *size)
    for starts, length in ((grid.x, size[0]), (grid.y, size[1])):
        assert starts[0] == 0 and starts[-1] == length - side
        assert all(0 < step <= max(1, side * (1 - overlap) + 1e-6) for step in np.diff(starts))


@pytest.mark.parametrize("size", [(12, 12), (5, 12), (12, 3), (1, 1)])
def test_an_image_no_larger_than_a_tile_is_one(size):
    grid = grid_of(*size, Tiling(12), 1)
    assert len(grid) == 1 and grid[0] == (0, 0, *size)


def test_a_tile_is_a_view_of_the_image():
    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    grid = grid_of(50, 30, Tiling(16), 100)
    for number, (x, y, width, height) in enumerate(grid[i] for i in range(len(grid))):
        tile = grid.cut(image, number)
        assert np.shares_memory(tile, image)
        np.testing.assert_array_equal(tile, image[y : y + height, x : x + width])


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.7, 0.9])
@pytest.mark.parametrize("size", [(53, 31), (16, 40), (9, 5)])
def test_the_map_is_the_mean_at_every_pixel(size, overlap):
    grid = grid_of(*size, Tiling(10, overlap), 10_000)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), len(grid))
    sums = np.zeros((3, grid.height, grid.width))
    for number, row in enumerate(probabilities):
        x, y, width, height = grid[number]
        sums[:, y : y + height, x : x + width] += row[:, None, None]
    heat = grid.average(probabilities)
    assert heat.probabilities.dtype == np.float32 and heat.x.dtype == heat.y.dtype == np.int32
    assert heat.probabilities.shape == (3, len(heat.y) - 1, len(heat.x) - 1)
    assert (heat.x[0], heat.x[-1], heat.y[0], heat.y[-1]) == (0, grid.width, 0, grid.height)
    pixels = heat.probabilities.repeat(np.diff(heat.y), 1).repeat(np.diff(heat.x), 2)
    np.testing.assert_allclose(pixels, sums / coverage(grid), atol=1e-6)


def test_too_many_tiles_are_refused_before_they_are_listed():
    message = "10000000 x 20 pixels make 625,000 tiles of 20, but at most 1,000"
    with pytest.raises(UserError, match=message):
        grid_of(10**7, 20, Tiling(64, 0.2), 1000)
    with pytest.raises(UserError, match="100,000,000 tiles of 1,"):
        grid_of(10**8, 1, Tiling(64), 65_536)


def test_values_are_those_that_are_given():
    assert tiling_of({}) is None
    assert tiling_of({"tiles": 32}) == Tiling(32, 0.25, None, 0.5)
    given = {"tiles": 32, "overlap": 0, "normal": "good", "defect_threshold": 0.9}
    assert tiling_of(given) == Tiling(32, 0, "good", 0.9)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tiles": 7}, "--tiles must be at least 8, got 7"),
        ({"tiles": 10**9}, "--tiles must be at most 65,536"),
        ({"tiles": 8, "overlap": -0.1}, r"--overlap must be in \[0, 0.9\], got -0.1"),
        ({"tiles": 8, "overlap": 0.91}, r"--overlap must be in \[0, 0.9\], got 0.91"),
        ({"tiles": 8, "overlap": float("nan")}, r"--overlap must be in \[0, 0.9\], got nan"),
        ({"tiles": 8, "normal": "a", "defect_threshold": 1.0}, r"must be in \[0, 1\), got 1.0"),
        ({"tiles": 8, "defect_threshold": 0.5}, "--defect_threshold needs --normal"),
        ({"overlap": 0.5}, "--overlap needs --tiles"),
        ({"normal": "good"}, "--normal needs --tiles"),
    ],
)
def test_what_is_wrong_is_named(given, message):
    with pytest.raises(UserError, match=message):
        tiling_of(given, lambda key: f"--{key}")


def test_the_normal_class_is_one_of_several():
    tiling = Tiling(8, normal="goood")
    with pytest.raises(UserError, match=r"normal = 'goood' is unknown \(did you mean 'good'\?\)"):
        check_normal(tiling, ("good", "scratch"))
    with pytest.raises(UserError, match="no other class"):
        check_normal(Tiling(8, normal="good"), ("good",))
    check_normal(Tiling(8, normal="good"), ("good", "scratch"))
    check_normal(Tiling(8), ("good",))
