"""A run that is called again: it keeps its own division, and if it is finished, its result."""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from vision import objectives
from vision.models import fields_of
from vision.run.directory import check_config, read_run
from vision.run.resolve import resolve_config
from vision.support.reading import read_json
from vision.support.schema import NATURAL, Damaged

RESULT = "result.json"
SCHEMA = {  # what a message shows
    "ended": str,
    "steps": NATURAL,
    "best_step": NATURAL,
    "images_per_second": float,
    "train_seconds": float,
}


def continue_config(config: ConfigDict, workdir: pathlib.Path | str) -> ConfigDict:
    """Returns the config with what the run that its directory holds, if any, has settled.

    The images of the run's splits are listed there, or were divided by older code, so
    `data.split_by` says nothing more about them. What texts and columns look like was learned from
    its training images.
    """
    workdir = pathlib.Path(workdir)
    if not all((workdir / name).is_file() for name in ("config.json", "data.json")):
        return config
    run_config, _ = read_run(workdir)
    config = config.copy_and_resolve_references()
    config.data.split_by = run_config.data.split_by
    for option in fields_of(run_config.model):
        if option not in config.model.options:
            config.model.options[option] = run_config.model.options[option]
    return config


def read_result(config: ConfigDict, workdir: pathlib.Path | str) -> dict[str, Any] | None:
    """Returns the result.json of a finished run; None if the run has not come to its end.

    Args:
        config: the config that it is called with.
        workdir: its directory.

    Raises:
        UserError: the directory holds another config's run.
    """
    path = pathlib.Path(workdir, RESULT)
    if not path.is_file():
        return None
    config = resolve_config(config, workdir).copy_and_resolve_references()
    config.objective.options = objectives.define(config.objective).config.options
    check_config(pathlib.Path(workdir), config)
    try:
        return read_json(path, SCHEMA)
    except Damaged:  # by a kill of older code while it was written: the run is tested again
        return None
