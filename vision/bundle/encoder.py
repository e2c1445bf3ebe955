"""What a bundle needs of a model of more than images: its tokenizer and its columns."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vision.data.columns import CATEGORIES, NUMBERS, columns_of
from vision.data.fields import FieldEncoder
from vision.data.tokenizer import Tokenizer
from vision.support.files import replacing
from vision.support.reading import read_text
from vision.support.schema import Rule, at_least

TOKENIZER = "tokenizer.json"
SCHEMA: dict[str, Any] = {
    "context": (at_least(1), None),
    NUMBERS: [Rule("[name, mean, standard deviation]", lambda column: _is_number(*column))],
    CATEGORIES: [Rule("[name, [value, ...]]", lambda column: _is_category(*column))],
}


def _is_number(name: Any, mean: Any, std: Any) -> bool:
    return isinstance(name, str) and math.isfinite(mean) and math.isfinite(std) and std > 0


def _is_category(name: Any, values: Any) -> bool:
    is_list = isinstance(values, list) and all(isinstance(value, str) for value in values)
    return isinstance(name, str) and is_list


def write_encoder(directory: pathlib.Path, encoder: FieldEncoder | None) -> dict[str, Any] | None:
    """Writes an encoder into a bundle's directory, before its `bundle.json`.

    Returns:
        {"context": length of a text in tokens, or None; "numbers": [[name, mean, standard
        deviation], ...]; "categories": [[name, [value, ...]], ...]}, for `Manifest.inputs`; None if
        the model takes images alone.
    """
    if encoder is None:
        return None
    context = None
    if encoder.tokenizer is not None:
        context = encoder.tokenizer.context
        with replacing(directory / TOKENIZER) as file:
            file.write(encoder.tokenizer.to_text())
    return {
        "context": context,
        NUMBERS: [list(column) for column in encoder.columns.numbers],
        CATEGORIES: [[name, list(values)] for name, values in encoder.columns.categories],
    }


def read_encoder(directory: pathlib.Path, inputs: Mapping[str, Any] | None) -> FieldEncoder | None:
    """Returns the encoder of a bundle; None if its model takes images alone.

    Args:
        directory: the bundle's.
        inputs: of its manifest.

    Raises:
        UserError: the tokenizer is damaged, or its library is not installed.
    """
    if inputs is None:
        return None
    tokenizer = None
    if inputs["context"] is not None:
        file = directory / TOKENIZER
        tokenizer = Tokenizer(read_text(file), inputs["context"], str(file))
    return FieldEncoder(tokenizer, columns_of(inputs))


def to_lists(row: np.void) -> dict[str, list[Any]]:
    """Returns the fields of one example of a batch as JSON has them: NaN is None."""
    lists = {name: row[name].tolist() for name in row.dtype.names or () if name != "image"}
    return {
        name: [None if value != value else value for value in values]
        for name, values in lists.items()
    }


def from_lists(values: Mapping[str, Any], encoder: FieldEncoder) -> dict[str, np.ndarray]:
    """Returns the fields of a batch of one example, from what `to_lists` returns of it."""
    return {
        name: np.array([values[name]], dtype).reshape(1, *shape)
        for name, (dtype, shape) in encoder.signature.items()
    }
