"""Which images make which batch: a function of the seed and the step only.

The training split is passed over in a new order each epoch, and epochs follow one another without a
gap: a batch may end one epoch and begin the next, so no image is dropped and every epoch sees each
image once. With resampling, an epoch has as many images of each class as the resampling asks for;
within a class, each image comes equally often, except for a remainder that is drawn anew each
epoch. Nothing else is remembered, so a run resumes anywhere, on any number of workers, hosts and
devices.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from ml_collections import ConfigDict

from vision.errors import UserError, check_choice

SAMPLINGS = ("none", "over", "under", "balanced", "sqrt")

LONGEST = 2**31 - 1  # steps; they are counted in int32


class Sampler:
    """The order of a training split.

    Args:
        seed: the run's seed.
        labels: (N,) integers.
        sampling: one of `SAMPLINGS`, see `class_counts`.
        begin: step from which the split is resampled.
        end: step at which resampling ends. Before `begin` and from `end` on, every image comes once
            per epoch.
    """

    def __init__(
        self, seed: int, labels: np.ndarray, sampling: str = "none", begin: int = 0, end: int = 0
    ):
        self.seed = seed % 2**32
        self.size = len(labels)
        self._begin = begin if sampling != "none" else 0
        self._end = end if sampling != "none" else 0
        if self._end > self._begin:
            self._by_class = [
                np.flatnonzero(labels == label).astype(np.int32) for label in np.unique(labels)
            ]
            self._counts = class_counts(sampling, [len(places) for places in self._by_class])

    def indices(self, step: int, batch_size: int) -> np.ndarray:
        """Returns the images of a step, counted from 0: int32 (batch_size,) indices."""
        if self._begin <= step < self._end:
            epoch_size = int(self._counts.sum())
            return _slice_epochs(self._resampled, epoch_size, step - self._begin, batch_size)
        # The pass over the images continues where resampling interrupted it.
        step -= max(0, min(step, self._end) - self._begin)
        return train_indices(self.seed, step, batch_size, self.size)

    @functools.lru_cache(maxsize=4)  # noqa: B019 - as long as the run
    def _resampled(self, epoch: int) -> np.ndarray:
        random = np.random.RandomState([self.seed, epoch, 1])
        drawn = []
        for places, count in zip(self._by_class, self._counts, strict=True):
            repeats, remainder = divmod(int(count), len(places))
            drawn += [np.tile(places, repeats), random.permutation(places)[:remainder]]
        return random.permutation(np.concatenate(drawn))


def class_counts(sampling: str, counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns how many images of each class an epoch has.

    Args:
        sampling: "none" keeps each class's count; "over" and "under" give each class the count of
            the largest and the smallest class; "balanced" gives all classes the same count, and
            "sqrt" counts in proportion to the square root of their own (Mikolov et al. 2013,
            arXiv:1310.4546; Kang et al. 2019, arXiv:1910.09217, eq. 1 with q = 1/2). The last two
            keep the length of an epoch, except for rounding.
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


def train_indices(seed: int, step: int, batch_size: int, size: int) -> np.ndarray:
    """Returns the images of a step without resampling: int32 (batch_size,) indices below `size`."""
    return _slice_epochs(lambda epoch: _permutation(seed, epoch, size), size, step, batch_size)


# Several samplers share it; a batch of a small split spans many of its epochs.
@functools.lru_cache(maxsize=16)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    # RandomState's streams are frozen for all versions of numpy; Generator's are not.
    return np.random.RandomState([seed % 2**32, epoch]).permutation(size).astype(np.int32)


def _slice_epochs(
    epoch_order: Callable[[int], np.ndarray], size: int, step: int, batch_size: int
) -> np.ndarray:
    """Returns a step's slice of the epochs 0, 1, ... of `size` indices each, laid end to end."""
    position = step * batch_size
    end = (step + 1) * batch_size
    parts = []
    while position < end:
        epoch, start = divmod(position, size)
        stop = min(size, start + end - position)
        parts.append(epoch_order(epoch)[start:stop])
        position += stop - start
    return np.concatenate(parts)


def eval_indices(step: int, batch_size: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (indices, mask) of an evaluation batch: every image once, in order.

    The last batch is padded with image 0, for which the mask is False.
    """
    indices = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int32)
    mask = indices < size
    return np.where(mask, indices, 0), mask


def run_length(c: ConfigDict, images: int) -> int:
    """Returns the number of steps that `config.train` asks for.

    Args:
        c: config.train.
        images: images of the training split, before any resampling.

    Raises:
        UserError: it asks for none.
    """
    steps = c.steps or round(c.epochs * images / c.batch_size)
    if steps > LONGEST:
        raise UserError(
            f"train.epochs = {c.epochs:g} gives {steps:.3g} steps: at most {LONGEST:,} are allowed"
        )
    if steps < 1:
        raise UserError(
            f"nothing to train: train.steps = {c.steps} and train.epochs = {c.epochs:g} give no "
            "step"
        )
    return steps


def batch_count(batch_size: int, size: int) -> int:
    """Returns the number of evaluation batches."""
    return -(-size // batch_size)


def spread(count: int, size: int) -> np.ndarray:
    """Returns int32 (min(count, size),) evenly spaced indices, so sorted data give every class."""
    return np.linspace(0, size, min(count, size), endpoint=False).astype(np.int32)
