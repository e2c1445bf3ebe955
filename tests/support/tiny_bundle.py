"""A bundle of a few hundred numbers, its graph built by hand."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vision.bundle.directory import Manifest, write_manifest

RESIZE = {"crop_fraction": 0.875, "interpolation": "bilinear"}


def weights(classes=10, side=8, channels=1, dimensions=6):
    """Returns the two matrices of the model: pixels to embedding, embedding to logits."""
    random = np.random.default_rng(0)
    first = random.normal(size=(side * side * channels, dimensions)) / 255
    return first.astype(np.float32), random.normal(size=(dimensions, classes)).astype(np.float32)


def write_model(
    path,
    batch="B",
    classes=10,
    side=8,
    channels=1,
    last="Softmax",
    kind=TensorProto.UINT8,
    names=None,
    heat=False,
    matrices=None,
):
    """Writes a linear embedding, a linear head and its softmax, or another `last` operator, as
    ONNX.

    With `heat` it returns as `heatmap` the first channel's pixels over 255. `matrices` are those of
    `weights`, to classify something.
    """
    names = names or ("probabilities", "embedding")
    arrays = dict(
        zip(("first", "second"), matrices or weights(classes, side, channels), strict=True)
    )
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "first"], [names[1]]),
        helper.make_node("MatMul", [names[1], "second"], ["logits"]),
        helper.make_node(last, ["logits"], [names[0]]),
    ]
    outputs = [*names, "heatmap"] if heat else names
    if heat:
        arrays |= {"channel": np.array(0, np.int64), "most": np.array(255, np.float32)}
        nodes.append(helper.make_node("Gather", ["float", "channel"], ["gray"], axis=3))
        nodes.append(helper.make_node("Div", ["gray", "most"], ["heatmap"]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", kind, [batch, side, side, channels])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path
    )


def write_bundle(directory, classes=None, side=8, channels=1, model=None, **fields):
    """Writes a bundle and returns its directory.

    `model` are keywords of `write_model`, `fields` are further fields of the `Manifest`.
    """
    classes = classes or [f"class {i}" for i in range(10)]
    directory.mkdir(parents=True, exist_ok=True)
    write_model(
        directory / "model.onnx",
        **{"classes": len(classes), "side": side, "channels": channels} | (model or {}),
    )
    fields = {"resize": RESIZE} | fields
    write_manifest(directory, Manifest(classes, side, channels, **fields))
    return directory


def write_slow_bundle(directory, width=1024, depth=24):
    """Writes a bundle of `depth` matrices of `width` x `width`, one after the other; returns its
    directory.

    Images are 8 x 8, gray; with the defaults each takes a millisecond or two.
    """
    directory.mkdir(parents=True)
    random = np.random.default_rng(0)
    ends = [
        random.normal(0, size[0] ** -0.5, size).astype(np.float32)
        for size in ((64, width), (width, 10))
    ]
    square = random.normal(0, width**-0.5, (width, width)).astype(np.float32)
    names = ["flat", *(f"layer {i}" for i in range(depth)), "embedding", "logits"]
    matrices = ["first", *(f"square {i % 24}" for i in range(depth)), "last"]
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        *(
            helper.make_node("MatMul", [names[i], matrices[i]], [names[i + 1]])
            for i in range(depth + 2)
        ),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    arrays = {"first": ends[0], "last": ends[1]} | dict.fromkeys(set(matrices[1:-1]), square)
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["B", 8, 8, 1])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in ("probabilities", "embedding")
        ],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, directory / "model.onnx")
    classes = [f"class {i}" for i in range(10)]
    write_manifest(directory, Manifest(classes, image_size=8, channels=1, resize=RESIZE))
    return directory
