"""A run's model with other classes, as a run of its own that was not trained.

Renaming changes no number. A class that others are merged to has their outputs, whose probabilities
`config.model.head_groups` sums. A class that is split gives each of its n parts a copy of its
output with 1/n of its probability: log n is subtracted from the output's bias, or, if the head has
none, `config.model.head_shares` has 1/n.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util
from ml_collections import ConfigDict

from vision.data.division import FILE, describe, write_division
from vision.data.inputs import require_images_alone
from vision.errors import UserError
from vision.models import fields_of, surgery
from vision.models.surgery.widths import OPTION, as_option, of_option
from vision.run.calibration import EVALUATION, Calibration, run_temperature, write_calibration
from vision.run.checkpoints import open_checkpoints
from vision.run.class_changes import ClassChanges
from vision.run.directory import open_workdir, read_run
from vision.run.outputs import HeadNames, output_axes
from vision.run.previous import TASKS
from vision.run.splits import SPLITS, past_of
from vision.run.weights import abstract_model, ready, run_weights
from vision.support.directories import replacing_directory
from vision.support.files import write_json
from vision.support.reading import read_json

RECORD = "classes.json"  # what became of the classes of which run
RESULT = "result.json"
# of result.json, what describes the training, and neither the classes nor what was measured
TRAINING = (
    *("split_sizes", "parameters", "ended", "steps", "best_step", "images_per_second"),
    *("seconds_to_first_step", "train_seconds", "device", "onednn", "versions", "git_commit"),
    "date",
)
WEIGHTS = ("none", "inverse", "effective_number")  # class_weights for any classes
TOLERANCE = 1e-5  # between probabilities


@dataclasses.dataclass(frozen=True)
class Reclassed:
    """A model with other classes.

    Attributes:
        changes: what became of the classes.
        config: the run's config, for the new classes.
        data: the contents of the run's data.json, also with "step", the checkpoint's step.
        arrays: {name: array} of the model's variables.
    """

    changes: ClassChanges
    config: ConfigDict
    data: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


def reclass(workdir: pathlib.Path | str, changes: ClassChanges) -> Reclassed:
    """Returns a run's best model with other classes.

    Raises:
        UserError: there is no intact checkpoint, or the model's head cannot be changed.
    """
    old_config, data, old_arrays = run_weights(workdir)
    require_images_alone(fields_of(old_config.model), "changing classes without training")
    config = old_config.copy_and_resolve_references()
    arrays = old_arrays
    if config.transfer.mode == "lora":  # the updates are part of the weights by now
        config.transfer.mode = "full"
    config.imbalance.retrain_head = 0.0
    config.data.source = changes.source(config.data.source)
    sizes = (data["image_size"], data["channels"])
    axes = output_axes(config.model, len(data["classes"]), *sizes)
    if not changes.keeps_outputs:
        if config.objective.class_weights not in WEIGHTS:  # a list, for the old classes
            config.objective.class_weights = "none"
        arrays = _change_head(config.model, old_arrays, axes, changes)
        before = ready(abstract_model(old_config.model, len(changes.old), *sizes), old_arrays)
        after = ready(abstract_model(config.model, len(changes.new), *sizes), arrays)
        _check(before, after, sizes, changes)
    return Reclassed(changes, config, data, arrays)


def _change_head(
    c: ConfigDict, arrays: Mapping[str, np.ndarray], axes: Mapping[str, int], changes: ClassChanges
) -> dict[str, np.ndarray]:
    """Returns {name: array} for the new classes, and sets the keys of `config.model` for them."""
    outputs, groups, shares = _new_outputs(c, changes)
    has_bias = any(_is_bias(name) for name in axes if name.startswith("head."))
    rename = HeadNames.from_config(c)
    kept_shares = np.array(c.head_shares or np.ones(len(c.head_groups) or len(changes.old)))
    kept_shares = kept_shares[outputs] * (1 if has_bias else shares)
    c.head_shares = () if (kept_shares == 1).all() else tuple(kept_shares.tolist())
    is_grouped = bool(c.head_shares) or not np.array_equal(groups, np.arange(len(outputs)))
    c.head_groups = tuple(groups.tolist()) if is_grouped else ()
    changed = {}
    for name, array in arrays.items():
        plain = rename.plain(name)
        if plain in axes:
            array = np.take(array, outputs, axes[plain])
            if _is_bias(plain):
                array = array + np.log(shares).astype(array.dtype)
        changed[rename.inner(plain) if is_grouped else plain] = array
    if OPTION in c.options:  # a pruned model's shapes
        names = of_option(c.options[OPTION].to_dict())
        new_names = {rename.plain(name) for name in names}
        shapes = {
            name: array.shape for name, array in changed.items() if rename.plain(name) in new_names
        }
        c.options[OPTION] = as_option(shapes)
    return changed


def _new_outputs(c, changes):
    """Returns (output of the old head, new class, share of the old one) of each new output."""
    groups = np.array(c.head_groups or range(len(changes.old)))
    rows = [
        (output, new, share)
        for old, new, share in changes.outputs()
        for output in np.flatnonzero(groups == old)
    ]
    outputs, new_classes, shares = zip(*rows, strict=True)
    return np.array(outputs), np.array(new_classes), np.array(shares)


def _is_bias(name):
    return name.endswith(".bias")


def _check(before, after, sizes, changes):
    """Raises `UserError` unless the probabilities of random embeddings are what they must be."""
    graph, state = nnx.split(before)
    images = jax.ShapeDtypeStruct((1, sizes[0], sizes[0], sizes[1]), jnp.float32)
    shape = jax.eval_shape(lambda s, x: nnx.merge(graph, s).embed(x), state, images).shape
    embeddings = np.random.default_rng(0).normal(size=(8, *shape[1:])).astype(np.float32)
    old = _probabilities(before.head(embeddings))
    new = _probabilities(after.head(embeddings))
    expected = np.zeros_like(new)
    for old_class, new_class, share in changes.outputs():
        expected[:, new_class] += share * old[:, old_class]
    difference = np.abs(new - expected).max()
    if not difference <= TOLERANCE:
        raise UserError(
            f"the classes of this run cannot change: with its {type(before.head).__name__}, the "
            f"new probabilities would be off by {difference:.1g}"
        )


def _probabilities(logits):
    return np.asarray(jax.nn.softmax(logits), np.float64)


def write(reclassed: Reclassed, workdir: pathlib.Path | str, out: pathlib.Path) -> None:
    """Writes a `Reclassed` model as a finished run, all of it or nothing.

    Args:
        reclassed: from `reclass`.
        workdir: directory of the run that it comes from.
        out: directory to write.

    Raises:
        UserError: the directory cannot be written.
        RunError: the checkpoint cannot be written.
    """
    changes = reclassed.changes
    config = reclassed.config
    step = reclassed.data["step"]
    old_config, _ = read_run(workdir)
    with replacing_directory(out) as directory:
        open_workdir(directory, config)
        write_json(directory / "data.json", _data(reclassed, workdir, directory, old_config))
        with open_checkpoints(directory, config) as checkpoints:
            checkpoints.save(step, jax.block_until_ready(_state(reclassed)), {})
        result = read_json(pathlib.Path(workdir, RESULT), dict)
        if not changes.keeps_outputs:
            result = {key: result[key] for key in TRAINING if key in result}
        result.pop("continual", None)  # its tasks have the old names
        described = {"classes": list(changes.new), "config": config.to_dict()}
        write_json(directory / RESULT, result | described)
        temperature = run_temperature(workdir, step, old_config.data.source)
        if changes.keeps_outputs and temperature != 1:
            (directory / EVALUATION).mkdir()
            calibration = Calibration(temperature, step, config.data.source)
            write_calibration(directory / EVALUATION, calibration)
        listed = [dataclasses.asdict(change) for change in changes.changes]
        write_json(directory / RECORD, {"run": str(workdir), "changes": listed})


def _data(reclassed, workdir, directory, old_config):
    """Returns the contents of data.json; writes splits.csv.gz if the run has it."""
    changes = reclassed.changes
    data = {
        key: value for key, value in reclassed.data.items() if key not in ("step", SPLITS, TASKS)
    }
    data["classes"] = list(changes.new)
    if "class_counts" in data:
        data["class_counts"] = changes.counts(data["class_counts"])
    past = past_of(workdir, old_config.data.source)
    if past is not None:
        division = changes.division(past.read())
        write_division(directory / FILE, division)
        data[SPLITS] = describe(division)
    return data


def _state(reclassed):
    """Returns what a training would save of the model: parameters, and the other variables."""
    data = reclassed.data
    sizes = (len(reclassed.changes.new), data["image_size"], data["channels"])
    variables = surgery.variables(abstract_model(reclassed.config.model, *sizes))
    state: dict[str, dict] = {"params": {}, "rest": {}}
    for name, variable in variables.items():
        kind = "params" if isinstance(variable, nnx.Param) else "rest"
        array = jnp.asarray(reclassed.arrays[name], variable.dtype)
        state[kind]["model", *name.split(".")] = array
    return {kind: traverse_util.unflatten_dict(flat) for kind, flat in state.items()}
