"""Reads and runs an `.mlpackage`: its MIL program with its weights, interpreted in NumPy.

Apple's runtime runs only on Apple's systems. This interpreter checks, on any system, that the file
computes what the model does; it shares no code with what writes the file except the classes of the
protocol buffers. It rounds each result to the type that the program declares, so that a float16
program loses precision here as well; what a processor does inside an operation, such as the
precision in which it adds up the products of a convolution, is its own.
"""

import json
import os
import pathlib
import struct
from typing import Any, NamedTuple

import numpy as np

from vision.errors import UserError
from vision.export.coreml.operations import OPERATIONS
from vision.export.coreml.quiet import silenced

DTYPES = {  # MIL's DataType
    1: np.bool_,
    2: np.str_,
    10: np.float16,
    11: np.float32,
    21: np.int8,
    22: np.int16,
    23: np.int32,
    24: np.int64,
    31: np.uint8,
    32: np.uint16,
    33: np.uint32,
}
CHANNELS = {10: 1, 20: 3}  # of an image type's colorSpace: GRAYSCALE, RGB
SENTINEL = 0xDEADBEEF  # begins the description of each blob in a file of weights
BLOB = struct.Struct("<IIQQ")  # sentinel, type, bytes, where they begin
CLASSIFY = "classify"


class Image(NamedTuple):
    """A model's input.

    Attributes:
        name: the name.
        height, width: sides, pixels.
        channels: 3 for RGB, 1 for gray.
    """

    name: str
    height: int
    width: int
    channels: int


class Instruction(NamedTuple):
    """An operation of the program.

    Attributes:
        kind: MIL's name for it, such as "conv".
        inputs: {parameter: names of the values that it takes, or the value itself}.
        outputs: (name, dtype, shape) of each result; None, None for one that is not a tensor.
    """

    kind: str
    inputs: dict[str, Any]
    outputs: list[tuple[str, Any, tuple[int, ...] | None]]


class Package:
    """An `.mlpackage` of a classifier.

    Attributes:
        spec: its description, a protocol buffer `Model`.
        image: its input.
        classes: names, in the order of the probabilities.
        kinds: the kinds of the program's operations, sorted, without constants.
    """

    def __init__(self, path: pathlib.Path | str) -> None:
        """Reads a package.

        Raises:
            UserError: it is damaged, or has an operation that the interpreter lacks.
        """
        with silenced():
            from coremltools.proto import Model_pb2

        path = pathlib.Path(path)
        try:
            file = path / "Data" / _model_file(path)
            self.spec = Model_pb2.Model.FromString(file.read_bytes())
            self._weights = _Weights(file.parent)
            self._read()
        except UserError:
            raise
        except Exception as error:  # those of damaged protocol buffers have no common type
            raise UserError(f"{path} cannot be loaded: export it again") from error

    def _read(self):
        (feature,) = self.spec.description.input
        shape = feature.type.imageType
        channels = CHANNELS[shape.colorSpace]
        self.image = Image(feature.name, shape.height, shape.width, channels)
        function = self.spec.mlProgram.functions["main"]
        block = function.block_specializations[function.opset]
        self._outputs = [feature.name for feature in self.spec.description.output]
        self._constants: dict[str, Any] = {}
        self._program: list[Instruction] = []
        self.kinds = sorted({op.type for op in block.operations} - {"const"})
        for operation in block.operations:
            self._add(operation)
        self.classes: tuple[str, ...] = tuple(self._program[-1].inputs["classes"])

    def _add(self, operation):
        """Adds an operation to the program, or if its inputs are constants, computes it."""
        outputs = [(value.name, *_type(value.type)) for value in operation.outputs]
        if operation.type == "const":
            self._constants[outputs[0][0]] = self._value(operation.attributes["val"])
            return
        if operation.type not in OPERATIONS and operation.type != CLASSIFY:
            raise UserError(f"the interpreter of MIL has no operation '{operation.type}'")
        inputs = {key: self._binding(argument) for key, argument in operation.inputs.items()}
        instruction = Instruction(operation.type, inputs, outputs)
        names = [name for value in inputs.values() if isinstance(value, list) for name in value]
        if all(name in self._constants for name in names) and operation.type != CLASSIFY:
            _compute(instruction, self._constants)
        else:
            self._program.append(instruction)

    def _binding(self, argument):
        """Returns the names of the values of an argument, or a value that stands in it."""
        if argument.arguments[0].WhichOneof("binding") == "name":
            return [binding.name for binding in argument.arguments]
        return self._value(argument.arguments[0].value)

    def _value(self, value):
        """Returns a constant of the program: an array, or a tuple of strings."""
        if value.WhichOneof("value") == "blobFileValue":
            dtype, shape = _type(value.type)
            file = value.blobFileValue
            return self._weights.read(file.fileName, file.offset, np.dtype(dtype)).reshape(shape)
        immediate = value.immediateValue
        if immediate.WhichOneof("value") == "list":
            return tuple(str(self._value(item)) for item in immediate.list.values)
        dtype, shape = _type(value.type)
        tensor = immediate.tensor
        kind = tensor.WhichOneof("value")
        if kind == "bytes":
            return np.frombuffer(tensor.bytes.values, dtype).reshape(shape)
        return np.array(getattr(tensor, kind).values, dtype).reshape(shape)

    def __call__(self, image: np.ndarray) -> dict[str, Any]:
        """Returns {name: value} of the outputs: a label, {class: probability}, arrays.

        Args:
            image: uint8 (height, width, channels).
        """
        if image.shape != self.image[1:] or image.dtype != np.uint8:
            raise UserError(f"it takes uint8 {self.image[1:]}, not {image.dtype} {image.shape}")
        values = self._constants | {self.image.name: image.transpose(2, 0, 1)[None].astype("f4")}
        for instruction in self._program:
            if instruction.kind == CLASSIFY:
                self._classify(instruction, values)
            else:
                _compute(instruction, values)
        return {name: values[name] for name in self._outputs}

    def _classify(self, instruction, values):
        """Adds the most probable class and {class: probability} to `values`."""
        (probabilities,) = (values[name] for name in instruction.inputs["probabilities"])
        probabilities = probabilities.reshape(-1)
        label, each = (name for name, *_ in instruction.outputs)
        values[label] = self.classes[int(probabilities.argmax())]
        values[each] = dict(zip(self.classes, probabilities, strict=True))


class _Weights:
    """The files of weights beside a model."""

    def __init__(self, folder):
        self._folder = folder
        self._files = {}

    def read(self, name, offset, dtype):
        """Returns the blob described at `offset` of a file, a vector."""
        file = os.path.normpath(self._folder / name.removeprefix("@model_path/"))
        if file not in self._files:
            self._files[file] = pathlib.Path(file).read_bytes()
        content = self._files[file]
        sentinel, _, size, start = BLOB.unpack_from(content, offset)
        if sentinel != SENTINEL:
            raise ValueError(f"{file} has no blob at {offset}")
        return np.frombuffer(content, dtype, size // dtype.itemsize, start)


def _model_file(path):
    """Returns the place of the model in a package's folder Data, as its Manifest.json says."""
    manifest = json.loads((path / "Manifest.json").read_text())
    return manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]


def _type(value_type):
    """Returns (dtype, shape) of a tensor's type; (None, None) of another."""
    if value_type.WhichOneof("type") != "tensorType":
        return None, None
    tensor = value_type.tensorType
    return DTYPES[tensor.dataType], tuple(d.constant.size for d in tensor.dimensions)


def _compute(instruction, values):
    """Adds the results of an operation to `values`, in the types that the program declares."""
    inputs = {}
    for key, names in instruction.inputs.items():
        if not isinstance(names, list):
            inputs[key] = names
        elif key == "values" or len(names) > 1:  # concat and stack take lists
            inputs[key] = [values[name] for name in names]
        else:
            inputs[key] = values[names[0]]
    inputs = {key: _widened(value) for key, value in inputs.items()}
    ((name, dtype, shape),) = instruction.outputs
    with np.errstate(all="ignore"):  # such as e^12 in float16, which is infinite in the program
        result = np.asarray(OPERATIONS[instruction.kind](**inputs)).astype(dtype, copy=False)
    if result.shape != shape:
        raise ValueError(f"{instruction.kind} returns {result.shape}, but the program says {shape}")
    values[name] = result


def _widened(value):
    """Returns an argument in which float16 is float32: NumPy computes slowly in float16."""
    if isinstance(value, list):
        return [_widened(item) for item in value]
    is_half = isinstance(value, np.ndarray) and value.dtype == np.float16
    return value.astype(np.float32) if is_half else value
