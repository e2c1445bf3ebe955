"""An evaluation from end to end: outputs, metrics, calibration, slices, robustness, embeddings."""

import dataclasses
import datetime
import platform
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vision import parallel
from vision.errors import UserError
from vision.evaluation.data import Split, open_split, some
from vision.evaluation.evaluator import Evaluator
from vision.evaluation.measures import (
    calibration,
    intervals,
    scores,
    selective,
    slices,
    statistics,
)
from vision.evaluation.measures.blocks import columns, confidences
from vision.evaluation.outputs import Forward, Outputs, batch_size
from vision.evaluation.report import embedding_map
from vision.evaluation.report.examples import confused_pairs
from vision.evaluation.report.words import SURE, amount, measured, verdicts
from vision.inference import Predictor
from vision.metrics import confusion
from vision.reference.unsure import Evidence
from vision.support.progress import waiting
from vision.version import __version__

PACKAGES = ("jax", "flax", "numpy", "scikit-learn")
PAIRS = 100  # confused pairs in metrics.json


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    Attributes:
        classifier: the model.
        split: the images that it was evaluated on.
        outputs: its outputs on the split, with labels among the model's classes.
        confidence: float64 (N,), the probability of the predicted class, without temperature.
        true_probability: float64 (N,), the probability of the true class, the same.
        cells: int64 (K, 3), the cells of the confusion matrix that are not 0; see
            `scores.confusion_cells`.
        summary: the content of metrics.json.
        points: float (M, 2), the map of some of the images; None if there is no map.
        mapped: int (M,), which images these are.
        evidence: what the validation images say about unsure answers; None if there are none.
    """

    classifier: Predictor
    split: Split
    outputs: Outputs
    confidence: np.ndarray
    true_probability: np.ndarray
    cells: np.ndarray
    summary: dict[str, Any]
    points: np.ndarray | None
    mapped: np.ndarray | None
    evidence: Evidence | None = None

    @property
    def predicted(self) -> np.ndarray:
        """int64 (N,), the class with the highest logit, the first one if several are equal."""
        return self.outputs.logits.argmax(1)

    @property
    def correct(self) -> np.ndarray:
        """bool (N,)."""
        return self.predicted == self.outputs.labels

    @property
    def sure_errors(self) -> int:
        """Number of errors with a confidence above `words.SURE`."""
        return int((~self.correct & (self.confidence > SURE)).sum())


def evaluate(
    classifier: Predictor,
    config: ConfigDict,
    spec: str = "",
    name: str = "",
    report: Callable[[str], Any] = print,
) -> Evaluation:
    """Evaluates a model on a split of labeled images.

    Args:
        classifier: the model.
        config: the model's config; its `evaluation`, `train.eval_batch_size` and
            `parallel.devices` are used.
        spec: name of the source; see `vision.evaluation.data.open_split`.
        name: name of the split; see `vision.evaluation.data.open_split`.
        report: called with a line of text before each longer step.

    Of several processes of `jax.distributed`, each evaluates its share of every batch and has all
    outputs in the end, so that the numbers are those of one process; the intervals, the slices and
    the map are computed by process 0 only.

    Raises:
        UserError: if the data cannot be opened or do not fit the model, or config.evaluation does
            not fit them.
    """
    c = _share_of_work(config.evaluation)
    mesh = parallel.make_mesh(config.parallel.devices)
    _check(c, classifier)
    split = open_split(classifier, config, mesh, spec, name, partial=True)
    size = batch_size(config.train, mesh)
    report(f"{split.spec}, {split.name}: {len(split.source):,} images, {parallel.describe(mesh)}")
    if split.is_copy:
        report(
            "note: these images have the names of the model's training data: its own splits are "
            "used, and --split all evaluates all images"
        )
    for line in split.data.changes.lines():
        report(f"note: since training began, {line}")
    evaluator = Evaluator(Forward(classifier, mesh), split, size, c, report)
    outputs = evaluator.outputs()
    predicted = outputs.logits.argmax(1)
    summary = _head(classifier, config, split, outputs, parallel.describe(mesh))
    with waiting("computing the intervals"):
        summary |= intervals.with_intervals(
            outputs.logits, outputs.labels, classifier.classes, c.bootstrap
        )
    cells = scores.confusion_cells(outputs.labels, predicted)
    summary["confused_pairs"] = _confused_pairs(cells, classifier.classes)
    summary |= confusion(np.stack([outputs.labels, predicted]), len(classifier.classes))
    val = evaluator.validation()
    summary["calibration"] = _calibrate(outputs, val, c)
    evidence = _limits(classifier, split, summary["calibration"]["temperature"], val, c, report)
    summary["unsure"] = _unsure(classifier, evidence, outputs, c)
    summary["operating_point"] = _operating_point(c, classifier.classes, outputs, val)
    with waiting("comparing slices"):
        summary["slices"] = _slices(outputs, split, c)
    summary |= evaluator.robustness_and_views()
    with waiting("mapping the embeddings"):
        points, mapped = _map(outputs, c)
    summary["embedding"] = evaluator.probe(outputs)
    arrays = (*confidences(outputs.logits, outputs.labels), cells)
    return Evaluation(classifier, split, outputs, *arrays, summary, points, mapped, evidence)


def _share_of_work(c):
    """Returns config.evaluation without what only the process that writes has to compute."""
    if parallel.is_main_process():
        return c
    c = c.copy_and_resolve_references()
    c.bootstrap = 0
    c.slices = False
    c.map = "none"
    return c


def _check(c, classifier):
    """Raises a `UserError` at once for what would otherwise fail after all the computation."""
    embedding_map.check(c.map)
    if c.positive and c.positive not in classifier.classes:
        raise UserError(
            f"evaluation.positive = '{c.positive}' is not a class of the model: "
            f"{some(classifier.classes, 10)}"
        )


def _head(classifier, config, split, outputs, device):
    """Returns the part of metrics.json that describes the evaluation itself."""
    model = {"name": "bundle", "variant": ""}  # of a bundle that does not record its training
    if classifier.config.data.source:
        m = classifier.config.model
        model = {"name": m.name, "variant": m.variant}
    return {
        "format": 1,
        "model": model | {"image_size": classifier.image_size},
        "data": {
            "source": split.spec,
            "split": split.name,
            "images": len(outputs.labels),
            "unreadable": len(split.source) - len(outputs.labels),
            "classes": list(classifier.classes),
            "learned_from": split.own and split.name in ("train", "all"),
            "changes": split.data.changes.counts(),
        },
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": device,
        "versions": {name: metadata.version(name) for name in PACKAGES}
        | {"vision": __version__, "python": platform.python_version()},
        "config": config.evaluation.to_dict(),
    }


def _confused_pairs(cells, classes):
    """Returns the most confused pairs of classes, with their number of images."""
    return [
        {
            "true": classes[true],
            "predicted": classes[predicted],
            "images": images,
        }
        for true, predicted, images in confused_pairs(cells, PAIRS)
    ]


def _calibrate(outputs, val, c):
    """Returns the calibration without a temperature, and with the one fitted to validation.

    A temperature that does not lower the cross-entropy, on the validation split by itself or on
    this split, is not used: "temperature" is None, and "rejected" says which and why.

    Args:
        outputs: outputs on the split.
        val: (logits, labels) of the validation split; None for no temperature.
        c: config.evaluation.
    """
    plain = calibration.calibrate(outputs.logits, outputs.labels, 1.0, c)
    if not c.temperature or val is None:
        return {"temperature": None, "plain": plain}
    temperature = calibration.helpful_temperature(*val)
    if temperature == 1:
        fitted = calibration.fit_temperature(*val)
        return {
            "temperature": None,
            "plain": plain,
            "rejected": {"temperature": fitted, "split": "val"},
        }
    scaled = calibration.calibrate(outputs.logits, outputs.labels, temperature, c)
    if scaled["nll"] > plain["nll"]:
        rejected = {"temperature": temperature, "split": "test", "nll": scaled["nll"]}
        return {"temperature": None, "plain": plain, "rejected": rejected}
    return {"temperature": temperature, "plain": plain, "scaled": scaled}


def _limits(classifier, split, temperature, val, c, report):
    """Returns the evidence about unsure answers: a bundle's own, or that of the validation images.

    A rule that was chosen for the run, for whichever checkpoint, is kept with its confidence if
    these images can still promise it.

    Args:
        classifier: the model.
        split: the images that are evaluated.
        temperature: that of the run from now on; None for 1, and not used for a bundle.
        val: (logits, labels) of the validation split; None if there is none.
        c: config.evaluation.
        report: called with a line of text if the rule is dropped.
    """
    if not c.unsure or (classifier.model is None and classifier.evidence is not None):
        return classifier.evidence if c.unsure else None
    if val is None:
        return None
    if temperature is None or classifier.model is None:
        temperature = 1.0  # a bundle answers by its probabilities as they are
    about = {"split": "val", "source": split.spec, "step": getattr(classifier, "step", None)}
    stored = classifier.evidence or getattr(classifier, "outdated", None)
    confidence = stored.contents["confidence"] if stored else selective.CONFIDENCE
    evidence = selective.measure(*val, temperature, confidence, **about)
    if stored is None or stored.rule is None:
        return evidence
    try:
        return selective.choose(evidence, stored.rule)
    except UserError as error:
        report(f"note: the chosen rule is dropped: {error}")
        return evidence


def _unsure(classifier, evidence, outputs, c):
    """Returns how promises about unsure answers are kept on the split; None if not asked for."""
    if not c.unsure:
        return None
    is_final = evidence is None or classifier.model is None  # a bundle's probabilities
    temperature = 1.0 if is_final else evidence.contents["temperature"]
    return selective.on_test(evidence, outputs.logits, outputs.labels, temperature)


def _operating_point(c, classes, outputs, val):
    """Returns how the class config.evaluation.positive is detected; None if no class is named.

    Args:
        c: config.evaluation.
        classes: class names.
        outputs: outputs on the split.
        val: (logits, labels) of the validation split, which chooses the threshold; None to choose
            it on the images themselves.
    """
    if not c.positive:
        return None
    positive = classes.index(c.positive)
    probability = next(columns(outputs.logits, [positive]))[1]
    is_positive = outputs.labels == positive
    point = scores.operating_point(
        probability, is_positive, c.recall, outputs.logits.argmax(1) == positive
    )
    fitted_on = "the same images"
    if val is not None:
        val_probability = next(columns(val[0], [positive]))[1]
        chosen = scores.operating_point(val_probability, val[1] == positive, c.recall)
        if chosen["threshold"] is not None:
            rates = scores.rates(probability, is_positive, chosen["threshold"])
            point |= {"threshold": chosen["threshold"], "at_threshold": rates}
            fitted_on = "val"
    for key, value in point.items():
        if isinstance(value, dict):
            point[key] = _with_intervals(value)
    return {"class": c.positive, "wanted_recall": c.recall, "fitted_on": fitted_on} | point


def _with_intervals(rates):
    """Returns `scores.rates` with the intervals of the rates."""
    hits = rates["positives"] - rates["misses"]
    return rates | {
        "miss_rate": statistics.share(rates["misses"], rates["positives"]),
        "false_alarm_rate": statistics.share(rates["false_alarms"], rates["negatives"]),
        "precision": statistics.share(hits, hits + rates["false_alarms"]),
    }


def _slices(outputs, split, c):
    if not c.slices:
        return []
    nll = scores.losses(outputs.logits, outputs.labels)[0]
    correct = outputs.logits.argmax(1) == outputs.labels
    return slices.measure(outputs, split.source, nll, correct, c.slice_images)


def _map(outputs, c):
    """Returns (2-D points, the images that they are), drawn at random; (None, None) for no map."""
    if c.map == "none" or not outputs.embeddings.size or not c.map_images:
        return None, None
    # They are in the split's order, which may be class by class.
    drawn = np.sort(np.random.RandomState(1).permutation(len(outputs.embedded))[: c.map_images])
    return embedding_map.project(outputs.embeddings[drawn], c.map), outputs.embedded[drawn]


def describe(evaluation: Evaluation) -> list[str]:
    """Returns the lines that the command prints."""
    summary = evaluation.summary
    lines = [
        f"{title}: {amount(summary['metrics'][key], is_share)}"
        for key, title, is_share in measured(summary["metrics"])
    ]
    sentences = [sentence for _, sentence, _ in verdicts(summary, evaluation.sure_errors)]
    return lines + sentences
