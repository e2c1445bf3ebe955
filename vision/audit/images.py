"""All images of a source's splits in one row, which is how every part of the audit counts them."""

import numpy as np


class Images:
    """The images of train, then val, then test.

    Args:
        splits: {"train": source, "val": source, "test": source}.

    Attributes:
        labels: int32 (N,).
        classes: names of the labels.
        split: int8 (N,), 0 = train, 1 = val, 2 = test.
    """

    def __init__(self, splits):
        self.splits = splits
        self.names = tuple(splits)
        sources = list(splits.values())
        self.classes = sources[0].classes
        self.labels = np.concatenate([source.labels for source in sources])
        self.split = np.repeat(np.arange(len(sources), dtype=np.int8), [len(source) for source in sources])
        self._starts = np.cumsum([0, *(len(source) for source in sources)])

    def __len__(self):
        return len(self.labels)

    def locate(self, row):
        """Returns (source, index) of a row."""
        split = int(self.split[row])
        return self.splits[self.names[split]], int(row - self._starts[split])

    def split_of(self, row):
        """Returns the name of a row's split."""
        return self.names[self.split[row]]

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
