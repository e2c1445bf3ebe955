"""What a model takes beside the image: fields of a source, made from its texts and columns."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vision.data import columns as table
from vision.data.beside import without_column
from vision.data.captions import FIELD, encode, tokenize
from vision.data.columns import CATEGORIES, NUMBERS, Columns
from vision.data.findings import Finding
from vision.data.sources import Source
from vision.data.subset import Subset
from vision.data.tokenizer import TextShape, Tokenizer
from vision.errors import UserError

TRAIN = "train"
LACKING = "column values are missing: the images' own source, of those joined, has no such column"


@dataclasses.dataclass(frozen=True)
class FieldEncoder:
    """How texts and columns become numbers, as a run has learned it from its training images.

    Attributes:
        tokenizer: of the texts, which become the field "text"; None if they are not used.
        columns: the columns, which become the fields "numbers" and "categories".
    """

    tokenizer: Tokenizer | None = None
    columns: Columns = Columns()

    @property
    def names(self) -> tuple[str, ...]:
        """What an example has beside its image: "text", and the names of columns."""
        return (*((FIELD,) if self.tokenizer else ()), *self.columns.names)

    @property
    def signature(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """{field: (its dtype, its shape without the examples)}, in the model's order."""
        shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
        if self.tokenizer is not None:
            shapes[FIELD] = ("int32", (self.tokenizer.context,))
        if self.columns.numbers:
            shapes[NUMBERS] = ("float32", (len(self.columns.numbers),))
        if self.columns.categories:
            shapes[CATEGORIES] = ("int32", (len(self.columns.categories),))
        return shapes

    def missing(self, count: int) -> dict[str, np.ndarray]:
        """Returns the fields of examples that have nothing beside their images."""
        return {
            name: np.full((count, *shape), np.nan if dtype == "float32" else 0, dtype)
            for name, (dtype, shape) in self.signature.items()
        }

    def encode(
        self, cells: Mapping[str, Sequence[Any]], title: Callable[[int], str] = "row {}".format
    ) -> dict[str, np.ndarray]:
        """Returns the fields, {name: (N, ...)}, of N examples.

        Args:
            cells: {one of `names`: N texts, numbers or None}. "" or None is missing.
            title: names an example, for messages.

        Raises:
            UserError: see `vision.data.columns.Columns.encode`.
        """
        fields, _ = self.columns.encode(cells, title)
        if self.tokenizer is not None:
            texts = ["" if cell is None else str(cell).strip() for cell in cells[FIELD]]
            fields[FIELD], _ = encode(self.tokenizer, texts)
        return fields

    @property
    def text_shape(self) -> TextShape | None:
        """The shape of the texts' tokens; None if texts are not used."""
        return None if self.tokenizer is None else self.tokenizer.shape


class Encoded(NamedTuple):
    """{split: source with its fields}, the encoder, and findings about texts and columns."""

    splits: dict[str, Source]
    encoder: FieldEncoder
    findings: tuple[Finding, ...]


def add_fields(
    config: ConfigDict,
    splits: Mapping[str, Source],
    encoder: FieldEncoder | None,
    learns: bool = False,
) -> Encoded:
    """Gives splits the fields that `config.text` and `config.data.columns` ask for.

    Args:
        config: the run's config.
        splits: {name: source}.
        encoder: the run's; None if there is none yet.
        learns: whether to learn what the encoder lacks from the training split.

    Raises:
        UserError: see `vision.data.captions.tokenize`, and `read`, `learn` and `encode` of
            `vision.data.columns`.
    """
    sources = dict(splits)
    findings: tuple[Finding, ...] = ()
    tokenizer = encoder.tokenizer if encoder else None
    columns = encoder.columns if encoder else Columns()
    if tokenizer is not None or (learns and config.text.tokenizer):
        sources, tokenizer, findings = tokenize(config.text, sources, config.seed, tokenizer)
    if learns and not columns.names:
        columns = _learn(config.data, sources)
    elif learns and config.data.columns:
        _check_same(config.data.columns, columns)
    if columns.names:
        sources, more = _with_columns(config.data.source, sources, columns)
        findings += more
    return Encoded(sources, FieldEncoder(tokenizer, columns), findings)


def _check_same(text: str, columns: Columns) -> None:
    """Raises `UserError` if a model is to learn from other columns than its weights have."""
    if set(table.parse(text)) != set(columns.names):
        raise UserError(
            f"data.columns = '{text}', but the weights were trained with "
            f"{', '.join(columns.names)}: name these columns, or start without weights"
        )


def _learn(c: ConfigDict, splits: Mapping[str, Source]) -> Columns:
    if not c.columns:
        return Columns()
    kinds = table.parse(c.columns)
    train = splits[TRAIN]
    title: Callable[[int], str] = train.name
    return table.learn(kinds, table.read(train, kinds, c.source), title)


def _with_columns(
    spec: str, splits: Mapping[str, Source], columns: Columns
) -> tuple[dict[str, Source], tuple[Finding, ...]]:
    """Returns the splits with the fields of the columns, and findings."""
    findings: list[Finding] = []
    encoded: dict[int, Source] = {}  # {id of a source: it with its fields}: two may be the same
    for source in splits.values():
        if id(source) in encoded:
            continue
        cells = table.read(source, columns.names, spec)
        title: Callable[[int], str] = source.name
        fields, more = columns.encode(cells, title)
        more += [
            Finding(LACKING, source.name(row), column)
            for column in columns.names
            for row in without_column(source, column).tolist()
        ]
        subset = Subset(source, np.arange(len(source)))
        subset.fields |= fields
        encoded[id(source)] = subset
        findings += more
    return {name: encoded[id(source)] for name, source in splits.items()}, tuple(findings)
