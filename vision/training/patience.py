"""Waiting for a number to get better: for early stopping, and for lowering the learning rate on a
plateau."""

import math


class Patience:
    """Counts evaluations without improvement.

    Args:
        mode: "max" or "min".
        patience: how many to bear.
        min_delta: what counts as an improvement must exceed this.
    """

    def __init__(self, mode, patience, min_delta=0.0):
        self._sign = 1 if mode == "max" else -1
        self._patience = patience
        self._min_delta = min_delta
        self.best = -math.inf
        self.waited = 0

    def update(self, value):
        """Takes a new value and returns whether patience is at its end; counting then begins
        anew."""
        if self._sign * value > self.best + self._min_delta:
            self.best = self._sign * value
            self.waited = 0
        else:
            self.waited += 1
        exhausted = self.waited >= self._patience
        if exhausted:
            self.waited = 0
        return exhausted

    def state(self):
        """What a checkpoint must hold, as JSON can: infinity becomes None."""
        return {"best": self.best if math.isfinite(self.best) else None, "waited": self.waited}

    def restore(self, state):
        self.best = -math.inf if state["best"] is None else state["best"]
        self.waited = state["waited"]
