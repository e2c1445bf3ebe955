"""Numbers from the device, fetched late: the loop never waits for the step that it has just
begun."""

import json
import math
import time

import jax
import jax.numpy as jnp

from vision import parallel
from vision.errors import RunError


class Meter:
    """Collects each step's scalars, averages them between log lines, and stops a run whose loss is
    not finite.

    Args:
        log: the `RunLog`.
        names: maps a step to its batch's image names.
        batch_size: images a step.
        workdir: where the names of a bad batch go.
        state: of the run that is resumed, from `state()`.
    """

    def __init__(self, log, names, batch_size, workdir, state=None):
        self._log = log
        self._names = names
        self._batch_size = batch_size
        self._workdir = workdir
        self._new = []
        self._older = []
        self._mark = None
        self._last = None
        # Training alone, without each process's first call.
        self.seconds, self.images = (state["seconds"], state["images"]) if state else (0.0, 0)

    def add(self, step, count, scalars):
        """Takes the device's scalars of `count` steps, the first of which has this number, counted
        from 0.

        Each is a scalar, or with several steps (count,).
        """
        self._new.append((step, count, scalars))
        if self._mark is None:
            jax.block_until_ready(scalars)  # the first call's start is not the run's speed
            self._mark = time.perf_counter()
            self._last = step + count - 1

    def report(self):
        """Logs what was collected before the last report: by now the device has finished it."""
        self._digest(self._older)
        self._older = self._new
        self._new = []

    def flush(self, params):
        """Waits for every step so far and logs it; after this the losses and `params` are known to
        be finite."""
        self._digest(self._older, self._new)
        first, count, scalars = (self._new or self._older)[-1]
        if not _finite(params):
            self._stop(*_each(first, count, jax.device_get(scalars))[-1])
        self._older = []
        self._new = []

    def restart(self):
        """Begins to time anew: what was done since `flush`, evaluation and saving, is no
        training."""
        self._mark = time.perf_counter()

    def state(self):
        """What a checkpoint must hold, as JSON can."""
        return {"seconds": self.seconds, "images": self.images}

    @property
    def images_per_second(self):
        return self.images / self.seconds if self.seconds else 0.0

    def _digest(self, *groups):
        groups = [group for group in groups if group]
        fetched = [_unstack(group) for group in groups]
        for step, values in (each for group in fetched for each in group):
            if not (math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])):
                self._stop(step, values)
        if groups:
            speed = self._tick()
        for group in fetched:
            last, newest = group[-1]
            means = {k: sum(float(values[k]) for _, values in group) / len(group) for k in newest}
            now = {"learning_rate": float(newest["learning_rate"]), "images_per_second": speed}
            self._log.train(last + 1, means | now)

    def _tick(self):
        """Counts the steps that the device has finished since the last tick; returns their images
        per second."""
        pending = self._older + self._new
        newest = next(
            first + n - 1 for first, n, scalars in reversed(pending) if scalars["loss"].is_ready()
        )
        images = (newest - self._last) * self._batch_size
        now = time.perf_counter()
        seconds = now - self._mark
        self.images = self.images + images
        self.seconds = self.seconds + seconds
        self._last = newest
        self._mark = now
        return images / seconds if images and seconds else self.images_per_second

    def _stop(self, step, values):
        names = self._names(step)
        path = self._workdir / "nonfinite_batch.json"
        if parallel.is_main_process():
            path.write_text(json.dumps({"step": step + 1, "images": names}, indent=1))
        loss = float(values["loss"])
        norm = float(values["grad_norm"])
        what = f"loss {loss}, gradient norm {norm}"
        if math.isfinite(loss) and math.isfinite(norm):
            what += ", parameters no longer finite"
        raise RunError(
            f"step {step + 1}: {what}, learning rate {float(values['learning_rate']):.3g}, "
            f"images {', '.join(names[:3])}, ... (all in {path}).\n"
            "The last good checkpoint is kept. Lower optimizer.learning_rate, set optimizer.clip_norm, or look at them"
        )


def _unstack(group):
    """Returns [(step, {name: NumPy scalar})] of what `add` collected."""
    fetched = jax.device_get([scalars for _, _, scalars in group])
    each = zip(group, fetched, strict=True)
    return [one for (first, count, _), scalars in each for one in _each(first, count, scalars)]


def _each(first, count, scalars):
    if count == 1:
        return [(first, scalars)]
    return [
        (first + i, {name: values[i] for name, values in scalars.items()}) for i in range(count)
    ]


@jax.jit
def _finite(params):
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(params)]).all()
