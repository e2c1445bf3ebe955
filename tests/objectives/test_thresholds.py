"""What makes a pseudo-label count, step by step, against the papers in NumPy."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.objectives.consistency import pseudo_label_loss, squared_difference
from vision.objectives.thresholds import (
    FlexRule,
    FreeRule,
    fairness_loss,
    flexible_thresholds,
)

CLASSES = 4
UNLABELED = 12
LOGITS = 2 * np.random.RandomState(0).randn(UNLABELED, CLASSES)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def test_no_confident_image_is_no_loss():
    p = softmax(LOGITS)
    logits = jnp.asarray(LOGITS)
    nobody = jnp.zeros(UNLABELED, bool)
    assert pseudo_label_loss(logits, jnp.asarray(p), nobody) == 0
    shares = jnp.full(CLASSES, 1 / CLASSES)
    loss, gradient = jax.value_and_grad(fairness_loss)(logits, nobody, shares, shares)
    assert loss == 0 and not np.asarray(gradient).any()
    assert squared_difference(logits, logits + 3.0) == pytest.approx(0, abs=1e-12)


def batches(steps, size, images):
    """Yields (probabilities, index) of batches; an image may occur twice in one of them."""
    random = np.random.RandomState(1)
    for _ in range(steps):
        yield softmax(4 * random.randn(size, CLASSES)), random.randint(0, images, size)


def test_flexmatch_over_several_steps(float64):
    """The thresholds of section 3, with a dict of the pseudo-labels and a counter."""
    images = 30
    rule = FlexRule(CLASSES, 0.8, images)
    latest = {}
    seen = []
    for p, index in batches(8, 16, images):
        counts = collections.Counter(latest.values())
        most = max([*counts.values(), images - len(latest)])
        beta = np.array([counts[label] / most for label in range(CLASSES)])
        expected = 0.8 * beta / (2 - beta)
        np.testing.assert_allclose(rule(jnp.asarray(p), jnp.asarray(index)), expected, atol=1e-12)
        seen.append(expected)
        for probabilities, image in zip(p, index, strict=True):
            if probabilities.max() >= 0.8:
                latest[int(image)] = int(probabilities.argmax())
        labels = np.asarray(rule.labels[...])
        assert {i: label for i, label in enumerate(labels) if label >= 0} == latest
    assert np.ptp(seen[-1]) > 0.1 and max(map(np.max, seen)) == pytest.approx(0.8)


def test_flexible_thresholds_stay_in_range():
    """From 0, when nothing is learned, to the threshold, when all classes are learned equally."""
    unknown = jnp.full(8, -1)
    assert not np.asarray(flexible_thresholds(unknown, 2, 0.9)).any()
    learned = jnp.arange(8) % 2
    np.testing.assert_allclose(flexible_thresholds(learned, 2, 0.9), 0.9, rtol=1e-6)


def fairness(logits, counted, shares, histogram):
    """Eq. 9 to 12, with 0 for classes that are never predicted, as in the authors' code."""
    if not counted.any():
        return 0.0
    q = softmax(logits[counted])
    votes = np.bincount(q.argmax(1), minlength=CLASSES) / len(q)
    predicted = np.where(votes > 0, q.mean(0) / np.where(votes > 0, votes, 1), 0)
    wanted = shares / histogram
    predicted = predicted / predicted.sum()
    return (wanted / wanted.sum() * np.log(predicted + 1e-12)).sum()


def test_freematch_over_several_steps(float64):
    """Eq. 5 to 12, and the gradient of eq. 12 by finite differences."""
    rule = FreeRule(CLASSES, 0.7, 0.05)
    confidence = 1 / CLASSES
    shares = np.full(CLASSES, 1 / CLASSES)
    histogram = np.full(CLASSES, 1 / CLASSES)
    logits = LOGITS
    for p, index in batches(6, UNLABELED, 30):
        confidence = 0.7 * confidence + 0.3 * p.max(1).mean()
        shares = 0.7 * shares + 0.3 * p.mean(0)
        votes = np.bincount(p.argmax(1), minlength=CLASSES) / len(p)
        histogram = 0.7 * histogram + 0.3 * votes
        expected = shares / shares.max() * confidence
        thresholds = np.asarray(rule(jnp.asarray(p), jnp.asarray(index)))
        np.testing.assert_allclose(thresholds, expected, atol=1e-12)
        counted = p.max(1) >= expected[p.argmax(1)]
        penalty = jax.value_and_grad(rule.penalty)
        value, gradient = penalty(jnp.asarray(logits), jnp.asarray(counted))
        loss = fairness(logits, counted, shares, histogram)
        assert loss < 0
        assert float(value) == pytest.approx(0.05 * loss, abs=1e-12)
    for row, column in ((0, 0), (3, 2), (7, 1), (11, 3)):
        step = np.zeros_like(logits)
        step[row, column] = 1e-6
        above = fairness(logits + step, counted, shares, histogram)
        below = fairness(logits - step, counted, shares, histogram)
        slope = 0.05 * (above - below) / 2e-6
        assert gradient[row, column] == pytest.approx(slope, abs=1e-8)
