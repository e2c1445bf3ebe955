"""Which images make which batch: a function of the seed and the step alone.

The training split is passed over in a new order each epoch, and the epochs follow one another without a gap: a batch
may end one and begin the next, so that no image is dropped and every epoch sees each image once. Since nothing else is
remembered, a run resumes anywhere, on any number of workers, hosts and devices.
"""

import functools

import numpy as np


@functools.lru_cache(maxsize=4)
def _permutation(seed, epoch, size):
    # RandomState's streams are frozen for all versions of numpy; Generator's are not.
    return np.random.RandomState([seed % 2**32, epoch]).permutation(size).astype(np.int32)


def train_indices(seed, step, batch_size, size):
    """Returns the int32 (batch_size,) indices of the images of a step, counted from 0, out of `size`."""
    position, end = step * batch_size, (step + 1) * batch_size
    parts = []
    while position < end:
        epoch, start = divmod(position, size)
        stop = min(size, start + end - position)
        parts.append(_permutation(seed, epoch, size)[start:stop])
        position += stop - start
    return np.concatenate(parts)


def eval_indices(step, batch_size, size):
    """Returns (indices, mask) of an evaluation batch: in order, each image once, the last batch padded with image 0."""
    indices = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int32)
    mask = indices < size
    return np.where(mask, indices, 0), mask


def batches(batch_size, size):
    """How many evaluation batches there are."""
    return -(-size // batch_size)


def spread(count, size):
    """Returns int32 (min(count, size),) indices, evenly spaced: of sorted data, some of each class."""
    return np.linspace(0, size, min(count, size), endpoint=False).astype(np.int32)
