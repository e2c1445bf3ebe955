"""Which images make which batch."""

import pickle

import numpy as np
import pytest

from vision.config import default
from vision.data.loading import sampler as order
from vision.errors import UserError


@pytest.mark.parametrize(
    ("size", "batch_size"), [(10, 4), (10, 10), (7, 3), (3, 8), (1, 2), (64, 1)]
)
def test_every_epoch_has_every_image_once(size, batch_size):
    """Also where a batch ends one epoch and begins the next, or is larger than the whole."""
    epochs = 6
    steps = -(-size * epochs // batch_size)
    stream = np.concatenate(
        [order.train_indices(0, step, batch_size, size) for step in range(steps)]
    )
    passes = stream[: size * epochs].reshape(epochs, size)
    np.testing.assert_array_equal(np.sort(passes, axis=1), np.tile(np.arange(size), (epochs, 1)))
    if size > 3:
        assert len({tuple(p) for p in passes}) == epochs  # each in an order of its own


def test_the_stream_does_not_depend_on_the_batch_size():
    """So it is the same images in the same order on any number of hosts and devices."""
    expected = order.train_indices(0, 0, 60, 17)
    for batch_size in (1, 4, 20):
        steps = range(60 // batch_size)
        np.testing.assert_array_equal(
            np.concatenate([order.train_indices(0, s, batch_size, 17) for s in steps]), expected
        )


def test_seeds():
    draws = [tuple(order.train_indices(seed, 0, 50, 50)) for seed in (0, 1, -1, 2**32 - 1, 2**40)]
    assert draws[2] == draws[3]  # modulo 2**32
    assert draws[4] == draws[0]
    assert len(set(draws)) == 3


def test_frozen():
    """These indices may never change: a run resumed by a later version has to go on with the same
    images."""
    assert order.train_indices(0, 0, 6, 10).tolist() == [3, 7, 6, 4, 1, 0]
    assert order.train_indices(7, 1000, 6, 10).tolist() == [6, 0, 7, 5, 9, 4]


@pytest.mark.parametrize(("size", "batch_size"), [(10, 4), (10, 10), (3, 8), (1, 1), (9, 3)])
def test_evaluation_has_every_image_once(size, batch_size):
    seen = []
    for step in range(order.batch_count(batch_size, size)):
        indices, mask = order.eval_indices(step, batch_size, size)
        assert indices.shape == mask.shape == (batch_size,)
        assert indices.dtype == np.int32 and indices.max() < size
        seen += indices[mask].tolist()
    assert seen == list(range(size))


@pytest.mark.parametrize(
    ("count", "size", "expected"), [(5, 10, [0, 2, 4, 6, 8]), (9, 3, [0, 1, 2]), (1, 7, [0])]
)
def test_a_sample_is_spread_over_all(count, size, expected):
    assert order.spread(count, size).tolist() == expected


LABELS = np.repeat([0, 1, 2, 3], [40, 16, 5, 1])


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ("over", [40] * 4),
        ("under", [1] * 4),
        ("balanced", [16] * 4),
        ("sqrt", [29, 18, 10, 5]),
        ("none", [40, 16, 5, 1]),
    ],
)
def test_an_epoch_has_so_many_of_each_class(sampling, expected):
    assert order.class_counts(sampling, [40, 16, 5, 1]).tolist() == expected
    resampled = order.Sampler(3, LABELS, sampling, 0, 100)
    size = sum(expected)
    epochs = [resampled.indices(epoch, size) for epoch in range(4)]
    for epoch in epochs:
        assert epoch.dtype == np.int32 and np.bincount(LABELS[epoch]).tolist() == expected
        times = np.bincount(epoch, minlength=len(LABELS))
        for label in range(4):  # each image equally often, but for the remainder
            assert np.ptp(times[label == LABELS]) <= 1
    assert not np.array_equal(epochs[0], epochs[1])


def test_what_is_left_over_is_drawn_anew():
    """Undersampling sees all images in time."""
    resampled = order.Sampler(0, LABELS, "under", 0, 1000)
    assert set(np.concatenate([resampled.indices(step, 4) for step in range(400)])) == set(
        range(len(LABELS))
    )


def test_resampling_for_a_part_of_the_run():
    """Before and after it, the plain passes go on where they were interrupted."""
    deferred = order.Sampler(5, LABELS, "balanced", 4, 9)
    steps = [deferred.indices(step, 8) for step in range(14)]
    plain = [order.train_indices(5, step, 8, len(LABELS)) for step in range(9)]
    np.testing.assert_array_equal(steps[:4] + steps[9:], plain)
    balanced = order.Sampler(5, LABELS, "balanced", 0, 9)
    np.testing.assert_array_equal(steps[4:9], [balanced.indices(step, 8) for step in range(5)])
    again = pickle.loads(pickle.dumps(deferred))  # as a worker has it
    np.testing.assert_array_equal([again.indices(step, 8) for step in range(14)], steps)


def test_resampled_streams_do_not_depend_on_the_batch_size():
    resampled = order.Sampler(1, LABELS, "over", 0, 1000)
    expected = resampled.indices(0, 320)
    np.testing.assert_array_equal(
        np.concatenate([resampled.indices(step, 32) for step in range(10)]), expected
    )


def test_an_unknown_sampling_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'balanced'"):
        order.class_counts("balance", [3, 4])


def test_the_length_of_a_run():
    c = default().train
    c.epochs = 2.5
    c.steps = 0
    c.batch_size = 10
    assert order.run_length(c, 99) == 25
    c.steps = 7
    assert order.run_length(c, 99) == 7
    c.steps = 0
    c.epochs = 0.0
    with pytest.raises(UserError, match="nothing to train"):
        order.run_length(c, 99)
