"""The images of a run's splits, which its directory lists: see `vision.data.division`."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from vision.data.division import FILE, NEW, describe, write_division
from vision.data.recall import Past
from vision.data.sources import is_same
from vision.models.weights.pretrained import is_run
from vision.run.directory import read_run

KEY = "splits"  # of data.json


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
    if KEY not in data or not is_same(source, config.data.source):
        return None
    return Past(workdir, data[KEY])


def past_of_training(workdir: pathlib.Path | str, config: ConfigDict) -> Past | None:
    """Returns the division that a training begins with: its own if it is resumed.

    A training that starts from the weights of another run on the same data has the splits of that
    run, so that no image that it was trained on becomes one to test on.
    """
    places = [workdir]
    if config.model.pretrained and is_run(config.model.pretrained):
        places.append(config.model.pretrained)
    for place in places:
        past = past_of(place, config.data.source)
        if past is not None:
            joins = config.data.allow_changes
            return Past(past.run, past.digests, joins=joins, strict=not joins)
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
    yield {KEY: describe(data.division)}
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
    return {KEY: dict(past.digests)}
