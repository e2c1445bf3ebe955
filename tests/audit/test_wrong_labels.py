"""How strongly the classifier of embeddings is regularized, against scikit-learn's own loop."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from vision.audit import wrong_labels
from vision.config import default
from vision.data.changes import flip


class Labels:
    """Images of which only the labels are known."""

    def __init__(self, labels):
        self.labels = np.asarray(labels)
        self.classes = tuple(map(str, range(self.labels.max() + 1)))

    def __len__(self):
        return len(self.labels)


@pytest.fixture(scope="module")
def digits():
    """(pixels, labels) of 500 of scikit-learn's digits, with 5 % of the labels flipped."""
    pixels, labels = load_digits(return_X_y=True)
    return pixels[:500], flip(labels[:500], 10, 0.05, [0])


def cross_validated(x, labels, strength):
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    classifier = LogisticRegression(C=strength, max_iter=1000)
    with threadpool_limits(1, "blas"):  # much faster for so few images
        return cross_val_predict(classifier, x, labels, cv=folds, method="predict_proba")


def test_the_strongest_within_one_standard_error_of_the_least_loss(digits):
    pixels, labels = digits
    x = StandardScaler().fit_transform(pixels)
    every = [cross_validated(x, labels, 10.0**k / 64) for k in wrong_labels.DECADES]
    losses = np.array([-np.log(p[np.arange(500), labels]) for p in every])
    least = losses[losses.mean(1).argmin()]
    allowed = least.mean() + least.std() / np.sqrt(500)
    chosen = int((losses.mean(1) <= allowed).argmax())
    assert 0 < chosen < len(every) - 1  # neither end of the grid
    predicted = wrong_labels.predict(pixels, Labels(labels), default())
    errors = [np.abs(predicted - p).mean() for p in every]
    assert np.argmin(errors) == chosen and errors[chosen] < 0.01


def test_few_images_in_unequal_classes_are_not_all_called_the_largest():
    """The weights that 1 / D allows are so small that the image hardly counts."""
    random = np.random.default_rng(0)
    labels = random.choice(3, 180, p=[0.56, 0.24, 0.2])
    x = random.normal(size=(180, 1200))
    x[:, :20] += 0.8 * random.normal(size=(3, 20))[labels]
    largest = np.bincount(labels).max() / 180
    before = cross_validated(StandardScaler().fit_transform(x), labels, 1 / 1200).argmax(1)
    predicted = wrong_labels.predict(x.astype(np.float32), Labels(labels), default()).argmax(1)
    assert (before == labels).mean() < largest + 0.1
    assert (predicted == labels).mean() > largest + 0.2


def test_some_of_many_images_suffice_to_choose(digits, monkeypatch):
    pixels, labels = digits
    seen = []
    choose = wrong_labels._choose_strength

    def watched(classifiers, x, some, folds):
        seen.append((np.bincount(some), np.bincount(folds)))
        return choose(classifiers, x, some, folds)

    monkeypatch.setattr(wrong_labels, "_choose_strength", watched)
    of_all = wrong_labels.predict(pixels, Labels(labels), default())
    monkeypatch.setattr(wrong_labels, "CHOICE", 200)
    of_some = wrong_labels.predict(pixels, Labels(labels), default())
    np.testing.assert_array_equal(wrong_labels.predict(pixels, Labels(labels), default()), of_some)
    assert np.isfinite(of_some).all() and (of_all.argmax(1) == of_some.argmax(1)).mean() > 0.95
    counts, sizes = seen[1]
    assert counts.sum() == 200 and np.ptp(counts) <= 5 and np.ptp(sizes) <= 5
    monkeypatch.setattr(wrong_labels, "CHOICE", 1)  # one of each class in each fold remains
    assert np.isfinite(wrong_labels.predict(pixels, Labels(labels), default())).all()
    assert seen[3][0].tolist() == 10 * [5]
