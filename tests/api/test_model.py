"""`vision.load` and what the loaded model answers, against the model that the commands use."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

import vision
from tests.conftest import REPOSITORY
from tests.reference.test_unsure import CONTENTS as THRESHOLDS
from tests.support.commands import outcome
from tests.support.tiny_bundle import weights, write_bundle
from vision import inference
from vision import predict as command
from vision.bundle.directory import open_bundle
from vision.data.decode import decode
from vision.errors import UserError
from vision.explain.explainer import explainer
from vision.predict import predict


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with five images of several sizes."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name, size in (
        ("a", (8, 8)),
        ("b", (30, 20)),
        ("c", (9, 40)),
        ("d", (8, 9)),
        ("e", (7, 7)),
    ):
        cv2.imwrite(str(folder / f"{name}.png"), random.integers(0, 256, (*size, 3), np.uint8))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A loaded bundle with heat maps."""
    folder = write_bundle(tmp_path_factory.mktemp("bundle") / "pets", model={"heat": True})
    return vision.load(folder)


@pytest.fixture(scope="module")
def model(tiny_run):
    """The tiny run, loaded."""
    return vision.load(tiny_run)


def python(code, *argv):
    """Runs Python in a process of its own and returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, argv)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_import_is_light():
    """No other package: that is what makes it quick, on every machine."""
    code = (
        "import sys; before = set(sys.modules); import vision\n"
        "new = {n.partition('.')[0] for n in set(sys.modules) - before}\n"
        "print(*sorted(new - set(sys.stdlib_module_names)), *dir(vision))"
    )
    words = python(code).split()
    assert words[0] == "vision" and "vision" not in words[1:]
    assert {"load", "train", "evaluate", "export"} <= set(words)
    assert not {"numpy", "jax", "absl"} & set(words)


def test_export_is_a_function_and_a_package():
    """In whichever order its modules are imported and it is called."""
    code = (
        "import inspect, vision\n"
        "print(*inspect.signature(vision.export).parameters)\n"
        "print(inspect.getdoc(vision.export).splitlines()[0])\n"
        "import vision.export.options\n"
        "from vision.export import options\n"
        "print(vision.export.options is options, callable(vision.export))\n"
        "try:\n"
        "    vision.export('nowhere', 'out')\n"
        "except vision.errors.UserError as error:\n"
        "    print(error)\n"
    )
    signature, summary, is_both, refusal = python(code).splitlines()
    assert signature == "model out formats precision batch heatmap data"
    assert summary.startswith("Writes a model as a bundle, verified against JAX")
    assert is_both == "True True"
    assert refusal.startswith("there is no run or bundle nowhere: give the directory of one")


def test_a_bundle_needs_no_jax(photos, tmp_path):
    folder = write_bundle(tmp_path / "bundle", model={"heat": True})
    code = (
        "import sys, vision\n"
        "model = vision.load(sys.argv[1])\n"
        "model.predict(sys.argv[2], heatmaps=True)[0].overlay()\n"
        "print(*(name for name in ('jax', 'flax', 'orbax', 'grain') if name in sys.modules))"
    )
    assert python(code, folder, photos).split() == []


def test_a_run_answers_as_the_command_does(model, tiny_run, photos):
    files = sorted(map(str, photos.iterdir()))
    expected = dict(predict(inference.from_run(tiny_run), files, top=3))
    predictions = model.predict(photos, top=3, batch_size=2)
    assert [p.path for p in predictions] == files
    for prediction in predictions:
        names, probabilities = zip(*expected[prediction.path], strict=True)
        assert tuple(name for name, _ in prediction.top) == names
        np.testing.assert_allclose([p for _, p in prediction.top], probabilities, rtol=1e-5)
        assert (prediction.class_name, prediction.probability) == prediction.top[0]
        assert model.classes[prediction.index] == prediction.class_name
        assert prediction.probabilities[prediction.index] == prediction.probability
        assert prediction.embedding is None and prediction.heatmap is None


@pytest.mark.parametrize("name", ["model", "bundle"])
def test_every_form_of_an_image_is_the_same_image(name, photos, request):
    loaded = request.getfixturevalue(name)
    pixels = decode(photos / "b.png")
    with Image.open(photos / "b.png") as opened:
        single = [loaded.predict(form) for form in (photos / "b.png", pixels, opened)]
        several = loaded.predict([str(photos / "b.png"), pixels, opened])
    batch = loaded.predict(np.stack([pixels, pixels]))
    assert len(several) == 3 and len(batch) == 2
    for prediction in (*single, *several, *batch):
        np.testing.assert_allclose(
            prediction.probabilities, single[0].probabilities, rtol=1e-5, atol=1e-7
        )
    assert [p.path is None for p in several] == [False, True, True]
    assert loaded.predict([]) == []


def test_embeddings_are_the_bundle_s(bundle, photos):
    raw = open_bundle(bundle.name)
    images = [raw.prepare(decode(file)) for file in sorted(photos.iterdir())]
    probabilities, embeddings = raw.probabilities_and_embeddings(np.stack(images))
    predictions = bundle.predict(photos, embeddings=True)
    np.testing.assert_allclose(np.stack([p.embedding for p in predictions]), embeddings, rtol=1e-5)
    np.testing.assert_allclose(
        np.stack([p.probabilities for p in predictions]), probabilities, rtol=1e-5
    )
    np.testing.assert_array_equal(np.stack([p.image for p in predictions]), images)


def test_heat_maps_are_those_of_the_report(model, photos):
    explain = explainer(model.predictor)
    predictions = model.predict(photos, heatmaps=True, batch_size=2)
    images = np.stack([p.image for p in predictions])
    expected = explain(images, np.array([p.index for p in predictions]))
    np.testing.assert_allclose(np.stack([p.heatmap for p in predictions]), expected, atol=1e-5)
    picture = predictions[0].overlay(side=100)
    assert picture.size == (100, 100) and picture.mode == "RGB"


def test_heat_maps_of_a_bundle(bundle, photos):
    """Those of `write_model` are the first channel over 255."""
    for prediction in bundle.predict(photos, heatmaps=True):
        np.testing.assert_allclose(prediction.heatmap, prediction.image[..., 0] / 255, atol=1e-6)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A loaded bundle that knows its thresholds, with a model that is not sure of everything."""
    first, second = weights()
    model = {"matrices": (first, second / 9)}
    folder = tmp_path_factory.mktemp("measured") / "pets"
    return vision.load(write_bundle(folder, model=model, unsure=THRESHOLDS))


@pytest.fixture(scope="module")
def unruled(tmp_path_factory):
    """A loaded bundle that knows its thresholds, of which nobody has chosen one."""
    folder = tmp_path_factory.mktemp("unruled") / "pets"
    return vision.load(write_bundle(folder, unsure=THRESHOLDS | {"rule": None}))


@pytest.mark.parametrize(
    "requirement",
    ["precision=0.96", "0.91", "coverage=0.95", "coverage=0.5", "threshold=0.7", "rule"],
)
def test_unsure_answers_are_those_of_the_command(measured, photos, requirement, capsys):
    flags = (f"--bundle={measured.name}", f"--unsure={requirement}", "--format=json", str(photos))
    code, printed, err = outcome(command.main, capsys, *flags)
    assert code == 0, err
    lines = {entry["file"]: entry for entry in map(json.loads, printed.splitlines())}
    predictions = measured.predict(photos, unsure=requirement, top=1)
    assert len(predictions) == len(lines) == 5
    for prediction in predictions:
        expected = lines[prediction.path]
        assert prediction.unsure is expected["unsure"]
        assert prediction.members == tuple(expected.get("set", ()))
        assert len(prediction.top) == 1 and prediction.class_name == expected["top"][0]["class"]
        assert ("unsure; " in repr(prediction)) == prediction.unsure


def test_what_is_unsure(measured, photos):
    """By the probabilities and the stored thresholds themselves."""
    (plain, *_) = measured.predict(photos)
    assert plain.unsure is None and plain.members == ()
    for requirement, least in (("precision=0.96", 0.6), ("0.91", 0.0), ("threshold=0.7", 0.7)):
        predictions = measured.predict(photos, unsure=requirement)
        assert [p.unsure for p in predictions] == [p.probability < least for p in predictions]
    for prediction in measured.predict(photos, unsure="coverage=0.95"):
        likely = {measured.classes[i] for i in np.flatnonzero(prediction.probabilities >= 0.1)}
        assert set(prediction.members) == likely | {prediction.class_name}
        assert prediction.unsure == (len(prediction.members) > 1)
    for requirement in ("precision=0.96", "coverage=0.95", "threshold=0.7"):  # not all alike
        assert {p.unsure for p in measured.predict(photos, unsure=requirement)} == {True, False}


@pytest.mark.parametrize(
    ("name", "requirement", "message"),
    [
        ("bundle", "precision=0.9", "^unsure=precision=0.9: nothing was measured .* evaluate its"),
        ("measured", "precision=0.98", "no threshold promises precision=0.98 with a confidence of"),
        ("measured", "recall=0.9", "^unsure must be precision=0.99, coverage=0.95 or threshold=0"),
        ("unruled", "rule", "^unsure=rule: no rule was chosen for this model: ask for precision="),
        ("measured", 0.9, "^unsure must be precision=0.99, .* or threshold=0.9 as text, got 0.9"),
        ("measured", "1.5", "^unsure: precision must be above 0 and below 1, got '?1.5"),
    ],
)
def test_requirements_that_cannot_be_met(name, requirement, message, request):
    loaded = request.getfixturevalue(name)
    with pytest.raises(UserError, match=message) as error:
        loaded.predict(np.zeros((8, 8, 1), np.uint8), unsure=requirement)
    assert len(str(error.value).splitlines()) <= 2


def test_broken_files(model, photos, tmp_path):
    shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
    broken = tmp_path / "c.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(UserError, match=r"c\.png: .*: remove it, or give unreadable='skip'"):
        model.predict(tmp_path)
    with pytest.raises(UserError, match=r"c\.png: "):
        model.predict(broken, unreadable="skip")
    with pytest.warns(UserWarning, match="1 of 5 images cannot be read, the first: .*c.png"):
        predictions = model.predict(tmp_path, unreadable="skip")
    assert [pathlib.Path(p.path).name[0] for p in predictions] == ["a", "b", "d", "e"]


def test_texts(model, bundle, photos):
    assert repr(bundle).startswith(f"LoadedModel({bundle.name}: 10 classes, 8 x 8 x 1, a bundle)")
    assert "computed by JAX" in repr(model)
    prediction = bundle.predict(photos / "a.png")
    name, probability = prediction.top[0]
    assert repr(prediction).startswith(f"Prediction({name} {100 * probability:.1f} %, ")
    assert repr(prediction).endswith(f"; {photos / 'a.png'})")


def test_pretrained_weights_of_a_config(tmp_path):
    """A config that names weights is a model too, here those of a bundle's twin: a run."""
    config = tmp_path / "none.py"
    config.write_text("from vision.config import default as get_config\n")
    with pytest.raises(UserError, match=r"this config has no model.pretrained"):
        vision.load(config)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nowhere", "there is no run or bundle .*nowhere: give the"),
        (lambda folder: folder, "is neither a run nor a bundle: it has no data.json and no bundle"),
        (lambda folder: f"{folder}/x.py", "no config file"),
    ],
)
def test_there_is_no_model(make, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        vision.load(make(tmp_path))
    assert len(str(error.value).splitlines()) <= 2


def test_what_a_bundle_cannot_do(bundle, tmp_path):
    plain = vision.load(write_bundle(tmp_path / "plain"))
    image = np.zeros((8, 8, 1), np.uint8)
    with pytest.raises(UserError, match="has no heat maps: export it again with heatmap=True"):
        plain.predict(image, heatmaps=True)
    with pytest.raises(UserError, match="this prediction has no heat map"):
        plain.predict(image).overlay()
    with pytest.raises(UserError, match="is a bundle already: load its run, and export that"):
        plain.export(tmp_path / "again")
    with pytest.raises(UserError, match="is a bundle already: load its run, and export that"):
        vision.export(tmp_path / "plain", tmp_path / "again")
    with pytest.raises(UserError, match="unreadable = 'ignore' is unknown"):
        plain.predict(image, unreadable="ignore")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that cannot be reached, with a cache; returns what puts a folder's files into it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(folder, owner, name):
        commit = "0123456789abcdef0123456789abcdef01234567"
        place = tmp_path / "hub" / f"models--{owner}--{name}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text(commit)
        for number, file in enumerate(p for p in sorted(folder.rglob("*")) if p.is_file()):
            blob = place / "blobs" / str(number)
            blob.parent.mkdir(exist_ok=True)
            shutil.copy(file, blob)
            link = place / "snapshots" / commit / file.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)  # as the hub's own client does

    return put


def test_models_of_the_hub(hub, tiny_run, model, photos, tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    hub(bundle, "me", "bundle")
    hub(tiny_run, "me", "run")
    for name, local in (("hf:me/bundle", vision.load(bundle)), ("hf:me/run", model)):
        remote = vision.load(name)
        assert remote.name == name and remote.workdir is None
        for ours, theirs in zip(local.predict(photos), remote.predict(photos), strict=True):
            np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)


def test_repositories_that_hold_no_model(hub, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text(json.dumps({"architectures": ["X"]}))
    hub(tmp_path / "weights", "timm", "weights")
    with pytest.raises(UserError, match=r"(?s)neither a run nor.*'model.pretrained': 'hf:timm/wei"):
        vision.load("hf:timm/weights")
    with pytest.raises(UserError, match=r"not in the cache, and the hub cannot be reached"):
        vision.load("hf:me/unknown")
    with pytest.raises(UserError, match="must be hf:OWNER/NAME"):
        vision.load("hf:a/b/c")


def test_without_the_hub_s_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="hf:me/pets needs huggingface-hub: pip install"):
        vision.load("hf:me/pets")
