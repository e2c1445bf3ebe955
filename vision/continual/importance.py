"""Measures how much each weight matters to what a run has learned, for ewc and si.

    python -m vision.continual.importance --workdir runs/pets
    python -m vision.continual.importance --workdir runs/pets --labels true --images 2000
    python -m vision.continual.importance --workdir runs/pets --kind si

--kind fisher is the diagonal of the Fisher information on the run's training images, Kirkpatrick et
al. 2017 (arXiv:1612.00796), with BatchNorm in evaluation mode. --labels selects the labels:
sampled, one draw from the model's own probabilities, gives the Fisher information; expected, all
classes weighted by their probability, gives the same without noise, C times slower; true, the
images' labels, gives the empirical Fisher. --kind si is the path integral that a training with
objective.options.si above 0 has accumulated, Zenke et al. 2017 (arXiv:1703.04200).

A run that continued another run also has that run's importance. --anchors=each keeps one penalty
per task; latest, with --decay below 1, is online EWC (Schwarz et al. 2018, arXiv:1805.06370). The
result is RUN/importance/KIND.safetensors; KIND.json next to it records what was measured.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from flax import traverse_util
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from vision import cli, inference, parallel
from vision.config.flags import parse_stage
from vision.continual.fisher import LABELS, measure_fisher
from vision.data.inputs import require_images_alone
from vision.data.pipeline import open_data
from vision.data.sources import Opened
from vision.errors import UserError, check_choice, check_count, check_range
from vision.objectives.importance import (
    ANCHOR,
    IMPORTANCE,
    KINDS,
    combine,
    importance_file,
    parameters,
    path_importance,
)
from vision.run.checkpoints import open_checkpoints
from vision.run.directory import read_run
from vision.run.teacher import digest
from vision.support.files import make_directory, replacing_path, write_json
from vision.support.lock import locked
from vision.support.reading import read_json
from vision.training.teachers import load_arrays, read_constant

ANCHORS = ("each", "latest")
COPIES = ("ewc", "si")  # attributes of the objective that start from the earlier importance
DAMPING = 0.1  # xi of SI: 0.1 in the paper's code for permuted MNIST, section 5.2


def main(argv: Sequence[str]) -> None:
    config, values, words = parse_stage(argv, __doc__, _flags)
    if config is not None or words or not values.workdir:
        raise UserError("which run? Give --workdir RUN, without --config or other arguments")
    check_choice("--kind", values.kind, KINDS)
    check_choice("--labels", values.labels, LABELS)
    check_choice("--anchors", values.anchors, ("", *ANCHORS))
    check_count("--images", values.images, 0, 10**9)
    check_range("--decay", values.decay, 0 <= values.decay <= 1, "in [0, 1]")
    check_range("--damping", values.damping, values.damping > 0, "above 0")
    read_run(values.workdir)
    with locked(values.workdir, "--workdir"):
        if values.kind == "fisher":
            anchors = values.anchors or "each"
            file = write_fisher(values.workdir, values.labels, values.images, anchors, values.decay)
        else:
            file = write_path_integral(values.workdir, values.damping)
    print(file)


def write_fisher(
    workdir: str,
    labels: str = "sampled",
    images: int = 0,
    anchors: str = "each",
    decay: float = 1,
    opened: Opened | None = None,
) -> pathlib.Path:
    """Measures the Fisher information of a run and writes it into the run.

    Args:
        workdir: the run directory.
        labels: of `LABELS`.
        images: how many of its training images, evenly spread; 0 = all.
        anchors: see `vision.objectives.importance.combine`.
        decay: see there.
        opened: sources that are open already; see `open_splits`.

    Returns:
        The file.

    Raises:
        UserError: there is no run, its images are not there any more, or it went on from a run
            whose importance is missing or does not fit.
    """
    parallel.keep_programs(read_run(workdir)[0].compile_cache)
    classifier = inference.from_run(workdir)
    require_images_alone(classifier.fields, "the importance of weights")
    assert classifier.model is not None
    model = classifier.model
    weights = {name: np.asarray(p.get_value()) for name, p in parameters(model).items()}
    earlier = _read_earlier(workdir, "fisher", weights) if decay else {}
    config = classifier.config.copy_and_resolve_references()
    config.data.random_crop_area = ()
    config.data.resident_gib = 0.0  # each image is read once, and those of other splits never
    mesh = parallel.make_mesh(1 if parallel.is_single_process() else 0)
    data = open_data(config, mesh, past=classifier.past, opened=opened)
    loader = data.loaders["train"]
    if images and images < len(loader):
        loader = loader.part(np.linspace(0, len(loader) - 1, images).astype(np.int64))
    own = _own_classes(config, workdir)
    fisher = measure_fisher(model, loader, config.data, labels, own, config.seed)
    settings = fisher_settings(labels, images, anchors, decay)
    joined = combine(earlier, _named(fisher, weights), decay, anchors)
    return _write(workdir, "fisher", joined, settings | {"images": len(loader)}, bool(earlier))


def fisher_settings(labels: str, images: int, anchors: str, decay: float) -> dict[str, Any]:
    """Returns what fisher.json says of how `write_fisher` was called; for `is_measured`."""
    return {"labels": labels, "images_asked": images, "anchors": anchors, "decay": decay}


def write_path_integral(workdir: str, damping: float = DAMPING) -> pathlib.Path:
    """Writes the importance that a training with SI has summed up into its run.

    Args:
        workdir: the run directory.
        damping: xi; see `vision.objectives.importance.path_importance`.

    Returns:
        The file.

    Raises:
        UserError: there is no run, it was trained without SI, or it went on from a run whose
            importance is missing or does not fit.
    """
    config, _ = read_run(workdir)
    with open_checkpoints(pathlib.Path(workdir), config) as checkpoints:
        state = checkpoints.read_best()[1]
    rest = traverse_util.flatten_dict(state["rest"])
    sums = {".".join(path[2:]): v for path, v in rest.items() if path[:2] == ("path", "sum")}
    if not sums:
        raise UserError(
            f"{workdir} was trained without si: set objective.name=continual and "
            "objective.options.si, and train it again"
        )
    first = _of_attribute("first", state["rest"])
    last = _of_attribute("model", state["params"])
    omega = {
        name: path_importance(np.asarray(total), first[name], last[name], damping)
        for name, total in sums.items()
    }
    # The next task starts from the moving average, if there is one: see `run_weights`.
    anchors = last | _of_attribute("model", state.get("ema", {}))
    weights = {name: anchors[name] for name in sums}
    earlier = _read_earlier(workdir, "si", weights)
    joined = combine(earlier, _named(omega, weights), 1.0, "latest")
    return _write(workdir, "si", joined, path_integral_settings(damping), bool(earlier))


def _of_attribute(attribute: str, tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns {name: array} of an attribute of the objective, from a part of a run's state."""
    flat = traverse_util.flatten_dict(tree)
    return {".".join(p[1:]): np.asarray(array) for p, array in flat.items() if p[0] == attribute}


def path_integral_settings(damping: float = DAMPING) -> dict[str, Any]:
    """Returns what si.json says of how `write_path_integral` was called; for `is_measured`."""
    return {"damping": damping}


def is_measured(workdir: str, kind: str, settings: Mapping[str, Any]) -> bool:
    """Returns whether a run's importance is there, undamaged, and was measured as asked.

    Args:
        workdir: the run directory.
        kind: of `KINDS`.
        settings: from `fisher_settings` or `path_integral_settings`.
    """
    file = pathlib.Path(importance_file(workdir, kind))
    try:
        about = read_json(file.with_suffix(".json"), dict)
        is_same = all(about.get(name) == value for name, value in settings.items())
        return is_same and about.get("sha256") == digest(load_arrays(file))
    except UserError:  # missing or damaged
        return False


def _read_earlier(
    workdir: str, kind: str, weights: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the arrays of the file of the run before, {} if the run began from scratch.

    If that has moved, they come from the run's own copy, which its training had if it needed them.

    Args:
        workdir: the run directory.
        kind: of `KINDS`.
        weights: {name: array}, the run's own parameters, which may be larger.
    """
    previous = read_run(workdir)[0].continual.previous
    if not previous:
        return {}
    file = importance_file(previous, kind)
    command = f"python -m vision.continual.importance --workdir {previous} --kind {kind}"
    if pathlib.Path(file).is_file():
        earlier = load_arrays(pathlib.Path(file), f"; run {command} again")
        _check_fits(earlier, weights, f"{file} does not fit {workdir}", command)
        return earlier
    for attribute in COPIES:
        copy = read_constant(pathlib.Path(workdir), attribute, file)
        if copy is not None:
            return copy
    if not pathlib.Path(previous, "config.json").is_file():
        raise UserError(
            f"{workdir} went on from {previous}, and there is no such run here: put it back, or "
            f"start from the directory in which {workdir} was trained"
        )
    leave_out = ", or leave out earlier tasks with --decay 0" if kind == "fisher" else ""
    raise UserError(
        f"{workdir} went on from {previous}, for which nobody has measured which weights matter: "
        f"run {command} first{leave_out}"
    )


def _check_fits(
    earlier: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray], fault: str, command: str
) -> None:
    """Raises `UserError` unless all arrays are of a run's parameters, or of fewer classes."""
    for name in sorted({key.partition(".")[2] for key in earlier}):
        if name not in weights:
            raise UserError(f"{fault}: its '{name}' does not learn there; run {command} again")
        shape = weights[name].shape
        for key in (IMPORTANCE + name, ANCHOR + name):
            if key not in earlier:
                raise UserError(f"{fault}: it has no {key}; run {command} again")
            old = earlier[key].shape
            if len(old) != len(shape) or any(a > b for a, b in zip(old, shape, strict=True)):
                raise UserError(f"{fault}: {key} is {old}, not {shape}; run {command} again")


def _named(
    importance: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns what a file has of a run's own task."""
    new = {IMPORTANCE + name: np.asarray(array, np.float32) for name, array in importance.items()}
    return new | {ANCHOR + name: np.asarray(weights[name], np.float32) for name in importance}


def _write(
    workdir: str,
    kind: str,
    arrays: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
    has_earlier: bool,
) -> pathlib.Path:
    """Writes a run's file, and beside it what was measured."""
    file = pathlib.Path(importance_file(workdir, kind))
    previous = read_run(workdir)[0].continual.previous
    before = importance_file(previous, kind) if has_earlier else None
    record = {"kind": kind, "before": before} | dict(about) | {"sha256": digest(arrays)}

    def write() -> None:
        make_directory(file.parent)
        with replacing_path(file) as path:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
        # If a kill comes in between, the digest tells that the old text is of other arrays.
        write_json(file.with_suffix(".json"), record)

    parallel.on_main_process(write)
    return file


def _own_classes(config: ConfigDict, workdir: str) -> np.ndarray | None:
    """Returns the classes that a run tells its own images from; None = all."""
    options = config.objective.options
    if config.objective.name != "continual" or not options.get("within_task"):
        return None
    _, data = read_run(workdir)
    count = len(data["classes"])
    sizes = [len(task["classes"]) for task in data.get("tasks", ()) if task["classes"]]
    return np.arange(count - sizes[-1], count) if sizes else None


def _flags(values):
    flags.DEFINE_string("workdir", "", "run directory", flag_values=values)
    flags.DEFINE_string("kind", "fisher", ", ".join(KINDS), flag_values=values)
    flags.DEFINE_string("labels", "sampled", ", ".join(LABELS), flag_values=values)
    flags.DEFINE_integer("images", 0, "training images to measure on; 0 = all", flag_values=values)
    text = "each or latest; default: each for fisher, latest for si"
    flags.DEFINE_string("anchors", "", text, flag_values=values)
    text = "share of the earlier runs' importance that is kept"
    flags.DEFINE_float("decay", 1.0, text, flag_values=values)
    flags.DEFINE_float("damping", DAMPING, "xi of si, above 0", flag_values=values)


if __name__ == "__main__":
    cli.run(main)
