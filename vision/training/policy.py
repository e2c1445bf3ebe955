"""What follows from validations: early stopping, and the plateau schedule's lower rate."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vision import parallel
from vision.run.best import direction
from vision.support.schema import NATURAL, Rule

UNTRAINED = Rule("empty", lambda progress: progress == {})  # of a model that was pruned or filled
STATE = {"best": (float, None), "waited": NATURAL}
PROGRESS = {
    "early": STATE,
    "plateau": STATE,
    "lr_scale": float,
    "stopped": bool,
    "direction?": (str, None),
    "config": {"checkpoint": {"mode": str}},
    "meter?": {"seconds": float, "images": float},
    "train_seconds?": float,
}


class Patience:
    """Counts evaluations without improvement.

    Args:
        mode: "max" or "min".
        patience: evaluations without improvement to allow.
        min_delta: an improvement must exceed this.
    """

    def __init__(self, mode: str, patience: int, min_delta: float = 0.0):
        self._sign = 1 if mode == "max" else -1
        self._patience = patience
        self._min_delta = min_delta
        self.best = -math.inf
        self.waited = 0

    def update(self, value: float) -> bool:
        """Takes a new value; returns whether patience has run out, and then counts anew."""
        if self._sign * value > self.best + self._min_delta:
            self.best = self._sign * value
            self.waited = 0
        else:
            self.waited += 1
        exhausted = self.waited >= self._patience
        if exhausted:
            self.waited = 0
        return exhausted

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint must hold, as JSON: infinity becomes None."""
        return {"best": self.best if math.isfinite(self.best) else None, "waited": self.waited}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state` returned."""
        self.best = -math.inf if state["best"] is None else state["best"]
        self.waited = state["waited"]


class ValidationPolicy:
    """Decides from validations whether to stop early and when to lower a plateau's rate.

    Args:
        config: the run's config.
        progress: what `state` returned in the run that is resumed, as `PROGRESS` says; {} at the
            beginning.

    Attributes:
        lr_scale: what the plateau schedule multiplies the learning rate with.
        stopped: whether the training should stop early.
    """

    def __init__(self, config: ConfigDict, progress: Mapping[str, Any]):
        self._config = config
        stopping = config.early_stopping
        self._direction = direction(config.checkpoint)
        self._early = Patience(self._direction, stopping.patience, stopping.min_delta)
        self._plateau = Patience("min", config.schedule.patience)
        self.lr_scale = 1.0
        self.stopped = False
        if progress:
            # Older versions counted what they thought was better, which may have been worse.
            before = progress.get("direction") or progress["config"]["checkpoint"]["mode"]
            if before == self._direction:
                self._early.restore(progress["early"])
            self._plateau.restore(progress["plateau"])
            self.lr_scale = progress["lr_scale"]
            self.stopped = progress["stopped"]

    def update(
        self, scalars: Mapping[str, float], state: dict[str, Any], mesh: Mesh
    ) -> dict[str, Any]:
        """Takes an evaluation; returns the state, with a lower rate if the loss has stalled."""
        config = self._config
        if config.early_stopping.enabled:
            self.stopped = self._early.update(scalars[config.checkpoint.metric])
        if config.schedule.name == "plateau" and self._plateau.update(scalars["val/loss"]):
            self.lr_scale *= config.schedule.factor
            scale = np.asarray(self.lr_scale, state["lr_scale"].dtype)
            return state | {"lr_scale": parallel.put_replicated(scale, mesh)}
        return state

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint must hold, as JSON.

        It has the config too, so that a checkpoint without its directory tells what it is of.
        """
        return {
            "early": self._early.state(),
            "plateau": self._plateau.state(),
            "lr_scale": self.lr_scale,
            "stopped": self.stopped,
            "direction": self._direction,
            "config": self._config.to_dict(),
        }
