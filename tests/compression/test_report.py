"""The report that compares models: costs from the graph, times and accuracy from running it."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.browser import browse
from tests.support.tiny_bundle import write_bundle
from vision import cli
from vision.compression import report
from vision.compression.costs import costs

pytestmark = pytest.mark.long


def test_costs_are_those_of_the_formulas(tmp_path):
    """A grouped convolution with stride 2, then a matrix product, of 12 px images."""
    arrays = {
        "w": np.ones((8, 2, 3, 3), np.float32),
        "b": np.ones(8, np.float32),
        "m": np.ones((8, 5), np.float32),
    }
    nodes = [
        helper.make_node(
            "Conv", ["x", "w", "b"], ["y"], group=2, strides=[2, 2], pads=[1, 1, 1, 1]
        ),
        helper.make_node("GlobalAveragePool", ["y"], ["z"]),
        helper.make_node("Flatten", ["z"], ["f"]),
        helper.make_node("MatMul", ["f", "m"], ["out"]),
    ]
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 4, 12, 12])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph(
        nodes, "g", [shape], [out], [numpy_helper.from_array(a, k) for k, a in arrays.items()]
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
        tmp_path / "m.onnx",
    )
    counted = costs(tmp_path / "m.onnx")
    assert counted["parameters"] == 8 * 2 * 9 + 8 + 8 * 5
    assert counted["macs"] == 8 * 6 * 6 * (2 * 9) + 8 * 5
    assert counted["bytes"] == (tmp_path / "m.onnx").stat().st_size


def test_the_front_holds_what_nothing_beats():
    cost = [3, 1, 2, 4, 2]
    value = [0.9, 0.5, 0.4, 0.9, 0.8]
    assert report.front(cost, value) == [1, 4, 0]


def test_the_command(tmp_path, capsys):
    for name in ("first", "second"):
        write_bundle(tmp_path / name, [str(i) for i in range(10)], 8, 1)
    argv = [str(tmp_path / "first"), str(tmp_path / "second"), "--data=digits", "--split=test"]
    cli.run(report.main, [*argv, f"--out={tmp_path}/out"])
    results = json.loads((tmp_path / "out" / "report.json").read_text())
    first, second = results["models"]
    assert first["accuracy"] == second["accuracy"] and second["change"]["difference"] == 0
    assert first["macs"] == 64 * 6 + 6 * 10
    assert first["latency_32"]["p50"] <= first["latency_32"]["p99"]
    assert "first: 0.00 MB, 444 parameters" in capsys.readouterr().out
    with browse(f"file://{tmp_path}/out/report.html") as page:
        page.check()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "which models?"),
        (["x"], "where to?"),
        (["x", "--out=out"], "not a run directory"),
    ],
)
def test_mistakes(argv, message, capsys):
    with pytest.raises(SystemExit) as error:
        cli.run(report.main, argv)
    assert error.value.code == 2 and message in capsys.readouterr().err
