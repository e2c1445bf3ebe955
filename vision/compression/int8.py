"""INT8 by ONNX Runtime: unsigned activations, signed weights with a scale for each channel, in the
QDQ format.

Products and convolutions with constant weights become integer arithmetic, and what lies between two
convolutions does too: additions, pools, activations. What follows a matrix product stays in float,
and so do normalizations, softmax and attention, which are small and lose most. On a CPU without
integer dot products (VNNI), sums of two products of 8 bits saturate at 16; there weights have 7
bits (Jacob et al. 2018, arXiv:1712.05877, for the arithmetic).
"""

import contextlib
import copy
import io
import logging
import pathlib
import platform
import re
import tempfile

import numpy as np

from vision.errors import UserError, check_choice
from vision.export.onnx import save

METHODS = ("minmax", "entropy", "percentile")
LEAST = 16  # images to calibrate with
CHUNK = 8  # images whose activations are in memory at a time
BINS = {
    "minmax": {},
    "entropy": {"num_bins": 512},
    "percentile": {"num_bins": 2048, "symmetric": False},
}
# of 8-bit numbers into 32 bits, as Linux names them
DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "asimddp")
CONVOLUTIONS = ("Conv", "ConvTranspose")
WEIGHTED = (*CONVOLUTIONS, "Gemm", "MatMul")
BETWEEN = (
    *("Add", "Mul", "Relu", "Clip", "LeakyRelu", "Concat", "Split", "Slice", "Pad"),
    *(
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
    ),
)
NEEDS = "quantizing needs more: pip install 'vision[compression]'"


def quantize(model_path, out_path, images, method="minmax", keep_float=(), weight_bits=0):
    """Writes a float32 ONNX model again, in INT8.

    Args:
        model_path: of a model whose one input is uint8 images, as `vision.export.onnx.write` writes
            it.
        out_path: where to.
        images: uint8 (N, H, W, C), of the training split; they give the activations' ranges.
        method, weight_bits: see `Calibrated`.
        keep_float: names of `Calibrated.layers` that stay as they are.

    Raises:
        UserError: see `Calibrated`; or no layer has a name of `keep_float`.
    """
    save(Calibrated(model_path, images, method, weight_bits).model(keep_float), out_path)


def dot_product():
    """Returns which of `DOT_PRODUCTS` this CPU has; "none" where it has none, or does not say."""
    if platform.machine() in ("arm64", "aarch64") and platform.system() == "Darwin":
        return "asimddp"
    info = pathlib.Path("/proc/cpuinfo")
    words = set(re.findall(r"\w+", info.read_text())) if info.is_file() else set()
    return next((name for name in DOT_PRODUCTS if name in words), "none")


class Calibrated:
    """A float32 model and the range of each of its activations: INT8 models are made from it, as
    many as one likes.

    Args:
        path: of the model, ONNX.
        images: uint8 (N, H, W, C), at least `LEAST`.
        method: how an activation's range follows from its values on these images: "minmax", all of
            them; "entropy", the range whose 8-bit histogram tells most of them (Migacz 2017,
            TensorRT); "percentile", all but the 1e-5 that are farthest out.
        weight_bits: 8, or 7 for CPUs without integer dot products; 0 = as this CPU is.

    Attributes:
        layers: {name: what it is} of every layer with weights that can be INT8, in the graph's
            order.
        weight_bits: 7 or 8.

    Raises:
        UserError: the model cannot be read, is quantized already, or has no layer to quantize; too
            few images, or of another size; `method` is unknown; ONNX Runtime's quantizer is not
            installed.
    """

    def __init__(self, path, images, method="minmax", weight_bits=0):
        check_choice("calibration", method, METHODS)
        check_choice("weight_bits", weight_bits, (0, 7, 8))
        if len(images) < LEAST:
            raise UserError(
                f"{len(images)} images to calibrate with are too few: give at least {LEAST}"
            )
        self.weight_bits = weight_bits or (7 if dot_product() == "none" else 8)
        with tempfile.TemporaryDirectory() as folder, _quiet():
            prepared = pathlib.Path(folder, "prepared.onnx")
            self._model = _prepare(path, prepared)
            graph = self._model.graph
            constants = {array.name: array for array in graph.initializer}
            self.layers = {
                node.name: _describe(node, constants[node.input[1]])
                for node in graph.node
                if node.op_type in WEIGHTED and node.input[1] in constants
            }
            if not self.layers:
                raise UserError(
                    f"{path} has no convolution and no product with constant weights: nothing to quantize"
                )
            chosen = set(_chosen(graph, self.layers))
            kinds = sorted({node.op_type for node in graph.node if node.name in chosen})
            self._ranges = _ranges(prepared, images, method, kinds, folder)

    def model(self, keep_float=()):
        """Returns an `onnx.ModelProto` in INT8, but for the layers that `keep_float` names."""
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        for name in keep_float:
            check_choice("keep_float", name, tuple(self.layers))
        model = copy.deepcopy(self._model)
        nodes = _chosen(model.graph, self.layers.keys() - set(keep_float))
        if nodes:
            options = {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}
            kinds = (QuantType.QInt8, QuantType.QUInt8)
            ops = [*WEIGHTED, *BETWEEN]
            with _quiet():
                quantizer = QDQQuantizer(
                    model,
                    True,
                    self.weight_bits == 7,
                    *kinds,
                    self._ranges,
                    nodes,
                    [],
                    ops,
                    options,
                )
                model = quantizer.quantize_model()
        _derive(model.graph)
        _shrink(model)
        return model


def is_quantized(path):
    """Whether an ONNX file holds 8-bit numbers already; raises `UserError` where it cannot be
    read."""
    return any(
        node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in _load(path).graph.node
    )


def _load(path):
    try:
        import onnx
    except ImportError as error:
        raise UserError(NEEDS) from error
    try:
        return onnx.load(path)
    except Exception as error:  # a DecodeError of protobuf, an OSError, and others
        raise UserError(f"{path} cannot be read as an ONNX model: export it again") from error


def _prepare(path, prepared):
    """Writes the model as the quantizer needs it, batch norms folded and every shape known, and
    returns it."""
    if is_quantized(path):
        raise UserError(f"{path} is quantized already: give the float32 model")
    try:
        import onnx
        from onnxruntime.quantization import quant_pre_process
        from onnxruntime.quantization.quant_utils import load_model_with_shape_infer
    except ImportError as error:
        raise UserError(NEEDS) from error
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    model = onnx.load(prepared)
    if any(array.data_type == onnx.TensorProto.FLOAT16 for array in model.graph.initializer):
        raise UserError(f"{path} is in float16: give the float32 model")
    # the quantizer knows nodes by their names, which need not differ
    for i, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{i}"
    onnx.save(model, prepared)
    return load_model_with_shape_infer(prepared)


def _describe(node, weights):
    """Returns what a layer is, such as "Conv_12: 3x3, 32 to 64"."""
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    if node.op_type not in CONVOLUTIONS:
        return f"{node.name}: {' x '.join(map(str, weights.dims))}"
    outer, inner, *kernel = weights.dims
    kind = "x".join(map(str, kernel)) + (" depthwise" if group > 1 and inner == 1 else "")
    return f"{node.name}: {kind}, {inner * group} to {outer}"


def _chosen(graph, layers):
    """Returns the names of the nodes that become INT8: some layers, and what lies between two
    convolutions."""
    constants = {array.name for array in graph.initializer}
    integer = set()
    found = []
    for node in graph.node:
        if node.name in layers:
            found.append(node.name)
            integer.update(node.output if node.op_type in CONVOLUTIONS else ())
        elif node.op_type in BETWEEN:
            values = [name for name in node.input if name and name not in constants]
            if values and all(name in integer for name in values):
                found.append(node.name)
                integer.update(node.output)
    return found


def _ranges(path, images, method, ops, folder):
    """Returns the ranges of what goes into and comes out of some operators, as
    `onnxruntime.quantization` has them."""
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    kind = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}[method]
    calibrator = create_calibrator(
        path,
        ops,
        str(pathlib.Path(folder, "watched.onnx")),
        CalibrationMethod[kind],
        extra_options=BINS[method],
    )
    (taken,) = calibrator.infer_session.get_inputs()
    if images.dtype != np.uint8 or list(images.shape[1:]) != taken.shape[1:]:
        raise UserError(
            f"the model takes uint8 images of {taken.shape[1:]}, not {images.dtype} of {images.shape[1:]}"
        )
    size = taken.shape[0] if isinstance(taken.shape[0], int) else CHUNK
    for start in range(0, len(images), size):
        chunk = np.take(images, range(start, start + size), axis=0, mode="wrap")  # all of one size
        calibrator.collect_data(_reader(taken.name, chunk))
    return calibrator.compute_data()


def _reader(name, images):
    """Returns a `CalibrationDataReader` of one batch."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        batches = iter([{name: images}])

        def get_next(self):
            return next(self.batches, None)

    return Reader()


def _derive(graph):
    """Leaves out what a runtime knows or computes as it loads.

    The scales of biases are products of two others; the zero points of biases and of convolutions'
    weights are 0. Those of other weights stay: without them ONNX Runtime computes the product in
    float.
    """
    from onnx import helper

    arrays = {array.name: array for array in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    products = []
    for node in graph.node:
        if node.op_type not in WEIGHTED:
            continue
        taken, weights, bias = (made_by.get(name) for name in (*node.input, "", "")[:3])
        if (
            node.op_type in CONVOLUTIONS
            and weights is not None
            and weights.op_type == "DequantizeLinear"
        ):
            del weights.input[2:]
        if bias is not None and bias.op_type == "DequantizeLinear" and bias.input[1] in arrays:
            products.append(
                helper.make_node("Mul", [taken.input[1], weights.input[1]], [bias.input[1]])
            )
            del bias.input[2:]
    nodes = [*products, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    needed = {name for node in nodes for name in node.input} - {node.output[0] for node in products}
    kept = [array for array in graph.initializer if array.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _shrink(model):
    """Drops what no runtime needs: shapes within and long names; and holds equal constants, such as
    zeros, once."""
    from onnx import numpy_helper

    graph = model.graph
    del graph.value_info[:], model.metadata_props[:]
    short = {value.name: value.name for value in (*graph.input, *graph.output)}
    held = {}
    kept = []
    for array in graph.initializer:
        values = numpy_helper.to_array(array)
        key = (array.data_type, values.shape, values.tobytes())
        if key not in held:
            held[key] = f"c{len(held)}"
            kept.append(numpy_helper.from_array(values, held[key]))
        short[array.name] = held[key]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = name and short.setdefault(name, f"t{len(short)}")
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.name = ""


@contextlib.contextmanager
def _quiet():
    """Silences what the quantizer prints, and logs, of its own progress."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)
