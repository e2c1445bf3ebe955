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
from vision.data.splits import stratify

SURE = 0.5  # probability of another class from which the image is relabeled, not dropped
DECADES = range(-1, 5)  # exponents of the C that are tried, times the number of dimensions
CHOICE = 3_000  # images by which one of them is chosen
FEW = 10_000  # images up to which threads of BLAS wait for each other longer than they work


def predict(embeddings: np.ndarray, images: Images, config: ConfigDict) -> np.ndarray:
    """Predicts the class of each image with a classifier that was fitted without it.

    Logistic regression (scikit-learn) on standardized embeddings, in config.audit.folds stratified
    folds. How strongly it is regularized is chosen by the same folds, see `_choose_strength`, on at
    most `CHOICE` images, or one of each class in each fold if that is more. Confident learning
    needs probabilities that hold for images that were not seen, hence by log loss.

    Args:
        embeddings: float (N, D), NaN for unreadable images.
        images: the images.
        config: the config; its `seed` and `audit.folds` are used.

    Returns:
        float32 (N, C) probabilities. NaN for unreadable images and for those of classes with fewer
        images than folds; no image is predicted to be of such a class. See `unchecked_classes`.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    shape = (len(images), len(images.classes))
    nothing = np.broadcast_to(np.float32(np.nan), shape)  # takes no memory
    counts = _class_counts(embeddings, images)
    rows = np.flatnonzero(_is_readable(embeddings) & (counts >= config.audit.folds)[images.labels])
    labels = images.labels[rows]
    if len(np.unique(labels)) < 2:
        return nothing
    x = StandardScaler().fit_transform(embeddings[rows])
    folds = _divide(labels, config)
    classifiers = [
        LogisticRegression(max_iter=100, tol=1e-3, warm_start=True)
        for _ in range(config.audit.folds)
    ]
    parts = labels.astype(np.int64) * config.audit.folds + folds
    share = min(1.0, CHOICE / len(rows))
    some = stratify(parts, (share, 1 - share), config.seed)[0]
    probabilities = np.full(shape, np.nan, np.float32)
    probabilities[rows] = 0
    with threadpool_limits(1 if len(rows) <= FEW else None, "blas"):
        strength = _choose_strength(classifiers, x[some], labels[some], folds[some])
        for unseen, predicted in _predict_unseen(classifiers, x, labels, folds, strength):
            probabilities[np.ix_(rows[unseen], np.unique(labels))] = predicted
    return probabilities


def _divide(labels, config):
    """Returns int (N,), the fold of each image; each fold has images of every class."""
    from sklearn.model_selection import StratifiedKFold

    division = StratifiedKFold(config.audit.folds, shuffle=True, random_state=config.seed % 2**32)
    folds = np.empty(len(labels), np.int64)
    for number, (_, unseen) in enumerate(division.split(labels, labels)):
        folds[unseen] = number
    return folds


def _choose_strength(classifiers, x, labels, folds):
    """Returns the C of logistic regression that predicts unseen labels best, by their log loss.

    C is the prior variance of a weight, so what suits some images suits all. By the rule of one
    standard error (Breiman et al. 1984; Hastie et al. 2009, section 7.10) it is the smallest whose
    loss is within one standard error of the least: the least is flat, and of classifiers that are
    as good the simpler one learns fewer wrong labels. The larger C are not tried once the loss
    rises: they take longest.
    """
    columns = np.searchsorted(np.unique(labels), labels)
    losses: list[np.ndarray] = []
    for decade in DECADES:
        loss = np.empty(len(labels))
        for unseen, predicted in _predict_unseen(
            classifiers, x, labels, folds, _strength(decade, x)
        ):
            own = predicted[np.arange(len(unseen)), columns[unseen]]
            loss[unseen] = -np.log(np.maximum(own, np.finfo(own.dtype).tiny))
        if losses and loss.mean() > losses[-1].mean():
            break
        losses.append(loss)
    least = losses[-1]
    allowed = least.mean() + least.std() / np.sqrt(len(least))
    chosen = next(i for i, loss in enumerate(losses) if loss.mean() <= allowed)
    return _strength(DECADES[chosen], x)


def _strength(decade, x):
    return 10.0**decade / x.shape[1]  # for standardized embeddings, the sum over all dimensions


def _predict_unseen(classifiers, x, labels, folds, strength):
    """Fits each fold's classifier to the other folds, from the weights that it has.

    Yields:
        (positions of a fold's images, their probabilities (n, number of different labels)).
    """
    from sklearn.exceptions import ConvergenceWarning

    for fold, classifier in enumerate(classifiers):
        seen = np.flatnonzero(folds != fold)
        unseen = np.flatnonzero(folds == fold)
        classifier.set_params(C=strength)
        with warnings.catch_warnings():
            # Further iterations would change no issue.
            warnings.simplefilter("ignore", ConvergenceWarning)
            classifier.fit(x[seen], labels[seen])
        yield unseen, classifier.predict_proba(x[unseen])


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
