"""`vision.train`: a training in this process."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from vision import cli, recipe
from vision.api.loading import load as load_model
from vision.api.model import LoadedModel
from vision.config.load import is_config, load, override
from vision.errors import printable
from vision.run.directory import title_of, workdir_for
from vision.training.run import check_single, describe, run


@dataclasses.dataclass(frozen=True, repr=False)
class TrainedRun:
    """A run that has ended; `vision.load`, `evaluate` and `export` take it in place of its path.

    Attributes:
        workdir: the run directory.
        result: the contents of its result.json: what was measured on the test split, the
            classes, the steps, the seconds, the versions, the config.
    """

    workdir: pathlib.Path
    result: Mapping[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        """The single numbers of the test split: "accuracy", "loss", "macro_f1" and so on."""
        from vision.metrics import scalars  # imports JAX

        return scalars(self.result)

    def load(self) -> LoadedModel:
        """Returns the model of the best checkpoint, as `vision.load` does."""
        return load_model(self.workdir)

    def __fspath__(self) -> str:
        return os.fspath(self.workdir)

    def __repr__(self) -> str:
        return f"TrainedRun({printable(str(self.workdir))}: {describe(self.result)})"


def train(
    config: "str | os.PathLike[str] | ConfigDict",
    workdir: "str | os.PathLike[str] | None" = None,
    overrides: Mapping[str, Any] | None = None,
) -> TrainedRun:
    """Trains as `vision.train` describes.

    Unlike the command, it leaves malloc and the garbage collector as they are, since the process
    goes on, and it gives signals and the verbosity of libraries back.
    """
    chosen, title, choice = _config_of(config, workdir)
    chosen = override(chosen, overrides or {})
    check_single(chosen)
    directory = pathlib.Path(workdir) if workdir is not None else workdir_for(title)
    files = {}
    if choice is not None:
        choice = dataclasses.replace(choice, config=chosen)
        files = {recipe.NAME: choice.text(f"vision.train({chosen.data.source!r})")}
        cli.show(choice.summary())
    again = f"the same call with workdir={str(directory)!r}"
    verbosity = logging.get_verbosity()
    try:
        result = run(chosen, directory, again=again, files=files)
    finally:
        logging.set_verbosity(verbosity)
    if result is None:
        raise KeyboardInterrupt(f"the run is saved: {again} resumes it")
    # as it is when it is read again: JSON has no tuples
    return TrainedRun(directory, json.loads(json.dumps(result)))


def _config_of(
    config: Any, workdir: "str | os.PathLike[str] | None"
) -> tuple[ConfigDict, str, recipe.Recipe | None]:
    """Returns (the config, what a run of it is named after, why it was chosen for images alone).

    For images alone, the config of the run in `workdir`, if there is one, is not chosen again.
    """
    if isinstance(config, ConfigDict):
        return config, config.model.name, None
    spec = os.fspath(config)
    if is_config(spec):
        return load(spec), title_of(spec), None
    source = recipe.source_of([spec])
    chosen, choice = recipe.resume_or_choose(source, workdir or "")
    assert chosen is not None  # there is a source
    return chosen, recipe.title(source), choice
