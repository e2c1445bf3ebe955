"""An evaluation from end to end: outputs, metrics, calibration, slices, robustness, embeddings."""

import dataclasses
import datetime
import platform
from importlib import metadata

import numpy as np

from vision import __version__, parallel
from vision.data.augment.views import CHOICES, test_time_views
from vision.data.loading.device_loader import DeviceLoader
from vision.data.splits import same_images
from vision.errors import UserError
from vision.evaluation import probe
from vision.evaluation.data import Split, open_split, some
from vision.evaluation.measures import calibration, intervals, scores, slices, statistics
from vision.evaluation.measures.robustness import robustness
from vision.evaluation.outputs import Forward, Outputs, batch_size, collect
from vision.evaluation.report import embedding_map
from vision.evaluation.report.examples import confused_pairs
from vision.evaluation.report.words import METRICS, SURE, amount, verdicts
from vision.inference import softmax
from vision.metrics import NEIGHBORS, knn_accuracy

PACKAGES = ("jax", "flax", "numpy", "scikit-learn")
PAIRS = 100  # confused pairs in metrics.json


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        classifier: the model.
        split: what it was evaluated on, a `Split`.
        outputs: on the split, labels among the model's classes.
        probabilities: float64 (N, C), without temperature.
        summary: what metrics.json says.
        points: float (M, 2), the map of some of the images; None where there is none.
        mapped: int (M,), which images these are.
    """

    classifier: object
    split: Split
    outputs: Outputs
    probabilities: np.ndarray
    summary: dict
    points: np.ndarray | None
    mapped: np.ndarray | None

    @property
    def predicted(self):
        """int64 (N,), the class of the highest logit; of equal ones the first."""
        return self.outputs.logits.argmax(1)

    @property
    def correct(self):
        """bool (N,)."""
        return self.predicted == self.outputs.labels

    @property
    def confidence(self):
        """float64 (N,), the probability of the predicted class."""
        return self.probabilities.max(1)

    @property
    def own(self):
        """float64 (N,), the probability of the true class."""
        return self.probabilities[np.arange(len(self.outputs.labels)), self.outputs.labels]

    @property
    def sure_errors(self):
        """How many errors have a confidence above `words.SURE`."""
        return int((~self.correct & (self.confidence > SURE)).sum())


def evaluate(classifier, config, spec="", name="", say=print):
    """Evaluates a model on a split of labeled images.

    Args:
        classifier: a `vision.inference.Classifier` or a `vision.bundle.directory.Bundle`.
        config: the model's; its `evaluation`, `train.eval_batch_size` and `parallel.devices` count.
        spec, name: see `vision.evaluation.data.open_split`.
        say: called with a line of text about what is done.

    Returns:
        `Evaluation`.

    Raises:
        UserError: the data cannot be opened or do not fit the model, or config.evaluation does not
            fit them.
    """
    c = config.evaluation
    mesh = parallel.make_mesh(config.parallel.devices)
    _check(c, classifier)
    split = open_split(classifier, config, mesh, spec, name)
    size = batch_size(config.train, mesh)
    say(f"{split.spec}, {split.name}: {len(split.source):,} images, {parallel.describe(mesh)}")
    forward = Forward(classifier, mesh)
    outputs = gather(forward, split, size, max(c.probe, c.map_images))
    p = softmax(outputs.logits)
    summary = _head(classifier, config, split, outputs, mesh)
    summary |= intervals.with_intervals(
        outputs.logits, outputs.labels, classifier.classes, c.bootstrap
    )
    counts = scores.confusion(outputs.logits, outputs.labels)
    summary["confused_pairs"] = [
        {
            "true": classifier.classes[true],
            "predicted": classifier.classes[other],
            "images": int(counts[true, other]),
        }
        for true, other in confused_pairs(counts, PAIRS)
    ]
    summary["confusion"] = counts
    val = validation(forward, split, size, c)
    summary["calibration"] = _calibrate(outputs, val, c)
    summary["operating_point"] = _operating_point(c, classifier.classes, p, outputs.labels, val)
    summary["slices"] = _slices(outputs, split, p, c)
    summary |= _many_passes(forward, split, size, c, say)
    points, mapped = _map(outputs, c)
    summary["embedding"] = _probe(forward, split, size, outputs, c, say)
    return Evaluation(classifier, split, outputs, p, summary, points, mapped)


def _check(c, classifier):
    """Raises `UserError` now for what would fail only after all has been computed."""
    embedding_map.check(c.map)
    if c.positive and c.positive not in classifier.classes:
        raise UserError(
            f"evaluation.positive = '{c.positive}' is no class: {some(classifier.classes, 10)}"
        )


def gather(forward, split, size, embedded):
    """Returns the `Outputs` of a `Split`, with labels among the model's classes, rows in the
    split's source."""
    parts = []
    start = 0
    for name, loader in split.loaders.items():
        part = split.labeled(collect(forward, loader, size, embedded=embedded, what=name))
        parts.append(dataclasses.replace(part, rows=part.rows + start))
        start += len(loader)
    return parts[0] if len(parts) == 1 else _join(parts)


def _join(parts):
    starts = np.cumsum([0, *(len(part.rows) for part in parts)])
    embedded = [part.embedded + start for part, start in zip(parts, starts, strict=False)]
    arrays = {
        field.name: [getattr(part, field.name) for part in parts]
        for field in dataclasses.fields(Outputs)
    }
    return Outputs(
        **{name: np.concatenate(v) for name, v in (arrays | {"embedded": embedded}).items()}
    )


def validation(forward, split, size, c):
    """Returns (logits, labels) of the validation split; None where it is not needed, or is what is
    evaluated."""
    loaders = split.data.loaders
    if split.name in ("val", "all") or not (c.temperature or c.positive):
        return None
    if same_images(loaders["val"].dataset.source, loaders["test"].dataset.source):
        return None
    found = split.labeled(collect(forward, loaders["val"], size, embedded=0))
    return (found.logits, found.labels) if len(found.labels) else None


def _head(classifier, config, split, outputs, mesh):
    # a bundle may not say what it holds
    m = classifier.config.model
    known = bool(classifier.config.data.source)
    name = {"name": m.name, "variant": m.variant} if known else {"name": "bundle", "variant": ""}
    return {
        "format": 1,
        "model": name | {"image_size": classifier.image_size},
        "data": {"source": split.spec, "split": split.name, "images": len(outputs.labels)}
        | {
            "unreadable": len(split.source) - len(outputs.labels),
            "classes": list(classifier.classes),
        }
        | {"learned_from": split.own and split.name in ("train", "all")},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": parallel.describe(mesh),
        "versions": {name: metadata.version(name) for name in PACKAGES}
        | {"vision": __version__, "python": platform.python_version()},
        "config": config.evaluation.to_dict(),
    }


def _calibrate(outputs, val, c):
    """Returns the calibration without a temperature, and with the one that fits the validation
    split."""
    found = {
        "temperature": None,
        "plain": calibration.calibrate(outputs.logits, outputs.labels, 1.0, c),
    }
    if c.temperature and val is not None:
        found["temperature"] = calibration.fit_temperature(*val)
        found["scaled"] = calibration.calibrate(
            outputs.logits, outputs.labels, found["temperature"], c
        )
    return found


def _operating_point(c, classes, p, labels, val):
    """Returns what is said of config.evaluation.positive; None where no class is named."""
    if not c.positive:
        return None
    positive = classes.index(c.positive)
    found = scores.operating_point(
        p[:, positive], labels == positive, c.recall, p.argmax(1) == positive
    )
    fitted_on = "the same images"
    if val is not None:
        chosen = scores.operating_point(softmax(val[0])[:, positive], val[1] == positive, c.recall)
        if chosen["threshold"] is not None:
            rates = scores.rates(p[:, positive], labels == positive, chosen["threshold"])
            found = found | {"threshold": chosen["threshold"], "at_threshold": rates}
            fitted_on = "val"
    known = {"class": c.positive, "wanted_recall": c.recall, "fitted_on": fitted_on}
    return known | {
        name: _with_intervals(held) if isinstance(held, dict) else held
        for name, held in found.items()
    }


def _with_intervals(rates):
    """Returns `scores.rates` with the intervals of its rates."""
    hits = rates["positives"] - rates["misses"]
    return rates | {
        "miss_rate": statistics.share(rates["misses"], rates["positives"]),
        "false_alarm_rate": statistics.share(rates["false_alarms"], rates["negatives"]),
        "precision": statistics.share(hits, hits + rates["false_alarms"]),
    }


def _slices(outputs, split, p, c):
    if not c.slices:
        return []
    nll = scores.losses(outputs.logits, outputs.labels)[0]
    return slices.measure(
        outputs, split.source, nll, outputs.logits.argmax(1) == outputs.labels, c.slice_images
    )


def sample(loader, count):
    """Returns a loader of `count` images drawn at random, on the device; the loader itself for 0,
    or if it is smaller."""
    if not count or count >= len(loader):
        return loader
    part = loader.part(np.sort(np.random.RandomState(0).permutation(len(loader))[:count]))
    return part if part.data else DeviceLoader(part.dataset, part.unreadable, part.mesh)


def _many_passes(forward, split, size, c, say):
    """Returns {"robustness", "views"} on a sample; None for what is not asked for, or cannot be
    done to a bundle."""
    found = {"robustness": None, "views": None}
    if not (c.corruptions or c.views):
        return found
    loader = sample(next(reversed(split.loaders.values())), c.sample)
    plain = split.labeled(collect(forward, loader, size, embedded=0))
    labels = plain.labels
    if c.corruptions:
        say(f"15 corruptions of 5 severities, {len(labels):,} images")
        found["robustness"] = robustness(forward, loader, size, plain, collect)
    if c.views and forward.classifier.model is not None:
        say(f"test-time augmentation, {len(labels):,} images")
        found["views"] = [_view(forward, loader, size, name, plain, labels) for name in CHOICES]
    return found


def _view(forward, loader, size, name, plain, labels):
    """Returns how much better, or worse, the mean over some views of each image is."""
    views = Forward(forward.classifier, forward.mesh, lambda images: test_time_views(name, images))
    found = collect(views, loader, size, embedded=0) if name != "none" else plain
    right, before = (one.logits.argmax(1) == labels for one in (found, plain))
    change = statistics.paired_bootstrap(right.astype(float), before.astype(float))
    return {"views": name, "images": len(labels), "accuracy": float(right.mean()), "change": change}


def _map(outputs, c):
    """Returns (2-D points, which images they are) of some embeddings, drawn at random; (None, None)
    for no map."""
    if c.map == "none" or not outputs.embeddings.size or not c.map_images:
        return None, None
    # They lie in the split's order, which may be class by class.
    drawn = np.sort(np.random.RandomState(1).permutation(len(outputs.embedded))[: c.map_images])
    return embedding_map.project(outputs.embeddings[drawn], c.map), outputs.embedded[drawn]


def _probe(forward, split, size, outputs, c, say):
    """Returns what nearest neighbors and a linear probe on the embeddings reach; None where it is
    not asked for."""
    loaders = split.data.loaders
    if not c.probe or split.name in ("train", "all") or not outputs.embeddings.size:
        return None
    parts = {name: sample(loaders[name], c.probe) for name in ("train", "val")}
    say(f"nearest neighbors and linear probe, {len(parts['train']):,} training images")
    held = {
        n: split.labeled(collect(forward, loader, size, embedded=len(loader)))
        for n, loader in parts.items()
    }
    of = {name: (found.embeddings, found.labels[found.embedded]) for name, found in held.items()}
    if len(np.unique(of["train"][1])) < 2 or not len(of["val"][1]):
        return None
    test = outputs.embeddings, outputs.labels[outputs.embedded]
    linear, strength = probe.linear_probe(*of["train"], *of["val"], *test)
    k = min(NEIGHBORS, len(of["train"][1]))
    nearest = knn_accuracy(*of["train"], *test, k=k)
    known = {"training_images": len(of["train"][1]), "images": len(test[1]), "C": strength, "k": k}
    return {"linear_probe": float(linear), "nearest_neighbors": nearest} | known


def describe(found):
    """Returns the lines that the command prints."""
    metrics = found.summary["metrics"]
    lines = [f"{title}: {amount(metrics[key], share)}" for key, (title, share) in METRICS.items()]
    return [*lines, *(sentence for _, sentence, _ in verdicts(found.summary, found.sure_errors))]
