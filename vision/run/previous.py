"""The run that a training goes on from: `config.continual.previous`."""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vision.data.classes import encode
from vision.data.continued import Continued
from vision.data.division import Task
from vision.data.sources import CHANGES, SEPARATOR, Source, is_same, members, parse
from vision.errors import UserError
from vision.run.directory import read_run

EMPTY = "empty:"  # the source of classes whose images are gone
TASKS = "tasks"  # of data.json
SPLITS = "splits"  # of data.json


def join_source(config: ConfigDict, workdir: pathlib.Path | str | None) -> str:
    """Returns the source of a run's images, old and new: that of the previous run, and its own.

    Args:
        config: the run's config, with `continual.previous`.
        workdir: the run directory. If it holds the run already, its config has the source: the
            previous run need not exist any more.

    Raises:
        UserError: the previous run is not one.
    """
    previous = config.continual.previous
    source = config.data.source
    if workdir and pathlib.Path(workdir, "data.json").is_file():
        run_config, _ = read_run(workdir)
        ours = run_config.data.source
        is_ours = source == ours or ours.endswith(SEPARATOR + source)
        if run_config.continual.previous == previous and is_ours:
            return ours
    if members(source)[0].startswith(EMPTY):
        return source
    old_config, data = _read_previous(config)
    old = old_config.data.source
    if not config.continual.old_data:
        return f"{EMPTY}{','.join(map(encode, data['classes']))}{SEPARATOR}{source}"
    names = members(old)
    if len(members(source)) >= len(names) and all(map(is_same, members(source), names)):
        return source
    if any(is_same(source, name) for name in names):  # which has grown since
        return old
    for name in (*names, source):
        changes = sorted({*parse(name)[2]} & {*CHANGES})
        if changes:
            raise UserError(
                f"continual.previous = {previous}: its images, {old}, cannot be joined to "
                f"{source}, because '{name}' sets {changes[0]}: list the images in a table (csv:)"
            )
    return f"{old}{SEPARATOR}{source}"


def keeps_head(config: ConfigDict) -> bool:
    """Returns whether the model starts from the previous run's weights, with the head's.

    Args:
        config: the run's config, from `vision.run.resolve.resolve_config`.
    """
    previous = config.continual.previous
    start = config.model.pretrained
    if not previous or not start or config.transfer.new_head:
        return False
    return os.path.realpath(previous) == os.path.realpath(start)


def continued_past(
    config: ConfigDict, choose: Callable[[Source], np.ndarray] | None = None
) -> Continued:
    """Returns the division of the previous run, as a training that goes on from it begins.

    Args:
        config: the run's config, with `continual.previous` and the source of `join_source`.
        choose: see `Continued`.

    Raises:
        UserError: the previous run is not one, or did not store which images it had.
    """
    c = config.continual
    old_config, data = _read_previous(config)
    if SPLITS not in data:
        raise UserError(
            f"continual.previous = {c.previous}: its data.json does not say which images it had: "
            "train it again"
        )
    return Continued(
        pathlib.Path(c.previous),
        data[SPLITS],
        tasks=read_tasks(data) if c.old_data else _without_images(data),
        source=_own_source(config, old_config),
        prefix=_prefix(config, old_config),
        classes=tuple(data["classes"]),
        choose=choose,
        has_images=c.old_data,
    )


def read_tasks(data: Mapping[str, Any]) -> tuple[Task, ...]:
    """Returns what a run and those that it goes on from have learned.

    Args:
        data: its data.json, as `vision.run.directory.read_run` returns it.
    """
    tasks = data.get(TASKS)
    if tasks:
        return tuple(Task(t["source"], tuple(t["classes"]), t["test"]) for t in tasks)
    test = data.get(SPLITS, {}).get("test", {"images": 0})["images"]
    return (Task("", tuple(data["classes"]), test),)


def _own_source(config: ConfigDict, old_config: ConfigDict) -> str:
    """Returns the name of the new images' source."""
    ours = members(config.data.source)
    theirs = members(old_config.data.source) if config.continual.old_data else [""]
    return SEPARATOR.join(ours[len(theirs) :]) or config.data.source


def _prefix(config: ConfigDict, old_config: ConfigDict) -> str:
    """Returns what the names of the new images begin with; see `Continued`."""
    if not config.continual.old_data:
        return "2:"
    count = len(members(old_config.data.source))
    return f"{count + 1}:" if len(members(config.data.source)) > count else ""


def _without_images(data: Mapping[str, Any]) -> tuple[Task, ...]:
    return tuple(task._replace(test=0) for task in read_tasks(data))


def _read_previous(config: ConfigDict) -> tuple[ConfigDict, dict[str, Any]]:
    try:
        return read_run(config.continual.previous)
    except UserError as error:
        raise UserError(f"continual.previous: {error}") from error
