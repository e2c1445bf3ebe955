"""TFLite in int8: TensorFlow's quantizer, and fixes of its results for LiteRT."""

import copy
import pathlib

import numpy as np

from vision.errors import UserError, first_line
from vision.export.tflite import pack
from vision.support.extras import require
from vision.support.files import replacing

MIN_IMAGES = 10  # to calibrate with
PRODUCTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")  # operators with weights
UNIT_SCALE = np.float32(1e-3)  # the scale of tensors whose values are all 0


def quantize(
    model_path: pathlib.Path | str, out_path: pathlib.Path | str, images: np.ndarray
) -> None:
    """Converts a float32 file to int8: weights per channel, activations by their range over images.

    Products, convolutions and everything between them are integer; LiteRT's quantizer leaves
    divisions in float32, and this function the softmax at the end. Inputs and outputs stay the
    same.

    Args:
        model_path: the float32 .tflite file.
        out_path: the .tflite file to write.
        images: to calibrate with, uint8 (N, H, W, channels) of the training data, N at least 10.

    Raises:
        UserError: the images are too few or of another size; the model is int8 already;
            ai-edge-litert is not installed.
        OSError: a file cannot be read or written.
    """
    if len(images) < MIN_IMAGES:
        raise UserError(
            f"{len(images)} images are too few to calibrate with: give at least {MIN_IMAGES}, "
            "preferably 200"
        )
    require("int8 in TFLite", "export", only=("ai-edge-litert",))
    # TensorFlow's calibrator: LiteRT has its engine without a Python wrapper of its own
    from ai_edge_litert._pywrap_tensorflow_lite_calibration_wrapper import CalibrationWrapper

    # the calibrator reads from these bytes until the end, and does not keep them alive
    float_model = pathlib.Path(model_path).read_bytes()
    batch = _checked_batch(model_path, float_model, images)
    # of inputs, outputs, activations and biases
    kinds = [np.dtype(name).num for name in ("uint8", "float32", "int8", "int32")]
    try:
        calibrator = CalibrationWrapper(float_model, [], [])
        calibrator.Prepare()
        for start in range(0, len(images) - batch + 1, batch):
            calibrator.FeedTensor([np.ascontiguousarray(images[start : start + batch])])
        data = calibrator.QuantizeModel(*kinds[:2], True, *kinds[2:], False, False)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{model_path} cannot be quantized: {first_line(error)}") from error
    with replacing(out_path, binary=True) as file:
        file.write(_tidy(data, float_model))


def _checked_batch(path, model, images):
    """Returns a model's batch size.

    Raises:
        UserError: the model cannot be calibrated with these images.
    """
    from ai_edge_litert.tools import flatbuffer_utils as tools

    graph = tools.read_model_from_bytearray(model).subgraphs[0]
    batch, *shape = graph.tensors[graph.inputs[0]].shape
    if list(images.shape[1:]) != shape or images.dtype != np.uint8:
        raise UserError(
            f"{path} takes uint8 images of {shape}, not {images.dtype} {list(images.shape[1:])}"
        )
    if len(images) < batch:
        raise UserError(
            f"{path} takes batches of {batch} images: {len(images)} are too few to calibrate it"
        )
    if any(t.quantization is not None and t.quantization.scale is not None for t in graph.tensors):
        raise UserError(f"{path} is int8 already: give the float32 model")
    return batch


def _tidy(data, float_data):
    """Returns a quantized flatbuffer without leftovers of its quantizer, with fixes.

    The last softmax is in float32: in steps of 1/256, the probabilities of a thousand classes would
    vanish and no longer sum to 1.

    Args:
        data: the quantized flatbuffer.
        float_data: the float32 flatbuffer that it was made from.
    """
    from ai_edge_litert.tools import flatbuffer_utils as tools

    model = tools.convert_bytearray_to_object(data)
    graph = model.subgraphs[0]
    _fix_zero_scales(model, tools.convert_bytearray_to_object(bytearray(float_data)), tools)
    for tensor in graph.tensors:
        tensor.name = b""
        # the ranges that the scales were computed from; a twelfth of a small model
        if tensor.quantization is not None:
            tensor.quantization.min = None
            tensor.quantization.max = None
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
            between.type = tools.TensorType.FLOAT32
            between.quantization = None
    return pack(model, tools)


def _add_buffer(model, array, tools):
    """Adds a buffer with an array's values to a model; returns its index."""
    buffer = tools.BufferT()
    buffer.data = array.reshape(-1).view(np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def _fix_zero_scales(model, float_model, tools):
    """Gives tensors that are all 0 a scale, which the quantizer leaves at 0.

    The weights that such tensors are multiplied by have no scale either: they are quantized again.

    Args:
        model: the quantized model, changed in place.
        float_model: the float32 model that it was made from.
        tools: the module `ai_edge_litert.tools.flatbuffer_utils`.
    """
    graph = model.subgraphs[0]
    tiny = np.finfo(np.float32).tiny
    empty = set()
    for index, tensor in enumerate(graph.tensors):
        scale = None if tensor.quantization is None else tensor.quantization.scale
        if scale is not None and (scale < tiny).any():
            tensor.quantization.scale = np.where(scale < tiny, UNIT_SCALE, scale)
            empty.add(index)
    floats = {
        tensor.name: float_model.buffers[tensor.buffer].data
        for tensor in float_model.subgraphs[0].tensors
    }
    for operator in graph.operators:
        if tools.opcode_to_name(model, operator.opcodeIndex) not in PRODUCTS:
            continue
        activation, *constants = operator.inputs
        constants = [
            graph.tensors[i]
            for i in constants
            if i >= 0 and floats.get(graph.tensors[i].name) is not None
        ]
        if activation not in empty or not constants:
            continue
        if constants[0].type != tools.TensorType.INT8:
            continue
        _requantize(model, graph.tensors[activation], constants, floats, tools)


def _requantize(model, activation, constants, floats, tools):
    """Quantizes an operator's weights, and its bias, again from their float values.

    Args:
        model: the quantized model, changed in place.
        activation: the tensor that the weights are multiplied by.
        constants: the tensors of the weights and, if there is one, of the bias.
        floats: {tensor name: bytes of its float32 values}.
        tools: the module `ai_edge_litert.tools.flatbuffer_utils`.
    """

    def store(tensor, scale, steps, dtype):
        tensor.buffer = _add_buffer(model, np.rint(steps).astype(dtype), tools)
        tensor.quantization.scale = scale.astype(np.float32)

    weights, *biases = constants
    values = np.frombuffer(bytes(floats[weights.name]), np.float32).reshape(weights.shape)
    axis = weights.quantization.quantizedDimension
    values = np.moveaxis(values, axis, -1)
    scale = np.abs(values).max(tuple(range(values.ndim - 1))) / 127
    scale[scale == 0] = UNIT_SCALE
    store(weights, scale, np.moveaxis(values / scale, -1, axis), np.int8)
    for bias in biases:
        scale = activation.quantization.scale * scale
        steps = np.frombuffer(bytes(floats[bias.name]), np.float32) / scale
        store(bias, scale, steps, np.int32)


def _swap(first, second):
    """Exchanges the operations of two operators; each keeps its tensors."""
    for field in ("opcodeIndex", "builtinOptions", "builtinOptionsType"):
        value = getattr(first, field)
        setattr(first, field, getattr(second, field))
        setattr(second, field, value)


def _quantize_padding(model, graph, operator, tools):
    """Gives an int8 padding, such as that of a max pooling, an int8 value.

    The quantizer leaves it float32, which LiteRT refuses.
    """
    padded, _, value = (graph.tensors[i] for i in operator.inputs)
    if (padded.type, value.type) != (tools.TensorType.INT8, tools.TensorType.FLOAT32):
        return
    number = np.frombuffer(bytes(model.buffers[value.buffer].data), np.float32)[0]
    steps = float(number) / float(padded.quantization.scale[0]) + padded.quantization.zeroPoint[0]
    step = np.array([np.clip(np.rint(steps), -128, 127)], np.int8)
    tensor = copy.copy(value)  # another operator may use the same one
    tensor.type = padded.type
    tensor.quantization = padded.quantization
    tensor.buffer = _add_buffer(model, step, tools)
    graph.tensors.append(tensor)
    operator.inputs = [*operator.inputs[:2], len(graph.tensors) - 1]
