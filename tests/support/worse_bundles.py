"""Bundles that are worse than the tiny one, each in one way that a server's clients would see."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.support.tiny_bundle import RESIZE, write_bundle
from vision.bundle.directory import Manifest, write_manifest

CLASSES = [f"class {i}" for i in range(10)]
DARK = 200  # the brightest pixel that the failing bundle can take


def write_wrong_bundle(directory):
    """Writes the tiny bundle with its classes permuted: it is always wrong where that is right."""
    return write_bundle(directory, [*CLASSES[1:], CLASSES[0]])


def write_failing_bundle(directory):
    """Writes the tiny bundle with a square root that does not exist for images with a bright
    pixel, so that its answer is not a number."""
    write_bundle(directory, CLASSES)
    model = onnx.load(directory / "model.onnx")
    graph = model.graph
    (softmax,) = [node for node in graph.node if node.op_type == "Softmax"]
    softmax.input[0] = "sure"
    before = [
        helper.make_node("ReduceMax", ["flat"], ["brightest"], axes=[1]),
        helper.make_node("Sub", ["most", "brightest"], ["room"]),
        helper.make_node("Sqrt", ["room"], ["root"]),
        helper.make_node("Mul", ["root", "nothing"], ["zero"]),
        helper.make_node("Add", ["logits", "zero"], ["sure"]),
    ]
    nodes = [node for node in graph.node if node.op_type != "Softmax"] + [*before, softmax]
    del graph.node[:]
    graph.node.extend(nodes)
    numbers = {"most": DARK, "nothing": 0}
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), name)
        for name, value in numbers.items()
    )
    onnx.save(model, directory / "model.onnx")
    write_manifest(directory, Manifest(CLASSES, 8, 1, resize=RESIZE))
    return directory
