"""A training loader with the batches of other loaders beside its own."""

import contextlib
from collections.abc import Iterable, Mapping

import jax
import numpy as np

from vision.data.loading.loader import Batch, BatchGenerator, Loader


class JointLoader:
    """The training split's loader, and others whose batches lie beside its own under their names.

    Every loader has a sampler of its own, which is a function of the step, so a resumed run repeats
    the batches of all of them.

    Args:
        train: the training split's loader, which counts epochs.
        beside: {name: (loader, images per step for each image of the training split's)}.
    """

    def __init__(self, train: Loader, beside: Mapping[str, tuple[Loader, int]]):
        self._train = train
        self._beside = dict(beside)
        self.dataset = train.dataset
        self.mesh = train.mesh
        self.unreadable = train.unreadable
        self.data = dict(train.data)
        for name, (loader, _) in self._beside.items():
            if loader.data:
                self.data[name] = loader.data

    @property
    def is_resident(self) -> bool:
        """Whether the data of every loader live on the devices."""
        return all(loader.is_resident for loader in (self._train, *self._loaders()))

    def __len__(self) -> int:
        return len(self._train)

    def names(self, step: int, batch_size: int) -> list[str]:
        """Returns the names of the training split's images in a step."""
        return self._train.names(step, batch_size)

    def part(self, indices: np.ndarray) -> Loader:
        """Returns a loader of some of the training split's images, without the others."""
        return self._train.part(indices)

    def sample(self, count: int) -> jax.Array:
        """Returns at most `count` of the training split's images."""
        return self._train.sample(count)

    def eval_batches(self, batch_size: int) -> BatchGenerator:
        """Yields the training split's images once."""
        return self._train.eval_batches(batch_size)

    def shared_memory(self, batch_size: int) -> int:
        """Returns how many bytes of shared memory the batches of all loaders take on their way."""
        beside = (
            loader.shared_memory(ratio * batch_size) for loader, ratio in self._beside.values()
        )
        return self._train.shared_memory(batch_size) + sum(beside)

    def abstract_batch(self, batch_size: int) -> Batch:
        """Returns the shapes, dtypes and shardings of a batch and those beside it."""
        batch = self._train.abstract_batch(batch_size)
        for name, (loader, ratio) in self._beside.items():
            batch[name] = loader.abstract_batch(ratio * batch_size)
        return batch

    def train_batches(self, plan: Iterable[tuple[int, int]], batch_size: int) -> BatchGenerator:
        """Yields the training split's batches, each with {name: batch} of the other loaders."""
        calls = list(plan)
        with contextlib.ExitStack() as stack:

            def open_batches(loader: Loader, size: int) -> BatchGenerator:
                return stack.enter_context(contextlib.closing(loader.train_batches(calls, size)))

            train = open_batches(self._train, batch_size)
            beside = {
                name: open_batches(loader, ratio * batch_size)
                for name, (loader, ratio) in self._beside.items()
            }
            for batch in train:
                yield batch | {name: next(batches) for name, batches in beside.items()}

    def _loaders(self) -> list[Loader]:
        return [loader for loader, _ in self._beside.values()]
