"""Prunes a run in one step, or in several with training in between, which costs less accuracy.

Li et al. 2016 (arXiv:1608.08710), section 3.4, "prune and retrain iteratively". Each of N steps
keeps the same share of what the step before has left.
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from vision.compression import importance
from vision.compression.cut import RECORD, Goal, prune, write
from vision.data.inputs import require_images_alone
from vision.errors import UserError
from vision.inference import Classifier, from_run
from vision.run.directory import read_run
from vision.run.splits import past_of
from vision.support.progress import waiting
from vision.support.reading import read_json
from vision.support.schema import NATURAL
from vision.training.run import run

SCHEMA = {"share": float, "layers": {str: [NATURAL]}}


def prune_run(
    config: ConfigDict,
    request: dict[str, Any],
    out: pathlib.Path,
    report: Callable[[str], object] = print,
) -> dict[str, Any] | None:
    """Prunes a run; in several steps, if requested, with a training after each.

    Each step writes a run of its own: OUT-1, OUT-2, ..., and the last OUT. A call continues where
    an interrupted one has stopped.

    Args:
        config: the config to train the pruned runs with: the run's own, possibly changed.
        request: {"run": the run's directory, "importance": one of `importance.IMPORTANCES`,
            "ratio", "target", "batch", "floor", "only", "rounded": see
            `vision.compression.cut.Goal`, the last two only if they are not its defaults; "steps":
            number of steps}, and anything else that the records should contain.
        out: directory of the last step.
        report: called with a line of text on the progress.

    Returns:
        The record of the last step, as in its pruning.json; None if its training was interrupted.

    Raises:
        UserError: the ratio is too high; a directory contains something else, or cannot be written.
        RunError: a training failed, or a checkpoint cannot be written.
    """
    steps = request["steps"]
    places = [*(pathlib.Path(f"{out}-{i}") for i in range(1, steps)), out]
    written = [i for i, place in enumerate(places) if _is_pruned(place, request | {"step": i + 1})]
    original = from_run(request["run"])
    require_images_alone(original.fields, "pruning")
    last_written = max(written, default=-1)
    for i in range(max(last_written, 0), steps):
        place = places[i]
        if i > last_written:
            _prune_step(original, config, request | {"step": i + 1}, places[i - 1], place)
        record = read_record(place)
        if steps > 1:
            report(
                f"step {i + 1} of {steps}: {record['share']:.1%} of the {request['target']} are "
                f"left; {place}"
            )
            if not _train(place):
                return None
    return record


def read_record(place: pathlib.Path) -> dict[str, Any]:
    """Returns the pruning.json of a pruned run; raises `UserError` if it is damaged."""
    return read_json(place / RECORD, SCHEMA, "give another --out")


def _train(place):
    """Trains a pruned run unless that is done; returns whether it is."""
    if (place / "result.json").is_file():
        return True
    config, _ = read_run(place)
    return run(config, place, again="the same command") is not None


def _is_pruned(place, request):
    """Returns whether a step has already written its directory.

    Raises:
        UserError: the directory contains anything else.
    """
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return False
    try:
        record = read_json(place / RECORD, dict)
    except UserError:
        record = None
    if record is None:
        raise UserError(f"--out {place} exists already: give a new or empty directory")
    for key, value in json.loads(json.dumps(request)).items():
        if record.get(key) != value:
            raise UserError(
                f"--out {place} contains another pruning: {key} is {record.get(key)!r} there, "
                f"{value!r} here.\nGive another --out, or the command that made it"
            )
    return True


def _prune_step(original, config, request, previous, place):
    """Prunes the original, or the result of the previous step, and writes the run.

    Args:
        original: the `Classifier` that the first step prunes.
        config: the config to train with.
        request: see `prune_run`, with "step": the step's number, from 1.
        previous: directory of the previous step.
        place: directory to write.
    """
    step = request["step"]
    source = request["run"]
    classifier = Classifier(
        config,
        original.model,
        original.classes,
        original.image_size,
        original.channels,
        past=past_of(source, config.data.source),
    )
    original_layers = {}
    if step > 1:
        source = previous
        classifier = from_run(previous)
        original_layers = read_record(previous)["layers"]
    with waiting("measuring which channels matter"):
        groups, scores = importance.measure(classifier, request["importance"])
    goal = Goal(
        request["ratio"],
        request["target"],
        part=step / request["steps"],
        batch=request["batch"],
        floor=request["floor"],
        only=request.get("only", ""),
        rounded=request.get("rounded", True),
    )
    with waiting("choosing channels"):
        pruned = prune(classifier, groups, scores, goal, original)
    layers = {
        name: [original_layers.get(name, counts)[0], counts[1]]
        for name, counts in pruned.record["layers"].items()
    }
    pruned.record = request | pruned.record | {"layers": layers}
    write(pruned, source, place)
