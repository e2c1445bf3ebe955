"""Weights & Biases: a run of a project; offline, `wandb sync RUN/wandb/offline-run-*` sends it."""

import pathlib
import uuid
from collections.abc import Mapping
from typing import Any

import wandb

from vision.training.trackers.tracking import TrackedRun


class WandbTracker:
    """See `vision.training.trackers.tracking.Tracker`."""

    def __init__(self, run: Any):
        self._run = run

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log(dict(scalars), step=step)  # steps that it has already are left out

    def finish(self, scalars: Mapping[str, float], files: list[pathlib.Path]) -> None:
        self._run.summary.update(dict(scalars))
        for file in files:
            if file.suffix == ".png":
                self._run.log({file.stem: wandb.Image(str(file))})
            self._run.save(str(file), base_path=str(file.parent), policy="now")
        self._run.finish()

    def stop(self, failed: bool) -> None:
        self._run.finish(exit_code=1)


def open(run: TrackedRun) -> WandbTracker:
    """Begins a run with the config, or continues one."""
    run_id = run.id or uuid.uuid4().hex
    if not run.id:
        run.keep_id(run_id)
    wandb.setup(wandb.Settings(silent=True))
    settings = wandb.Settings(
        console="off",  # what the training prints stays where it is
        silent=True,
        save_code=False,
        login_timeout=1,  # nobody may be there to answer its question
        init_timeout=run.patience / 2,
        finish_timeout=run.patience / 2,  # which holds for the end of the process too
    )
    options = run.options
    begun = wandb.init(
        id=run_id,
        resume="allow" if options["mode"] == "online" else None,  # offline, the id suffices
        reinit="create_new",
        project=options["project"],
        entity=options["entity"] or None,
        name=run.name,
        mode=options["mode"],
        dir=str(run.workdir),
        settings=settings,
    )
    values = {**run.values, "run_directory": str(run.workdir.resolve())}
    begun.config.update(values, allow_val_change=True)
    return WandbTracker(begun)
