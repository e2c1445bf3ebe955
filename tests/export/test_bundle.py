"""A run's bundle gives its answers, is written completely or not at all, and replaces no others."""

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
from vision.data.loading.sampler import spread
from vision.data.pipeline import named_splits
from vision.errors import RunError, UserError
from vision.export import __main__ as command
from vision.export import bundle
from vision.export import onnx as form
from vision.export.options import ExportOptions
from vision.export.place import check_place
from vision.reference.quality import parse as parse_quality


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """A run whose evaluation found a temperature and an accuracy."""
    workdir = shutil.copytree(tiny_run, tmp_path_factory.mktemp("run") / "run")
    data = {"source": "digits", "split": "test", "images": 7}
    (workdir / "evaluation").mkdir()
    (workdir / "evaluation" / "metrics.json").write_text(
        json.dumps({"data": data, "metrics": {"accuracy": {"value": 0.5}}})
    )
    step = inference.from_run(workdir).step
    calibration = {"temperature": 0.5, "step": step, "split": "val", "source": "digits"}
    (workdir / "evaluation" / "calibration.json").write_text(json.dumps(calibration))
    return workdir


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles") / "below" / "digits"
    cli.run(command.main, ["--workdir", str(run), "--format=onnx,safetensors", "--out", str(out)])
    return out


def test_it_answers_as_the_run_does(run, exported):
    model = inference.from_run(run)
    opened = open_bundle(exported)
    assert model.temperature == 0.5
    assert opened.classes == model.classes and opened.config == model.config
    splits, _ = named_splits(model.config.data, model.config.seed)
    images = np.stack([opened.prepare(splits["test"][i]["image"]) for i in range(20)])
    pairs = zip(
        model.probabilities_and_embeddings(images),
        opened.probabilities_and_embeddings(images),
        strict=True,
    )
    for ours, theirs in pairs:
        np.testing.assert_allclose(theirs, ours, atol=1e-5)
    files = {
        "model.onnx",
        "model.safetensors",
        "config.json",
        "sample.png",
        "splits.csv.gz",
        "bundle.json",
    }
    assert {p.name for p in exported.iterdir()} == files
    assert os.listdir(exported.parent) == ["digits"]


def test_it_has_a_sample_and_its_probabilities(run, exported):
    """The first image of the validation split, as the model takes it."""
    opened = open_bundle(exported)
    sample = json.loads((exported / "bundle.json").read_text())["sample"]
    splits, _ = named_splits(opened.config.data, opened.config.seed)
    image = decode(exported / sample["file"])
    np.testing.assert_array_equal(image, opened.prepare(splits["val"][0]["image"]))
    np.testing.assert_allclose(
        opened.probabilities_and_embeddings(image[None])[0][0], sample["probabilities"], atol=1e-6
    )


def test_it_contains_what_was_measured(run, exported):
    opened = open_bundle(exported)
    quality = opened.quality
    assert quality["temperature"] == 0.5 and quality["metrics"] == {"accuracy": {"value": 0.5}}
    assert quality["precision"] == "float32"
    checked = quality["exported"]["model.onnx"]
    assert 0 < checked["largest_difference"] < checked["tolerance"]
    assert checked["of"] == "of the validation split"
    model = inference.from_run(run)
    splits, _ = named_splits(model.config.data, model.config.seed)
    indices = spread(1000, len(splits["train"]))
    images = np.stack([model.prepare(splits["train"][i]["image"]) for i in indices])
    reference = opened.reference
    assert reference["images"] == len(images) == 1000
    np.testing.assert_allclose(reference["pixel_mean"], [images.mean() / 255], rtol=1e-6)
    np.testing.assert_allclose(reference["pixel_std"], [images.std() / 255], rtol=1e-6)
    embeddings = model(images)[1]
    np.testing.assert_allclose(reference["embedding_mean"], embeddings.mean(0), atol=1e-5)
    np.testing.assert_allclose(reference["embedding_std"], embeddings.std(0), atol=1e-5)


def test_it_says_how_good_the_model_is_on_validation_images(run, exported):
    opened = open_bundle(exported)
    splits, _ = named_splits(opened.config.data, opened.config.seed)
    val = splits["val"]
    indices = spread(1000, len(val))
    images = np.stack([opened.prepare(val[i]["image"]) for i in indices])
    predicted = opened.probabilities_and_embeddings(images)[0].argmax(1)
    truth = val.labels[indices]
    own = parse_quality(opened.reference, opened.classes, "bundle.json")
    assert own.images.tolist() == np.bincount(truth, minlength=10).tolist()
    right = truth[predicted == truth]
    assert own.right.tolist() == np.bincount(right, minlength=10).tolist()


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
        bundle.export(inference.from_run(run), old, ExportOptions())
    assert tree(old) == tree(exported) and os.listdir(tmp_path) == ["old"]

    def write_garbage(program, path, batch):
        path.write_bytes(b"no model")

    monkeypatch.setattr(form, "write", write_garbage)
    with pytest.raises(RunError, match="model.onnx was written, but cannot be run"):
        bundle.export(inference.from_run(run), tmp_path / "new", ExportOptions())
    monkeypatch.setattr(form, "write", write)
    # a sound bundle replaces it, including all of its files
    bundle.export(inference.from_run(run), old, ExportOptions())
    assert set(map(str, tree(old))) == {"model.onnx", "sample.png", "splits.csv.gz", "bundle.json"}
    assert os.listdir(tmp_path) == ["old"]


def test_a_full_disk_leaves_nothing(run, exported, tmp_path):
    """Simulated by a limit on file sizes: below the folded model's, and below the last file's."""
    old = shutil.copytree(exported, tmp_path / "old")
    model = inference.from_run(run)
    size = (exported / "model.onnx").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (size // 2, size - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(RunError, match="cannot write to --out"):
                bundle.export(model, old, ExportOptions())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert tree(old) == tree(exported) and os.listdir(tmp_path) == ["old"]


def test_other_directories_are_not_replaced(run, exported, tmp_path):
    model = inference.from_run(run)
    mixed = shutil.copytree(exported, tmp_path / "mixed")
    (mixed / "notes.txt").write_text("mine")
    other = tmp_path / "other"
    other.mkdir()
    check_place(other)  # empty
    (other / "photo.jpg").touch()
    for place, message in (
        (mixed, "such as notes.txt"),
        (other, "such as photo.jpg"),
        (mixed / "notes.txt", "a file"),
    ):
        with pytest.raises(UserError, match=message):
            bundle.export(model, place, ExportOptions())
    assert (mixed / "notes.txt").read_text() == "mine" and os.listdir(other) == ["photo.jpg"]


@pytest.mark.parametrize(("precision", "factor"), [("int8", 0.6), ("float16", 0.8)])
def test_both_formats_can_be_narrower(run, exported, tmp_path, capsys, precision, factor):
    """Each is made from a float model that is removed; both are compared on the same images."""
    argv = ["--workdir", str(run), "--format=tflite,onnx"]
    cli.run(command.main, [*argv, "--precision", precision, "--out", str(tmp_path / "out")])
    files = {"model.onnx", "model.tflite", "sample.png", "splits.csv.gz", "bundle.json"}
    assert set(map(str, tree(tmp_path / "out"))) == files
    opened = open_bundle(tmp_path / "out")
    printed = capsys.readouterr().out
    exported_files = opened.quality["exported"]
    assert opened.quality["precision"] == precision
    assert set(exported_files) == {"model.onnx", "model.tflite"}
    shape = (40, opened.image_size, opened.image_size, 1)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    expected = open_bundle(exported).probabilities_and_embeddings(images)[0]
    wide = (exported / "model.onnx").stat().st_size
    for name in ("model.onnx", "model.tflite"):
        assert f"{name}: " in printed and exported_files[name]["images"] == 64
        probabilities = open_model(tmp_path / "out" / name).run(images)[0]
        assert 0 < np.abs(probabilities - expected).max() < 0.1
        assert (tmp_path / "out" / name).stat().st_size < factor * wide


def test_without_its_images_it_is_compared_on_random_ones(tmp_path):
    model = classifier("vit")
    lines = []
    model.config.data.source = f"folder:{tmp_path}/nowhere"
    bundle.export(model, tmp_path / "out", ExportOptions(), report=lines.append)
    assert "cannot be opened" in lines[0]
    assert "random images" in lines[1] and "64 images (random)" in lines[2]
    assert open_bundle(tmp_path / "out").reference is None
    assert not (tmp_path / "out" / "sample.png").exists()
    with pytest.raises(UserError, match="int8 is calibrated with images"):
        options = ExportOptions(precision="int8")
        bundle.export(model, tmp_path / "int8", options, report=lines.append)
    with pytest.raises(UserError, match="nowhere"):
        nowhere = f"folder:{tmp_path}/nowhere/x"
        bundle.export(model, tmp_path / "more", ExportOptions(), data=nowhere)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--format=onnx,tensorrt"], "--format = 'tensorrt' is unknown"),
        (["--precision=float8"], "--precision = 'float8' is unknown (did you mean 'float"),
        (["--batch=-1"], "--batch must be at least 1, or 0 for any number of images, got -1"),
        (
            ["--precision=int8", "--format=onnx,stablehlo"],
            "is only for --format onnx, tflite, coreml, web: export stablehlo separately",
        ),
        (["--format=onnx,coreml", "--batch=4"], "--format coreml takes one image at a time"),
    ],
)
def test_mistakes(argv, message, capsys):
    with pytest.raises(SystemExit) as error:
        cli.run(command.main, ["--workdir", "nowhere", "--out", "x", *argv])
    assert error.value.code == 2 and message in capsys.readouterr().err
