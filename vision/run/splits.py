"""The images of a run's splits, which its directory lists: see `vision.data.division`."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vision.data.division import FILE, NEW, describe, write_division
from vision.data.recall import Past
from vision.data.sources import Source, is_same
from vision.models.weights.pretrained import is_run
from vision.run.directory import read_run
from vision.run.previous import SPLITS, TASKS, continued_past, read_tasks


def past_of(workdir: pathlib.Path | str, source: str) -> Past | None:
    """Returns the division of a run, as an evaluation uses it.

    Args:
        workdir: the run's directory.
        source: the data source that is to have it; None is returned for another one than the
            run's, and for runs that did not store a division yet.
    """
    workdir = pathlib.Path(workdir)
    if not all((workdir / name).is_file() for name in ("config.json", "data.json")):
        return None
    config, data = read_run(workdir)
    if SPLITS not in data or not is_same(source, config.data.source):
        return None
    if TASKS not in data:
        return Past(workdir, data[SPLITS])
    classes = tuple(data["classes"])
    return Past(workdir, data[SPLITS], tasks=read_tasks(data), classes=classes)


def past_of_training(
    workdir: pathlib.Path | str,
    config: ConfigDict,
    choose: Callable[[Source], np.ndarray] | None = None,
) -> Past | None:
    """Returns the division that a training begins with: its own if it is resumed.

    A training that starts from the weights of another run on the same data has the splits of that
    run, so that no image that it was trained on becomes one to test on.

    Args:
        workdir: the run directory.
        config: the run's config.
        choose: chooses the images to remember, if the training goes on from a run; see
            `vision.data.continued.Continued`.
    """
    places = [workdir]
    if config.continual.previous:
        past = past_of(workdir, config.data.source)
        if past is None:
            return continued_past(config, choose)
    elif config.model.pretrained and is_run(config.model.pretrained):
        places.append(config.model.pretrained)
    for place in places:
        past = past_of(place, config.data.source)
        if past is not None:
            joins = config.data.allow_changes
            return dataclasses.replace(past, joins=joins, strict=not joins)
    return None


@contextlib.contextmanager
def storing_division(workdir: pathlib.Path, data: Any) -> Iterator[dict[str, Any]]:
    """Writes splits.csv.gz for the `Data` of a training; yields what data.json must say about it.

    The block writes that. Whenever the process is killed, there is a list that data.json describes.
    """
    if data.division is None:
        yield {}
        return
    write_division(workdir / NEW, data.division)
    tasks = {TASKS: [task._asdict() for task in data.tasks]} if data.tasks else {}
    yield {SPLITS: describe(data.division)} | tasks
    os.replace(workdir / NEW, workdir / FILE)


def inherit_division(
    workdir: pathlib.Path | str, directory: pathlib.Path, config: ConfigDict
) -> dict[str, Any]:
    """Copies a run's division to a run made from it; returns what data.json says about it.

    Args:
        workdir: the run's directory.
        directory: that of the run made from it.
        config: the config of that run; on another data source it inherits nothing.
    """
    past = past_of(workdir, config.data.source)
    if past is None:
        return {}
    write_division(directory / FILE, past.read())
    tasks = {TASKS: [task._asdict() for task in past.tasks]} if past.tasks else {}
    return {SPLITS: dict(past.digests)} | tasks
