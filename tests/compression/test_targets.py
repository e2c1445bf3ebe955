"""What a report says about each target of a bundle: sizes, times, the export's comparison."""

import gzip
import importlib
import json
import pathlib

import numpy as np
import pytest

from tests.support.browser import browse
from tests.support.npm_packages import packages
from tests.support.programs import linear, program_of
from tests.support.tiny_bundle import write_bundle
from vision import cli
from vision.bundle.directory import open_bundle, read_manifest, write_manifest
from vision.compression import report, targets
from vision.export import web
from vision.export.options import FORMATS

pytestmark = pytest.mark.long

DIGITS = [str(i) for i in range(10)]
COMPARED = {"largest_difference": 2.5e-6, "classes_changed": 0.015625, "images": 64, "of": "noise"}
QUALITY = {
    "precision": "float32",
    "exported": {"model.onnx": COMPARED, "model.tflite": COMPARED | {"classes_changed": 0.0}},
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The directory of a bundle for every target; what cannot run here are files of any bytes."""
    from vision.export import tflite

    folder = write_bundle(tmp_path_factory.mktemp("bundle") / "digits", DIGITS, quality=QUALITY)
    tflite.write(program_of(linear), folder / tflite.NAME)
    (folder / "model.stablehlo").write_bytes(bytes(5000))
    for name in ("model.mlpackage/Data/weights.bin", "saved_model/saved_model.pb"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"abc" * 1000)
    (folder / "model.mlpackage" / "Manifest.json").write_text("{}")
    manifest = read_manifest(folder)
    run = open_bundle(folder).probabilities_and_embeddings
    web.write(folder, "digits", manifest, web.Runtime("litert", packages("litert")), run)
    write_manifest(folder, manifest)
    return folder


def gzipped(*paths):
    return sum(len(gzip.compress(path.read_bytes(), 6)) for path in paths)


def test_each_target_has_its_sizes_and_comparison(bundle):
    rows = targets.describe_targets(bundle, open_bundle(bundle), {"model.onnx": 1.5})
    assert [(row["target"], row["file"]) for row in rows] == [
        ("ONNX Runtime", "model.onnx"),
        ("LiteRT", "model.tflite"),
        ("Core ML", "model.mlpackage"),
        ("StableHLO", "model.stablehlo"),
        ("TensorFlow", "saved_model"),
        ("browser", "web"),
    ]
    for row in rows:
        path = bundle / row["file"]
        files = [path, *path.rglob("*")]
        assert row["bytes"] == sum(file.stat().st_size for file in files if file.is_file())
        assert row["precision"] == "float32"
    onnx, tflite, coreml, stablehlo, _, page = rows
    assert onnx["download"] == gzipped(bundle / "model.onnx")
    assert stablehlo["download"] == gzipped(bundle / "model.stablehlo") < 100
    package = bundle / "model.mlpackage"
    assert coreml["bytes"] == 3002
    assert coreml["download"] == gzipped(
        package / "Data" / "weights.bin", package / "Manifest.json"
    )
    assert onnx["compared"] == COMPARED and tflite["compared"]["classes_changed"] == 0
    assert coreml["compared"] is None and page["compared"] is None
    assert [row["copy_of"] for row in rows] == [None] * 5 + ["model.tflite"]
    assert [row["ms"] for row in rows] == [1.5] + [None] * 5


@pytest.mark.parametrize("runtime", web.RUNTIMES)
def test_a_visitor_loads_one_variant_of_the_runtime(runtime, tmp_path):
    folder = write_bundle(tmp_path / "digits", DIGITS)
    model = f"model.{web.RUNTIMES[runtime]}"
    (folder / model).write_bytes((folder / "model.onnx").read_bytes())
    given = web.Runtime(runtime, packages(runtime))
    run = open_bundle(folder).probabilities_and_embeddings
    web.write(folder, "digits", read_manifest(folder), given, run)
    page = folder / "web"
    loaded = {path.relative_to(page).as_posix() for path in web.loaded_files(page)}
    own = {"index.html", "page.css", "page.js", f"{runtime}.js", "model.json", model}
    assert own <= loaded and "licenses.txt" not in loaded
    assert {name for name in loaded if name.endswith(".wasm")} == {
        "litert": {"runtime/wasm/litert_wasm_internal.wasm"},
        "onnxruntime": {"runtime/ort-wasm.wasm"},
    }[runtime]
    assert targets.download_size(page) == gzipped(*(page / name for name in loaded))
    assert web.model_name(page) == model


def test_what_is_not_recorded_is_none(tmp_path):
    for number, quality in enumerate(
        (None, {}, {"precision": 8, "exported": {"model.onnx": {"images": "few"}}})
    ):
        folder = write_bundle(tmp_path / str(number), DIGITS, quality=quality)
        (row,) = targets.describe_targets(folder, open_bundle(folder), {})
        assert row["precision"] is None and row["compared"] is None and row["copy_of"] is None


def test_what_runs_here_beside_the_model(bundle, monkeypatch):
    runs = targets.runs_beside(bundle, open_bundle(bundle))
    assert list(runs) == ["model.tflite"]
    images = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 1), np.uint8)
    expected = open_bundle(bundle).probabilities_and_embeddings(images)[0]
    np.testing.assert_allclose(runs["model.tflite"](images)[0], expected, atol=1e-5)
    monkeypatch.setattr(targets, "is_missing", lambda package: package == "ai-edge-litert")
    assert targets.runs_beside(bundle, open_bundle(bundle)) == {}


def test_the_report_has_every_target(bundle, tmp_path, capsys):
    write_bundle(tmp_path / "plain", DIGITS)
    argv = [str(bundle), str(tmp_path / "plain"), "--data=digits", "--split=test"]
    cli.run(report.main, [*argv, f"--out={tmp_path}/out"])
    first, second = json.loads((tmp_path / "out" / "report.json").read_text())["models"]
    times = {row["file"]: row["ms"] for row in first["targets"]}
    assert times["model.onnx"] == first["latency_1"]["p50"] and times["model.tflite"] > 0
    assert all(times[name] is None for name in ("model.mlpackage", "saved_model", "web"))
    assert [row["file"] for row in second["targets"]] == ["model.onnx"]
    printed = capsys.readouterr().out
    assert "model.tflite (LiteRT): 0.00 MB, 0.00 MB to download, " in printed
    assert "web (browser): " in printed and printed.count("not run here") == 4
    text = (tmp_path / "out" / "report.html").read_text()
    assert "a copy of model.tflite" in text and "1.56 %" in text
    for width in (1280, 390):
        with browse(f"file://{tmp_path}/out/report.html", width) as page:
            page.check()


def test_every_format_with_a_graph_is_a_target():
    """safetensors has weights alone."""
    formats = [name for name in FORMATS if name not in ("safetensors", web.FOLDER)]
    names = [importlib.import_module(f"vision.export.{name}").NAME for name in formats]
    kinds = {pathlib.Path(name).suffix or name for name in (*names, web.FOLDER)}
    assert kinds == set(targets.TARGETS)
