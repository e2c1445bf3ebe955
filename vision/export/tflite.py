"""TFLite, for LiteRT on phones and small boards: StableHLO by `jax.export`, converted without TensorFlow.

The input `images` is uint8 (batch, H, W, C), the batch fixed; the outputs are `probabilities` and `embedding`, float32.
"""

import copy
import pathlib
import re

import numpy as np

from vision.bundle import OUTPUTS, open_model
from vision.errors import UserError
from vision.export.program import LIBRARIES
from vision.export.stablehlo import lower
from vision.files import replacing

NAME = "model.tflite"
TOLERANCE = {"float32": 1e-4}
INSTALL = "exporting to TFLite needs more: pip install 'vision[export]'"
LITERT = ("tfl", "func", "builtin", "arith")  # MLIR's dialects that may be left after the conversion
FEWEST = 10  # images to calibrate with


def write(program, path, batch=0):
    """Writes a `vision.export.program.Program`, in float32.

    Args:
        program: what to write.
        path: of the file.
        batch: images at a time, always so many; 0 = 1.

    Raises:
        UserError: LiteRT has not an operation of the model; litert-converter is not installed.
        OSError: the file cannot be written.
    """
    data = _convert(lower(program, batch or 1).mlir_module_serialized)
    with replacing(path, binary=True) as file:
        file.write(data)


def load(path):
    """Returns `run(images) -> (probabilities, embedding)`: NumPy, float32, of any number of images; by LiteRT.

    Raises:
        UserError: the file cannot be loaded; ai-edge-litert is not installed.
    """
    return open_model(path).run


def quantize(model_path, out_path, images):
    """Writes a float32 model again in int8: weights per channel, activations by their range over images.

    Products, convolutions and what is between them are integer; LiteRT's quantizer leaves divisions, and we the softmax
    at the end, in float32. Inputs and outputs stay as they are.

    Args:
        model_path, out_path: of the .tflite files.
        images: to calibrate with, uint8 (N, H, W, channels) of the training data, N at least 10.

    Raises:
        UserError: too few images, or of another size; the model is int8 already; ai-edge-litert is not installed.
        OSError: a file cannot be read or written.
    """
    if len(images) < FEWEST:
        raise UserError(f"{len(images)} images are too few to calibrate with: give {FEWEST} or more, better 200")
    try:
        # TensorFlow's calibrator, of which LiteRT has the engine without its Python wrapper.
        from ai_edge_litert._pywrap_tensorflow_lite_calibration_wrapper import CalibrationWrapper
    except ImportError as error:
        raise UserError(INSTALL) from error
    model = pathlib.Path(model_path).read_bytes()  # the calibrator reads from it until the end, and does not keep it
    batch = _check(model_path, model, images)
    kinds = [np.dtype(name).num for name in ("uint8", "float32", "int8", "int32")]  # input, output, activations, biases
    try:
        calibrator = CalibrationWrapper(model, [], [])
        calibrator.Prepare()
        for start in range(0, len(images) - batch + 1, batch):
            calibrator.FeedTensor([np.ascontiguousarray(images[start : start + batch])])
        data = calibrator.QuantizeModel(*kinds[:2], True, *kinds[2:], False, False)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{model_path} cannot be quantized: {str(error).splitlines()[0]}") from error
    with replacing(out_path, binary=True) as file:
        file.write(_tidy(data))


def _convert(artifact):
    """Returns a flatbuffer, bytes, of a portable StableHLO artifact."""
    try:
        import litert_converter.mlir  # noqa: F401  it makes the dialects known
        from litert_converter import converter_api_ext as converter
        from litert_converter.mlir import ir, passmanager
        from litert_converter.mlir.dialects import stablehlo
    except ImportError as error:
        raise UserError(INSTALL) from error
    context, module = ir.Context(), None
    converter.prepare_mlir_context(context)
    with context:
        try:
            module = stablehlo.deserialize_portable_artifact(context, artifact)
            converter.set_signature(module.operation, "serving_default", ["images"], OUTPUTS)
            converter.run_convert_to_tfl_passes(module, passmanager.PassManager(), converter.ConvertToTFLConfig())
            return converter.export_flatbuffer_to_bytes(module.operation)
        except Exception as error:  # its exceptions have no common type
            raise UserError(_explain(module, error, ir.WalkResult.ADVANCE)) from error


def _explain(module, error, advance):
    left = []

    def note(operation):
        if operation.name.split(".")[0] not in LITERT:
            left.append(operation)
        return advance

    if module is not None:
        module.operation.walk(note)
    if not left:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return f"this model cannot be written as TFLite: {reason}"
    # Such as loc(callsite("fft" at "jit(f)"(callsite("Layer.__call__"("layer.py":12:4) at ...)))), the innermost first.
    text = str(left[0].location)
    name = re.search(r'"([^"]*)"', text)
    primitive = name[1].rpartition("/")[2] if name else left[0].name
    frames = re.findall(r'"([^"]+)"\("([^"]+)":(\d+)', text)
    own = [frame for frame in frames if not any(part in frame[1] for part in LIBRARIES)]
    where = " ({1}:{2}, in {0})".format(*own[0]) if own else ""
    return f"TFLite has no operation for JAX's '{primitive}'{where}"


def _check(path, model, images):
    """Returns how many images at a time a model takes; raises `UserError` where it cannot be calibrated with these."""
    from ai_edge_litert.tools import flatbuffer_utils as tools

    graph = tools.read_model_from_bytearray(model).subgraphs[0]
    batch, *shape = graph.tensors[graph.inputs[0]].shape
    if list(images.shape[1:]) != shape or images.dtype != np.uint8:
        raise UserError(f"{path} takes uint8 images of {shape}, not {images.dtype} {list(images.shape[1:])}")
    if len(images) < batch:
        raise UserError(f"{path} takes {batch} images at a time, of which {len(images)} cannot calibrate it")
    if any(t.quantization is not None and t.quantization.scale is not None for t in graph.tensors):
        raise UserError(f"{path} is int8 already: give the float32 model")
    return batch


def _tidy(data):
    """Returns a quantized flatbuffer without what only its quantizer needed, and with the last softmax in float32.

    In steps of 1/256, the probabilities of a thousand classes would vanish and no longer sum to 1.
    """
    from ai_edge_litert.tools import flatbuffer_utils as tools

    model = tools.convert_bytearray_to_object(data)
    graph = model.subgraphs[0]
    for tensor in graph.tensors:
        if tensor.quantization is not None:  # the ranges, of which scales were made; a twelfth of a small model
            tensor.quantization.min = tensor.quantization.max = None
    for operator in graph.operators:
        if tools.opcode_to_name(model, operator.opcodeIndex) == "PADV2":
            _quantize_padding(model, graph, operator, tools)
    made_by = {operator.outputs[0]: operator for operator in graph.operators}
    for last in [made_by[output] for output in graph.outputs]:
        before = made_by.get(last.inputs[0])
        kinds = [tools.opcode_to_name(model, o.opcodeIndex) if o else "" for o in (before, last)]
        if kinds == ["SOFTMAX", "DEQUANTIZE"]:
            _swap(before, last)
            between = graph.tensors[before.outputs[0]]
            between.type, between.quantization = tools.TensorType.FLOAT32, None
    return bytes(tools.convert_object_to_bytearray(model))


def _swap(first, second):
    """Exchanges what two operators do; each keeps its tensors."""
    for field in ("opcodeIndex", "builtinOptions", "builtinOptionsType"):
        ours, theirs = getattr(first, field), getattr(second, field)
        setattr(first, field, theirs)
        setattr(second, field, ours)


def _quantize_padding(model, graph, operator, tools):
    """Gives an int8 padding, as of a max pooling, a value of int8.

    The quantizer leaves it float32, which LiteRT refuses.
    """
    padded, _, value = (graph.tensors[i] for i in operator.inputs)
    if (padded.type, value.type) != (tools.TensorType.INT8, tools.TensorType.FLOAT32):
        return
    number = np.frombuffer(bytes(model.buffers[value.buffer].data), np.float32)[0]
    steps = float(number) / float(padded.quantization.scale[0]) + padded.quantization.zeroPoint[0]
    buffer = tools.BufferT()
    buffer.data = np.array([np.clip(np.rint(steps), -128, 127)], np.int8).view(np.uint8)
    model.buffers.append(buffer)
    tensor = copy.copy(value)  # another operator may have the same
    tensor.type, tensor.quantization, tensor.buffer = padded.type, padded.quantization, len(model.buffers) - 1
    graph.tensors.append(tensor)
    operator.inputs = [*operator.inputs[:2], len(graph.tensors) - 1]
