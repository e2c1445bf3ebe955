"""How well a model knows its limits: answers that it may refuse, and sets of classes.

Selective classification (Geifman and El-Yaniv 2017, arXiv:1705.08500): answer only if the top
probability is at least a threshold. The precision of the answers is bounded by the exact binomial
interval (Clopper and Pearson 1934), and the threshold is searched for in an order that keeps its
confidence, see `vision.reference.unsure.Evidence`; the paper's own search divides the error rate by
the number of its steps, which answers fewer images.

Sets by split conformal prediction with the probability of the true class as score (LAC; Sadinle,
Lei and Wasserman 2019, arXiv:1609.00451): of n validation images, the score that ceil((n + 1) c) of
them reach makes sets that hold the true class of a new image with a probability of at least c. Sets
that would be empty get the most probable class.

Both promise something about images like the validation images, and only on average over all of
them: a single class may be far from it.
"""

from typing import Any

import numpy as np

from vision.errors import UserError
from vision.evaluation.measures import statistics
from vision.evaluation.measures.blocks import by_rows, confidences
from vision.inference import softmax
from vision.reference.unsure import COVERAGE, FORMAT, PRECISION, STARTS, STEP, Evidence, Requirement

CONFIDENCE = 0.95  # that a promised precision is kept
# in steps: above it bundles, which compute in float32, cannot tell probabilities from 1
HIGHEST = round(1 / STEP) - 1
ROWS = 100  # thresholds that are tried, at most: one for each percent of the images
# coverages that a set may promise: 50 %, 51 %, ... 99 %, 99.1 %, ... 99.9 %
LEVELS = (*(i / 100 for i in range(50, 100)), *(i / 1000 for i in range(991, 1000)))
PROMISES = (0.9, 0.95, 0.98, 0.99, 0.995)  # precisions in a report
SETS = (0.9, 0.95, 0.99)  # coverages in a report
ERROR_RATE = 0.05  # how often a report may call promises broken that are kept
POINTS = 200  # of a risk-coverage curve


def lower_precision(right: np.ndarray, answered: np.ndarray, error_rate: float) -> np.ndarray:
    """Returns the lower end of Clopper and Pearson's one-sided interval, float64 (...).

    The chance that it exceeds the true precision is at most `error_rate`.

    Args:
        right: numbers of right answers, (...).
        answered: of how many, (...), each at least 1.
        error_rate: in (0, 1).
    """
    from scipy.stats import beta

    right = np.asarray(right)
    low = beta.ppf(error_rate, np.maximum(right, 1), np.asarray(answered) - right + 1)
    return np.where(right == 0, 0.0, low)


def measure(
    logits: np.ndarray,
    labels: np.ndarray,
    temperature: float,
    confidence: float = CONFIDENCE,
    **about: Any,
) -> Evidence:
    """Returns the `Evidence` of some validation images.

    Args:
        logits: float (N, C), N >= 1, of images that the model has not learned from.
        labels: int (N,).
        temperature: divides the logits.
        confidence: of a promised precision.
        about: "split", "source" and "step", where the logits come from.
    """
    top, true = confidences(logits, labels, temperature)
    correct = np.argmax(logits, axis=1) == labels
    contents = {
        "format": FORMAT,
        "images": len(labels),
        **about,
        "temperature": float(temperature),
        "confidence": float(confidence),
        PRECISION: _precisions(top, correct, (1 - confidence) / STARTS),
        COVERAGE: _coverages(true),
        "rule": None,
    }
    return Evidence(contents)


def choose(evidence: Evidence, requirement: Requirement) -> Evidence:
    """Returns the evidence with a rule; raises `UserError` if it cannot promise it."""
    evidence.rule_of(requirement)
    return Evidence(dict(evidence.contents) | {"rule": str(requirement)}, requirement)


def _precisions(top, correct, error_rate):
    """Returns the columns of "precision".

    A row is a fixed number of images, those of the highest top probability; its threshold is the
    first step above the next image, so that the images of the row are drawn as new ones above the
    threshold are. Images above the highest step count as equally sure.
    """
    levels = np.minimum(np.floor(top / STEP + 1e-4), HIGHEST)  # whole steps
    order = np.argsort(-levels, kind="stable")
    levels = levels[order]
    counts = np.unique(np.ceil(np.arange(1, ROWS + 1) * len(top) / ROWS).astype(int))
    thresholds = np.append(levels, -1)[counts] + 1
    thresholds = np.unique(thresholds[thresholds <= levels[0]])[::-1]
    answered = np.searchsorted(-levels, -thresholds, "right")
    right = np.cumsum(correct[order])[answered - 1]
    return {
        "threshold": np.round(thresholds * STEP, 6).tolist(),
        "answered": answered.tolist(),
        "right": right.tolist(),
        "at_least": lower_precision(right, answered, error_rate).tolist(),
    }


def _coverages(true):
    """Returns the columns of "coverage": of `LEVELS` those that the images can promise."""
    ordered = np.sort(true)[::-1]
    levels = []
    probabilities = []
    for level in LEVELS:
        place = _place(len(ordered), level)
        if place <= len(ordered):
            levels.append(level)
            steps = min(np.floor(ordered[place - 1] / STEP), HIGHEST)
            probabilities.append(float(steps * STEP))
    return {"level": levels, "probability": np.round(probabilities, 6).tolist()}


def _place(images, level):
    """Returns k: sets with the probability that k of the images' true classes reach promise it."""
    return int(np.ceil((images + 1) * level - 1e-9))


def risk_coverage(top: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns (share of wrong answers among the k surest images, float64 (N,), its mean).

    The mean is the area under the risk-coverage curve (AURC; Geifman et al. 2019,
    arXiv:1805.08206). Images of equal probability count as in a random order.

    Args:
        top: float (N,), the top probability of each image.
        correct: bool (N,).
    """
    order = np.argsort(-top, kind="stable")
    _, group, sizes = np.unique(-top[order], return_inverse=True, return_counts=True)
    wrong = np.bincount(group, ~correct[order]) / sizes
    risks = np.cumsum(wrong[group]) / np.arange(1, len(top) + 1)
    return risks, float(risks.mean())


def on_test(
    evidence: Evidence | None, logits: np.ndarray, labels: np.ndarray, temperature: float
) -> dict[str, Any]:
    """Returns how the promises of validation images are kept on others, for metrics.json.

    Args:
        evidence: of the validation images; None if there are none.
        logits: float (N, C), N >= 1.
        labels: int (N,).
        temperature: divides the logits.

    Returns:
        {"aurc": {"value", "at_random", "at_best"}, "curve": {"coverage", "risk"}, "validation":
        {"images", "confidence", "rule"} or None, "precision": [row], "sets": [row], "impossible":
        [requirement]}. Shares are {"value", "low", "high"}, Wilson's. "kept" of a row is "yes",
        "within chance" or "no", see `_judge`; None if nothing was promised, or nothing answered.
    """
    top, _ = confidences(logits, labels, temperature)
    correct = np.argmax(logits, axis=1) == labels
    risks, area = risk_coverage(top, correct)
    places = np.unique(np.linspace(0, len(top) - 1, POINTS).astype(int))
    result: dict[str, Any] = {
        "aurc": {"value": area, "at_random": float(risks[-1]), "at_best": _best_area(correct)},
        "curve": {"coverage": (places + 1) / len(top), "risk": risks[places]},
        "validation": None,
        PRECISION: [],
        "sets": [],
        "impossible": [],
    }
    result["curve"] = {name: values.tolist() for name, values in result["curve"].items()}
    if evidence is None:
        return result
    result["validation"] = {
        "images": evidence.images,
        "confidence": evidence.contents["confidence"],
        "rule": evidence.contents["rule"],
    }
    for requirement in _requirements(evidence):
        try:
            rule = evidence.rule_of(requirement)
        except UserError:
            result["impossible"].append(str(requirement))
            continue
        if rule.gives_sets:
            result["sets"].append(_sets(rule, logits, labels, temperature))
        else:
            result[PRECISION].append(_answers(evidence, rule, top, correct))
    _judge(result, evidence, len(labels))
    return result


def _judge(result, evidence, images):
    """Sets whether each promise is "kept", given the noise of the test and validation images.

    "no" is a claim that the two differ, so it may be wrong in `ERROR_RATE` of the reports: each of
    R promises has an R-th of that. See `_too_few_covered`, `_too_few_right`.

    Args:
        result: of `on_test`.
        evidence: of the validation images.
        images: number of test images.
    """
    promised = [row for row in result[PRECISION] if row["expected"] is not None]
    error_rate = ERROR_RATE / max(1, len(promised) + len(result["sets"]))
    for row in result[PRECISION]:
        row["kept"] = None
    for row in promised:
        answered = round(row["answered"]["value"] * images)
        if answered:
            is_broken = _too_few_right(evidence, row, answered, error_rate)
            row["kept"] = _kept(row["precision"]["value"], row["value"], is_broken)
    for row in result["sets"]:
        is_broken = _too_few_covered(evidence, row, images, error_rate)
        row["kept"] = _kept(row["coverage"]["value"], row["value"], is_broken)


def _kept(share, promised, is_broken):
    if share >= promised:
        return "yes"
    return "no" if is_broken else "within chance"


def _too_few_right(evidence, row, answered, error_rate):
    """Whether a precision is below the promise by more than the noise of both splits explains.

    The upper end of Clopper and Pearson's interval on the test images is below the promise, and
    below the lower end of that on the validation images, each with half of the error rate.
    """
    from scipy.stats import beta

    errors = row["errors"]
    table = evidence.contents[PRECISION]
    place = evidence.row_of(row["value"])
    low = lower_precision(table["right"][place], table["answered"][place], error_rate / 2)
    high = beta.ppf(1 - error_rate / 2, answered - errors + 1, errors) if errors else 1.0
    return high < min(low, row["value"])


def _too_few_covered(evidence, row, images, error_rate):
    """Whether so few sets hold the true class as a kept promise has at most at this error rate.

    The probability that k of n validation scores reach is reached by a new one with a chance that
    varies with the draw as Beta(k, n + 1 - k), so hits among test images are beta-binomial.
    """
    from scipy.stats import betabinom

    place = _place(evidence.images, row["value"])
    hits = round(row["coverage"]["value"] * images)
    return betabinom.cdf(hits, images, place, evidence.images + 1 - place) < error_rate


def _requirements(evidence):
    """Returns the requirements of a report: the usual ones and the chosen one, in order."""
    requirements = {Requirement(PRECISION, p) for p in PROMISES} | {
        Requirement(COVERAGE, c) for c in SETS
    }
    if evidence.rule is not None:
        requirements.add(evidence.rule)
    return sorted(requirements, key=lambda requirement: (requirement.kind, requirement.value))


def _best_area(correct):
    """Returns the AURC of a model that is as often right, and is surest where it is right."""
    return risk_coverage(correct.astype(float), correct)[1]


def _answers(evidence, rule, top, correct):
    """Returns what came of a promised precision."""
    is_answered = top >= rule.least
    answered = int(is_answered.sum())
    row = {
        "wish": str(rule.requirement),  # the key of files that exist
        "value": rule.requirement.value,
        "threshold": rule.least,
    }
    row["answered"] = statistics.share(answered, len(top))
    row["precision"] = statistics.share(int(correct[is_answered].sum()), answered)
    row["errors"] = answered - int(correct[is_answered].sum())
    row["expected"] = None
    if rule.requirement.kind == PRECISION:
        place = evidence.row_of(rule.requirement.value)
        row["expected"] = evidence.contents[PRECISION]["answered"][place] / evidence.images
    return row


def _sets(rule, logits, labels, temperature):
    """Returns what came of a promised coverage, overall and by class."""

    def block(logits, labels):
        probabilities = softmax(np.asarray(logits, np.float64) / temperature)
        members = rule.sets(probabilities)
        return members.sum(1), members[np.arange(len(labels)), labels]

    sizes, is_held = by_rows(block, logits, labels)
    classes = np.shape(logits)[1]
    images = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels, is_held, classes).astype(int)
    totals = np.bincount(labels, sizes, classes)
    return {
        "wish": str(rule.requirement),
        "value": rule.requirement.value,
        "probability": rule.least,
        "coverage": statistics.share(int(is_held.sum()), len(labels)),
        "size": float(sizes.mean()),
        "single": statistics.share(int((sizes == 1).sum()), len(labels)),
        "per_class": [
            {
                "class": index,
                "images": int(images[index]),
                "coverage": statistics.share(int(hits[index]), int(images[index])),
                "size": float(totals[index] / images[index]),
            }
            for index in np.flatnonzero(images).tolist()
        ],
    }
