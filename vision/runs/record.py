"""A run as the table shows it."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from vision.run.curves import ACCURACY

STATES = ("running", "failed", "interrupted", "finished", "unreadable")


@dataclasses.dataclass(frozen=True)
class Run:
    """What the files of a run directory say about the run.

    Attributes:
        name: what it is called in the table.
        path: its directory.
        state: one of `STATES`.
        reason: why it failed or cannot be read.
        ended: how a finished training ended: "finished", "stopped early" or "pruned".
        config: {"a.b": value} of its config; {} if it cannot be read.
        test: {"accuracy": value, ...} on the test split, of a finished run.
        validation: {"val/accuracy": value, ...} at the best step.
        metric: the measure that chooses the checkpoint.
        training: {"train/loss": value, ...} of the last line of the log.
        steps: finished steps.
        planned: steps of the whole training; 0 if that is not known.
        best_step: step of the best checkpoint.
        images_per_second: in training.
        seconds: of training, of a finished run.
        date: of the end of a finished run, else of the last line of the log, ISO 8601 in UTC.
    """

    name: str
    path: pathlib.Path
    state: str
    reason: str = ""
    ended: str = ""
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    test: Mapping[str, float] = dataclasses.field(default_factory=dict)
    validation: Mapping[str, float] = dataclasses.field(default_factory=dict)
    metric: str = ACCURACY
    training: Mapping[str, float] = dataclasses.field(default_factory=dict)
    steps: int = 0
    planned: int = 0
    best_step: int | None = None
    images_per_second: float | None = None
    seconds: float | None = None
    date: str = ""

    @property
    def model(self) -> str:
        """The architecture and its variant."""
        names = self.config.get("model.name"), self.config.get("model.variant")
        return " ".join(name for name in names if name)

    @property
    def data(self) -> str:
        """The source of its images."""
        return str(self.config.get("data.source", ""))

    @property
    def shown_metric(self) -> str:
        """The measure of the validation split that the table shows."""
        return self.metric if self.metric in self.validation else ACCURACY

    @property
    def seconds_left(self) -> float | None:
        """How long a running training will take at its last speed; None if that is not known."""
        if self.state != "running" or not self.images_per_second or not self.planned:
            return None
        images = (self.planned - self.steps) * self.config["train.batch_size"]
        return max(0.0, images / self.images_per_second)

    def values(self) -> dict[str, Any]:
        """Returns {key: value} of everything that a filter may name, config keys included."""
        own = {
            "name": self.name,
            "state": self.state,
            "ended": self.ended,
            "reason": self.reason,
            "model": self.model,
            "data": self.data,
            "steps": self.steps,
            "planned": self.planned,
            "best_step": self.best_step,
            "images_per_second": self.images_per_second,
            "seconds": self.seconds,
            "date": self.date,
        }
        return {**self.config, **self.training, **self.validation, **self.test, **own}
