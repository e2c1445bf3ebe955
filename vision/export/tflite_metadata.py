"""TFLite Metadata: what a .tflite file says about itself, which MediaPipe and ML Kit read.

A flatbuffer of its own in one of the model's buffers (TensorFlow's metadata_schema.fbs: the numbers
below are its fields, unions and enums), and the class names as a text file in a zip archive behind
the model, so that `zipfile` opens the .tflite too.
"""

import io
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vision.bundle.runtimes import OUTPUTS
from vision.errors import UserError, shown
from vision.export.program import Program
from vision.export.tflite import pack
from vision.support.extras import require
from vision.support.files import replacing
from vision.version import __version__

LABELS = "labels.txt"
METADATA = b"TFLITE_METADATA"  # the name of the model's buffer
IDENTIFIER = b"M001"  # of the metadata's flatbuffer
PARSER = "1.0.0"  # the oldest release of the readers that knows all of these fields

FEATURES, IMAGE = 1, 2  # the union ContentProperties
RGB, GRAYSCALE = 1, 2  # ColorSpaceType
NORMALIZATION = 1  # the union ProcessUnitOptions
AXIS_LABELS = 2  # AssociatedFileType
DESCRIPTIONS = {
    "images": "An image, in bytes. Normalization is part of the model.",
    "probabilities": "The probability of each class.",
    "embedding": "What the last layer sees, for a search of similar images.",
}


class Number(NamedTuple):
    """A number of a flatbuffer's table, and its type: "Int8", "Uint8" or "Uint32"."""

    value: int
    kind: str


class Table(NamedTuple):
    """A flatbuffer's table.

    Attributes:
        fields: {number of the field: its value}; str, a `Number`, a `Table`, or a list of floats or
            of `Table`s.
    """

    fields: dict[int, Any]


def check_labels(classes: Sequence[str]) -> None:
    """Raises `UserError` if a class cannot be a line of a label file."""
    for name in classes:
        if not name.strip() or any(mark in name for mark in "\n\r\0"):
            raise UserError(
                f"the class {shown(name)} cannot be a label of a .tflite, one line each: rename "
                "it, or export another --format"
            )


def attach(program: Program, path: pathlib.Path | str) -> None:
    """Writes into a .tflite file what it takes and returns, and its class names.

    The operators and their weights stay as they are.

    Args:
        program: what the file was written from.
        path: the file, of any precision, which is replaced.

    Raises:
        UserError: a class cannot be a label; ai-edge-litert is not installed.
        OSError: the file cannot be read or written.
    """
    check_labels(program.classes)
    require("exporting to TFLite", "export", only=("ai-edge-litert", "flatbuffers"))
    from ai_edge_litert.schema_py_generated import MetadataT
    from ai_edge_litert.tools import flatbuffer_utils as tools

    model = tools.read_model(str(path))
    buffer = tools.BufferT()
    buffer.data = np.frombuffer(to_bytes(_describe(program, _outputs(model))), np.uint8)
    entry = MetadataT()
    entry.name = METADATA
    entry.buffer = len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    with replacing(path, binary=True) as file:
        file.write(_with_labels(pack(model, tools), program.classes))


def _outputs(model):
    """Returns the names of a model's outputs, in the order of the graph."""
    names = {output.tensorIndex: output.name for output in model.signatureDefs[0].outputs}
    return [names[index].decode() for index in model.subgraphs[0].outputs]


def _with_labels(data, classes):
    """Returns a model's bytes with a zip archive of its labels behind them.

    Not compressed, and always of the same date: equal exports are equal files.
    """
    stream = io.BytesIO(data)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:
        entry = zipfile.ZipInfo(LABELS)
        archive.writestr(entry, "".join(f"{name}\n" for name in classes).encode())
    return stream.getvalue()


def _describe(program, outputs):
    """Returns a model's metadata as a `Table`."""
    color_space = RGB if program.channels == 3 else GRAYSCALE
    size = Number(program.image_size, "Uint32")
    image = Table({0: Number(color_space, "Int8"), 1: Table({0: size, 1: size})})
    normalization = Table({0: [0.0], 1: [1.0]})  # mean, std
    unit = Table({0: Number(NORMALIZATION, "Uint8"), 1: normalization})
    stats = Table({0: [255.0], 1: [0.0]})  # max, min
    taken = _tensor("images", IMAGE, image) | {4: [unit], 5: stats}
    returned = [_tensor(name, FEATURES, Table({})) for name in outputs]
    labels = Table({0: LABELS, 1: "Class names.", 2: Number(AXIS_LABELS, "Int8")})
    returned[outputs.index(OUTPUTS[0])] |= {5: Table({0: [1.0], 1: [0.0]}), 6: [labels]}
    graph = Table({2: [Table(taken)], 3: [Table(fields) for fields in returned]})
    description = f"An image classifier with {len(program.classes)} classes."
    name = "Image classifier"
    return Table({0: name, 1: description, 2: __version__, 3: [graph], 7: PARSER})


def _tensor(name, kind, properties):
    """Returns the fields of a tensor's table: its name, its description and what is in it."""
    content = Table({0: Number(kind, "Uint8"), 1: properties})
    return {0: name, 1: DESCRIPTIONS[name], 3: content}


def to_bytes(table: Table) -> bytes:
    """Returns a flatbuffer whose root is a `Table`."""
    require("exporting to TFLite", "export", only=("flatbuffers",))
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(_build(builder, table), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _build(builder, value):
    """Writes a text, a list or a table, after everything that it refers to; returns its offset."""
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, list):
        return _build_list(builder, value)
    values = {
        field: content if isinstance(content, Number) else _build(builder, content)
        for field, content in value.fields.items()
    }
    builder.StartObject(max(values, default=-1) + 1)
    for field, content in values.items():
        if isinstance(content, Number):
            getattr(builder, f"Prepend{content.kind}Slot")(field, content.value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(field, content, 0)
    return builder.EndObject()


def _build_list(builder, values):
    """Writes a list of floats or of tables; returns its offset."""
    is_number = isinstance(values[0], float)
    items = values if is_number else [_build(builder, table) for table in values]
    builder.StartVector(4, len(items), 4)
    for item in reversed(items):  # a vector is written from its end
        if is_number:
            builder.PrependFloat32(item)
        else:
            builder.PrependUOffsetTRelative(item)
    return builder.EndVector()
