"""A version of a model that is loaded: its bundle, its batcher, and who uses it just now."""

import asyncio
import contextlib

import numpy as np

from vision.bundle import open_bundle
from vision.serving.batcher import Batcher
from vision.serving.errors import Unavailable


def open_warm(directory, settings):
    """Returns the `vision.bundle.Bundle` in a directory once it has run batches of 1, 2, 4, ... up to the largest.

    The first run of each size is slower: memory is planned then, and on a GPU kernels are chosen.

    Raises:
        UserError: as `open_bundle`.
    """
    bundle = open_bundle(directory, settings.threads, settings.provider)
    # A class that is named after a folder whose name is no UTF-8 has surrogates, which no protocol and no log can hold.
    bundle.classes = tuple(name.encode("utf-8", "replace").decode() for name in bundle.classes)
    sizes = {1 << power for power in range(settings.max_batch.bit_length())} | {settings.max_batch}
    for size in sorted(sizes):
        run(bundle)(np.zeros((size, bundle.image_size, bundle.image_size, bundle.channels), np.uint8))
    return bundle


def run(bundle):
    """Returns the function that runs a bundle's model, with its heat maps where it has some."""
    return bundle.explain or bundle.probabilities_and_embeddings


class Version:
    """A version that answers. Made and used in one event loop.

    Attributes:
        model, name: of the model and of the version.
        bundle: its `vision.bundle.Bundle`.
        batcher: its `vision.serving.batcher.Batcher`.
    """

    def __init__(self, model, name, bundle, settings, telemetry):
        self.model, self.name, self.bundle = model, name, bundle
        self.batcher = Batcher(run(bundle), settings, telemetry, (model, name))
        self._users, self._retired, self._idle = 0, False, asyncio.Event()

    @contextlib.contextmanager
    def in_use(self):
        """Holds the version as it is for the length of a request; raises `Unavailable` where it is on its way out."""
        if self._retired:
            raise Unavailable(f"version {self.name} of {self.model} is being unloaded: try again", 1.0)
        self._users += 1
        try:
            yield self
        finally:
            self._users -= 1
            if self._retired and not self._users:
                self._idle.set()

    async def retire(self):
        """Takes no more requests, waits for the answers of those that there are, and ends the batcher."""
        self._retired = True
        if self._users:
            await self._idle.wait()
        await self.batcher.close()
