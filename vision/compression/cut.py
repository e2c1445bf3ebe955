"""Cuts the least important channels of a classifier, and writes the result as a run."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from vision import models, objectives, parallel
from vision.compression.groups import Group, find_groups
from vision.compression.latency import BATCH, RelativeLatency
from vision.data.loading.sampler import run_length
from vision.data.pipeline import Data
from vision.errors import UserError, check_choice
from vision.inference import Classifier
from vision.models import surgery
from vision.models.layers.streams import Streams
from vision.models.surgery.costs import multiply_adds
from vision.models.surgery.widths import OPTION, as_option, of_option
from vision.objectives.contract import COPY
from vision.run.checkpoints import open_checkpoints
from vision.run.directory import open_workdir, read_run, write_data
from vision.run.splits import inherit_division
from vision.run.weights import ready
from vision.support.directories import replacing_directory
from vision.support.files import write_json
from vision.support.naming import matching
from vision.training.setup import build_step

TARGETS = ("parameters", "flops", "latency")
# {width: a multiple of which is left of layers from this width on}, for vector units. In ONNX
# Runtime 1.31 on a core with AVX-512, an INT8 depthwise convolution of 32x48x48 takes 1.4 ms with
# 32 channels, 2.0 with 24 and 3.9 with 28.
ALIGNED = {32: 16, 16: 8, 8: 4}
# share of each layer's channels: with 8 of the last 1,280 left, EfficientNet-Lite0 lost 7 points on
# NEU
FLOOR = 0.1
MAX_MEASUREMENTS = 8  # of latency
RECORD = "pruning.json"


@dataclasses.dataclass(frozen=True)
class Goal:
    """How much of a model to prune.

    Attributes:
        ratio: share of the target to remove at least, in (0, 1).
        target: one of `TARGETS`. Latency is measured: the share of it may be off by as much as
            other load on the machine changes it.
        part: how far to go, in (0, 1]: (1 - ratio)^part is then left.
        batch: batch size that latency is measured with.
        floor: share of the original's channels to keep in each group at least, in [0, 1), and no
            less than one channel. Otherwise a layer with low scores throughout would be emptied
            (Tanaka et al. 2020, arXiv:2006.05467).
        only: a regular expression, searched in the groups' names; the other groups stay as they
            are. "" cuts all.
        rounded: whether layers keep a multiple of 4, 8 or 16 channels, which vector units like.
    """

    ratio: float
    target: str = "parameters"
    part: float = 1.0
    batch: int = BATCH
    floor: float = FLOOR
    only: str = ""
    rounded: bool = True


@dataclasses.dataclass
class Pruned:
    """A smaller model.

    Attributes:
        config: the run's config, whose `model.options.pruned` has the model's shapes.
        arrays: {name: array} of its variables.
        record: the contents of pruning.json.
    """

    config: ConfigDict
    arrays: dict[str, np.ndarray]
    record: dict[str, Any]


def prune(
    classifier: Classifier,
    groups: Sequence[Group],
    scores: Sequence[np.ndarray],
    goal: Goal,
    original: Classifier | None = None,
) -> Pruned:
    """Returns the `Pruned` model of a classifier, without the channels of the lowest scores.

    The best channels of each group stay, and if the goal says so, from 8 channels on a multiple of
    4, from 16 on of 8, from 32 on of 16.

    Args:
        classifier: the classifier to prune.
        groups: its groups, from `vision.compression.groups.find_groups`.
        scores: an array for each group, from `vision.compression.importance`; channels with an
            infinite score stay.
        goal: how much to prune.
        original: the classifier that the target is a share of; None for `classifier`.

    Raises:
        UserError: the ratio cannot be reached without emptying a layer, not even in all parts
            together; or `goal.only` names no group.
    """
    original_groups = groups
    if original is None:
        original = classifier
    else:
        original_groups = find_groups(original.model, *_image_shape(original))
    scores = [
        _with_floor(score, goal.floor * len(group))
        for score, group in zip(scores, original_groups, strict=True)
    ]
    scores = _with_only(goal.only, groups, scores)
    cutter = _Cutter(classifier, groups)
    kept, result = _search(scores, _measure(cutter, original, goal), goal)
    sizes = [_size(original.model, original), _size(cutter.model(kept), classifier)]
    counts = {
        "parameters": [parameters for parameters, _ in sizes],
        "multiply-adds": [macs for _, macs in sizes],
    }
    layers = {g.name: [len(g), int(k.sum())] for g, k in zip(groups, kept, strict=True)}
    record = {"counts": counts, "layers": layers} | result
    return Pruned(cutter.config(kept), cutter.cut(kept), record)


def _with_floor(scores, count):
    """Returns scores of which the highest `count`, and at least one, are infinite."""
    scores = scores.copy()
    scores[np.argsort(-scores, kind="stable")[: max(1, math.ceil(count))]] = np.inf
    return scores


def _with_only(pattern, groups, scores):
    """Returns scores that are infinite in the groups whose names do not match."""
    names = [group.name for group in groups]
    chosen = matching("--only", pattern, names)
    return [
        score if name in chosen else np.full(len(score), np.inf)
        for name, score in zip(names, scores, strict=True)
    ]


def _search(scores, measure, goal):
    """Finds the lowest threshold of the scores that reaches a goal.

    Returns:
        (a bool array for each group, True for channels that stay; the result of `measure`).
    """
    results = {}  # by the numbers of channels

    def apply(threshold):
        kept = _keep(scores, threshold, goal.rounded)
        widths = tuple(int(stays.sum()) for stays in kept)
        if widths not in results:
            results[widths] = measure(kept)
        return kept, results[widths]

    kept, result = apply(np.inf)
    if result["share"] > 1 - goal.ratio:
        raise UserError(
            f"--ratio = {goal.ratio:g}: this importance can remove at most "
            f"{max(0, 1 - result['share']):.1%} of the {goal.target} without emptying a layer, of "
            f"which {goal.floor:.0%} stay: lower --ratio or --floor, or change --importance"
        )
    finite = [score[np.isfinite(score)] for score in scores]
    thresholds = np.unique(np.concatenate([np.zeros(0), *finite]))
    max_measurements = MAX_MEASUREMENTS if goal.target == "latency" else math.inf
    low = 0
    high = len(thresholds) - 1
    while low < high and len(results) < max_measurements:
        middle = (low + high) // 2
        candidate, candidate_result = apply(thresholds[middle])
        if candidate_result["share"] <= (1 - goal.ratio) ** goal.part:
            kept = candidate
            result = candidate_result
            high = middle
        else:
            low = middle + 1
    return kept, result


def _keep(scores, threshold, rounded=True):
    """Returns a bool array for each group: True for the scores above a threshold, with rounding."""
    kept = []
    for score in scores:
        count = int(((score > threshold) | np.isinf(score)).sum())
        multiple = 1
        # A group that stays as it is may have any number of channels.
        if rounded and not np.isinf(score).all():
            multiple = next((m for width, m in ALIGNED.items() if len(score) >= width), 1)
        count = max(multiple, round(count / multiple) * multiple, int(np.isinf(score).sum()))
        stays = np.zeros(len(score), bool)
        stays[np.argsort(-score, kind="stable")[:count]] = True
        kept.append(stays)
    return kept


class _Cutter:
    """Makes a classifier smaller, given the channels that stay.

    `kept` is a bool array for each group, one value a channel.
    """

    def __init__(self, classifier, groups):
        self.classifier = classifier
        self.groups = groups
        self.arrays = surgery.arrays(classifier.model)

    def shapes(self, kept):
        """Returns {name: shape} of the result of `cut`."""
        shapes = {name: list(array.shape) for name, array in self.arrays.items()}
        for (name, axis), mask in _masks(self.arrays, self.groups, kept).items():
            shapes[name][axis] = int(mask.sum())
        return shapes

    def cut(self, kept):
        """Returns {name: array} of the smaller model."""
        return cut(self.arrays, self.groups, kept)

    def config(self, kept):
        """Returns the run's config for the smaller model, which is to be trained in full."""
        config = self.classifier.config.copy_and_resolve_references()
        # of a run that was pruned before
        previous = of_option(config.model.options.to_dict().get(OPTION, {}))
        config.model.options[OPTION] = as_option(
            {
                name: shape
                for name, shape in self.shapes(kept).items()
                if name in previous or tuple(shape) != self.arrays[name].shape
            }
        )
        config.model.pretrained = ""
        config.transfer.mode = "full"
        config.transfer.cache_embeddings = False
        config.transfer.depth = 0
        config.transfer.trainable = ""
        config.imbalance.retrain_head = 0.0
        if config.imbalance.sampling == "smote":  # for embeddings that do not change
            config.imbalance.sampling = "over"
        return config

    def model(self, kept):
        """Returns the smaller model, abstract."""
        config = self.config(kept)
        count = len(self.classifier.classes)
        shape = _image_shape(self.classifier)
        return nnx.eval_shape(lambda: models.build(config.model, count, *shape, Streams(0)))


def _measure(cutter, original, goal):
    """Returns a function of the channels that stay.

    It returns {"share": share of the goal's target that is left}, for latency also "latency".
    """
    check_choice("--target", goal.target, TARGETS)
    measures = {"parameters": _parameters, "flops": _flops, "latency": _latency}
    return measures[goal.target](cutter, original, goal)


def _parameters(cutter, original, goal):
    variables = surgery.variables(cutter.classifier.model)
    learned = {name for name, v in variables.items() if isinstance(v, nnx.Param)}
    total = surgery.count(original.model)[0]

    def measure(kept):
        shapes = cutter.shapes(kept)
        left = sum(math.prod(shape) for name, shape in shapes.items() if name in learned)
        return {"share": left / total}

    return measure


def _flops(cutter, original, goal):
    total = multiply_adds(original.model, *_image_shape(original))

    def measure(kept):
        left = multiply_adds(cutter.model(kept), *_image_shape(cutter.classifier))
        return {"share": left / total}

    return measure


def _latency(cutter, original, goal):
    relative_latency = RelativeLatency(original, goal.batch)
    classifier = cutter.classifier

    def measure(kept):
        model = ready(cutter.model(kept), cutter.cut(kept))
        smaller = Classifier(
            cutter.config(kept), model, classifier.classes, *_image_shape(classifier)
        )
        result = relative_latency(smaller)
        return {"share": result.pop("share"), "latency": result}

    return measure


def _size(model, classifier):
    """Returns (parameters, multiply-adds) of a model with a classifier's images."""
    return surgery.count(model)[0], multiply_adds(model, *_image_shape(classifier))


def cut(
    arrays: Mapping[str, np.ndarray], groups: Sequence[Group], kept: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns {name: array} without the channels that do not stay.

    Args:
        arrays: {name: array} of all variables.
        groups: from `vision.compression.groups.find_groups`.
        kept: a bool array for each group, True for channels that stay.
    """
    arrays = dict(arrays)
    for (name, axis), mask in _masks(arrays, groups, kept).items():
        arrays[name] = np.compress(mask, arrays[name], axis)
    return arrays


def _masks(arrays, groups, kept):
    """Returns {(name, axis): bool array}, the indices that stay, of all axes with groups."""
    masks = {}
    for group, stays in zip(groups, kept, strict=True):
        for (name, axis), indices in group.parts.items():
            mask = masks.setdefault((name, axis), np.ones(arrays[name].shape[axis], bool))
            mask[indices[~stays]] = False
    return masks


def _image_shape(classifier):
    return classifier.image_size, classifier.channels


def write(
    pruned: Pruned, workdir: pathlib.Path | str, out: pathlib.Path, name: str = RECORD
) -> None:
    """Writes a `Pruned` model as a run without any training steps, all of it or nothing.

    Args:
        pruned: from `prune`.
        workdir: directory of the run that it comes from.
        out: directory to write, new or empty.
        name: the file that its record becomes.

    Raises:
        UserError: the directory cannot be written.
        RunError: the checkpoint cannot be written.
    """
    _, description = read_run(workdir)
    # only the sizes of the splits are needed
    loaders: dict[str, Any] = {
        name: range(size) for name, size in description["split_sizes"].items()
    }
    data = Data(
        loaders,
        tuple(description["classes"]),
        description["image_size"],
        description["channels"],
        np.array(description["class_counts"]),
    )
    mesh = parallel.make_mesh(1)
    steps = run_length(pruned.config.train, len(loaders["train"]))
    train_step = build_step(pruned.config, data, mesh, steps)
    definition = objectives.define(pruned.config.objective)
    copies = tuple(attribute for attribute, start in definition.starts.items() if start == COPY)
    state = train_step.start_from(train_step.initialize(), {"model": pruned.arrays}, copies)
    rest = {name: tree for name, tree in state["rest"].items() if name not in train_step.constant}
    config = pruned.config.copy_and_resolve_references()
    config.objective.options = definition.config.options  # complete, as a training writes them
    with replacing_directory(out) as directory:
        open_workdir(directory, config)
        write_data(directory, data, inherit_division(workdir, directory, config))
        with open_checkpoints(directory, config) as checkpoints:
            checkpoints.save(0, jax.block_until_ready(state | {"rest": rest}), {})
        write_json(directory / name, pruned.record)
