"""Labels that are probably wrong: a classifier that has not seen an image is sure of another class.

Confident learning, Northcutt et al. 2019 (arXiv:1911.00068), on cross-validated predictions of a
linear classifier. A network that has learned its training labels by heart embeds a wrongly labeled
image as its label says, and nothing is found: embed with a run that was augmented or stopped early,
or with weights that never saw these labels.
"""

import warnings

import numpy as np

from vision.audit.issues import Issue
from vision.data.findings import Finding

# probability of another class, from which its label is taken; below, the image is left out
# share of the labels that the predictions must agree with, or they are no reason to change any
SURE = 0.5
TRUSTED = 0.6


def predict(embeddings, images, config):
    """Returns what each image looks like to a classifier that was fitted without it.

    Logistic regression (scikit-learn) on standardized embeddings, in config.audit.folds stratified
    folds. The more dimensions, the stronger the regularization, so that all of the weights together
    say equally little beforehand.

    Args:
        embeddings: float (N, D), NaN where an image is unreadable.
        images: `vision.audit.images.Images`.
        config: its `seed` and `audit.folds` count.

    Returns:
        float32 (N, C) probabilities. NaN for unreadable images and those of classes with fewer
        images than folds,
        which no image is taken for: see `left_out`.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.preprocessing import StandardScaler

    found = np.full((len(images), len(images.classes)), np.nan, np.float32)
    counts = _counts(embeddings, images)
    rows = np.flatnonzero(_known(embeddings) & (counts >= config.audit.folds)[images.labels])
    labels = images.labels[rows]
    if len(np.unique(labels)) < 2:
        return found
    x = StandardScaler().fit_transform(embeddings[rows])
    folds = StratifiedKFold(config.audit.folds, shuffle=True, random_state=config.seed % 2**32)
    for seen, unseen in folds.split(x, labels):
        classifier = LogisticRegression(C=1 / x.shape[1], max_iter=100, tol=1e-3)
        with warnings.catch_warnings():
            # what is left would change no finding
            warnings.simplefilter("ignore", ConvergenceWarning)
            classifier.fit(x[seen], labels[seen])
        found[rows[unseen]] = 0
        found[np.ix_(rows[unseen], classifier.classes_)] = classifier.predict_proba(x[unseen])
    return found


def left_out(embeddings, images, config):
    """Returns a `Finding` for each class with fewer readable images than folds: no wrong labels are
    looked for in it.

    Args:
        embeddings, images, config: as `predict`.
    """
    counts = _counts(embeddings, images)
    kind = f"classes have fewer images than audit.folds = {config.audit.folds}: their labels are not checked"
    few = np.flatnonzero((counts > 0) & (counts < config.audit.folds))
    return [Finding(kind, images.classes[label], f"{counts[label]} images") for label in few]


def find(probabilities, images, c):
    """Finds labels that are probably wrong.

    The score is 1 less the probability of the label. Where another class is likelier than not, the
    action is to take that one; where no class is, to leave the image out. There are no actions
    where the predictions agree with so few labels that they say little. Labels of test are found
    too; `vision.audit.apply` takes no action on them.

    Args:
        probabilities: what `predict` returns.
        images: `vision.audit.images.Images`.
        c: config.audit.

    Returns:
        List of `Issue` of kind "wrong_label", the worst first.
    """
    rows = np.flatnonzero(np.isfinite(probabilities[:, 0]))
    if not len(rows):
        return []
    known, labels = np.unique(images.labels[rows], return_inverse=True)
    p = probabilities[np.ix_(rows, known)].astype(np.float64)
    own = p[np.arange(len(rows)), labels]
    best = p.argmax(1)
    wrong = np.flatnonzero(_confident(labels, p) & (best != labels))
    agreed = float(np.mean(best == labels))
    doubt = (
        f"; but these embeddings tell only {agreed:.0%} of the labels, so look first"
        if agreed < TRUSTED
        else ""
    )
    issues = []
    for i in wrong[np.argsort(own[wrong], kind="stable")]:
        name = images.classes[known[best[i]]]
        likely = p[i, best[i]]
        action = "" if doubt else f"relabel:{name}" if likely >= SURE else "drop"
        says = f"looks like {name} ({likely:.0%}), not {images.classes[known[labels[i]]]} ({own[i]:.0%}){doubt}"
        issues.append(Issue(int(rows[i]), "wrong_label", float(1 - own[i]), says, action))
    return issues


def _confident(labels, probabilities):
    """Returns bool (N,): what both ways of pruning by the confident joint call wrong
    (arXiv:1911.00068, section 3.2).

    Each by itself finds more, but more of it is right as it was.
    """
    from cleanlab.filter import find_label_issues

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes for which it finds nothing
        return find_label_issues(labels, probabilities, filter_by="both", n_jobs=1)


def _known(embeddings):
    return np.isfinite(embeddings).all(1)


def _counts(embeddings, images):
    """Returns int (C,), readable images of each class."""
    return np.bincount(images.labels[_known(embeddings)], minlength=len(images.classes))
