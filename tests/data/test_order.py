"""Which images make which batch."""

import numpy as np
import pytest

from vision.data import order


@pytest.mark.parametrize(("size", "batch_size"), [(10, 4), (10, 10), (7, 3), (3, 8), (1, 2), (64, 1)])
def test_every_epoch_has_every_image_once(size, batch_size):
    """Also where a batch ends one epoch and begins the next, or is larger than the whole."""
    epochs = 6
    steps = -(-size * epochs // batch_size)
    stream = np.concatenate([order.train_indices(0, step, batch_size, size) for step in range(steps)])
    passes = stream[: size * epochs].reshape(epochs, size)
    np.testing.assert_array_equal(np.sort(passes, axis=1), np.tile(np.arange(size), (epochs, 1)))
    if size > 3:
        assert len({tuple(p) for p in passes}) == epochs  # each in an order of its own


def test_the_stream_does_not_depend_on_the_batch_size():
    """So it is the same images in the same order on any number of hosts and devices."""
    whole = order.train_indices(0, 0, 60, 17)
    for batch_size in (1, 4, 20):
        steps = range(60 // batch_size)
        np.testing.assert_array_equal(np.concatenate([order.train_indices(0, s, batch_size, 17) for s in steps]), whole)


def test_seeds():
    draws = [tuple(order.train_indices(seed, 0, 50, 50)) for seed in (0, 1, -1, 2**32 - 1, 2**40)]
    assert draws[2] == draws[3]  # modulo 2**32
    assert draws[4] == draws[0]
    assert len(set(draws)) == 3


def test_frozen():
    """These indices may never change: a run resumed by a later version has to go on with the same images."""
    assert order.train_indices(0, 0, 6, 10).tolist() == [3, 7, 6, 4, 1, 0]
    assert order.train_indices(7, 1000, 6, 10).tolist() == [6, 0, 7, 5, 9, 4]


@pytest.mark.parametrize(("size", "batch_size"), [(10, 4), (10, 10), (3, 8), (1, 1), (9, 3)])
def test_evaluation_has_every_image_once(size, batch_size):
    seen = []
    for step in range(order.batches(batch_size, size)):
        indices, mask = order.eval_indices(step, batch_size, size)
        assert indices.shape == mask.shape == (batch_size,)
        assert indices.dtype == np.int32 and indices.max() < size
        seen += indices[mask].tolist()
    assert seen == list(range(size))


@pytest.mark.parametrize(("count", "size", "expected"), [(5, 10, [0, 2, 4, 6, 8]), (9, 3, [0, 1, 2]), (1, 7, [0])])
def test_a_sample_is_spread_over_all(count, size, expected):
    assert order.spread(count, size).tolist() == expected
