"""All images of a source's splits in one row, which is how every part of the audit counts them."""

import numpy as np

from vision.data.files import FileSource


class Images:
    """The images of train, then val, then test.

    Args:
        splits: {"train": source, "val": source, "test": source}. A val for which test stands in is
            left out.
        opened: what `open_splits` returned for the source, for `origin`.
        spec: the source's name, without what `vision.data.changes` did to it.

    Attributes:
        labels: int32 (N,).
        classes: names of the labels.
        split: int8 (N,), the number of each image's split in `names`.
        names: of the splits.
    """

    def __init__(self, splits, opened=None, spec=""):
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
        self.split = np.repeat(
            np.arange(len(sources), dtype=np.int8), [len(source) for source in sources]
        )
        self._starts = np.cumsum([0, *(len(source) for source in sources)])

    def __len__(self):
        return len(self.labels)

    def __getstate__(self):
        # Worker processes read images; identities and what was opened for them stay here.
        return self.__dict__ | {"_parts": {}, "_opened": None}

    def locate(self, row):
        """Returns (source, index) of a row."""
        split = int(self.split[row])
        return self.splits[self.names[split]], int(row - self._starts[split])

    def split_of(self, row):
        """Returns the name of a row's split."""
        return self.names[self.split[row]]

    def class_of(self, row):
        """Returns the name of a row's label."""
        return self.classes[self.labels[row]]

    def name(self, row):
        """Returns what a person finds the image by."""
        source, index = self.locate(row)
        return source.name(index)

    def file(self, row):
        """Returns the bytes of the image's file, or None where it has none of its own."""
        source, index = self.locate(row)
        return source.file(index)

    def image(self, row):
        """Returns uint8 (H, W, 1 or 3); raises `UnreadableImage`."""
        source, index = self.locate(row)
        return source[index]["image"]

    def origin(self, row):
        """Returns where an image comes from as a row of `csv:` names it: a file, or (spec, part,
        index)."""
        source, index = self._base(*self.locate(row))
        if isinstance(source, FileSource):
            return source.name(index)
        # the rows of a table are taken over, for it may itself be replaced
        if hasattr(source, "origin"):
            return source.origin(index) or source.name(index)
        return self._spec, self._parts[id(source)], index

    def _base(self, source, index):
        """Returns (source, index) in what was opened, below what divided and relabeled it."""
        while id(source) not in self._parts and hasattr(source, "source"):
            index = int(source.indices[index]) if hasattr(source, "indices") else index
            source = source.source
        return source, index
