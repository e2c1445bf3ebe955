"""One pass over a split: every image once, the same on any number of devices, whatever the
batch."""

import functools

import cv2
import jax
import numpy as np
import pytest

from vision import inference, parallel
from vision.data.augment.views import test_time_views as views_of
from vision.errors import UserError
from vision.evaluation.data import match_classes, open_split
from vision.evaluation.evaluator import Evaluator, gather
from vision.evaluation.outputs import Forward, collect
from vision.models.weights.published import imagenet_classes


@pytest.fixture(scope="module")
def classifier(tiny_run):
    return inference.from_run(tiny_run)


def opened(classifier, devices, resident=2.0, spec="", name="test"):
    classifier.config.data.resident_gib = resident
    classifier.config.data.workers = 0
    mesh = parallel.make_mesh(devices)
    return Forward(classifier, mesh), open_split(classifier, classifier.config, mesh, spec, name)


def test_outputs_do_not_depend_on_devices_or_batches(classifier):
    outputs = {}
    for devices, size, resident in ((1, 64, 2.0), (8, 24, 2.0), (8, 40, 0.0), (1, 7, 0.0)):
        forward, split = opened(classifier, devices, resident)
        outputs[devices, size] = gather(forward, split, size, 10_000)
    first, *others = outputs.values()
    images = np.stack(
        [classifier.prepare(split.source[i]["image"]) for i in range(len(split.source))]
    )
    logits, embeddings = classifier(images)
    np.testing.assert_allclose(first.logits, logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(first.embeddings, embeddings, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(first.brightness, images.mean((1, 2, 3)) / 255, rtol=1e-5)
    np.testing.assert_allclose(first.contrast, (images / 255).std((1, 2, 3)), rtol=1e-4)
    assert (
        first.rows.tolist() == list(range(len(images)))
        and (first.labels == split.source.labels).all()
    )
    for other in others:
        np.testing.assert_allclose(other.logits, first.logits, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(other.labels, first.labels)
        np.testing.assert_array_equal(other.rows, first.rows)
        np.testing.assert_array_equal(other.embedded, first.embedded)


def test_a_change_is_applied_and_embeddings_are_drawn(classifier):
    forward, split = opened(classifier, 1)
    loader = split.loaders["test"]
    plain = collect(forward, loader, 16, embedded=9)
    turned = collect(
        forward, loader, 16, change=lambda images, indices: images[:, ::-1], embedded=9
    )
    assert plain.embeddings.shape[0] == 9 == len(plain.embedded)
    assert np.abs(plain.logits - turned.logits).max() > 1e-3
    np.testing.assert_allclose(plain.brightness, turned.brightness, rtol=1e-5)


@pytest.mark.parametrize("devices", [1, 2])
def test_views_share_the_models_program(classifier, devices):
    forward, split = opened(classifier, devices)
    loader = split.loaders["test"]
    plain = collect(forward, loader, 16)
    turned = collect(forward, loader, 16, change=lambda images, _: images[:, :, ::-1])
    flip = forward.averaging(functools.partial(views_of, "flip"))
    averaged = collect(flip, loader, 16)
    np.testing.assert_allclose(
        averaged.logits, (plain.logits + turned.logits) / 2, rtol=1e-4, atol=1e-5
    )
    assert not averaged.embeddings.size
    collect(forward.averaging(functools.partial(views_of, "ten_crop")), loader, 16)
    assert forward._model._cache_size() == 1


def test_compilations_are_bounded(classifier):
    """15 programs for 75 corruptions; of the model one; the rest are tiny."""
    seconds = []

    def count(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seconds.append(duration)

    c = classifier.config.evaluation
    c.sample = 8
    forward, split = opened(classifier, 1)
    evaluator = Evaluator(forward, split, 16, c, lambda _: None)
    jax.monitoring.register_event_duration_secs_listener(count)
    first = evaluator.robustness_and_views()
    # The model, its normalization, choosing images, their brightness and mask; two for each of four
    # kinds of views; six operations that draw the sample.
    assert 0 < len(seconds) <= 15 + 5 + 2 * 4 + 6
    seconds.clear()
    c.views = False
    assert evaluator.robustness_and_views()["robustness"] == first["robustness"]
    assert not seconds


@pytest.mark.parametrize(
    ("spec", "parts"), [("digits", ["all"]), ("digits?imbalance=2", ["train", "val", "test"])]
)
def test_all_splits_in_one_row(classifier, spec, parts):
    forward, split = opened(classifier, 1, spec=spec, name="all")
    outputs = gather(forward, split, 32, 10_000)
    assert list(split.loaders) == parts
    assert len(outputs.labels) == sum(map(len, split.loaders.values())) == len(split.source)
    assert [int(split.source.labels[row]) for row in outputs.rows] == outputs.labels.tolist()
    assert len({split.source.name(int(row)) for row in outputs.rows}) == len(outputs.rows)
    assert (outputs.embedded < len(outputs.labels)).all() and len(outputs.embedded) == len(
        outputs.embeddings
    )


@pytest.fixture
def folder(tmp_path):
    """Images of three of the ten digits, one of them cut short."""
    random = np.random.default_rng(0)
    for label in ("7", "3", "5"):
        (tmp_path / label).mkdir()
        for i in range(5):
            cv2.imwrite(
                str(tmp_path / label / f"{i}.png"), random.integers(0, 256, (8, 8), np.uint8)
            )
    broken = tmp_path / "5" / "2.png"
    broken.write_bytes(broken.read_bytes()[:40])
    return tmp_path


@pytest.mark.parametrize("resident", [2.0, 0.0])
def test_other_data_of_some_of_the_classes(classifier, folder, resident):
    classifier.config.data.max_unreadable = 0.1
    forward, split = opened(classifier, 2, resident, f"folder:{folder}", "")
    outputs = gather(forward, split, 8, 10_000)
    assert split.name == "all" and len(outputs.labels) == 14
    for row, label in zip(outputs.rows, outputs.labels, strict=True):
        assert classifier.classes[label] in split.source.name(int(row)).split("/")
    assert not any("5/2.png" in split.source.name(int(row)) for row in outputs.rows)


def test_classes_that_the_model_does_not_know(classifier, folder):
    (folder / "7").rename(folder / "seven")
    with pytest.raises(
        UserError,
        match="classes that the model does not have: seven.*\nIt has 0, 1, 2, 3, 4 and 5 more",
    ):
        opened(classifier, 1, spec=f"folder:{folder}", name="")


def test_imagenet_by_synset():
    class Photos:
        classes = ("n01440764", "n02123045")
        labels = np.array([0, 1, 1])

    places = match_classes([name for _, name in imagenet_classes()], Photos)
    assert places.tolist() == [0, 281] and imagenet_classes()[281][0] == "n02123045"
