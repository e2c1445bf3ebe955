"""Counts the costs of an ONNX file: bytes, parameters, multiply-adds."""

import pathlib

import numpy as np

PRODUCTS = ("Conv", "Gemm", "MatMul")


def costs(path: pathlib.Path | str) -> dict[str, int | None]:
    """Returns {"bytes": int, "parameters": int, "macs": int or None} of an ONNX file.

    Parameters are the numbers stored in it, except shapes and the scales of a quantization. macs
    are the multiply-adds of convolutions and matrix products for one image; None if a shape is
    unknown.

    Args:
        path: the file.
    """
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel

    model = onnx.load(path)
    # the quantizer appends its nodes, and shapes are inferred in order
    ONNXModel(model).topological_sort()
    del model.graph.value_info[:]  # shapes for any number of images
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    graph = model.graph
    shapes = {
        value.name: _shape(value) for value in (*graph.value_info, *graph.input, *graph.output)
    }
    shapes |= {array.name: tuple(array.dims) for array in graph.initializer}
    scales = {
        name
        for node in graph.node
        if node.op_type.endswith("QuantizeLinear")
        for name in node.input[1:]
    }
    not_parameters = {onnx.TensorProto.INT64, onnx.TensorProto.BOOL}
    sizes = [
        int(np.prod(array.dims, dtype=np.int64))
        for array in graph.initializer
        if array.data_type not in not_parameters and array.name not in scales
    ]
    products = [_macs(node, shapes) for node in graph.node if node.op_type in PRODUCTS]
    macs = None if None in products else sum(products)
    return {"bytes": pathlib.Path(path).stat().st_size, "parameters": sum(sizes), "macs": macs}


def _shape(value):
    """Returns a tensor's shape; None if a length is unknown."""
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None


def _macs(node, shapes):
    """Returns the multiply-adds of a convolution or product; None if a shape is unknown."""
    out = shapes.get(node.output[0])
    weights = shapes.get(node.input[1])
    if out is None or weights is None:
        return None
    if node.op_type == "Conv":  # weights are (out, in / groups, height, width)
        return int(np.prod(out) * np.prod(weights[1:]))
    summed = weights[0]
    if any(a.name == "transB" and a.i for a in node.attribute):
        summed = weights[-1]
    elif len(weights) > 1:
        summed = weights[-2]
    return int(np.prod(out) * summed)
