"""The images of all splits of a source, numbered in one sequence for every part of the audit."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vision.data.files import FileSource


class Images:
    """The images of train, then val, then test.

    Args:
        splits: {"train": source, "val": source, "test": source}. A val that is the test split
            itself is left out.
        opened: the result of `open_splits` for the source, for `origin`.
        spec: the source's name, without options of `vision.data.changes`.

    Attributes:
        labels: int32 (N,).
        classes: names of the labels.
        split: int8 (N,), index in `names` of each image's split.
        names: names of the splits.
        bits: significant bits of 16-bit images, as `vision.data.decode.decode` takes them.
    """

    def __init__(
        self, splits: Mapping[str, Any], opened: Mapping[str, Any] | None = None, spec: str = ""
    ):
        self._parts = {id(source): part for part, source in (opened or {}).items()}
        self._spec = spec
        self._opened = opened
        if "val" in splits and self._base(splits["val"], 0) == self._base(splits["test"], 0):
            splits = {name: source for name, source in splits.items() if name != "val"}
        self.splits = splits
        self.names = tuple(splits)
        sources = list(splits.values())
        self.classes = sources[0].classes
        self.labels = np.concatenate([source.labels for source in sources])
        lengths = [len(source) for source in sources]
        self.split = np.repeat(np.arange(len(sources), dtype=np.int8), lengths)
        self._starts = np.cumsum([0, *lengths])
        self.bits = getattr(sources[0], "bits", 0)

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict:
        # Worker processes only read images; object identities and opened splits stay here.
        return self.__dict__ | {"_parts": {}, "_opened": None}

    def locate(self, row: int) -> tuple[Any, int]:
        """Returns (source, index in it) of a row."""
        split = int(self.split[row])
        return self.splits[self.names[split]], int(row - self._starts[split])

    def split_of(self, row: int) -> str:
        """Returns the name of a row's split."""
        return self.names[self.split[row]]

    def class_of(self, row: int) -> str:
        """Returns the name of a row's label."""
        return self.classes[self.labels[row]]

    def name(self, row: int) -> str:
        """Returns the name by which a person finds the image."""
        source, index = self.locate(row)
        return source.name(index)

    def file(self, row: int) -> bytes | None:
        """Returns the bytes of the image's file, or None if it has no file of its own."""
        source, index = self.locate(row)
        return source.file(index)

    def image(self, row: int) -> np.ndarray:
        """Returns the pixels, uint8 (H, W, 1 or 3).

        Raises:
            UnreadableImage: the image cannot be decoded.
        """
        source, index = self.locate(row)
        return source[index]["image"]

    def origin(self, row: int) -> str | tuple[str, str, int]:
        """Returns an image's origin as a row of `csv:` gives it: a file, or (spec, part, index)."""
        source, index = self._base(*self.locate(row))
        if isinstance(source, FileSource):
            return source.name(index)
        # The origins in a table are copied, because the table itself may be replaced.
        if hasattr(source, "origin"):
            return source.origin(index) or source.name(index)
        return self._spec, self._parts[id(source)], index

    def _base(self, source, index):
        """Returns (source, index) in the opened source, below the ones that split or relabel it."""
        while id(source) not in self._parts and hasattr(source, "source"):
            index = int(source.indices[index]) if hasattr(source, "indices") else index
            source = source.source
        return source, index
