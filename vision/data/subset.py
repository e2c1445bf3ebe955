"""Some of a source's images."""

from collections.abc import Sequence
from typing import Any

import numpy as np


class Subset:
    """A source that is a part of another.

    Args:
        source: a `vision.data.sources.Source`.
        indices: (N,) integers, positions in `source`.
    """

    def __init__(self, source: Any, indices: Sequence[int] | np.ndarray):
        self.source = source
        self.indices = np.asarray(indices, np.int64)
        self.labels = source.labels[self.indices]
        self.classes = source.classes
        self.encoded = source.encoded
        self.findings = source.findings
        self.bits = getattr(source, "bits", 0)
        fields = getattr(source, "fields", {})
        self.fields = {name: values[self.indices] for name, values in fields.items()}
        texts = getattr(source, "texts", None)
        self.texts = None if texts is None else texts[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict:
        return self.source[int(self.indices[index])]

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices[index]))

    def file(self, index: int) -> bytes | None:
        return self.source.file(int(self.indices[index]))
