"""Several sources as one, `folder:photos + folder:more`: their classes are the same by name."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vision.data.beside import Beside, findings_of
from vision.data.findings import Finding
from vision.data.identity import base_of, has_names, keys_of, texts
from vision.errors import UserError


class Several(Beside):
    """A part of each of several sources, one after the other, as an opened source.

    Images of the first source keep their names; those of the others begin with the number of their
    source, "2:". So a source can be added without renaming what was there.

    Args:
        part: what the part is called, such as "train".
        sources: {number of the source, from 0: that part of it}.
        classes: the class names of all sources.

    Attributes:
        members: int32 (N,), the number of each image's source.
    """

    def __init__(self, part: str, sources: dict[int, Any], classes: Sequence[str]):
        super().__init__(list(sources.values()))
        self.classes = tuple(classes)
        self.encoded = any(source.encoded for source in self.sources)
        self.findings: tuple[Finding, ...] = tuple(
            dict.fromkeys(finding for source in self.sources for finding in source.findings)
        )
        numbers = {name: number for number, name in enumerate(self.classes)}
        self._maps = [np.array([numbers[c] for c in s.classes], np.int32) for s in self.sources]
        self.labels = np.concatenate(
            [new[s.labels] for new, s in zip(self._maps, self.sources, strict=True)]
        ).astype(np.int32)
        counts = [len(source) for source in self.sources]
        self.members = np.repeat(np.array(list(sources), np.int32), counts)
        bases = [base_of(source) for source in self.sources]
        self.named = all(has_names(base) and getattr(base, "named", True) for base, _ in bases)
        self._keys = self._prefixed([keys_of(source, part) for source in self.sources])
        self._photos = self._prefixed(
            [
                texts(base.photos())[rows] if hasattr(base, "photos") else keys_of(source, part)
                for source, (base, rows) in zip(self.sources, bases, strict=True)
            ]
        )
        self.group_names = self._groups(bases)
        self.findings += tuple(findings_of(sources))

    @property
    def bits(self) -> int:
        """Significant bits of 16-bit images."""
        return max(getattr(source, "bits", 0) for source in self.sources)

    @bits.setter
    def bits(self, bits: int) -> None:
        for source in self.sources:
            if hasattr(source, "bits"):
                source.bits = bits

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        source, row = self.locate(index)
        return source[row] | {"label": int(self.labels[index])}

    def name(self, index: int) -> str:
        source, row = self.locate(index)
        return source.name(row)

    def file(self, index: int) -> bytes | None:
        source, row = self.locate(index)
        return source.file(row)

    def keys(self) -> list[str]:
        """Returns what each image is called."""
        return self._keys

    def photos(self) -> list[str]:
        """Returns the photo that each image is cut out of, or its own name."""
        return self._photos

    def _prefixed(self, names: Sequence[np.ndarray]) -> list[str]:
        joined = np.concatenate(names)
        return [
            f"{number + 1}:{name}" if number else name
            for number, name in zip(self.members.tolist(), joined, strict=True)
        ]

    def _groups(self, bases: Sequence[tuple[Any, np.ndarray]]) -> np.ndarray | None:
        groups = [getattr(base, "group_names", None) for base, _ in bases]
        if all(names is None for names in groups):
            return None
        columns = [
            texts([""] * len(rows)) if names is None else names[rows]
            for names, (_, rows) in zip(groups, bases, strict=True)
        ]
        prefixed = self._prefixed(columns)
        empty = np.concatenate(columns) == ""
        return texts(
            "" if is_empty else name for is_empty, name in zip(empty, prefixed, strict=True)
        )


def join_parts(spec: str, opened: Sequence[dict[str, Any]], fewest: int) -> dict[str, Several]:
    """Joins opened sources, part by part.

    Args:
        spec: the name of them all, for messages.
        opened: {part: source} of each.
        fewest: how many classes must have images.

    Raises:
        UserError: fewer classes have images.
    """
    firsts = [next(iter(parts.values())) for parts in opened]
    classes = tuple(dict.fromkeys(name for source in firsts for name in source.classes))
    sources: dict[str, dict[int, Any]] = {}
    for number, parts in enumerate(opened):
        for part, source in parts.items():
            if len(source):
                sources.setdefault(part, {})[number] = source
    if not sources:
        raise UserError(f"'{spec}' has no images")
    joined = {part: Several(part, of_part, classes) for part, of_part in sources.items()}
    labels = np.unique(np.concatenate([source.labels for source in joined.values()]))
    if len(labels) < fewest:
        raise UserError(f"'{spec}' has {len(labels)} class(es) with images, but needs {fewest}")
    return joined
