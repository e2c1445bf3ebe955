"""Pruning a run in one step, or in several with training between them, which costs less accuracy.

Li et al. 2016 (arXiv:1608.08710), section 3.4, "prune and retrain iteratively". Of N steps each
leaves the same share of what the one before has left.
"""

import json
import pathlib

from vision.compression import importance
from vision.compression.cut import RECORD, prune, write
from vision.errors import UserError
from vision.inference import Classifier, from_run
from vision.run.directory import read_run
from vision.training.run import run


def prune_run(config, asked, out, say=print):
    """Prunes a run; in several steps, where they are asked for, with a training after each.

    Each step makes a run of its own: OUT-1, OUT-2, ..., and the last OUT. What an interrupted call
    has done, another one finds there and goes on.

    Args:
        config: what the pruned runs are trained by: the run's own, maybe changed.
        asked: {"run": its directory, "ratio", "target", "importance", "batch", "floor": see
            `vision.compression.cut.prune`, "steps": how many}, and what else the records are to
            tell.
        out: `pathlib.Path` of the last step's directory.
        say: called with a line of text about what is done.

    Returns:
        The record of the last step, as its pruning.json has it; None where its training was
        interrupted.

    Raises:
        UserError: so much cannot go; a directory holds something else, or cannot be written.
        RunError: a training failed, or a checkpoint cannot be written.
    """
    places = [*(pathlib.Path(f"{out}-{i}") for i in range(1, asked["steps"])), out]
    begun = [i for i, place in enumerate(places) if _is_pruned(place, asked | {"step": i + 1})]
    original = from_run(asked["run"])
    first = max(begun, default=-1)
    for i in range(max(first, 0), len(places)):
        place = places[i]
        wanted = asked | {"step": i + 1}
        if i > first:
            _step(original, config, wanted, places[i - 1], place)
        record = json.loads((place / RECORD).read_text())
        if len(places) > 1:
            say(
                f"step {i + 1} of {len(places)}: {record['share']:.1%} of the {asked['target']} are left; {place}"
            )
            if (
                not (place / "result.json").is_file()
                and run(read_run(place)[0], place, again="the same command") is None
            ):
                return None
    return record


def _is_pruned(place, wanted):
    """Returns whether a step has made a directory already; raises `UserError` where anything else
    has."""
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return False
    try:
        there = json.loads((place / RECORD).read_text())
    except (OSError, ValueError):
        there = None
    if wanted["steps"] == 1 or there is None:
        raise UserError(f"--out {place} is there already: give a new or empty directory")
    for key, value in json.loads(json.dumps(wanted)).items():
        if there.get(key) != value:
            raise UserError(
                f"--out {place} holds another pruning: {key} is {there.get(key)!r} there, {value!r} here.\n"
                "Give another --out, or the command that made it"
            )
    return True


def _step(original, config, wanted, before, place):
    """Prunes the original, or what the step before has trained, as far as a step goes, and writes
    the run."""
    number = wanted["step"]
    steps = wanted["steps"]
    source = wanted["run"]
    classifier = Classifier(
        config, original.model, original.classes, original.image_size, original.channels
    )
    layers = {}
    if number > 1:
        source = before
        classifier = from_run(before)
        layers = json.loads((before / RECORD).read_text())["layers"]
    groups, scores = importance.measure(classifier, wanted["importance"])
    goal = {name: wanted[name] for name in ("ratio", "target", "batch", "floor")}
    pruned = prune(classifier, groups, scores, **goal, part=number / steps, original=original)
    whole = {
        name: [layers.get(name, own)[0], own[1]] for name, own in pruned.record["layers"].items()
    }
    pruned.record = wanted | pruned.record | {"layers": whole}
    write(pruned, source, place)
