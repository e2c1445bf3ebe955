"""Numbers from the device, fetched late: the loop never waits for the step that it has just begun."""

import json
import math
import time

import jax

from vision.errors import RunError


class Meter:
    """Collects each step's scalars, averages them between log lines, and stops a run whose loss is not finite.

    Args:
        log: the `RunLog`.
        rate: maps a step and lr_scale to its learning rate.
        names: maps a step to its batch's image names.
        batch_size: images a step.
        workdir: where the names of a bad batch go.
    """

    def __init__(self, log, rate, names, batch_size, workdir):
        self._log, self._rate, self._names = log, rate, names
        self._batch_size, self._workdir = batch_size, workdir
        self._new, self._older = [], []
        self._mark = None
        self._last = None
        self.seconds, self.images = 0.0, 0  # training alone, without each process's first step

    def add(self, step, scalars, lr_scale):
        """Takes the device's scalars of the step with this number, counted from 0."""
        self._new.append((step, scalars, lr_scale))
        if self._mark is None:
            jax.block_until_ready(scalars)  # the first step compiles: it is timed apart
            self._mark, self._last = time.perf_counter(), step

    def report(self):
        """Logs what was collected before the last report: by now the device has finished it."""
        self._digest(self._older)
        self._older, self._new = self._new, []

    def flush(self):
        """Waits for every step so far and logs it. After this the state is known to be finite."""
        self._digest(self._older + self._new)
        self._older, self._new = [], []

    def paused(self):
        """Leaves out the time until `resumed`, for evaluation and saving."""
        self._tick(0)

    def resumed(self):
        self._mark = time.perf_counter()

    def state(self):
        """What a checkpoint must hold, as JSON can."""
        return {"seconds": self.seconds, "images": self.images}

    def restore(self, state):
        self.seconds, self.images = state["seconds"], state["images"]

    @property
    def images_per_second(self):
        return self.images / self.seconds if self.seconds else 0.0

    def _digest(self, entries):
        if not entries:
            return
        steps, scalars, scales = zip(*entries, strict=True)
        scalars = jax.device_get(scalars)
        for step, values, scale in zip(steps, scalars, scales, strict=True):
            if not (math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])):
                self._stop(step, values, scale)
        done = (steps[-1] - self._last) * self._batch_size
        self._last = steps[-1]
        before = self.seconds
        self._tick(done)
        speed = done / (self.seconds - before) if done and self.seconds > before else self.images_per_second
        means = {k: sum(float(v[k]) for v in scalars) / len(scalars) for k in scalars[0]}
        rate = self._rate(steps[-1], scales[-1])
        self._log.train(steps[-1] + 1, means | {"learning_rate": rate, "images_per_second": speed})

    def _tick(self, images):
        now = time.perf_counter()
        self.seconds += now - self._mark
        self.images += images
        self._mark = now

    def _stop(self, step, values, scale):
        names = self._names(step)
        path = self._workdir / "nonfinite_batch.json"
        path.write_text(json.dumps({"step": step + 1, "images": names}, indent=1))
        raise RunError(
            f"step {step + 1}: loss {float(values['loss'])}, gradient norm {float(values['grad_norm'])}, "
            f"learning rate {self._rate(step, scale):.3g}, images {', '.join(names[:3])}, ... (all in {path}).\n"
            "The last good checkpoint is kept. Lower optimizer.learning_rate, set optimizer.clip_norm, or look at them"
        )
