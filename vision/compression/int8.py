"""INT8 models by ONNX Runtime, in the QDQ format.

Activations are unsigned, weights signed with a scale for each channel. Products and convolutions
with constant weights become integer arithmetic, as does everything between two convolutions:
additions, pools, activations. What follows a matrix product stays in float, and so do
normalizations, softmax and attention, which are small and lose most. On a CPU without integer dot
products (VNNI), sums of two products of 8 bits saturate at 16 bits; weights have 7 bits there
(Jacob et al. 2018, arXiv:1712.05877, for the arithmetic).
"""

import contextlib
import copy
import io
import logging
import pathlib
import platform
import re
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from vision.errors import UserError, check_choice, check_range
from vision.export.onnx import save
from vision.support.extras import require

METHODS = ("minmax", "entropy", "percentile")
MIN_IMAGES = 16  # to calibrate with
CHUNK = 8  # images whose activations are in memory at a time
CALIBRATORS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
BINS = {
    "minmax": {},
    "entropy": {"num_bins": 512},
    "percentile": {"num_bins": 2048, "symmetric": False},
}
# instructions on 8-bit numbers into 32 bits, as Linux names them
DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "asimddp")
CONVOLUTIONS = ("Conv", "ConvTranspose")
WEIGHTED = (*CONVOLUTIONS, "Gemm", "MatMul")
BETWEEN = (
    "Add",
    "Mul",
    "Relu",
    "Clip",
    "LeakyRelu",
    "Concat",
    "Split",
    "Slice",
    "Pad",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
)


def quantize(
    model_path: pathlib.Path | str,
    out_path: pathlib.Path | str,
    images: np.ndarray,
    method: str = "minmax",
    keep_float: Sequence[str] = (),
    weight_bits: int = 0,
) -> None:
    """Converts a float32 ONNX file to INT8.

    Args:
        model_path: a model whose only input is uint8 images, as `vision.export.onnx.write` writes
            it.
        out_path: the file to write.
        images: uint8 (N, H, W, C), of the training split; they determine the activations' ranges.
        method, weight_bits: see `CalibratedModel`.
        keep_float: names of `CalibratedModel.layers` that stay in float32.

    Raises:
        UserError: see `CalibratedModel`; or a name of `keep_float` is unknown.
    """
    save(CalibratedModel(model_path, images, method, weight_bits).model(keep_float), out_path)


def dot_product() -> str:
    """Returns which of `DOT_PRODUCTS` this CPU has; "none" if it has none or does not say."""
    if platform.machine() in ("arm64", "aarch64") and platform.system() == "Darwin":
        return "asimddp"
    info = pathlib.Path("/proc/cpuinfo")
    words = set(re.findall(r"\w+", info.read_text())) if info.is_file() else set()
    return next((name for name in DOT_PRODUCTS if name in words), "none")


class CalibratedModel:
    """A float32 model and the range of each of its activations.

    Any number of INT8 models can be made from it.

    Args:
        path: the ONNX file.
        images: uint8 (N, H, W, C), at least `MIN_IMAGES`.
        method: how an activation's range follows from its values on these images: "minmax", all of
            them; "entropy", the range whose 8-bit histogram preserves most information (Migacz
            2017, TensorRT); "percentile", all but the most extreme 1e-5.
        weight_bits: 8, or 7 for CPUs without integer dot products; 0 chooses for this CPU.

    Attributes:
        layers: {name: description} of every layer with weights that can be INT8, in the graph's
            order.
        weight_bits: 7 or 8.

    Raises:
        UserError: the model cannot be read, is quantized already, or has no layer to quantize; the
            images are too few or of another size; `method` is unknown; ONNX Runtime's quantizer is
            not installed.
    """

    def __init__(
        self,
        path: pathlib.Path | str,
        images: np.ndarray,
        method: str = "minmax",
        weight_bits: int = 0,
    ):
        check_choice("calibration", method, METHODS)
        check_range("weight_bits", weight_bits, weight_bits in (0, 7, 8), "0, 7 or 8")
        if len(images) < MIN_IMAGES:
            raise UserError(
                f"{len(images)} images are too few to calibrate with: give at least {MIN_IMAGES}"
            )
        self.weight_bits = weight_bits or (7 if dot_product() == "none" else 8)
        with tempfile.TemporaryDirectory() as folder, _quiet():
            prepared = pathlib.Path(folder, "prepared.onnx")
            self._model = _prepare(path, prepared)
            graph = self._model.graph
            constants = {array.name: array for array in graph.initializer}
            self.layers: dict[str, str] = {
                node.name: _describe(node, constants[node.input[1]])
                for node in graph.node
                if node.op_type in WEIGHTED and node.input[1] in constants
            }
            if not self.layers:
                raise UserError(
                    f"{path} has no convolution and no product with constant weights: there is "
                    "nothing to quantize"
                )
            quantized = set(_quantized_nodes(graph, self.layers))
            kinds = sorted({node.op_type for node in graph.node if node.name in quantized})
            self._ranges = _ranges(prepared, images, method, kinds, folder)

    def model(self, keep_float: Sequence[str] = ()) -> Any:
        """Returns an `onnx.ModelProto` in INT8, except the layers that `keep_float` names."""
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        for name in keep_float:
            check_choice("keep_float", name, tuple(self.layers))
        model = copy.deepcopy(self._model)
        nodes = _quantized_nodes(model.graph, self.layers.keys() - set(keep_float))
        if nodes:
            with _quiet():
                quantizer = QDQQuantizer(
                    model,
                    per_channel=True,
                    reduce_range=self.weight_bits == 7,
                    weight_qType=QuantType.QInt8,
                    activation_qType=QuantType.QUInt8,
                    tensors_range=self._ranges,
                    nodes_to_quantize=nodes,
                    nodes_to_exclude=[],
                    op_types_to_quantize=[*WEIGHTED, *BETWEEN],
                    extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
                )
                model = quantizer.quantize_model()
        _drop_derived(model.graph)
        _shrink(model)
        return model


def is_quantized(path: pathlib.Path | str) -> bool:
    """Returns whether an ONNX file contains quantized operators.

    Raises:
        UserError: the file cannot be read.
    """
    return any(
        node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in _load(path).graph.node
    )


def _load(path):
    require("quantizing", "compression", only=("onnx",))
    import onnx

    try:
        return onnx.load(path)
    except Exception as error:  # a DecodeError of protobuf, an OSError, and others
        raise UserError(f"{path} cannot be read as an ONNX model: export it again") from error


def _prepare(path, prepared):
    """Writes a model as the quantizer needs it, and returns it.

    Batch norms are folded, and every shape is known.
    """
    if is_quantized(path):
        raise UserError(f"{path} is quantized already: give the float32 model")
    require("quantizing", "compression", only=("onnx", "onnxruntime"))
    import onnx
    from onnxruntime.quantization import quant_pre_process
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    model = onnx.load(prepared)
    if any(array.data_type == onnx.TensorProto.FLOAT16 for array in model.graph.initializer):
        raise UserError(f"{path} is in float16: give the float32 model")
    # the quantizer identifies nodes by their names, which need not differ
    for i, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{i}"
    onnx.save(model, prepared)
    return load_model_with_shape_infer(prepared)


def _describe(node, weights):
    """Returns the description of a layer, such as "Conv_12: 3x3, 32 to 64"."""
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    if node.op_type not in CONVOLUTIONS:
        return f"{node.name}: {' x '.join(map(str, weights.dims))}"
    outer, inner, *kernel = weights.dims
    kind = "x".join(map(str, kernel)) + (" depthwise" if group > 1 and inner == 1 else "")
    return f"{node.name}: {kind}, {inner * group} to {outer}"


def _quantized_nodes(graph, layers):
    """Returns the names of the nodes that become INT8.

    These are the given layers, and everything between two convolutions.
    """
    constants = {array.name for array in graph.initializer}
    integer = set()
    names = []
    for node in graph.node:
        if node.name in layers:
            names.append(node.name)
            integer.update(node.output if node.op_type in CONVOLUTIONS else ())
        elif node.op_type in BETWEEN:
            values = [name for name in node.input if name and name not in constants]
            if values and all(name in integer for name in values):
                names.append(node.name)
                integer.update(node.output)
    return names


def _ranges(path, images, method, ops, folder):
    """Returns the ranges of the inputs and outputs of some operators.

    Args:
        path: the prepared model.
        images, method: see `CalibratedModel`.
        ops: kinds of the operators.
        folder: a directory for temporary files.
    """
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    calibrator = create_calibrator(
        path,
        ops,
        str(pathlib.Path(folder, "watched.onnx")),
        CalibrationMethod[CALIBRATORS[method]],
        extra_options=BINS[method],
    )
    (model_input,) = calibrator.infer_session.get_inputs()
    batch, *shape = model_input.shape
    if images.dtype != np.uint8 or list(images.shape[1:]) != shape:
        raise UserError(
            f"the model takes uint8 images of {shape}, not {images.dtype} of {images.shape[1:]}"
        )
    size = batch if isinstance(batch, int) else CHUNK
    for start in range(0, len(images), size):
        # wrapped around, so that all have the same size
        chunk = np.take(images, range(start, start + size), axis=0, mode="wrap")
        calibrator.collect_data(_reader(model_input.name, chunk))
    return calibrator.compute_data()


def _reader(name, images):
    """Returns a `CalibrationDataReader` of a single batch."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        batches = iter([{name: images}])

        def get_next(self):
            return next(self.batches, None)

    return Reader()


def _drop_derived(graph):
    """Drops constants that a runtime assumes or computes as it loads.

    The scales of biases are products of two others; the zero points of biases and of convolutions'
    weights are 0. The zero points of other weights stay: without them ONNX Runtime computes the
    product in float.
    """
    from onnx import helper

    arrays = {array.name: array for array in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    products = []
    for node in graph.node:
        if node.op_type not in WEIGHTED:
            continue
        activation, weights, bias = (made_by.get(name) for name in (*node.input, "", "")[:3])
        if node.op_type in CONVOLUTIONS and _is_dequantized(weights):
            del weights.input[2:]
        if _is_dequantized(bias) and bias.input[1] in arrays:
            scales = [activation.input[1], weights.input[1]]
            products.append(helper.make_node("Mul", scales, [bias.input[1]]))
            del bias.input[2:]
    nodes = [*products, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    needed = {name for node in nodes for name in node.input} - {node.output[0] for node in products}
    kept = [array for array in graph.initializer if array.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _is_dequantized(node):
    return node is not None and node.op_type == "DequantizeLinear"


def _shrink(model):
    """Drops inner shapes and long names, which no runtime needs.

    Equal constants, such as zeros, are stored once.
    """
    from onnx import numpy_helper

    graph = model.graph
    del graph.value_info[:], model.metadata_props[:]
    short = {value.name: value.name for value in (*graph.input, *graph.output)}
    names_by_value = {}
    constants = []
    for array in graph.initializer:
        values = numpy_helper.to_array(array)
        key = (array.data_type, values.shape, values.tobytes())
        if key not in names_by_value:
            names_by_value[key] = f"c{len(names_by_value)}"
            constants.append(numpy_helper.from_array(values, names_by_value[key]))
        short[array.name] = names_by_value[key]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = name and short.setdefault(name, f"t{len(short)}")
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.name = ""


@contextlib.contextmanager
def _quiet():
    """Silences what the quantizer prints and logs about its own progress."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)
