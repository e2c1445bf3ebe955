"""TFLite, for LiteRT on phones and small boards.

Converted without TensorFlow, from StableHLO by `jax.export`. The input `images` is uint8
(batch, H, W, C), the batch fixed; the outputs are `probabilities` and `embedding`, float32.
"""

import contextlib
import copy
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from vision.bundle.runtimes import OUTPUTS, open_model
from vision.errors import UserError
from vision.export.explain import explain
from vision.export.program import Program
from vision.models.layers import activations, convolution
from vision.support.extras import require
from vision.support.files import replacing

NAME = "model.tflite"
TOLERANCE = {"float32": 1e-4, "float16": 5e-2}
BUFFER_ALIGNMENT = 16  # bytes
MIN_HALVED_BYTES = 1024  # below, a constant is not worth the operator that widens it


def write(program: Program, path: pathlib.Path | str, batch: int = 0) -> None:
    """Writes a program, in float32.

    Args:
        program: the program to write.
        path: the file to write.
        batch: images in a batch, always the same number; 0 means 1.

    Raises:
        UserError: LiteRT lacks an operation of the model; litert-converter is not installed.
        OSError: the file cannot be written.
    """
    size = batch or 1
    try:
        with _litert_operators(program.modules):
            # a new function: JAX would reuse the trace of an old one
            data = _convert(
                lambda images: program.function(images), [program.shape(size)], ["images"], OUTPUTS
            )
    except UserError:
        raise
    except Exception as error:  # its exceptions have no common type
        raise UserError(_explain(error, program, size)) from error
    with replacing(path, binary=True) as file:
        file.write(data)


def load(path: pathlib.Path | str) -> Callable:
    """Returns `run(images) -> (probabilities, embeddings)`, float32, by LiteRT.

    It takes any number of images.

    Raises:
        UserError: the file cannot be loaded; ai-edge-litert is not installed.
    """
    return open_model(path).run


def to_float16(path: pathlib.Path | str, out: pathlib.Path | str) -> None:
    """Converts a float32 file to float16 weights; arithmetic, inputs and outputs stay the same.

    LiteRT widens the weights when it loads them; its GPU delegates compute with them as they are.

    Raises:
        UserError: ai-edge-litert is not installed.
        OSError: a file cannot be read or written.
    """
    require("exporting to TFLite", "export", only=("ai-edge-litert",))
    from ai_edge_litert.tools import flatbuffer_utils as tools

    model = tools.read_model(str(path))
    halved: set[int] = set()
    for graph in model.subgraphs:
        _halve(model, graph, halved, tools)
    with replacing(out, binary=True) as file:
        file.write(pack(model, tools))


@contextlib.contextmanager
def _litert_operators(modules):
    """Replaces `gelu` and `avg_pool` by versions that convert better, while a model is traced.

    GELU becomes LiteRT's own operator: the converter would write erf as a polynomial, whose factors
    lose most of their precision in int8. Average pools become the convolutions that they are: the
    converter's operator for such pools cannot be int8.

    The models import these functions by name, so they are replaced in each module that defines a
    layer of the model, and in the functions' own modules.

    Args:
        modules: names of the Python modules that define the model's layers.
    """
    gelu = activations.gelu
    pool = convolution.avg_pool
    composite = jax.lax.composite(lambda x, approximate: gelu(x), name="aten.gelu.default")
    replacements = {gelu: lambda x: composite(x, approximate="none"), pool: _pool}
    names = {*modules, *(function.__module__ for function in replacements)}
    uses = [
        (sys.modules[name], function.__name__, function)
        for name in names & sys.modules.keys()
        for function in replacements
        if vars(sys.modules[name]).get(function.__name__) is function
    ]
    for module, name, function in uses:
        setattr(module, name, replacements[function])
    try:
        yield
    finally:
        for module, name, function in uses:
            setattr(module, name, function)


def _pool(x, size, stride, padding=0):
    """Computes `vision.models.layers.convolution.avg_pool` by a convolution."""
    channels = x.shape[-1]
    return jax.lax.conv_general_dilated(
        x,
        np.full((size, size, 1, channels), 1 / size**2, x.dtype),
        (stride, stride),
        ((padding, padding),) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )


def _convert(function, shapes, inputs, outputs):
    """Returns the flatbuffer, as bytes, of a function of arrays.

    Args:
        function: the function.
        shapes: a `jax.ShapeDtypeStruct` of each argument.
        inputs, outputs: names of the arguments and of the results.
    """
    require("exporting to TFLite", "export", only=("litert-converter",))
    import litert_converter.mlir  # noqa: F401  registers the dialects
    from litert_converter import converter_api_ext as converter
    from litert_converter.mlir import ir, passmanager
    from litert_converter.mlir.dialects import stablehlo

    exported = jax_export.export(jax.jit(function), platforms=("cpu",))(*shapes)
    artifact = exported.mlir_module_serialized
    context = ir.Context()
    converter.prepare_mlir_context(context)
    with context:
        module = stablehlo.deserialize_portable_artifact(context, artifact)
        converter.set_signature(module.operation, "serving_default", inputs, outputs)
        converter.run_convert_to_tfl_passes(
            module, passmanager.PassManager(), converter.ConvertToTFLConfig()
        )
        return converter.export_flatbuffer_to_bytes(module.operation)


def _explain(error, program, batch):
    """Returns an error message for an exception of the converter.

    The place in the model is searched for: the converter's own locations are often wrong.
    """

    def convert(function, shapes):
        outputs = [f"y{i}" for i in range(len(jax.eval_shape(function, *shapes)))]
        _convert(function, shapes, [f"x{i}" for i in range(len(shapes))], outputs)

    return explain(error, program, batch, "TFLite", convert)


def _halve(model, graph, halved, tools):
    """Stores a graph's float32 constants as float16, each followed by an operator that widens it.

    Args:
        model: the model, changed in place.
        graph: one of its subgraphs.
        halved: indices of the buffers that are float16 already, which tensors may share; added to.
        tools: the module `ai_edge_litert.tools.flatbuffer_utils`.
    """
    dequantize = _opcode(model, "DEQUANTIZE", tools)
    operators = []
    for index in sorted({i for operator in graph.operators for i in operator.inputs if i >= 0}):
        tensor = graph.tensors[index]
        buffer = model.buffers[tensor.buffer]
        if tensor.type != tools.TensorType.FLOAT32 or buffer.data is None:
            continue
        if len(buffer.data) < MIN_HALVED_BYTES:
            continue
        if tensor.buffer not in halved:
            halved.add(tensor.buffer)
            values = np.frombuffer(bytes(buffer.data), np.float32)
            buffer.data = values.astype(np.float16).view(np.uint8)
        half = copy.copy(tensor)
        half.type = tools.TensorType.FLOAT16
        half.name = tensor.name + b"_half"
        graph.tensors.append(half)
        tensor.buffer = 0  # the empty buffer: it is computed
        operator = tools.OperatorT()
        operator.opcodeIndex = dequantize
        operator.inputs = [len(graph.tensors) - 1]
        operator.outputs = [index]
        operators.append(operator)
    graph.operators = [*operators, *graph.operators]


def _opcode(model, name, tools):
    """Returns the index of an operator among the model's operator codes, adding it if missing."""
    names = [tools.opcode_to_name(model, i) for i in range(len(model.operatorCodes))]
    if name not in names:
        code = tools.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(tools.BuiltinOperator, name)
        code.version = 2
        model.operatorCodes.append(code)
        return len(names)
    return names.index(name)


def pack(model: Any, tools: Any) -> bytes:
    """Returns a model's flatbuffer, with equal vectors stored once.

    Such as the zero points of channels.

    Args:
        model: a `ModelT`.
        tools: the module `ai_edge_litert.tools.flatbuffer_utils`.
    """

    class Builder(tools.flatbuffers.Builder):
        offsets: dict = {}  # of one model: the class is made anew for each

        def CreateNumpyVector(self, x):
            key = (x.dtype.str, x.tobytes())
            if key not in self.offsets:
                if x.dtype == np.uint8:  # a buffer's bytes, which TFLite's schema aligns
                    self.Prep(BUFFER_ALIGNMENT, x.size)
                self.offsets[key] = super().CreateNumpyVector(x)
            return self.offsets[key]

    builder = Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
