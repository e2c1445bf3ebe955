"""A classifier without its least important channels, and the run that it becomes."""

import math

import jax
import numpy as np
from flax import nnx

from vision import models, parallel
from vision.compression.groups import find_groups
from vision.compression.latency import BATCH, Beside
from vision.data.loading.sampler import run_length
from vision.data.pipeline import Data
from vision.errors import UserError, check_choice
from vision.export.place import replacing_directory
from vision.inference import Classifier
from vision.models import surgery
from vision.models.layers.streams import Streams
from vision.models.surgery.costs import multiply_adds
from vision.models.surgery.widths import OPTION, as_option, of_option
from vision.run.checkpoints import open_checkpoints
from vision.run.directory import open_workdir, read_run, write_data
from vision.run.weights import ready
from vision.support.files import write_json
from vision.training.loop import build_step

TARGETS = ("parameters", "flops", "latency")
# {width: from it on, what is left is a multiple of this}, which vector units like. In ONNX Runtime
# 1.31 on a core with AVX-512, an INT8 depthwise convolution of 32x48x48 takes 1.4 ms with 32
# channels, 2.0 with 24 and
# 3.9 with 28.
ALIGNED = {32: 16, 16: 8, 8: 4}
# of each layer's channels: with 8 of the last 1,280 left, EfficientNet-Lite0 lost 7 points on NEU
FLOOR = 0.1
TRIES = 8  # measurements of latency, at most
RECORD = "pruning.json"


class Pruned:
    """A smaller model.

    Args:
        config: the run's config, whose `model.options.pruned` has the model's shapes.
        arrays: {name: array} of its variables.
        record: what to tell of it, as JSON can.
    """

    def __init__(self, config, arrays, record):
        self.config = config
        self.arrays = arrays
        self.record = record


def prune(
    classifier,
    groups,
    scores,
    ratio,
    target="parameters",
    *,
    part=1.0,
    original=None,
    batch=BATCH,
    floor=FLOOR,
):
    """Returns the `Pruned` model of a classifier, without the channels of the lowest scores.

    The best channels of each group stay, and from 8 channels on a multiple of 4, from 16 on of 8,
    from 32 on of 16.

    Args:
        classifier: a `vision.inference.Classifier`.
        groups: from `vision.compression.groups.find_groups`.
        scores: of each group an array, from `vision.compression.importance`; infinite = it stays.
        ratio: share of the target that goes at least.
        target: one of `TARGETS`. Latency is measured: a share of it may be too high or too low by
            what the machine's other work makes of it.
        part: how far to go, in (0, 1]: what is left is then (1 - ratio)^part.
        original: the classifier that the target is a share of; None = the same.
        batch: images at a time that latency is measured with.
        floor: share of the original's channels that stays in each group at least, in [0, 1), and no
            less than one. A layer whose scores are low as a whole would be emptied otherwise
            (Tanaka et al. 2020, arXiv:2006.05467).

    Raises:
        UserError: so much cannot go without emptying a layer, not even in all parts together.
    """
    whole = groups if original is None else find_groups(original.model, *_image(original))
    scores = [_with_floor(s, floor * len(group)) for s, group in zip(scores, whole, strict=True)]
    arrays = surgery.arrays(classifier.model)
    original = original or classifier
    measure = _measure(classifier, arrays, groups, target, original, batch)

    known = {}

    def without(threshold):
        kept = _keep(scores, threshold)
        count = tuple(int(stays.sum()) for stays in kept)
        known[count] = known.get(count) or measure(kept)
        return kept, known[count]

    kept, found = without(np.inf)
    if found["share"] > 1 - ratio:
        raise UserError(
            f"--ratio = {ratio:g}: no more than {max(0, 1 - found['share']):.1%} of the {target} can go by this "
            f"importance without emptying a layer, of which {floor:.0%} stay: choose a lower --ratio or --floor, or "
            "another --importance"
        )
    thresholds = np.unique(
        np.concatenate([np.zeros(0), *(score[np.isfinite(score)] for score in scores)])
    )
    tries = TRIES if target == "latency" else math.inf
    # the lowest by which it is small enough
    low = 0
    high = len(thresholds) - 1
    while low < high and len(known) < tries:
        middle = (low + high) // 2
        tried = without(thresholds[middle])
        if tried[1]["share"] <= (1 - ratio) ** part:
            (kept, found) = tried
            high = middle
        else:
            low = middle + 1
    config = _narrowed(classifier, arrays, _lengths(arrays, groups, kept))
    sizes = [
        (surgery.count(m)[0], multiply_adds(m, *_image(classifier)))
        for m in (original.model, _build(classifier, config))
    ]
    counts = dict(
        zip(("parameters", "multiply-adds"), map(list, zip(*sizes, strict=True)), strict=True)
    )
    layers = {g.name: [len(g), int(k.sum())] for g, k in zip(groups, kept, strict=True)}
    return Pruned(config, cut(arrays, groups, kept), {"counts": counts, "layers": layers} | found)


def _with_floor(scores, count):
    """Returns scores of which the highest `count`, and one at least, are infinite."""
    scores = scores.copy()
    scores[np.argsort(-scores, kind="stable")[: max(1, math.ceil(count))]] = np.inf
    return scores


def _measure(classifier, arrays, groups, target, original, batch):
    """Returns a function of which channels stay: {"share": of the target that is left}, of latency
    with "latency"."""
    check_choice("--target", target, TARGETS)

    def smaller(kept):
        return _narrowed(classifier, arrays, _lengths(arrays, groups, kept))

    if target == "latency":
        beside = Beside(original, batch)

        def measure(kept):
            config = smaller(kept)
            model = ready(_build(classifier, config), cut(arrays, groups, kept))
            found = beside(Classifier(config, model, classifier.classes, *_image(classifier)))
            return {"share": found.pop("share"), "latency": found}

    elif target == "flops":
        whole = multiply_adds(original.model, *_image(original))

        def measure(kept):
            return {
                "share": multiply_adds(_build(classifier, smaller(kept)), *_image(classifier))
                / whole
            }

    else:
        learned = {
            name
            for name, v in surgery.variables(classifier.model).items()
            if isinstance(v, nnx.Param)
        }
        whole = surgery.count(original.model)[0]

        def measure(kept):
            shapes = _lengths(arrays, groups, kept)
            return {
                "share": sum(math.prod(shape) for name, shape in shapes.items() if name in learned)
                / whole
            }

    return measure


def cut(arrays, groups, kept):
    """Returns {name: array} without the channels that are not kept.

    Args:
        arrays: {name: array} of all variables.
        groups: from `vision.compression.groups.find_groups`.
        kept: of each group a bool array, one a channel.
    """
    arrays = dict(arrays)
    for (name, axis), mask in _masks(arrays, groups, kept).items():
        arrays[name] = np.compress(mask, arrays[name], axis)
    return arrays


def _masks(arrays, groups, kept):
    """Returns {(name, axis): bool array}, which indices stay, of all axes that groups lie on."""
    masks = {}
    for group, stays in zip(groups, kept, strict=True):
        for (name, axis), indices in group.parts.items():
            mask = masks.setdefault((name, axis), np.ones(arrays[name].shape[axis], bool))
            mask[indices[~stays]] = False
    return masks


def _lengths(arrays, groups, kept):
    """Returns {name: shape} of what `cut` returns."""
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    for (name, axis), mask in _masks(arrays, groups, kept).items():
        shapes[name][axis] = int(mask.sum())
    return shapes


def _keep(scores, threshold):
    """Returns of each group which channels stay: bool arrays, True above the threshold, up to
    rounding."""
    kept = []
    for score in scores:
        count = int(((score > threshold) | np.isinf(score)).sum())
        step = next((step for width, step in ALIGNED.items() if len(score) >= width), 1)
        count = max(step, round(count / step) * step, int(np.isinf(score).sum()))
        stays = np.zeros(len(score), bool)
        stays[np.argsort(-score, kind="stable")[:count]] = True
        kept.append(stays)
    return kept


def _narrowed(classifier, arrays, lengths):
    """Returns the run's config for a model of these shapes, which is to be trained as a whole."""
    config = classifier.config.copy_and_resolve_references()
    # of a run that was pruned already
    before = of_option(config.model.options.to_dict().get(OPTION, {}))
    narrower = {n: s for n, s in lengths.items() if n in before or tuple(s) != arrays[n].shape}
    config.model.options[OPTION] = as_option(narrower)
    config.model.pretrained = ""
    config.transfer.mode = "full"
    config.transfer.cache_embeddings = False
    config.transfer.depth = 0
    config.transfer.trainable = ""
    config.imbalance.retrain_head = 0.0
    if config.imbalance.sampling == "smote":  # which is for embeddings that do not change
        config.imbalance.sampling = "over"
    return config


def _build(classifier, config):
    def create():
        return models.build(config.model, len(classifier.classes), *_image(classifier), Streams(0))

    return nnx.eval_shape(create)


def _image(classifier):
    return classifier.image_size, classifier.channels


def write(pruned, workdir, out):
    """Writes a `Pruned` model as a run that has not made a step yet, whole or not at all.

    Args:
        pruned: from `prune`; its record becomes pruning.json.
        workdir: of the run that it comes from.
        out: `pathlib.Path` of a directory, new or empty.

    Raises:
        UserError: the directory cannot be written.
        RunError: the checkpoint cannot be written.
    """
    _, known = read_run(workdir)
    loaders = {name: range(size) for name, size in known["split_sizes"].items()}
    counts = np.array(known["class_counts"])
    data = Data(loaders, tuple(known["classes"]), known["image_size"], known["channels"], counts)
    mesh = parallel.make_mesh(1)
    steps = run_length(pruned.config.train, len(loaders["train"]))
    train_step = build_step(pruned.config, data, mesh, steps)
    state = train_step.start_from(train_step.initialize(), pruned.arrays)
    with replacing_directory(out) as directory:
        open_workdir(directory, pruned.config)
        write_data(directory, data)
        with open_checkpoints(directory, pruned.config) as checkpoints:
            checkpoints.save(0, jax.block_until_ready(state), {})
        write_json(directory / RECORD, pruned.record)
