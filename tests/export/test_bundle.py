"""A bundle from a run: the run's answers, whole or not at all, and never in the place of anything
else."""

import json
import os
import resource
import shutil

import numpy as np
import pytest

from tests.support.classifiers import classifier
from vision import cli, inference
from vision.bundle.directory import open_bundle
from vision.bundle.runtimes import open_model
from vision.data.decode import decode
from vision.data.pipeline import named_splits
from vision.errors import RunError, UserError
from vision.export import __main__ as command
from vision.export import bundle
from vision.export import onnx as form


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """A run whose evaluation found a temperature and an accuracy."""
    workdir = shutil.copytree(tiny_run, tmp_path_factory.mktemp("run") / "run")
    known = {"source": "digits", "split": "test", "images": 7}
    (workdir / "evaluation").mkdir()
    (workdir / "evaluation" / "metrics.json").write_text(
        json.dumps({"data": known, "metrics": {"accuracy": {"value": 0.5}}})
    )
    step = inference.from_run(workdir).step
    found = {"temperature": 0.5, "step": step, "split": "val", "source": "digits"}
    (workdir / "evaluation" / "calibration.json").write_text(json.dumps(found))
    return workdir


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles") / "below" / "digits"
    cli.run(command.main, ["--workdir", str(run), "--format=onnx,safetensors", "--out", str(out)])
    return out


def test_it_answers_as_the_run_does(run, exported):
    model = inference.from_run(run)
    found = open_bundle(exported)
    assert (
        model.temperature == 0.5 and found.classes == model.classes and found.config == model.config
    )
    splits, _ = named_splits(model.config.data, model.config.seed)
    images = np.stack([found.prepare(splits["test"][i]["image"]) for i in range(20)])
    pairs = zip(
        model.probabilities_and_embeddings(images),
        found.probabilities_and_embeddings(images),
        strict=True,
    )
    for ours, theirs in pairs:
        np.testing.assert_allclose(theirs, ours, atol=1e-5)
    files = {"model.onnx", "model.safetensors", "config.json", "sample.png", "bundle.json"}
    assert {p.name for p in exported.iterdir()} == files
    assert os.listdir(exported.parent) == ["digits"]


def test_it_holds_a_sample_and_what_the_file_says_of_it(run, exported):
    """The first image of the validation split, as the model takes it."""
    found = open_bundle(exported)
    sample = json.loads((exported / "bundle.json").read_text())["sample"]
    splits, _ = named_splits(found.config.data, found.config.seed)
    image = decode(exported / sample["file"])
    np.testing.assert_array_equal(image, found.prepare(splits["val"][0]["image"]))
    np.testing.assert_allclose(
        found.probabilities_and_embeddings(image[None])[0][0], sample["probabilities"], atol=1e-6
    )


def test_it_says_what_was_measured(run, exported):
    found = open_bundle(exported)
    assert found.quality["temperature"] == 0.5 and found.quality["metrics"] == {
        "accuracy": {"value": 0.5}
    }
    assert found.quality["precision"] == "float32"
    checked = found.quality["exported"]["model.onnx"]
    assert (
        0 < checked["largest_difference"] < checked["tolerance"]
        and checked["of"] == "of the validation split"
    )
    model = inference.from_run(run)
    splits, _ = named_splits(model.config.data, model.config.seed)
    images = np.stack(
        [
            model.prepare(splits["train"][i]["image"])
            for i in bundle.spread(1000, len(splits["train"]))
        ]
    )
    assert found.reference["images"] == len(images) == 1000
    np.testing.assert_allclose(found.reference["pixel_mean"], [images.mean() / 255], rtol=1e-6)
    np.testing.assert_allclose(found.reference["pixel_std"], [images.std() / 255], rtol=1e-6)
    embeddings = model(images)[1]
    np.testing.assert_allclose(found.reference["embedding_mean"], embeddings.mean(0), atol=1e-5)
    np.testing.assert_allclose(found.reference["embedding_std"], embeddings.std(0), atol=1e-5)


def test_an_older_evaluation_does_not_count(run, tmp_path):
    model = inference.from_run(run)
    assert bundle.quality(model, run)["metrics"]
    model.step += 1
    assert bundle.quality(model, run) == {"temperature": 0.5} == bundle.quality(model, tmp_path)
    shutil.copytree(run / "evaluation", tmp_path / "evaluation")
    (tmp_path / "evaluation" / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        bundle.quality(inference.from_run(run), tmp_path)


def tree(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_wrong_model_is_refused_and_an_old_bundle_stays(run, exported, tmp_path, monkeypatch):
    """The file on disk is what is run: here one whose last bytes, the weights, were changed."""
    old = shutil.copytree(exported, tmp_path / "old")
    write = form.write

    def write_wrong(program, path, batch):
        wrong = inference.from_run(run)
        wrong.temperature = 0.4
        write(bundle.served(wrong), path, batch)

    monkeypatch.setattr(form, "write", write_wrong)
    with pytest.raises(
        RunError, match=r"model.onnx differs from JAX by 0\.\d+ on 64 images .*more than 0.0001"
    ):
        bundle.export(inference.from_run(run), old, ["onnx"])
    assert tree(old) == tree(exported) and os.listdir(tmp_path) == ["old"]

    def write_garbage(program, path, batch):
        path.write_bytes(b"no model")

    monkeypatch.setattr(form, "write", write_garbage)
    with pytest.raises(RunError, match="model.onnx was written, but cannot be run"):
        bundle.export(inference.from_run(run), tmp_path / "new", ["onnx"])
    monkeypatch.setattr(form, "write", write)
    # what is whole takes its place, with no file of before
    bundle.export(inference.from_run(run), old, ["onnx"])
    assert set(map(str, tree(old))) == {"model.onnx", "sample.png", "bundle.json"} and os.listdir(
        tmp_path
    ) == ["old"]


def test_a_full_disk_leaves_nothing(run, exported, tmp_path):
    """Stood in for by a limit on the size of a file: below the folded model's, and below what is
    written last."""
    old = shutil.copytree(exported, tmp_path / "old")
    model = inference.from_run(run)
    size = (exported / "model.onnx").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (size // 2, size - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(UserError, match="cannot write to --out"):
                bundle.export(model, old, ["onnx"])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert tree(old) == tree(exported) and os.listdir(tmp_path) == ["old"]


def test_what_is_no_bundle_is_not_replaced(run, exported, tmp_path):
    model = inference.from_run(run)
    mixed = shutil.copytree(exported, tmp_path / "mixed")
    (mixed / "notes.txt").write_text("mine")
    other = tmp_path / "other"
    other.mkdir()
    bundle.check_place(other)  # empty
    (other / "photo.jpg").touch()
    for place, message in (
        (mixed, "such as notes.txt"),
        (other, "such as photo.jpg"),
        (mixed / "notes.txt", "a file"),
    ):
        with pytest.raises(UserError, match=message):
            bundle.export(model, place, ["onnx"])
    assert (mixed / "notes.txt").read_text() == "mine" and os.listdir(other) == ["photo.jpg"]


@pytest.mark.parametrize(("precision", "factor"), [("int8", 0.6), ("float16", 0.8)])
def test_both_formats_can_be_narrower(run, exported, tmp_path, capsys, precision, factor):
    """Each is made of its float model, which does not stay; both are compared with JAX on the same
    images."""
    argv = [
        "--workdir",
        str(run),
        "--format=tflite,onnx",
        "--precision",
        precision,
        "--out",
        str(tmp_path / "out"),
    ]
    cli.run(command.main, argv)
    assert set(map(str, tree(tmp_path / "out"))) == {
        "model.onnx",
        "model.tflite",
        "sample.png",
        "bundle.json",
    }
    found = open_bundle(tmp_path / "out")
    said = capsys.readouterr().out
    assert found.quality["precision"] == precision and set(found.quality["exported"]) == {
        "model.onnx",
        "model.tflite",
    }
    images = np.random.default_rng(0).integers(
        0, 256, (40, found.image_size, found.image_size, 1), np.uint8
    )
    expected = open_bundle(exported).probabilities_and_embeddings(images)[0]
    wide = (exported / "model.onnx").stat().st_size
    for name in ("model.onnx", "model.tflite"):
        assert f"{name}: " in said and found.quality["exported"][name]["images"] == 64
        probabilities = open_model(tmp_path / "out" / name).run(images)[0]
        assert 0 < np.abs(probabilities - expected).max() < 0.1
        assert (tmp_path / "out" / name).stat().st_size < factor * wide


def test_without_its_images_it_is_compared_on_random_ones(tmp_path):
    model = classifier("vit")
    said = []
    model.config.data.source = f"folder:{tmp_path}/nowhere"
    bundle.export(model, tmp_path / "out", ["onnx"], say=said.append)
    assert (
        "cannot be opened" in said[0]
        and "random images" in said[1]
        and "64 images (random)" in said[2]
    )
    assert (
        open_bundle(tmp_path / "out").reference is None
        and not (tmp_path / "out" / "sample.png").exists()
    )
    with pytest.raises(UserError, match="int8 is calibrated with images"):
        bundle.export(model, tmp_path / "int8", ["onnx"], precision="int8", say=said.append)
    with pytest.raises(UserError, match="nowhere"):
        bundle.export(model, tmp_path / "more", ["onnx"], data=f"folder:{tmp_path}/nowhere/x")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--format=onnx,coreml"], "--format = 'coreml' is unknown"),
        (["--precision=float8"], "--precision = 'float8' is unknown (did you mean 'float"),
        (["--batch=-1"], "--batch = -1: it is at least 1, or 0"),
        (
            ["--precision=int8", "--format=onnx,stablehlo"],
            "is for --format onnx and tflite: export stablehlo by itself",
        ),
    ],
)
def test_mistakes(argv, message, capsys):
    with pytest.raises(SystemExit) as error:
        cli.run(command.main, ["--workdir", "nowhere", "--out", "x", *argv])
    assert error.value.code == 2 and message in capsys.readouterr().err
