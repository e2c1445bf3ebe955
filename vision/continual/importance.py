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
from safetensors.numpy import load_file, save_file

from vision import cli, inference, parallel
from vision.config.flags import parse_stage
from vision.continual.fisher import LABELS, measure_fisher
from vision.data.inputs import require_images_alone
from vision.data.pipeline import open_data
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
from vision.support.files import make_directory, replacing_path, write_json
from vision.support.lock import locked

ANCHORS = ("each", "latest")
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
    workdir: str, labels: str = "sampled", images: int = 0, anchors: str = "each", decay: float = 1
) -> pathlib.Path:
    """Measures the Fisher information of a run and writes it into the run.

    Args:
        workdir: the run directory.
        labels: of `LABELS`.
        images: how many of its training images, evenly spread; 0 = all.
        anchors: see `vision.objectives.importance.combine`.
        decay: see there.

    Returns:
        The file.

    Raises:
        UserError: there is no run, or its images are not there any more.
    """
    parallel.keep_programs(read_run(workdir)[0].compile_cache)
    classifier = inference.from_run(workdir)
    require_images_alone(classifier.fields, "the importance of weights")
    config = classifier.config.copy_and_resolve_references()
    config.data.random_crop_area = ()
    config.data.resident_gib = 0.0  # each image is read once, and those of other splits never
    loader = open_data(config, parallel.make_mesh(1), past=classifier.past).loaders["train"]
    if images and images < len(loader):
        loader = loader.part(np.linspace(0, len(loader) - 1, images).astype(np.int64))
    assert classifier.model is not None
    model = classifier.model
    own = _own_classes(config, workdir)
    fisher = measure_fisher(model, loader, config.data, labels, own, config.seed)
    weights = {name: np.asarray(p.get_value()) for name, p in parameters(model).items()}
    about = {"labels": labels, "images": len(loader), "anchors": anchors, "decay": decay}
    return _write(workdir, "fisher", fisher, weights, anchors, decay, about)


def write_path_integral(workdir: str, damping: float = DAMPING) -> pathlib.Path:
    """Writes the importance that a training with SI has summed up into its run.

    Args:
        workdir: the run directory.
        damping: xi; see `vision.objectives.importance.path_importance`.

    Returns:
        The file.

    Raises:
        UserError: there is no run, or it was trained without SI.
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
    first = {".".join(path[1:]): v for path, v in rest.items() if path[0] == "first"}
    last = {
        ".".join(path[1:]): v
        for path, v in traverse_util.flatten_dict(state["params"]).items()
        if path[0] == "model"
    }
    weights = {name: np.asarray(last[name]) for name in sums}
    omega = {
        name: path_importance(np.asarray(total), np.asarray(first[name]), weights[name], damping)
        for name, total in sums.items()
    }
    return _write(workdir, "si", omega, weights, "latest", 1.0, {"damping": damping})


def _write(
    workdir: str,
    kind: str,
    importance: Mapping[str, np.ndarray],
    weights: Mapping[str, np.ndarray],
    anchors: str,
    decay: float,
    about: Mapping[str, Any],
) -> pathlib.Path:
    """Writes a run's file, with the importance of the run before it in it."""
    new = {IMPORTANCE + name: np.asarray(array, np.float32) for name, array in importance.items()}
    new |= {ANCHOR + name: np.asarray(weights[name], np.float32) for name in importance}
    config, _ = read_run(workdir)
    previous = config.continual.previous
    earlier = pathlib.Path(importance_file(previous, kind)) if previous else None
    if earlier is not None and earlier.is_file():
        new = combine(load_file(earlier), new, decay, anchors)
    file = pathlib.Path(importance_file(workdir, kind))
    make_directory(file.parent)
    with replacing_path(file) as path:
        save_file({name: np.ascontiguousarray(array) for name, array in new.items()}, path)
    before = str(earlier) if earlier is not None and earlier.is_file() else None
    write_json(file.with_suffix(".json"), {"kind": kind, "before": before} | dict(about))
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
