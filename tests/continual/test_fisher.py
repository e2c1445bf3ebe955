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
    rows = [i for i in range(50) if source.labels[i] in own]
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


def test_sampled_labels_have_the_expected_value(config, loader):
    model = Linear(0)
    draws = [
        measure_fisher(model, loader, config.data, "sampled", OWN, seed)["kernel"]
        for seed in range(40)
    ]
    expected = of_formula(model, loader, "expected", OWN)
    assert np.abs(draws[0] - draws[1]).max() > 0
    assert np.mean(draws, 0).sum() == pytest.approx(expected.sum(), rel=0.05)


@pytest.mark.parametrize("labels", fisher.LABELS)
def test_how_many_gradients_fit_does_not_matter(labels, config, loader, monkeypatch):
    model = Linear(0)
    at_once = measure_fisher(model, loader, config.data, labels)["kernel"]
    assert images_at_a_time(model.kernel[...], labels) == fisher.BATCH
    monkeypatch.setattr(fisher, "GRADIENTS", 20_000)
    assert images_at_a_time(model.kernel[...], labels) in (2, 4)
    in_parts = measure_fisher(model, loader, config.data, labels)["kernel"]
    np.testing.assert_allclose(in_parts, at_once, rtol=1e-5, atol=1e-8)


def program(model, c, labels="expected"):
    """Returns the text of the program for a model's kernel of (64, C)."""
    graph, *variables = nnx.split(model, nnx.Param, ...)
    classes = np.arange(model.kernel.shape[1])
    images = np.zeros((4, 8, 8, 1), np.uint8)
    keys = jax.random.split(jax.random.key(0), 4)
    fixed = (*variables, classes)
    arguments = (fixed, variables[0], images, np.zeros(4, int), np.ones(4, np.float32), keys)
    return adder(graph, c, labels).lower(*arguments).as_text()


@pytest.mark.parametrize("labels", fisher.LABELS)
def test_the_program_does_not_contain_the_weights(labels, config):
    """So that all runs of an architecture share what is compiled and kept on disk."""
    assert program(Linear(0), config.data, labels) == program(Linear(1), config.data, labels)


def test_the_program_does_not_grow_with_the_classes(config):
    few = program(Linear(0, 3), config.data)
    many = program(Linear(0, 300), config.data)
    assert len(many.splitlines()) == len(few.splitlines())
