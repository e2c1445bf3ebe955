"""Labels that are probably wrong: a classifier that has not seen an image prefers another class.

Confident learning, Northcutt et al. 2019 (arXiv:1911.00068), on cross-validated predictions of a
linear classifier. A network that has memorized its training labels embeds a mislabeled image
according to its label, and nothing is found: embed with a run that was augmented or stopped early,
or with weights that never saw these labels.
"""

import warnings

import numpy as np
from ml_collections import ConfigDict

from vision.audit.images import Images
from vision.audit.issues import Issue
from vision.data.findings import Finding

SURE = 0.5  # probability of another class from which the image is relabeled, not dropped


def predict(embeddings: np.ndarray, images: Images, config: ConfigDict) -> np.ndarray:
    """Predicts the class of each image with a classifier that was fitted without it.

    Logistic regression (scikit-learn) on standardized embeddings, in config.audit.folds stratified
    folds. The regularization grows with the number of dimensions, so that the prior of all weights
    together is equally strong.

    Args:
        embeddings: float (N, D), NaN for unreadable images.
        images: the images.
        config: the config; its `seed` and `audit.folds` are used.

    Returns:
        float32 (N, C) probabilities. NaN for unreadable images and for those of classes with fewer
        images than folds; no image is predicted to be of such a class. See `unchecked_classes`.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.preprocessing import StandardScaler

    shape = (len(images), len(images.classes))
    nothing = np.broadcast_to(np.float32(np.nan), shape)  # takes no memory
    counts = _class_counts(embeddings, images)
    rows = np.flatnonzero(_is_readable(embeddings) & (counts >= config.audit.folds)[images.labels])
    labels = images.labels[rows]
    if len(np.unique(labels)) < 2:
        return nothing
    probabilities = np.full(shape, np.nan, np.float32)
    x = StandardScaler().fit_transform(embeddings[rows])
    folds = StratifiedKFold(config.audit.folds, shuffle=True, random_state=config.seed % 2**32)
    for seen, unseen in folds.split(x, labels):
        classifier = LogisticRegression(C=1 / x.shape[1], max_iter=100, tol=1e-3)
        with warnings.catch_warnings():
            # Further iterations would change no issue.
            warnings.simplefilter("ignore", ConvergenceWarning)
            classifier.fit(x[seen], labels[seen])
        probabilities[rows[unseen]] = 0
        columns = np.ix_(rows[unseen], classifier.classes_)
        probabilities[columns] = classifier.predict_proba(x[unseen])
    return probabilities


def unchecked_classes(embeddings: np.ndarray, images: Images, config: ConfigDict) -> list[Finding]:
    """Returns a `Finding` for each class with fewer readable images than folds.

    The labels of such a class are not checked.

    Args:
        embeddings, images, config: see `predict`.
    """
    folds = config.audit.folds
    counts = _class_counts(embeddings, images)
    kind = f"classes have fewer images than audit.folds = {folds}: their labels are not checked"
    small = np.flatnonzero((counts > 0) & (counts < folds))
    return [Finding(kind, images.classes[label], f"{counts[label]} images") for label in small]


def find_wrong_labels(probabilities: np.ndarray, images: Images, c: ConfigDict) -> list[Issue]:
    """Finds labels that are probably wrong.

    The score is 1 minus the probability of the label. If another class is more likely than not, the
    action is to relabel to it; if no class is, to drop the image. Labels of test are reported too;
    `vision.audit.apply` takes no action on them. `vision.audit.power` says whether the predictions
    are good enough to question labels.

    Args:
        probabilities: result of `predict`, (N, C).
        images: the images.
        c: config.audit.

    Returns:
        Issues of kind "wrong_label", the worst first.
    """
    rows = np.flatnonzero(np.isfinite(probabilities[:, 0]))
    if not len(rows):
        return []
    classes, labels = np.unique(images.labels[rows], return_inverse=True)
    p = probabilities[np.ix_(rows, classes)].astype(np.float64)
    own = p[np.arange(len(rows)), labels]
    best = p.argmax(1)
    wrong = np.flatnonzero(_confidently_wrong(labels, p) & (best != labels))
    issues = []
    for i in wrong[np.argsort(own[wrong], kind="stable")]:
        name = images.classes[classes[best[i]]]
        label = images.classes[classes[labels[i]]]
        suggestion = f"looks like {name} ({p[i, best[i]]:.0%}), not {label} ({own[i]:.0%})"
        action = f"relabel:{name}" if p[i, best[i]] >= SURE else "drop"
        issues.append(Issue(int(rows[i]), "wrong_label", float(1 - own[i]), suggestion, action))
    return issues


def _confidently_wrong(labels, probabilities):
    """Returns bool (N,): the labels that both ways of pruning by the confident joint reject.

    arXiv:1911.00068, section 3.2. Either one rejects more, but more of those are correct.
    """
    from cleanlab.filter import find_label_issues

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of classes without issues
        return find_label_issues(labels, probabilities, filter_by="both", n_jobs=1)


def _is_readable(embeddings):
    return np.isfinite(embeddings).all(1)


def _class_counts(embeddings, images):
    """Returns int (C,), the number of readable images of each class."""
    return np.bincount(images.labels[_is_readable(embeddings)], minlength=len(images.classes))
