"""What an ONNX file costs: bytes, parameters, multiplications."""

import pathlib

import numpy as np

PRODUCTS = ("Conv", "Gemm", "MatMul")


def costs(path):
    """Returns {"bytes": int, "parameters": int, "macs": int or None} of an ONNX file.

    Parameters are the numbers stored in it that are no shapes and no scales of a quantization. macs
    are the multiplications with addition of one image in convolutions and matrix products; None
    where a shape is not known.

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
    whole = {onnx.TensorProto.INT64, onnx.TensorProto.BOOL}
    sizes = [
        int(np.prod(array.dims, dtype=np.int64))
        for array in graph.initializer
        if array.data_type not in whole and array.name not in scales
    ]
    products = [_macs(node, shapes) for node in graph.node if node.op_type in PRODUCTS]
    macs = None if None in products else sum(products)
    return {"bytes": pathlib.Path(path).stat().st_size, "parameters": sum(sizes), "macs": macs}


def _shape(value):
    """Returns a tensor's shape; None where a length is not known."""
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None


def _macs(node, shapes):
    out = shapes.get(node.output[0])
    weights = shapes.get(node.input[1])
    if out is None or weights is None:
        return None
    if node.op_type == "Conv":  # weights are (out, in / groups, height, width)
        return int(np.prod(out) * np.prod(weights[1:]))
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return int(
        np.prod(out)
        * (weights[-1] if transposed else weights[-2] if len(weights) > 1 else weights[0])
    )
