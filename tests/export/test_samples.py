"""The images that an export reads: prepared one after the other, as they may be large."""

import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.programs import program_of
from vision.data.decode import UnreadableImage
from vision.data.loading.sampler import spread
from vision.errors import UserError
from vision.export.samples import Prepared, describe


class Numbered:
    """A source of smooth images, each of another brightness; some cannot be read."""

    classes = ("0", "1")
    fields: dict = {}

    def __init__(self, count, size, unreadable=()):
        self.labels = np.arange(count) % 2
        self.size = size
        self.unreadable = unreadable

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        if index in self.unreadable:
            raise UnreadableImage("it is empty")
        rng = np.random.default_rng(index)
        levels = rng.integers(0, 256, 3) // 2 + np.arange(self.size)[:, None, None] % 100
        return {"image": np.broadcast_to(levels, (self.size, self.size, 3)).astype(np.uint8)}

    def name(self, index):
        return f"{index}.png"


class Model:
    """What `Prepared` asks of a classifier."""

    classes = ("0", "1")
    fields = ()


def prepared(source, count):
    mean = lambda pixels: jnp.mean(pixels.astype(jnp.float32), (1, 2))  # noqa: E731
    program = program_of(lambda pixels: (mean(pixels), mean(pixels)), source.size, 3)
    return Prepared(Model(), program, source, spread(count, len(source)))


def test_the_statistics_are_numpys():
    train = prepared(Numbered(130, 16), 120)
    everything = train.read()
    assert everything.shape == (120, 16, 16, 3)
    contents, looks = describe(train.program, train)
    assert contents["images"] == 120 and looks.shape == (120, 7)
    shares = everything / 255
    np.testing.assert_allclose(contents["pixel_mean"], shares.mean((0, 1, 2)))
    np.testing.assert_allclose(contents["pixel_std"], shares.std((0, 1, 2)))
    embeddings = everything.mean((1, 2))
    np.testing.assert_allclose(contents["embedding_mean"], embeddings.mean(0), rtol=1e-5)
    np.testing.assert_allclose(contents["embedding_std"], embeddings.std(0), rtol=1e-4)


def test_large_images_are_not_kept():
    """Of 400 images of 79 MB 50 are looked at in a time: they, their copies and the next ones."""
    train = prepared(Numbered(400, 256), 400)
    tracemalloc.start()
    contents, _ = describe(train.program, train)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert contents["images"] == 400 and peak < 60e6


def test_unreadable_images_are_left_out():
    train = prepared(Numbered(20, 8, unreadable=(0, 10)), 10)
    assert train.read().shape == (8, 8, 8, 3) == (8, *train.first().shape)
    np.testing.assert_array_equal(train.first(), train.read()[0])
    np.testing.assert_array_equal(train.spread(5).read(), train.read()[[1, 3, 4, 6]])
    assert [place for _, _, place in train] == [0] * 8
    with pytest.raises(UserError, match="none of 3 images can be read, beginning with 0.png"):
        prepared(Numbered(3, 8, unreadable=range(3)), 3).first()
