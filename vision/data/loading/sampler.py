"""Which images make which batch: a function of the seed and the step alone.

The training split is passed over in a new order each epoch, and the epochs follow one another
without a gap: a batch may end one and begin the next, so that no image is dropped and every epoch
sees each image once. With resampling, an epoch has so many images of each class as the resampling
says; of a class, each image comes equally often, but for a remainder that is drawn anew each epoch.
Since nothing else is remembered, a run resumes anywhere, on any number of workers, hosts and
devices.
"""

import functools

import numpy as np

from vision.errors import UserError, check_choice

SAMPLINGS = ("none", "over", "under", "balanced", "sqrt")


class Sampler:
    """The order of a training split.

    Args:
        seed: of the run.
        labels: (N,) integers.
        sampling: one of `SAMPLINGS`, see `class_counts`.
        begin, end: steps from and before which it is so; before and after, every image comes once
            an epoch.
    """

    def __init__(self, seed, labels, sampling="none", begin=0, end=0):
        self.seed = seed % 2**32
        self.size = len(labels)
        self._begin, self._end = (begin, end) if sampling != "none" else (0, 0)
        if self._end > self._begin:
            by_class = [
                np.flatnonzero(labels == label).astype(np.int32) for label in np.unique(labels)
            ]
            self._by_class = by_class
            self._counts = class_counts(sampling, [len(positions) for positions in by_class])

    def indices(self, step, batch_size):
        """Returns the int32 (batch_size,) indices of the images of a step, counted from 0."""
        if self._begin <= step < self._end:
            return _stream(self._resampled, int(self._counts.sum()), step - self._begin, batch_size)
        # The pass over the images goes on where it was interrupted.
        step -= max(0, min(step, self._end) - self._begin)
        return train_indices(self.seed, step, batch_size, self.size)

    @functools.lru_cache(maxsize=4)  # noqa: B019 - as long as the run
    def _resampled(self, epoch):
        random = np.random.RandomState([self.seed, epoch, 1])
        drawn = []
        for positions, count in zip(self._by_class, self._counts, strict=True):
            whole, rest = divmod(int(count), len(positions))
            drawn += [np.tile(positions, whole), random.permutation(positions)[:rest]]
        return random.permutation(np.concatenate(drawn))


def class_counts(sampling, counts):
    """Returns how many images of each class an epoch has.

    Args:
        sampling: "none", the class's own; "over" and "under", the largest and the smallest class's;
            "balanced", as many of each, and "sqrt", in proportion to the square root of its own
            (Mikolov et al. 2013, arXiv:1310.4546; Kang et al. 2019, arXiv:1910.09217, eq. 1 with q
            = 1/2), with an epoch's length unchanged but for rounding.
        counts: (C,) integers above 0.

    Returns:
        int64 (C,).
    """
    check_choice("imbalance.sampling", sampling, SAMPLINGS)
    counts = np.asarray(counts, np.int64)
    if sampling == "over":
        return np.full_like(counts, counts.max())
    if sampling == "under":
        return np.full_like(counts, counts.min())
    if sampling == "none":
        return counts
    shares = np.sqrt(counts) if sampling == "sqrt" else np.ones(len(counts))
    return np.maximum(1, np.round(counts.sum() * shares / shares.sum())).astype(np.int64)


def train_indices(seed, step, batch_size, size):
    """Returns the int32 (batch_size,) indices of the images of a step without resampling, out of
    `size`."""
    return _stream(lambda epoch: _permutation(seed, epoch, size), size, step, batch_size)


@functools.lru_cache(maxsize=4)
def _permutation(seed, epoch, size):
    # RandomState's streams are frozen for all versions of numpy; Generator's are not.
    return np.random.RandomState([seed % 2**32, epoch]).permutation(size).astype(np.int32)


def _stream(epoch_of, size, step, batch_size):
    """Returns a step's part of the epochs `epoch_of(0)`, `epoch_of(1)`, ... of `size` indices one
    after the other."""
    position = step * batch_size
    end = (step + 1) * batch_size
    parts = []
    while position < end:
        epoch, start = divmod(position, size)
        stop = min(size, start + end - position)
        parts.append(epoch_of(epoch)[start:stop])
        position += stop - start
    return np.concatenate(parts)


def eval_indices(step, batch_size, size):
    """Returns (indices, mask) of an evaluation batch: in order, each image once, the last batch
    padded with image 0."""
    indices = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int32)
    mask = indices < size
    return np.where(mask, indices, 0), mask


def run_length(c, images):
    """Returns how many steps `config.train` asks for; raises `UserError` where that is none.

    Args:
        c: config.train.
        images: of the training split, before any resampling.
    """
    steps = c.steps or round(c.epochs * images / c.batch_size)
    if steps < 1:
        raise UserError(
            f"nothing to train: train.steps = {c.steps} and train.epochs = {c.epochs:g} make no step"
        )
    return steps


def batches(batch_size, size):
    """How many evaluation batches there are."""
    return -(-size // batch_size)


def spread(count, size):
    """Returns int32 (min(count, size),) indices, evenly spaced: of sorted data, some of each
    class."""
    return np.linspace(0, size, min(count, size), endpoint=False).astype(np.int32)
