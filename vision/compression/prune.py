"""Makes a run's model smaller: whole channels, heads and hidden units are removed, the least important first.

    python -m vision.compression.prune --workdir runs/pets --out runs/pets-half --ratio 0.5
    python -m vision.compression.prune --workdir runs/pets --out runs/pets-half --ratio 0.5 --importance taylor
    python -m vision.main --config CONFIG --config.model.pretrained=runs/pets-half --workdir runs/pets-tuned

--ratio is the share of the parameters, or with --target flops of the multiply-adds, that goes. The result is a run like
any other, of which the model has fewer channels; what it lost in accuracy, training it further brings back. CONFIG is
the one that the run was trained with, as a rule with a tenth of its learning rate. To prune in several steps with
training between, prune what was trained.

--importance: l1, the norm of filters, by which every layer loses the same share; bn, the scale of batch norms; taylor,
the change of the loss on training images.
"""

import pathlib

import jax
import numpy as np
from absl import flags, logging
from flax import nnx

from vision import cli, models, parallel
from vision.compression import importance
from vision.compression.groups import find_groups
from vision.data.order import run_length
from vision.data.pipeline import Data, open_data
from vision.errors import UserError, check_choice, check_range
from vision.files import write_json
from vision.inference import from_run
from vision.models import surgery
from vision.models.streams import Streams
from vision.models.table import multiply_adds
from vision.models.widths import OPTION, as_option, of_option
from vision.training.checkpoint import open_checkpoints
from vision.training.loop import build_step
from vision.training.workdir import open_workdir, read_run, write_data

IMPORTANCES = ("l1", "bn", "taylor")
TARGETS = ("parameters", "flops")
ALIGNED, WIDE = 8, 64  # from this width on, what is left is a multiple that vector units like
RECORD = "pruning.json"


def main(argv):
    config, values, words = cli.parse_stage(argv, __doc__, _flags)
    if config is not None or words or not values.workdir:
        raise UserError("which run? Give --workdir RUN" + (f", not '{words[0]}'" if words else ""))
    if not values.out:
        raise UserError("where to? Give --out DIRECTORY")
    check_choice("--importance", values.importance, IMPORTANCES)
    check_choice("--target", values.target, TARGETS)
    check_range("--ratio", values.ratio, 0 < values.ratio < 1, "the share that goes lies between 0 and 1")
    out = pathlib.Path(values.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} is there already: give a new or empty directory")
    logging.set_verbosity(logging.ERROR)  # libraries' chatter
    classifier = from_run(values.workdir)
    scores, groups = _scores(classifier, values.importance)
    pruned = prune(classifier, groups, scores, values.ratio, values.target)
    write(pruned, values.workdir, out)
    asked = {"run": values.workdir, "ratio": values.ratio, "importance": values.importance, "target": values.target}
    write_json(out / RECORD, asked | pruned.record)
    for what, (before, after) in pruned.record["counts"].items():
        print(f"{what}: {before:,} -> {after:,} ({100 * (1 - after / before):.1f} % less)")
    print(f"evaluate it: python -m vision.evaluation --workdir {out}")
    print(f"train it on: python -m vision.main --config CONFIG --config.model.pretrained={out} --workdir {out}-tuned")


def _flags(values):
    flags.DEFINE_string("workdir", "", "directory of a run", flag_values=values)
    flags.DEFINE_string("out", "", "directory of the pruned run; new", flag_values=values)
    flags.DEFINE_float("ratio", 0.5, "share of the target that goes, in (0, 1)", flag_values=values)
    flags.DEFINE_string("importance", "l1", ", ".join(IMPORTANCES), flag_values=values)
    flags.DEFINE_string("target", "parameters", ", ".join(TARGETS), flag_values=values)


def _scores(classifier, name):
    """Returns (scores, groups): what `importance` says of the groups of a classifier's model."""
    groups = find_groups(classifier.model, classifier.image_size, classifier.channels)
    if name == "taylor":
        c = classifier.config.copy_and_resolve_references()
        c.data.image_size, c.data.channels = classifier.image_size, classifier.channels
        feed = open_data(c, parallel.make_mesh(1)).feeds["train"]
        return importance.taylor(groups, classifier, feed), groups
    return getattr(importance, name)(groups, _arrays(classifier.model)), groups


class Pruned:
    """A smaller model.

    Args:
        config: the run's config, whose `model.options.pruned` has the model's shapes.
        arrays: {name: array} of its variables.
        record: what to tell of it, as JSON can.
    """

    def __init__(self, config, arrays, record):
        self.config, self.arrays, self.record = config, arrays, record


def prune(classifier, groups, scores, ratio, target="parameters"):
    """Returns the `Pruned` model of a classifier, without the channels of the lowest scores.

    The best channel of each group stays, and from 64 channels on a multiple of 8.

    Args:
        classifier: a `vision.inference.Classifier`.
        groups: from `vision.compression.groups.find_groups`.
        scores: of each group an array, from `vision.compression.importance`; infinite = it stays.
        ratio: share of the target that goes at least.
        target: "parameters" or "flops".

    Raises:
        UserError: so much cannot go without emptying a layer.
    """
    arrays = _arrays(classifier.model)
    learned = {name for name, v in surgery.names(classifier.model).items() if isinstance(v, nnx.Param)}

    def count(kept):
        lengths = _lengths(arrays, groups, kept)
        if target == "parameters":
            return sum(int(np.prod(shape)) for name, shape in lengths.items() if name in learned)
        return multiply_adds(_build(classifier, _narrowed(classifier, arrays, lengths)), *_image(classifier))

    scores = [np.where(np.arange(len(s)) == s.argmax(), np.inf, s) for s in scores]
    ranked = np.sort(np.concatenate([s[np.isfinite(s)] for s in scores])) if scores else np.zeros(0)
    total, most = count(_keep(scores, -np.inf)), count(_keep(scores, np.inf))
    if most > (1 - ratio) * total:
        raise UserError(
            f"--ratio = {ratio:g}: no more than {1 - most / total:.1%} of the {target} can go by this importance "
            "without emptying a layer: choose a lower --ratio, or another --importance"
        )
    low, high = 0, len(ranked) - 1  # the shortest beginning of `ranked` without which it is small enough
    while low < high:
        middle = (low + high) // 2
        if count(_keep(scores, ranked[middle])) <= (1 - ratio) * total:
            high = middle
        else:
            low = middle + 1
    kept = _keep(scores, ranked[low])
    config = _narrowed(classifier, arrays, _lengths(arrays, groups, kept))
    smaller = _build(classifier, config)
    before, after = ((surgery.count(m)[0], multiply_adds(m, *_image(classifier))) for m in (classifier.model, smaller))
    counts = {"parameters": [before[0], after[0]], "multiply-adds": [before[1], after[1]]}
    layers = {g.name: [len(g), int(k.sum())] for g, k in zip(groups, kept, strict=True)}
    return Pruned(config, cut(arrays, groups, kept), {"counts": counts, "layers": layers})


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
    """Returns of each group which channels stay: bool arrays, True above the threshold, up to rounding."""
    kept = []
    for score in scores:
        count = int(((score > threshold) | np.isinf(score)).sum())
        if len(score) >= WIDE:
            count = max(ALIGNED, round(count / ALIGNED) * ALIGNED, int(np.isinf(score).sum()))
        stays = np.zeros(len(score), bool)
        stays[np.argsort(-score, kind="stable")[:count]] = True
        kept.append(stays)
    return kept


def _narrowed(classifier, arrays, lengths):
    """Returns the run's config for a model of these shapes, which is to be trained as a whole."""
    config = classifier.config.copy_and_resolve_references()
    before = of_option(config.model.options.to_dict().get(OPTION, {}))  # of a run that was pruned already
    narrower = {n: s for n, s in lengths.items() if n in before or tuple(s) != arrays[n].shape}
    config.model.options[OPTION] = as_option(narrower)
    config.model.pretrained, config.transfer.mode, config.transfer.cache_embeddings = "", "full", False
    config.imbalance.retrain_head = 0.0
    return config


def _build(classifier, config):
    def create():
        return models.build(config.model, len(classifier.classes), *_image(classifier), Streams(0))

    return nnx.eval_shape(create)


def _image(classifier):
    return classifier.image_size, classifier.channels


def _arrays(model):
    return {name: np.asarray(variable.get_value()) for name, variable in surgery.names(model).items()}


def write(pruned, workdir, out):
    """Writes a `Pruned` model as a run that has not made a step yet.

    Args:
        pruned: from `prune`.
        workdir: of the run that it comes from.
        out: `pathlib.Path` of a directory, new or empty.

    Raises:
        UserError: the directory cannot be written.
        RunError: the checkpoint cannot be written.
    """
    _, known = read_run(workdir)
    feeds = {name: range(size) for name, size in known["split_sizes"].items()}
    counts = np.array(known["class_counts"])
    data = Data(feeds, tuple(known["classes"]), known["image_size"], known["channels"], counts)
    mesh = parallel.make_mesh(1)
    steps = run_length(pruned.config.train, len(feeds["train"]))
    step_of = build_step(pruned.config, data, mesh, steps)
    state = step_of.start_from(step_of.initialize(), pruned.arrays)
    open_workdir(out, pruned.config)
    write_data(out, data)
    with open_checkpoints(out, pruned.config) as checkpoints:
        checkpoints.save(0, jax.block_until_ready(state), {})


if __name__ == "__main__":
    cli.run(main)
