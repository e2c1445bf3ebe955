"""The benchmarks: what they count, what they write, and that each row of the suites is a command
that parses."""

import importlib
import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.speed import torch_worker
from experiments.speed.torch_side import TorchSide
from scripts.bench import attention, common, flops, inference, page, roofline, suite, train
from vision.config import default
from vision.errors import UserError

TABLES = (suite.GPU, suite.CPU)


def model_config(name, variant):
    c = default().model
    c.name = name
    c.variant = variant
    return c


@pytest.mark.parametrize("size,patch,side", [("S", 16, 224), ("Ti", 4, 32)])
def test_flops_of_a_vit_are_those_of_its_formula(size, patch, side):
    width, depth = {"S": (384, 12), "Ti": (192, 12)}[size]
    patches = (side // patch) ** 2
    n = patches + 1
    first = 2 * patches * patch**2 * 3 * width
    blocks = depth * (2 * 12 * n * width**2 + 2 * 2 * n**2 * width)
    costs = flops.model_costs(model_config("vit", f"{size}/{patch}"), 1000, side)
    assert costs.forward == first + blocks + 2 * width * 1000
    assert costs.train == 3 * costs.forward - first


@pytest.mark.parametrize(
    "variant,side,classes,macs,parameters", [("18", 224, 1000, 1.814e9, 11_689_512)]
)
def test_flops_of_a_resnet_are_the_known_ones(variant, side, classes, macs, parameters):
    """torchvision states 1.814 G multiplications and 11,689,512 parameters."""
    costs = flops.model_costs(model_config("resnet", variant), classes, side)
    assert costs.forward / 2 == pytest.approx(macs, rel=1e-3)
    assert costs.parameters == parameters


def test_recomputation_and_the_kind_of_attention_change_no_count():
    c = model_config("vit", "mu/8")
    plain = flops.model_costs(c, 10, 32)
    c.remat = "blocks"
    c.attention = "xla"
    assert flops.model_costs(c, 10, 32) == plain
    assert (c.remat, c.attention) == ("blocks", "xla")


def test_a_half_as_wide_dtype_halves_the_activations_bytes():
    costs = flops.Costs(0, 0, 1000, 10)
    moved = {
        dtype: roofline.minimal_bytes(costs, 8, dtype, "sgd") for dtype in ("float32", "bfloat16")
    }
    assert moved["float32"] == 5 * 4 * 8000 + 2 * 4 * 10 + 4 * 6 * 10
    assert moved["bfloat16"] == 5 * 2 * 8000 + 2 * 2 * 10 + 4 * 6 * 10


def test_sides_take_turns_and_the_ratio_is_of_speeds():
    called = []
    times = {"ours": iter([1.0, 2.0, 9.0]), "theirs": iter([4.0, 2.0, 8.0])}
    sides = {name: lambda name=name: (called.append(name), next(times[name]))[1] for name in times}
    seconds = common.alternate(sides, 3)
    assert called == ["ours", "theirs"] * 3
    assert common.compare(seconds, "ours", "theirs") == {"ratio": 2.0, "ratio_of_best": 2.0}


def test_rows_of_other_columns_join_one_file(tmp_path):
    path = tmp_path / "new" / "rows.csv"
    common.write_rows(path, [{"a": 1, "b": None}])
    common.write_rows(path, [{"a": 0.123456789, "c": "x, y"}])
    assert common.read_rows(path) == [
        {"a": "1", "b": "", "c": ""},
        {"a": "0.12346", "b": "", "c": "x, y"},
    ]
    common.write_rows("", [{"a": 1}])
    assert list(tmp_path.iterdir()) == [path.parent]


@pytest.mark.parametrize("row", [*suite.GPU, *suite.CPU], ids=lambda row: row.label)
def test_each_row_is_a_command_that_parses(row):
    command = row.command("python")
    assert (
        command[:2] == ["-m", f"scripts.bench.{row.script}"] and f"--label={row.label}" in command
    )
    assert importlib.util.find_spec(command[1])
    if row.script == "train":
        a = train.parse(command[2:])
        assert (a.label, a.goal) == (row.label, row.goal) and a.images >= a.batch
    if row.script == "inference":
        a = inference.parse(command[2:])
        assert (a.label, a.torch_python) == (row.label, "python")
        assert a.against == ["onnx", "torch", "compile"]


def test_labels_are_unique():
    for rows in TABLES:
        labels = [row.label for row in rows]
        assert len(set(labels)) == len(labels)
        assert not any("'" in label for label in labels)  # the page puts them between quotes
    compared = [{row.label for row in rows if row.script in page.COMPARED} for rows in TABLES]
    assert not compared[0] & compared[1]  # the tables find measurements by their labels


def test_only_takes_a_name_or_a_part_of_it():
    name = "ResNet-20, 32 px: torch"
    assert [row.label for row in suite.chosen(suite.CPU, name)] == [name]
    part = [row.label for row in suite.chosen(suite.CPU, "32 px: torch")]
    assert name in part and f"{name}.compile" in part
    assert suite.chosen(suite.CPU, "") == list(suite.CPU)


@pytest.mark.parametrize("against", ["torch", "compile", "xla"])
def test_each_model_is_compared_on_a_cpu(against):
    flags = [train.parse(row.command()[2:]) for row in suite.CPU if row.script == "train"]
    assert [(a.model, a.variant, a.batch) for a in flags if a.against == against] == [
        ("vit", "Ti/4", 64),
        ("resnet", "cifar20", 128),
        ("resnet", "50", 8),
        ("efficientnet_lite", "0", 16),
        ("mobilenet", "large", 16),
        ("convnext", "T", 8),
        ("swin", "T", 8),
    ]


def test_an_epoch_is_all_images_and_its_validation():
    flags = "--model resnet --variant cifar20 --batch 128 --against epoch --steps 3"
    a = train.parse(flags.split())
    assert (a.images, a.steps, a.val_images) == (50_000, 390, 10_000)


@pytest.mark.parametrize(
    "name,variant,side",
    [
        ("vit", "Ti/4", 32),
        ("resnet", "cifar20", 32),
        ("resnet", "50", 64),
        ("efficientnet_lite", "0", 64),
        ("mobilenet", "large", 64),
        ("mobilenet", "small", 64),
        ("convnext", "T", 64),
        ("swin", "T", 224),
    ],
)
def test_torch_s_models_have_our_parameters_and_products(name, variant, side):
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from experiments.speed import torch_models

    module = torch_models.build(name, variant, 10, side).eval()
    costs = flops.model_costs(model_config(name, variant), 10, side)
    assert sum(p.numel() for p in module.parameters()) == costs.parameters
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        assert module(torch.zeros(1, 3, side, side)).shape == (1, 10)
    if name != "vit":  # it does not count fused attention on a CPU
        assert counter.get_total_flops() == costs.forward


def test_the_page_is_filled_between_its_marks_only(tmp_path):
    file = tmp_path / "README.md"
    file.write_text("before\n<!-- gpu -->\nold\n<!-- end -->\nafter\n")
    page.main(["--folder", str(tmp_path)])
    text = file.read_text()
    assert text.startswith("before\n<!-- gpu -->\n| work |") and text.endswith(
        "<!-- end -->\nafter\n"
    )
    assert (
        text.count("not run") == sum(row.script in page.COMPARED for row in suite.GPU)
        and "old" not in text
    )
    file.write_text("<!-- nothing -->\n<!-- end -->\n")
    with pytest.raises(UserError, match="no table 'nothing'"):
        page.main(["--folder", str(tmp_path)])


def test_every_table_of_the_repository_s_page_is_known():
    text = (common.ROOT / common.SPEED / "README.md").read_text()
    assert {line[5:-4] for line in text.splitlines() if line.startswith("<!-- ")} == {
        *page.TABLES,
        "end",
    }


def test_a_training_row_shows_its_speed_and_reaches_the_page(tmp_path, capsys):
    flags = (
        "--variant mu/8 --batch 8 --images 16 --against none --data fixed "
        "--rounds 2 --steps 2 --warmup 1"
    )
    path = tmp_path / "train.csv"
    train.main([*flags.split(), "--csv", str(path), "--label", suite.CPU[0].label])
    (row,) = common.read_rows(path)
    assert float(row["ours_images_per_second"]) > 0 and 0 < float(row["ours_mfu"]) < 1
    assert 0.9 < float(row["program_flops"]) / float(row["model_flops"]) < 1.1
    assert "ratio:" not in capsys.readouterr().out
    (tmp_path / "README.md").write_text("<!-- cpu -->\n<!-- end -->\n")
    page.main(["--folder", str(tmp_path)])
    line = next(
        x for x in (tmp_path / "README.md").read_text().splitlines() if suite.CPU[0].label in x
    )
    assert "images/s; MFU" in line and "not run" not in line


def test_each_machine_has_a_table_of_its_own(tmp_path):
    facts = {"date": "2026-12-01T10:00:00+00:00", "commit": "1"}
    step = {
        "label": "ResNet-50, batch 8: torch",
        "against": "torch",
        "ours_images_per_second": 10.0,
        "theirs_images_per_second": 8.0,
        "ratio": 1.25,
        "ours_mfu": 0.5,
        "rounds": 5,
        "steps": 3,
        "batch": 8,
        "dtype": "float32",
    }
    epoch = step | {"label": "ResNet-20, an epoch: torch", "against": "epoch", "steps": 390}
    epoch |= {"ours_step_ms": 100.0, "theirs_step_ms": 200.0, "images": 50_000, "ratio": 2.0}
    epoch |= {"val_images": 10_000}
    answers = {"label": "ResNet-50, inference of 32", "model": "resnet", "variant": "50"}
    answers |= {"image_size": 224, "batch": 32, "fixed": False, "rounds": 5, "ours_ms": 1600.0}
    answers |= {"onnx_ms": 1584.0, "torch_ms": None, "compile_ms": None, "convolutions": "oneDNN"}
    answers |= {"ratio_onnx": 0.99, "ratio_torch": None, "ratio_compile": None}
    common.write_rows(
        tmp_path / "train.csv",
        [facts | {"device": "A, 2 cores"} | step, facts | {"device": "B, 8 cores"} | epoch],
    )
    common.write_rows(tmp_path / "inference.csv", [facts | {"device": "A, 2 cores"} | answers])
    file = tmp_path / "README.md"
    file.write_text("<!-- cpu -->\n<!-- end -->\n<!-- inference -->\n<!-- end -->\n")
    page.main(["--folder", str(tmp_path)])
    first, second = file.read_text().split("<!-- end -->")[0].split("### ")[1:]
    assert first.startswith("A, 2 cores\n") and second.startswith("B, 8 cores\n")
    assert "**1.25**: 10 images/s against 8; MFU 50 %" in first
    assert "**0.99** of ONNX Runtime: 20 images/s" in first
    assert "**2.00**: 39.0 s against 78.0" in second and "50,000 images" in second
    rows = sum(row.script in page.COMPARED for row in suite.CPU)
    assert (first.count("not run"), second.count("not run")) == (rows - 2, rows - 1)


def test_inference_compares_the_export_with_ours(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "inference.csv"
    flags = "--model vit --variant mu/8 --image-size 32 --classes 10 --batch 2 --against onnx"
    inference.main([*flags.split(), "--rounds", "1", "--seconds", "0", "--csv", str(path)])
    (row,) = common.read_rows(path)
    assert float(row["difference"]) < 1e-4 and float(row["ratio_onnx"]) > 0
    assert row["torch_ms"] == row["ratio_compile"] == "" and row["fixed"] == "False"
    assert capsys.readouterr().out.splitlines()[-1].startswith("ratio to onnx: ")
    with pytest.raises(UserError, match="--against"):
        inference.parse(["--against", "tflite"])


def test_attention_times_each_name_that_runs_here(tmp_path, capsys):
    path = tmp_path / "attention.csv"
    arguments = ["--shapes", "2x5x2x8", "--dtypes", "float32", "--rounds", "2", "--repeats", "1"]
    attention.main([*arguments, "--csv", str(path)])
    rows = common.read_rows(path)
    assert [row["name"] for row in rows] == ["plain", "xla"] and [row["auto"] for row in rows] == [
        "True",
        "False",
    ]
    assert [row["fastest"] for row in rows].count("True") == 1
    assert "skipped: cudnn" in capsys.readouterr().out
    with pytest.raises(UserError, match="BATCHxTOKENSxHEADSxDEPTH"):
        attention.main(["--shapes", "2x5", "--csv", ""])


def test_without_torch_the_reason_is_said(tmp_path):
    with pytest.raises(UserError, match="nowhere/python: No such file"):
        TorchSide("nowhere/python", "step")
    if importlib.util.find_spec("torch") is None:
        with pytest.raises(UserError, match="No module named 'torch'.*--torch-python"):
            TorchSide(sys.executable, "step")


def test_random_boxes_lie_inside():
    rng = np.random.default_rng(0)
    for height, width in ((40, 60), (500, 20)):
        boxes = np.array([torch_worker.random_box(height, width, rng) for _ in range(200)])
        assert (
            (boxes[:, :2] >= 0).all()
            and (boxes[:, 2] <= width).all()
            and (boxes[:, 3] <= height).all()
        )
        assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_files_and_functions_are_short():
    """As tests/test_layout.py demands of the package."""
    import ast

    for path in (common.ROOT / "scripts" / "bench").glob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= 400 and ast.get_docstring(ast.parse(text)), path.name
        functions = [
            node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)
        ]
        assert max((f.end_lineno - f.lineno for f in functions), default=0) <= 60, path.name


def test_peaks_of_known_devices_come_from_the_data_sheet(monkeypatch):
    import jax

    for kind, flops_of in (
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
    ):
        monkeypatch.setattr(jax, "devices", lambda kind=kind: [SimpleNamespace(device_kind=kind)])
        assert common.peaks("bfloat16")[::2] == (flops_of, "data sheet")
        assert common.peaks("float32")[0] < flops_of
