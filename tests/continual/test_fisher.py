"""The Fisher information of a linear model against its formula, and its program."""

import jax
import numpy as np
import pytest
from flax import nnx

from tests.support.mlp_config import mlp_config
from vision import parallel
from vision.continual import fisher
from vision.continual.fisher import adder, images_at_a_time, measure_fisher
from vision.data.pipeline import open_data

OWN = np.array([2, 5, 7])


class Linear(nnx.Module):
    def __init__(self, seed, classes=10):
        weights = np.random.RandomState(seed).randn(64, classes).astype(np.float32)
        self.kernel = nnx.Param(weights / 4)

    def __call__(self, images):
        return images.reshape(len(images), -1) @ self.kernel[...]


@pytest.fixture(scope="module")
def config():
    return mlp_config("digits", 1)


@pytest.fixture(scope="module")
def loader(config):
    """Fifty digits, so that the last batch is not full."""
    loader = open_data(config, parallel.make_mesh(1)).loaders["train"]
    return loader.part(np.arange(50))


def of_formula(model, loader, labels, own):
    """Returns mean (x (y - p))^2, NumPy in double precision; "expected" weights all y by p."""
    source = loader.dataset.source
    rows = [i for i in range(len(loader)) if source.labels[i] in own]
    inputs = np.stack([source[i]["image"].ravel() for i in rows]) / 127.5 - 1
    logits = (inputs @ np.asarray(model.kernel[...], np.float64))[:, own]
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    errors = p * (1 - p)
    if labels == "true":
        errors = (np.array([source.labels[i] for i in rows])[:, None] == own) - p
        errors = errors**2
    total = np.zeros((inputs.shape[1], 10))
    total[:, own] = inputs.T**2 @ errors / len(rows)
    return total


@pytest.mark.parametrize("labels", ["expected", "true"])
@pytest.mark.parametrize("own", [np.arange(10), OWN])
def test_it_is_that_of_the_formula(labels, own, config, loader):
    model = Linear(0)
    measured = measure_fisher(model, loader, config.data, labels, own)
    expected = of_formula(model, loader, labels, own)
    np.testing.assert_allclose(measured["kernel"], expected, rtol=1e-4, atol=1e-6)


def test_sampled_labels_have_the_expected_value(config):
    model = Linear(0)
    loader = open_data(config, parallel.make_mesh(1)).loaders["train"]
    measured = measure_fisher(model, loader, config.data, "sampled", OWN)["kernel"]
    other = measure_fisher(model, loader, config.data, "sampled", OWN, seed=1)["kernel"]
    assert np.abs(measured - other).max() > 0
    expected = of_formula(model, loader, "expected", OWN)
    assert measured.sum() == pytest.approx(expected.sum(), rel=0.1)


@pytest.mark.parametrize(("devices", "resident_gib"), [(1, 0.0), (3, 1.0)])
def test_devices_and_where_the_images_are_do_not_matter(devices, resident_gib, config, loader):
    model = Linear(0)
    expected = measure_fisher(model, loader, config.data, "sampled", OWN)["kernel"]
    c = config.copy_and_resolve_references()
    c.data.resident_gib = resident_gib
    other = open_data(c, parallel.make_mesh(devices)).loaders["train"].part(np.arange(50))
    assert other.is_resident == bool(resident_gib)
    measured = measure_fisher(model, other, c.data, "sampled", OWN)["kernel"]
    np.testing.assert_allclose(measured, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("labels", fisher.LABELS)
def test_how_many_gradients_fit_does_not_matter(labels, config, loader, monkeypatch):
    model = Linear(0)
    at_once = measure_fisher(model, loader, config.data, labels)["kernel"]
    assert images_at_a_time(model.kernel[...], labels) == fisher.BLOCK
    monkeypatch.setattr(fisher, "GRADIENTS", 20_000)
    assert images_at_a_time(model.kernel[...], labels) in (2, 4)
    in_parts = measure_fisher(model, loader, config.data, labels)["kernel"]
    np.testing.assert_allclose(in_parts, at_once, rtol=1e-5, atol=1e-8)


def program(model, c, labels="expected"):
    """Returns the text of the program for a model's kernel of (64, C)."""
    graph, parameters, streams, rest = nnx.split(model, nnx.Param, nnx.RngState, ...)
    classes = np.arange(model.kernel.shape[1])
    fixed = (parameters, rest, classes, classes)
    batch = {
        "image": np.zeros((4, 8, 8, 1), np.uint8),
        "label": np.zeros(4, np.int32),
        "mask": np.ones(4, bool),
    }
    keys = jax.random.split(jax.random.key(0), 4)
    add = adder((graph, streams), c, labels, parallel.make_mesh(1))
    return add.lower(fixed, (parameters, np.float32(0)), batch, {}, keys).as_text()


@pytest.mark.parametrize("labels", fisher.LABELS)
def test_the_program_does_not_contain_the_weights(labels, config):
    """So that all runs of an architecture share what is compiled and kept on disk."""
    assert program(Linear(0), config.data, labels) == program(Linear(1), config.data, labels)


def test_the_program_does_not_grow_with_the_classes(config):
    few = program(Linear(0, 3), config.data)
    many = program(Linear(0, 300), config.data)
    assert len(many.splitlines()) == len(few.splitlines())
