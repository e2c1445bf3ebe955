"""TFLite, for LiteRT on phones and small boards: StableHLO by `jax.export`, converted without
TensorFlow.

The input `images` is uint8 (batch, H, W, C), the batch fixed; the outputs are `probabilities` and
`embedding`, float32.
"""

import contextlib
import copy
import pathlib
import sys

import jax
import numpy as np
from jax import export as jax_export

from vision.bundle.runtimes import OUTPUTS, open_model
from vision.errors import UserError, first_line
from vision.export.explain import refused
from vision.models.layers import activations, convolution
from vision.support.files import replacing

NAME = "model.tflite"
TOLERANCE = {"float32": 1e-4, "float16": 5e-2}
INSTALL = "exporting to TFLite needs more: pip install 'vision[export]'"
FEWEST = 10  # images to calibrate with
PRODUCTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")  # by weights
UNIT = np.float32(1e-3)  # the scale of numbers that are all 0
SMALL = 1024  # bytes of a constant that is not worth an operator


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
    size = batch or 1
    try:
        with _own_operators():  # traced anew: JAX keeps what it has traced of a function
            data = _convert(
                lambda images: program.function(images), [program.shape(size)], ["images"], OUTPUTS
            )
    except UserError:
        raise
    except Exception as error:  # its exceptions have no common type
        raise UserError(_explain(error, program, size)) from error
    with replacing(path, binary=True) as file:
        file.write(data)


def load(path):
    """Returns `run(images) -> (probabilities, embedding)`: NumPy, float32, of any number of images;
    by LiteRT.

    Raises:
        UserError: the file cannot be loaded; ai-edge-litert is not installed.
    """
    return open_model(path).run


def to_float16(path, out):
    """Writes a float32 model again with weights in float16; arithmetic, inputs and outputs stay as
    they are.

    LiteRT widens the weights when it loads them; its GPU delegates compute with them as they are.

    Raises:
        UserError: ai-edge-litert is not installed.
        OSError: a file cannot be read or written.
    """
    try:
        from ai_edge_litert.tools import flatbuffer_utils as tools
    except ImportError as error:
        raise UserError(INSTALL) from error
    model = tools.read_model(str(path))
    halved = set()
    for graph in model.subgraphs:
        _halve(model, graph, halved, tools)
    with replacing(out, binary=True) as file:
        file.write(_pack(model, tools))


def quantize(model_path, out_path, images):
    """Writes a float32 model again in int8: weights per channel, activations by their range over
    images.

    Products, convolutions and what is between them are integer; LiteRT's quantizer leaves
    divisions, and we the softmax at the end, in float32. Inputs and outputs stay as they are.

    Args:
        model_path, out_path: of the .tflite files.
        images: to calibrate with, uint8 (N, H, W, channels) of the training data, N at least 10.

    Raises:
        UserError: too few images, or of another size; the model is int8 already; ai-edge-litert is
            not installed.
        OSError: a file cannot be read or written.
    """
    if len(images) < FEWEST:
        raise UserError(
            f"{len(images)} images are too few to calibrate with: give {FEWEST} or more, better 200"
        )
    try:
        # TensorFlow's calibrator, of which LiteRT has the engine without its Python wrapper.
        from ai_edge_litert._pywrap_tensorflow_lite_calibration_wrapper import CalibrationWrapper
    except ImportError as error:
        raise UserError(INSTALL) from error
    # the calibrator reads from it until the end, and does not keep it
    model = pathlib.Path(model_path).read_bytes()
    batch = _check(model_path, model, images)
    # input, output, activations, biases
    kinds = [np.dtype(name).num for name in ("uint8", "float32", "int8", "int32")]
    try:
        calibrator = CalibrationWrapper(model, [], [])
        calibrator.Prepare()
        for start in range(0, len(images) - batch + 1, batch):
            calibrator.FeedTensor([np.ascontiguousarray(images[start : start + batch])])
        data = calibrator.QuantizeModel(*kinds[:2], True, *kinds[2:], False, False)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{model_path} cannot be quantized: {str(error).splitlines()[0]}"
        ) from error
    with replacing(out_path, binary=True) as file:
        file.write(_tidy(data, model))


@contextlib.contextmanager
def _own_operators():
    """Has models compute GELU by LiteRT's operator, and mean pools as the convolutions that they
    are.

    The converter writes erf as a polynomial, of whose factors int8 leaves little, and has for such
    pools an operator that cannot be int8.
    """
    gelu = activations.gelu
    pool = convolution.avg_pool
    composite = jax.lax.composite(lambda x, approximate: gelu(x), name="aten.gelu.default")
    own = {gelu: lambda x: composite(x, approximate="none"), pool: _pool}
    modules = [module for module in list(sys.modules.values()) if hasattr(module, "__dict__")]
    uses = [
        (module, f.__name__, f)
        for module in modules
        for f in own
        if vars(module).get(f.__name__) is f
    ]
    for module, name, function in uses:
        setattr(module, name, own[function])
    try:
        yield
    finally:
        for module, name, function in uses:
            setattr(module, name, function)


def _pool(x, size, stride, padding=0):
    """`vision.models.layers.convolution.avg_pool` by a convolution."""
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
    """Returns a flatbuffer, bytes, of a function of arrays, whose inputs and outputs get these
    names."""
    try:
        import litert_converter.mlir  # noqa: F401  it makes the dialects known
        from litert_converter import converter_api_ext as converter
        from litert_converter.mlir import ir, passmanager
        from litert_converter.mlir.dialects import stablehlo
    except ImportError as error:
        raise UserError(INSTALL) from error
    artifact = jax_export.export(jax.jit(function), platforms=("cpu",))(
        *shapes
    ).mlir_module_serialized
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
    """Returns what the converter's exception says of the model, and where it lies: its own
    locations are often off."""

    def refuses(function, shapes):
        outputs = [f"y{i}" for i in range(len(jax.eval_shape(function, *shapes)))]
        try:
            _convert(function, shapes, [f"x{i}" for i in range(len(shapes))], outputs)
        except Exception:  # of one kind or another: it is refused
            return True
        return False

    primitive, where = refused(program, batch, refuses)
    if primitive:
        return f"TFLite has no operation for JAX's '{primitive}'" + (f" ({where})" if where else "")
    reason = first_line(error)
    return f"this model cannot be written as TFLite: {reason}"


def _halve(model, graph, halved, tools):
    """Stores a graph's float32 constants as float16, each followed by an operator that makes it
    float32 again.

    `halved` has the indices of the buffers that are float16 by then: tensors may share one.
    """
    dequantize = _opcode(model, "DEQUANTIZE", tools)
    operators = []
    for index in sorted({i for operator in graph.operators for i in operator.inputs if i >= 0}):
        tensor = graph.tensors[index]
        buffer = model.buffers[tensor.buffer]
        if (
            tensor.type != tools.TensorType.FLOAT32
            or buffer.data is None
            or len(buffer.data) < SMALL
        ):
            continue
        if tensor.buffer not in halved:
            halved.add(tensor.buffer)
            buffer.data = (
                np.frombuffer(bytes(buffer.data), np.float32).astype(np.float16).view(np.uint8)
            )
        half = copy.copy(tensor)
        half.type = tools.TensorType.FLOAT16
        half.name = tensor.name + b"_half"
        graph.tensors.append(half)
        tensor.buffer = 0  # of no data: it is computed
        operator = tools.OperatorT()
        operator.opcodeIndex = dequantize
        operator.inputs = [len(graph.tensors) - 1]
        operator.outputs = [index]
        operators.append(operator)
    graph.operators = [*operators, *graph.operators]


def _check(path, model, images):
    """Returns how many images at a time a model takes; raises `UserError` where it cannot be
    calibrated with these."""
    from ai_edge_litert.tools import flatbuffer_utils as tools

    graph = tools.read_model_from_bytearray(model).subgraphs[0]
    batch, *shape = graph.tensors[graph.inputs[0]].shape
    if list(images.shape[1:]) != shape or images.dtype != np.uint8:
        raise UserError(
            f"{path} takes uint8 images of {shape}, not {images.dtype} {list(images.shape[1:])}"
        )
    if len(images) < batch:
        raise UserError(
            f"{path} takes {batch} images at a time, of which {len(images)} cannot calibrate it"
        )
    if any(t.quantization is not None and t.quantization.scale is not None for t in graph.tensors):
        raise UserError(f"{path} is int8 already: give the float32 model")
    return batch


def _tidy(data, wide):
    """Returns a quantized flatbuffer without what only its quantizer needed, and with the last
    softmax in float32.

    `wide` is the one that it was made of.
    In steps of 1/256, the probabilities of a thousand classes would vanish and no longer sum to 1.
    """
    from ai_edge_litert.tools import flatbuffer_utils as tools

    model = tools.convert_bytearray_to_object(data)
    graph = model.subgraphs[0]
    _mend_scales(model, tools.convert_bytearray_to_object(bytearray(wide)), tools)
    for tensor in graph.tensors:
        tensor.name = b""
        # the ranges, of which scales were made; a twelfth of a small model
        if tensor.quantization is not None:
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
            between.type = tools.TensorType.FLOAT32
            between.quantization = None
    return _pack(model, tools)


def _opcode(model, name, tools):
    """Returns the index of an operator among those that a model names, where it is added if need
    be."""
    names = [tools.opcode_to_name(model, i) for i in range(len(model.operatorCodes))]
    if name not in names:
        code = tools.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(tools.BuiltinOperator, name)
        code.version = 2
        model.operatorCodes.append(code)
        return len(names)
    return names.index(name)


def _hold(model, array, tools):
    """Returns the index of a model's new buffer with an array's numbers."""
    buffer = tools.BufferT()
    buffer.data = array.reshape(-1).view(np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def _mend_scales(model, wide, tools):
    """Gives numbers that are all 0, and so have no scale, one, and what they are multiplied by,
    which then has none."""
    graph = model.subgraphs[0]
    empty = set()
    for index, tensor in enumerate(graph.tensors):
        scale = None if tensor.quantization is None else tensor.quantization.scale
        if scale is not None and (scale < np.finfo(np.float32).tiny).any():
            tensor.quantization.scale = np.where(scale < np.finfo(np.float32).tiny, UNIT, scale)
            empty.add(index)
    floats = {tensor.name: wide.buffers[tensor.buffer].data for tensor in wide.subgraphs[0].tensors}

    def store(tensor, scale, steps, dtype):
        tensor.buffer = _hold(model, np.rint(steps).astype(dtype), tools)
        tensor.quantization.scale = scale.astype(np.float32)

    for operator in graph.operators:
        if tools.opcode_to_name(model, operator.opcodeIndex) not in PRODUCTS:
            continue
        taken, *constants = operator.inputs
        constants = [
            graph.tensors[i]
            for i in constants
            if i >= 0 and floats.get(graph.tensors[i].name) is not None
        ]
        if taken not in empty or not constants or constants[0].type != tools.TensorType.INT8:
            continue
        weights, *biases = constants
        values = np.frombuffer(bytes(floats[weights.name]), np.float32).reshape(weights.shape)
        axis = weights.quantization.quantizedDimension
        values = np.moveaxis(values, axis, -1)
        scale = np.abs(values).max(tuple(range(values.ndim - 1))) / 127
        scale[scale == 0] = UNIT
        store(weights, scale, np.moveaxis(values / scale, -1, axis), np.int8)
        for bias in biases:
            scale = graph.tensors[taken].quantization.scale * scale
            store(
                bias, scale, np.frombuffer(bytes(floats[bias.name]), np.float32) / scale, np.int32
            )


def _pack(model, tools):
    """Returns a flatbuffer, in which vectors that are equal, such as the zero points of channels,
    are held once."""

    class Builder(tools.flatbuffers.Builder):
        held = {}

        def CreateNumpyVector(self, x):
            key = (x.dtype.str, x.tobytes())
            if key not in self.held:
                self.held[key] = super().CreateNumpyVector(x)
            return self.held[key]

    builder = Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _swap(first, second):
    """Exchanges what two operators do; each keeps its tensors."""
    for field in ("opcodeIndex", "builtinOptions", "builtinOptionsType"):
        ours = getattr(first, field)
        theirs = getattr(second, field)
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
    tensor = copy.copy(value)  # another operator may have the same
    tensor.type = padded.type
    tensor.quantization = padded.quantization
    tensor.buffer = _hold(model, np.array([np.clip(np.rint(steps), -128, 127)], np.int8), tools)
    graph.tensors.append(tensor)
    operator.inputs = [*operator.inputs[:2], len(graph.tensors) - 1]
