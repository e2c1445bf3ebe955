"""Numbers from the device, fetched late: the loop never waits for the step that it has begun."""

import math
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vision import parallel
from vision.errors import RunError
from vision.support.files import write_json
from vision.training.log import RunLog

Scalars = Mapping[str, Any]
Record = tuple[int, int, Scalars]  # (first step, count, scalars of the device)


class Meter:
    """Averages each step's scalars between log lines, and stops a run whose loss is not finite.

    Args:
        log: the run's log.
        names: maps a step to the names of its images.
        batch_size: images per step.
        workdir: where the names of a bad batch go.
        state: what `state` returned in the run that is resumed.

    Attributes:
        seconds: time spent training, without the first call of each process.
        images: images learned from in that time.
    """

    def __init__(
        self,
        log: RunLog,
        names: Callable[[int], list[str]],
        batch_size: int,
        workdir: pathlib.Path,
        state: Mapping[str, Any] | None = None,
    ):
        self._log = log
        self._names = names
        self._batch_size = batch_size
        self._workdir = workdir
        self._new: list[Record] = []
        self._older: list[Record] = []
        self._mark: float | None = None
        self._last = 0
        self.seconds = state["seconds"] if state else 0.0
        self.images = state["images"] if state else 0

    def add(self, step: int, count: int, scalars: Scalars) -> None:
        """Takes the device's scalars of a call.

        Args:
            step: the call's first step, counted from 0.
            count: steps of the call.
            scalars: {name: scalar}, or (count,) with several steps.
        """
        self._new.append((step, count, scalars))
        if self._mark is None:
            jax.block_until_ready(scalars)  # the first call's start is not the run's speed
            self._mark = time.perf_counter()
            self._last = step + count - 1

    def report(self) -> None:
        """Logs what was collected before the last report: by now the device has finished it."""
        self._digest(self._older)
        self._older = self._new
        self._new = []

    def flush(self, params: Any) -> None:
        """Waits for every step so far and logs it.

        Raises:
            RunError: a loss, a gradient or a parameter is not finite.
        """
        if not (self._older or self._new):
            return
        self._digest(self._older, self._new)
        first, count, scalars = (self._new or self._older)[-1]
        if not _are_finite(params):
            self._stop(*_steps_of(first, count, jax.device_get(scalars))[-1])
        self._older = []
        self._new = []

    def restart(self) -> None:
        """Times anew: what was done since `flush`, evaluation and saving, is not training."""
        self._mark = time.perf_counter()

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint must hold, as JSON."""
        return {"seconds": self.seconds, "images": self.images}

    @property
    def images_per_second(self) -> float:
        """The speed of the training so far; 0.0 before it is known."""
        return self.images / self.seconds if self.seconds else 0.0

    def _digest(self, *groups: list[Record]) -> None:
        fetched = [_unstack(group) for group in groups if group]
        for step, values in (each for group in fetched for each in group):
            if not (math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])):
                self._stop(step, values)
        if not fetched:
            return
        speed = self._tick()
        for group in fetched:
            last, newest = group[-1]
            means = {
                name: sum(float(values[name]) for _, values in group) / len(group)
                for name in newest
            }
            means["learning_rate"] = float(newest["learning_rate"])
            means["images_per_second"] = speed
            self._log.train(last + 1, means)

    def _tick(self) -> float:
        """Counts the steps that the device has finished since the last tick.

        Returns:
            Their images per second.
        """
        # What was fetched has come from one device; the others may not be ready with it yet.
        newest = self._last
        for first, count, scalars in reversed(self._older + self._new):
            if scalars["loss"].is_ready():
                newest = first + count - 1
                break
        images = (newest - self._last) * self._batch_size
        now = time.perf_counter()
        seconds = now - (now if self._mark is None else self._mark)
        self.images += images
        self.seconds += seconds
        self._last = newest
        self._mark = now
        return images / seconds if images and seconds else self.images_per_second

    def _stop(self, step: int, values: Scalars) -> None:
        names = self._names(step)
        path = self._workdir / "nonfinite_batch.json"
        if parallel.is_main_process():
            write_json(path, {"step": step + 1, "images": names})
        loss = float(values["loss"])
        norm = float(values["grad_norm"])
        fault = f"loss {loss}, gradient norm {norm}"
        if math.isfinite(loss) and math.isfinite(norm):
            fault += ", parameters no longer finite"
        raise RunError(
            f"step {step + 1}: {fault}, learning rate {float(values['learning_rate']):.3g}, "
            f"images {', '.join(names[:3])}, ... (all in {path}).\n"
            "The last good checkpoint is kept. Lower optimizer.learning_rate, set "
            "optimizer.clip_norm, or look at the images"
        )


def _unstack(group: list[Record]) -> list[tuple[int, Scalars]]:
    """Returns (step, {name: NumPy scalar}) of each step of some calls."""
    fetched = jax.device_get([scalars for _, _, scalars in group])
    steps = []
    for (first, count, _), scalars in zip(group, fetched, strict=True):
        steps += _steps_of(first, count, scalars)
    return steps


def _steps_of(first: int, count: int, scalars: Scalars) -> list[tuple[int, Scalars]]:
    if count == 1:
        return [(first, scalars)]
    return [
        (first + i, {name: values[i] for name, values in scalars.items()}) for i in range(count)
    ]


@jax.jit
def _are_finite(params: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(params)]).all()
