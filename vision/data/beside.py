"""What the images of several sources have beside their pixels: texts, fields and columns.

A source may lack what another one has. Its images then have an empty value: no text, a NaN in a
field of floating-point numbers, 0 in any other field, and "" in a column, which slices call
"(empty)" and a model's columns count as missing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vision.data.findings import Finding
from vision.data.identity import base_of
from vision.errors import UserError

NO_TEXT = "sources have no captions, unlike another one that they are joined to"
NO_FIELD = "fields are not in all joined sources, and are empty for the images of the others"


class Beside:
    """Texts, fields and columns of sources that lie one after the other; a base of such sources.

    Args:
        sources: at least one source.

    Attributes:
        sources: the sources.
        fields: {name: (N, ...)}, those that any source has.
        texts: captions, object (N,), None for each image of a source without captions; None if no
            source has any.
    """

    def __init__(self, sources: Sequence[Any]):
        self.sources = sources
        self._starts = np.cumsum([0, *map(len, sources)])
        self.fields = _fields(sources)
        self.texts = _texts(sources)

    def locate(self, index: int) -> tuple[Any, int]:
        """Returns (source, index in that source)."""
        part = int(np.searchsorted(self._starts, index, "right")) - 1
        return self.sources[part], int(index - self._starts[part])

    def column_names(self) -> list[str]:
        """Returns the names of the columns that any source has."""
        names = [name for source in self.sources for name in names_of_columns(source)]
        return list(dict.fromkeys(names))

    def column_values(self, name: str) -> list[Any]:
        """Returns a column's values, one for each image; "" if its source has no such column."""
        cells: list[Any] = []
        for source in self.sources:
            if name not in names_of_columns(source):
                cells += [""] * len(source)
                continue
            base, rows = base_of(source)
            values = base.column_values(name)
            cells += [values[row] for row in rows.tolist()]
        return cells


def names_of_columns(source: Any) -> list[str]:
    """Returns the names of a source's columns; [] if it has none."""
    base, _ = base_of(source)
    return list(base.column_names()) if hasattr(base, "column_names") else []


def without_column(source: Any, name: str) -> np.ndarray:
    """Returns the images whose own source has no such column, int64 (n,), if another one has."""
    base, rows = base_of(source)
    if not isinstance(base, Beside):
        return np.arange(0 if name in names_of_columns(source) else len(source))
    parts = [np.isin(np.arange(len(part)), without_column(part, name)) for part in base.sources]
    return np.flatnonzero(np.concatenate(parts)[rows])


def findings_of(sources: dict[int, Any]) -> list[Finding]:
    """Returns findings about captions and fields that only some sources have.

    Args:
        sources: {number of the source, from 0: source}.
    """
    findings = []
    captions = {number: _captions(source) is not None for number, source in sources.items()}
    for number, has_captions in captions.items():
        if any(captions.values()) and not has_captions:
            findings.append(Finding(NO_TEXT, f"source {number + 1}"))
    fields = {number: getattr(source, "fields", {}) for number, source in sources.items()}
    for name in sorted(set().union(*fields.values())):
        lacking = [str(number + 1) for number, values in fields.items() if name not in values]
        if lacking:
            findings.append(Finding(NO_FIELD, name, f"not in source {', '.join(lacking)}"))
    return findings


def _captions(source: Any) -> np.ndarray | None:
    captions: np.ndarray | None = getattr(source, "texts", None)
    return captions


def _texts(sources: Sequence[Any]) -> np.ndarray | None:
    columns = [_captions(source) for source in sources]
    if all(column is None for column in columns):
        return None
    none = [np.full(len(source), None, object) for source in sources]
    return np.concatenate(
        [own if column is None else column for column, own in zip(columns, none, strict=True)]
    )


def _fields(sources: Sequence[Any]) -> dict[str, np.ndarray]:
    """Returns {name: values of all images}.

    Raises:
        UserError: a field has different shapes.
    """
    fields = [getattr(source, "fields", {}) for source in sources]
    joined = {}
    for name in sorted(set().union(*fields)):
        first = next(values[name] for values in fields if name in values)
        parts = []
        for source, values in zip(sources, fields, strict=True):
            part = values.get(name)
            if part is None:
                shape = (len(source), *first.shape[1:])
                part = np.full(shape, np.nan if first.dtype.kind == "f" else 0, first.dtype)
            if part.shape[1:] != first.shape[1:]:
                raise UserError(
                    f"the field '{name}' has the shape {first.shape[1:]} for some images and "
                    f"{part.shape[1:]} for others: give all images the same"
                )
            parts.append(part)
        joined[name] = np.concatenate(parts)
    return joined
