"""A bundle gives what its graph computes, acts as a classifier, and is refused if it is damaged."""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from onnx import TensorProto

from tests.conftest import REPOSITORY
from tests.support.programs import linear, program_of
from tests.support.tiny_bundle import RESIZE, weights, write_bundle
from vision import inference
from vision.bundle import directory as bundle
from vision.data.decode import decode, resize_crop, to_channels
from vision.errors import UserError
from vision.export import tflite

IMAGES = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 1), np.uint8)


def expected(images):
    first, second = weights()
    embeddings = images.reshape(len(images), -1).astype(np.float64) @ first
    return inference.softmax(embeddings @ second), embeddings


@pytest.mark.parametrize("batch", ["B", 1, 3])
@pytest.mark.parametrize("count", [1, 3, 5])
def test_it_gives_what_the_graph_computes(tmp_path, batch, count):
    """For any number of images, whatever batch the graph takes."""
    model = bundle.open_bundle(write_bundle(tmp_path, model={"batch": batch}))
    probabilities, embeddings = model.probabilities_and_embeddings(IMAGES[:count])
    assert probabilities.dtype == embeddings.dtype == np.float32
    for ours, reference in zip((probabilities, embeddings), expected(IMAGES[:count]), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def tflite_bundle(tmp_path_factory):
    """The directory of a bundle whose model is a .tflite of batch size 2, with the same weights."""
    folder = tmp_path_factory.mktemp("bundle")
    tflite.write(program_of(linear), folder / tflite.NAME, batch=2)
    classes = [f"class {i}" for i in range(10)]
    bundle.write_manifest(folder, bundle.Manifest(classes, 8, 1, RESIZE, tflite.NAME))
    return folder


@pytest.mark.parametrize("count", [1, 2, 5])
def test_litert_gives_what_the_graph_computes(tflite_bundle, count):
    outputs = bundle.open_bundle(tflite_bundle).probabilities_and_embeddings(IMAGES[:count])
    for ours, reference in zip(outputs, expected(IMAGES[:count]), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-5)


def test_a_tflite_that_is_written_over_changes_nothing_that_runs(tflite_bundle, tmp_path):
    """It was mapped: an empty file in its place ended the process."""
    folder = shutil.copytree(tflite_bundle, tmp_path / "bundle")
    model = bundle.open_bundle(folder)
    images = np.zeros((3, 8, 8, 1), np.uint8)
    before = model.probabilities_and_embeddings(images)[0]
    with open(folder / tflite.NAME, "r+b") as file:
        file.truncate(0)
    np.testing.assert_array_equal(model.probabilities_and_embeddings(images)[0], before)
    assert str(folder) not in pathlib.Path("/proc/self/maps").read_text()


def test_threads_share_litert(tflite_bundle):
    """Its interpreter has one buffer for each tensor, which a second thread would overwrite."""
    model = bundle.open_bundle(tflite_bundle)
    many = np.random.default_rng(2).integers(0, 256, (2000, 2, 8, 8, 1), np.uint8)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda images: model.probabilities_and_embeddings(images)[1], many))
    np.testing.assert_allclose(
        np.concatenate(answers), expected(np.concatenate(many))[1], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"classes": ["cat", "dog"]},
            "gives 10 probabilities an image, but bundle.json names 2 classes",
        ),
        ({"image_size": 9}, "but bundle.json specifies uint8 images of 9x9x1"),
    ],
)
def test_faults_of_a_tflite_bundle_are_named(tflite_bundle, tmp_path, changes, message):
    (tmp_path / tflite.NAME).write_bytes((tflite_bundle / tflite.NAME).read_bytes())
    classes = [str(i) for i in range(10)]
    fields = {"classes": classes, "image_size": 8, "channels": 1, "resize": RESIZE} | changes
    bundle.write_manifest(tmp_path, bundle.Manifest(model=tflite.NAME, **fields))
    with pytest.raises(UserError, match=message):
        bundle.open_bundle(tmp_path)


def test_it_can_replace_a_classifier(tmp_path, tiny_run):
    """Same attributes, same meaning: the softmax of its logits are its probabilities."""
    classifier = inference.from_run(tiny_run)
    d = classifier.config.data
    write_bundle(
        tmp_path, classifier.classes, config=classifier.config.to_dict(), quality={"accuracy": 0.5}
    )
    opened = inference.from_flags(None, "", str(tmp_path))
    assert opened.config == classifier.config
    assert opened.quality == {"accuracy": 0.5} and opened.model is None
    for name in ("classes", "image_size", "channels", "temperature"):
        assert getattr(opened, name) == getattr(classifier, name), name
    logits, embeddings = opened(IMAGES)
    probabilities, same = opened.probabilities_and_embeddings(IMAGES)
    np.testing.assert_allclose(
        inference.softmax(logits / opened.temperature), probabilities, atol=1e-6
    )
    np.testing.assert_array_equal(embeddings, same)
    assert logits.dtype == np.float32 and np.isfinite(opened(np.full_like(IMAGES, 255))[0]).all()
    write_bundle(
        tmp_path,
        classifier.classes,
        resize={"crop_fraction": d.crop_fraction or 1, "interpolation": "area"},
    )
    photo = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)
    np.testing.assert_array_equal(
        bundle.open_bundle(tmp_path).prepare(photo), classifier.prepare(photo)
    )


def test_images_are_prepared_as_it_says(tmp_path, shared_data):
    model = bundle.open_bundle(write_bundle(tmp_path, side=64, channels=3))
    with tarfile.open(shared_data / "imagenet_samples.tar") as archive:
        member = next(m for m in archive if m.name.endswith("_tench.jpg"))
        photo = decode(archive.extractfile(member).read())
    image = model.prepare(photo)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    np.testing.assert_array_equal(image, resize_crop(photo, 64, **RESIZE))
    np.testing.assert_array_equal(
        model.prepare(photo[..., :1]), resize_crop(to_channels(photo[..., :1], 3), 64, **RESIZE)
    )


def test_a_temperature_divides_the_logits(tiny_run):
    classifier = inference.from_run(tiny_run)
    classifier.temperature = 2.5
    logits, _ = classifier(IMAGES)
    scaled = np.exp(logits.astype(np.float64) / 2.5)
    probabilities, _ = classifier.probabilities_and_embeddings(IMAGES)
    np.testing.assert_allclose(probabilities, scaled / scaled.sum(1, keepdims=True), rtol=1e-6)


def test_every_file_is_in_the_manifest(tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "notes.txt").write_text("a note")
    for _ in range(2):  # an earlier manifest is not part of it
        write_bundle(tmp_path, reference={"mean": np.float32(0.5)}, version="9.9")
    manifest = json.loads((tmp_path / "bundle.json").read_text())
    assert manifest["sha256"]["more/notes.txt"] == hashlib.sha256(b"a note").hexdigest()
    assert manifest["sha256"].keys() == {"model.onnx", "more/notes.txt"}
    assert (manifest["format"], manifest["version"], manifest["reference"]) == (
        1,
        "9.9",
        {"mean": 0.5},
    )
    assert {p.name for p in tmp_path.iterdir()} == {"model.onnx", "bundle.json", "more"}
    (tmp_path / "evaluation").mkdir()  # files added later do not matter
    assert bundle.open_bundle(tmp_path).reference == {"mean": 0.5}


def edit(without="", **changes):
    """Returns a function that changes keys of a bundle's manifest, or takes one away."""

    def change(folder):
        manifest = json.loads((folder / "bundle.json").read_text()) | changes
        (folder / "bundle.json").write_text(
            json.dumps({k: v for k, v in manifest.items() if k != without})
        )

    return change


def model(**changes):
    """Returns a function that writes another model, and its hash."""
    return lambda folder: write_bundle(folder, model=changes)


def append(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + b" .")


def garbage(folder):
    (folder / "model.onnx").write_bytes(b"no model")
    edit(sha256={"model.onnx": hashlib.sha256(b"no model").hexdigest()})(folder)


def rename(name):
    """Returns a function that gives the model's file another name."""

    def change(folder):
        (folder / "model.onnx").rename(folder / name)
        bundle.write_manifest(folder, bundle.Manifest("ab", 8, 1, RESIZE, name))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "bundle.json").unlink(),
            "is not a bundle: it has no bundle.json",
        ),
        (append("bundle.json"), "bundle.json is damaged: line "),
        (lambda folder: (folder / "bundle.json").write_text("[1]"), "bundle.json is damaged"),
        (lambda folder: (folder / "bundle.json").write_bytes(b"\xff"), "bundle.json is damaged"),
        (edit(format=2), "is a bundle of format 2, but this version reads 1"),
        (edit(without="classes"), "'classes' is missing: export it again"),
        (edit(classes=[]), "classes must be a list of text, not empty, got []: export"),
        (edit(image_size="8"), "image_size must be an integer from 1 to 65,536, got '8'"),
        (
            edit(resize={"crop_fraction": 0, "interpolation": "area"}),
            "resize.crop_fraction must be",
        ),
        (edit(sha256={"../model.onnx": "0"}, model="../model.onnx"), "files inside the bundle"),
        (edit(model="other.onnx"), "sha256 must list the model"),
        (edit(config={"train": {"steps": "many"}}), "its config cannot be read"),
        (edit(sample="sample.png"), "sample must be a mapping or null, got 'sample.png'"),
        (
            edit(sample={"file": "/etc/hostname", "probabilities": [0.1] * 10}),
            "sample must name one of its files",
        ),
        (
            edit(sample={"file": "model.onnx", "probabilities": [0.1] * 9}),
            "with a number for each class",
        ),
        (
            edit(sample={"file": "model.onnx", "probabilities": [None] * 10}),
            "bundle.json is damaged: sample.probabilities[0] must be a finite number, got None",
        ),
        (edit(sample={"file": "model.onnx", "probabilities": [0.1] * 10}), "model.onnx: "),
        (append("model.onnx"), "model.onnx has changed since it was exported: export it again"),
        (lambda folder: (folder / "model.onnx").unlink(), "model.onnx is missing from its bundle"),
        (garbage, "model.onnx cannot be loaded"),
        (rename("model.pb"), "model.pb cannot be run: a bundle's model is .onnx or .tflite"),
        (rename("model.tflite"), "model.tflite cannot be loaded"),
        (
            edit(classes=["cat", "dog"]),
            "gives 10 probabilities an image, but bundle.json names 2 classes",
        ),
        (edit(image_size=9), "but bundle.json specifies uint8 images of 9x9x1"),
        (model(kind=TensorProto.FLOAT), "but bundle.json specifies uint8 images of 8x8x1"),
        (model(names=("logits2", "embedding")), "has no output 'probabilities'"),
        (model(last="Det"), "model.onnx cannot be run, export it again:"),
        (model(last="Identity"), "does not give probabilities"),
    ],
)
def test_faults_are_named(tmp_path, damage, message):
    damage(write_bundle(tmp_path))
    with pytest.raises(UserError) as error:
        bundle.open_bundle(tmp_path)
    assert message in str(error.value) and len(str(error.value).splitlines()) <= 2


def test_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match="there is no bundle"):
        bundle.open_bundle(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"has no model\.onnx"):
        bundle.write_manifest(tmp_path, bundle.Manifest("ab", 8, 1, RESIZE))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_predicting_with_it_imports_no_jax(kind, tflite_bundle, tmp_path):
    import cv2

    folder = write_bundle(tmp_path / "bundle") if kind == "onnx" else tflite_bundle
    cv2.imwrite(str(tmp_path / "a.png"), IMAGES[0])
    code = (
        "import sys\nfrom vision import cli, predict\ncli.run(predict.main)\n"
        "loaded = [name for name in ('jax', 'flax', 'grain') if name in sys.modules]\n"
        "print(*loaded, file=sys.stderr)"
    )
    argv = ["--bundle", str(folder), "--format=json", str(tmp_path / "a.png")]
    done = subprocess.run(
        [sys.executable, "-c", code, *argv],
        cwd=REPOSITORY,
        env=os.environ,
        capture_output=True,
        text=True,
    )
    lines = done.stderr.splitlines()
    lines = [line for line in lines if line and not line.startswith("INFO: ")]  # of LiteRT
    assert (done.returncode, lines) == (0, [])
    top = json.loads(done.stdout)["top"][0]
    assert top["probability"] == pytest.approx(expected(IMAGES[:1])[0].max(), abs=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sample_keeps_its_pixels(tmp_path, channels):
    image = np.random.default_rng(5).integers(0, 256, (8, 8, channels), np.uint8)
    run = bundle.open_bundle(write_bundle(tmp_path, channels=channels)).probabilities_and_embeddings
    sample = bundle.write_sample(tmp_path, image, run)
    np.testing.assert_array_equal(decode(tmp_path / sample["file"]), image)
    np.testing.assert_allclose(sample["probabilities"], run(image[None])[0][0], rtol=1e-6)
    write_bundle(tmp_path, channels=channels, sample=json.loads(json.dumps(sample)))
    assert bundle.open_bundle(tmp_path).channels == channels


def test_bundles_without_a_sample_open(tmp_path):
    """Bundles exported without images, and those older than samples."""
    write_bundle(tmp_path)
    assert bundle.open_bundle(tmp_path).classes
    edit(without="sample")(tmp_path)
    assert bundle.open_bundle(tmp_path).classes


def near_tie():
    """Returns an image with almost equal probabilities of the first and the second class."""
    images = np.random.default_rng(4).integers(0, 256, (20_000, 8, 8, 1), np.uint8)
    best = np.sort(expected(images)[0], axis=1)
    return images[(best[:, -1] - best[:, -2]).argmin()]


@pytest.mark.parametrize(
    ("apart", "moved", "opens"), [(0, 0, 1), (0, 0.04, 1), (0, 0.06, 0), (0.01, 0, 1), (0.03, 0, 0)]
)
def test_a_model_that_gives_its_sample_another_answer_is_refused(tmp_path, apart, moved, opens):
    """If it differs more than other hardware can explain.

    That is, if a probability has shifted far, or two classes that were no tie have changed places.

    Args:
        apart: the lead that today's second class had over the first at export.
        moved: how much less probable the first class was at export.
    """
    image = near_tie()
    recorded = expected(image[None])[0][0]
    first, second = np.argsort(-recorded)[:2]
    recorded[first] -= moved
    if apart:
        recorded[[first, second]] = recorded[[first, second]].mean() + np.array([-apart, apart]) / 2
    else:
        recorded[second] -= 0.03
    write_bundle(
        tmp_path, sample=bundle.write_sample(tmp_path, image, lambda images: (recorded[None], None))
    )
    if opens:
        assert bundle.open_bundle(tmp_path).classes
    else:
        with pytest.raises(UserError, match="fails its self-test: sample.png gives 'class"):
            bundle.open_bundle(tmp_path)


def test_litert_has_no_gpu(tflite_bundle):
    with pytest.raises(UserError, match="runs only on the CPU, not on cuda"):
        bundle.open_bundle(tflite_bundle, provider="cuda")
