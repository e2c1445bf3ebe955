"""`?permute=SEED` of any source: the pixels of every image in another order, the same for all.

Tasks that differ by such an order alone are a test of forgetting: Goodfellow et al. 2013
(arXiv:1312.6211), section 4. Nothing here imports JAX, because the loader's workers import it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vision.data.subset import Subset
from vision.errors import UserError

OPTION = "permute"


class Permuted(Subset):
    """A source whose images have their pixels in another order, all channels of a pixel together.

    Args:
        source: a `vision.data.sources.Source`.
        seed: of the order, which also follows from the size of the image.
    """

    def __init__(self, source: Any, seed: int):
        super().__init__(source, np.arange(len(source)))
        self.encoded = False
        self._seed = seed
        self._orders: dict[int, np.ndarray] = {}

    def __getitem__(self, index: int) -> dict:
        example = super().__getitem__(index)
        image = example["image"]
        pixels = image.reshape(-1, image.shape[-1])
        count = len(pixels)
        if count not in self._orders:
            # RandomState's streams are frozen for all versions of numpy; Generator's are not.
            self._orders[count] = np.random.RandomState(self._seed).permutation(count)
        return example | {"image": pixels[self._orders[count]].reshape(image.shape)}

    def file(self, index: int) -> bytes | None:
        """Returns None: the image's file has its pixels in their own order."""
        return None


def permute(parts: Mapping[str, Any], value: str, spec: str) -> dict[str, Any]:
    """Applies `?permute=` to {part: source}.

    Raises:
        UserError: the value is not a seed.
    """
    if not (value.isascii() and value.isdecimal() and int(value) < 2**32):
        raise UserError(f"'{spec}': permute must be a seed, an integer of at least 0, got {value}")
    return {part: Permuted(source, int(value)) for part, source in parts.items()}
