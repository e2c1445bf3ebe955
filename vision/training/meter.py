"""Numbers from the device, fetched late: the loop never waits for the step that it has just begun."""

import json
import math
import time

import jax
import jax.numpy as jnp

from vision.errors import RunError


class Meter:
    """Collects each step's scalars, averages them between log lines, and stops a run whose loss is not finite.

    Args:
        log: the `RunLog`.
        names: maps a step to its batch's image names.
        batch_size: images a step.
        workdir: where the names of a bad batch go.
    """

    def __init__(self, log, names, batch_size, workdir):
        self._log, self._names = log, names
        self._batch_size, self._workdir = batch_size, workdir
        self._new, self._older = [], []
        self._mark = None
        self._last = None
        self.seconds, self.images = 0.0, 0  # training alone, without each process's first step

    def add(self, step, scalars):
        """Takes the device's scalars of the step with this number, counted from 0."""
        self._new.append((step, scalars))
        if self._mark is None:
            jax.block_until_ready(scalars)  # the first step compiles: it is timed apart
            self._mark, self._last = time.perf_counter(), step

    def report(self):
        """Logs what was collected before the last report: by now the device has finished it."""
        self._digest(self._older)
        self._older, self._new = self._new, []

    def flush(self, params):
        """Waits for every step so far and logs it; after this the losses and `params` are known to be finite."""
        self._digest(self._older, self._new)
        step, values = (self._new or self._older)[-1]
        if not _finite(params):
            self._stop(step, jax.device_get(values))
        self._older, self._new = [], []

    def resumed(self):
        """Begins to time anew: what was done since `flush`, evaluation and saving, is no training."""
        self._mark = time.perf_counter()

    def state(self):
        """What a checkpoint must hold, as JSON can."""
        return {"seconds": self.seconds, "images": self.images}

    def restore(self, state):
        self.seconds, self.images = state["seconds"], state["images"]

    @property
    def images_per_second(self):
        return self.images / self.seconds if self.seconds else 0.0

    def _digest(self, *groups):
        groups = [group for group in groups if group]
        fetched = [(group, jax.device_get([scalars for _, scalars in group])) for group in groups]
        for group, values in fetched:
            for (step, _), each in zip(group, values, strict=True):
                if not (math.isfinite(each["loss"]) and math.isfinite(each["grad_norm"])):
                    self._stop(step, each)
        if groups:
            speed = self._tick()
        for group, values in fetched:
            means = {k: sum(float(v[k]) for v in values) / len(values) for k in values[0]}
            now = {"learning_rate": float(values[-1]["learning_rate"]), "images_per_second": speed}
            self._log.train(group[-1][0] + 1, means | now)

    def _tick(self):
        """Counts the steps that the device has finished since the last tick; returns their images per second."""
        pending = self._older + self._new
        newest = next(step for step, scalars in reversed(pending) if scalars["loss"].is_ready())
        images, now = (newest - self._last) * self._batch_size, time.perf_counter()
        seconds = now - self._mark
        self.images, self.seconds = self.images + images, self.seconds + seconds
        self._last, self._mark = newest, now
        return images / seconds if images and seconds else self.images_per_second

    def _stop(self, step, values):
        names = self._names(step)
        path = self._workdir / "nonfinite_batch.json"
        path.write_text(json.dumps({"step": step + 1, "images": names}, indent=1))
        loss, norm = float(values["loss"]), float(values["grad_norm"])
        what = f"loss {loss}, gradient norm {norm}"
        if math.isfinite(loss) and math.isfinite(norm):
            what += ", parameters no longer finite"
        raise RunError(
            f"step {step + 1}: {what}, learning rate {float(values['learning_rate']):.3g}, "
            f"images {', '.join(names[:3])}, ... (all in {path}).\n"
            "The last good checkpoint is kept. Lower optimizer.learning_rate, set optimizer.clip_norm, or look at them"
        )


@jax.jit
def _finite(params):
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(params)]).all()
