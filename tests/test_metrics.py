"""Metrics against scikit-learn, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics
from sklearn.neighbors import KNeighborsClassifier

from vision import metrics


def summary(logits, labels, mask=None, parts=1):
    """Returns `summarize` of the totals over `parts` batches, under jit as in evaluation."""
    mask = np.ones(len(labels), bool) if mask is None else mask
    sums = None
    pairs = []
    for rows in np.array_split(np.arange(len(labels)), parts):
        outputs = [jnp.asarray(array[rows]) for array in (logits, labels, mask)]
        batch = jax.jit(metrics.batch_sums)(*outputs)
        sums = batch if sums is None else metrics.add(sums, batch)
        pairs.append(jax.jit(metrics.batch_pairs)(*outputs))
    counts = metrics.confusion(np.concatenate(pairs, 1), logits.shape[1])
    return metrics.summarize(jax.device_get(sums)) | counts


def expected(logits, labels):
    """The same from scikit-learn."""
    classes = np.arange(logits.shape[1])
    shifted = logits - logits.max(1, keepdims=True)
    probabilities = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    predicted = logits.argmax(1)
    common = {"labels": classes, "average": None, "zero_division": 0}
    top5 = [label in np.argsort(-row)[:5] for row, label in zip(logits, labels, strict=True)]
    return {
        **({"top5_accuracy": np.mean(top5)} if len(classes) > 5 else {}),
        "loss": sklearn_metrics.log_loss(labels, probabilities, labels=classes)
        if len(classes) > 1
        else 0.0,
        "accuracy": sklearn_metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": sklearn_metrics.recall_score(
            labels, predicted, labels=np.unique(labels), average="macro"
        ),
        "macro_f1": sklearn_metrics.f1_score(
            labels, predicted, labels=np.unique(labels), average="macro", zero_division=0
        ),
        "precision": sklearn_metrics.precision_score(labels, predicted, **common),
        "recall": sklearn_metrics.recall_score(labels, predicted, **common),
        "f1": sklearn_metrics.f1_score(labels, predicted, **common),
        "support": np.bincount(labels, minlength=len(classes)),
        "confusion": sklearn_metrics.confusion_matrix(labels, predicted, labels=classes),
    }


def agree(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=1e-9, err_msg=name)


CASES = {
    "ten classes": (10, 200, lambda labels, logits: None),
    "three classes, without a top five": (3, 60, lambda labels, logits: None),
    "one class": (1, 7, lambda labels, logits: None),
    "a class absent in truth": (6, 90, lambda labels, logits: labels.__setitem__(labels == 2, 3)),
    "a class never predicted": (
        6,
        90,
        lambda labels, logits: logits.__setitem__((slice(None), 4), -15.0),
    ),
    "a class in neither": (
        6,
        90,
        lambda labels, logits: (
            labels.__setitem__(labels == 2, 3),
            logits.__setitem__((slice(None), 2), -15.0),
        ),
    ),
    "always right": (
        4,
        40,
        lambda labels, logits: logits.__setitem__((np.arange(40), labels), 9.0),
    ),
    "always wrong": (
        4,
        40,
        lambda labels, logits: logits.__setitem__((np.arange(40), labels), -9.0),
    ),
}


@pytest.mark.filterwarnings("ignore:A single label")
@pytest.mark.parametrize("case", CASES)
def test_equals_scikit_learn(case, float64):
    classes, count, change = CASES[case]
    rng = np.random.RandomState(0)
    labels = rng.randint(0, classes, count)
    logits = rng.randn(count, classes)
    change(labels, logits)
    agree(summary(logits, labels), expected(logits, labels))


def test_top_k_equals_scikit_learn(float64):
    rng = np.random.RandomState(1)
    labels = rng.randint(0, 12, 300)
    logits = rng.randn(300, 12)
    theirs = sklearn_metrics.top_k_accuracy_score(labels, logits, k=5, labels=np.arange(12))
    assert summary(logits, labels)["top5_accuracy"] == pytest.approx(theirs, abs=1e-12)


def test_padding_counts_nowhere_and_batches_add_up(float64):
    rng = np.random.RandomState(2)
    labels = rng.randint(0, 7, 60)
    logits = rng.randn(60, 7)
    mask = rng.rand(60) < 0.7
    logits[~mask] = np.nan  # whatever padding holds
    summed = summary(logits, labels, mask)
    agree(summed, expected(logits[mask], labels[mask]))
    agree(summary(logits, labels, mask, parts=3), summed)


def test_nothing_but_padding_gives_zeros():
    empty = summary(np.zeros((4, 3), np.float32), np.zeros(4, np.int32), np.zeros(4, bool))
    assert set(metrics.scalars(empty).values()) == {0.0}
    assert empty["support"] == [0, 0, 0] and np.sum(empty["confusion"]) == 0


def test_ties_go_to_the_lower_class():
    logits = np.zeros((8, 8), np.float32)
    labels = np.arange(8)
    tied = summary(logits, labels)
    assert tied["accuracy"] == 1 / 8  # all are called class 0
    assert tied["top5_accuracy"] == 5 / 8  # and the first five are the top five
    assert tied["loss"] == pytest.approx(np.log(8), rel=1e-6)


def test_extreme_logits_stay_finite():
    ours = summary(np.array([[1e4, -1e4], [-1e4, 1e4]], np.float32), np.array([0, 0]))
    assert ours["accuracy"] == 0.5 and ours["loss"] == pytest.approx(1e4)


@pytest.mark.parametrize("classes", [3, 5, 6, 9])
def test_scalars_are_the_single_numbers(classes):
    summed = summary(np.eye(classes, dtype=np.float32), np.arange(classes))
    names = metrics.scalar_names(classes)
    assert tuple(metrics.scalars(summed)) == names
    assert {name for name, value in summed.items() if isinstance(value, float)} == set(names)
    assert ("top5_accuracy" in names) == (classes > 5)


def test_sums_grow_with_the_classes_and_cells_equal_the_table():
    classes = 22_000
    labels = np.array([0, 21_999, 21_999, 7], np.int32)
    logits = np.zeros((4, classes), np.float32)
    logits[[0, 1, 2, 3], [3, 21_999, 5, 5]] = 1
    shapes = jax.eval_shape(metrics.batch_sums, logits, labels, np.ones(4, bool))
    assert max(np.prod(shape.shape) for shape in jax.tree.leaves(shapes)) == classes
    found = summary(logits, labels, np.array([True, True, True, False]))
    assert found["confusion_cells"] == [[0, 3, 1], [21_999, 5, 1], [21_999, 21_999, 1]]
    assert "confusion" not in found and found["recall"][21_999] == 0.5


def clusters(count, seed, spread):
    """Returns embeddings (count, 16) around the centers of four classes, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    centers = np.eye(4, 16) * 5
    return (centers[labels] + spread * rng.normal(size=(count, 16))).astype(np.float32), labels


def test_neighbors_tell_separable_classes_apart():
    assert metrics.knn_accuracy(*clusters(80, 0, 0.5), *clusters(40, 2, 0.5)) == 1.0


@pytest.mark.parametrize("k", [1, 5, 500])
def test_neighbors_equal_scikit_learns(k):
    train, labels = clusters(60, 0, 4.0)
    test, test_labels = clusters(50, 1, 4.0)
    reference = KNeighborsClassifier(
        min(k, 60), weights=lambda distances: np.exp(-distances / 0.07), metric="cosine"
    ).fit(train, labels)
    accuracy = metrics.knn_accuracy(train, labels, test, test_labels, k=k, chunk=7)
    assert accuracy == reference.score(test, test_labels)
