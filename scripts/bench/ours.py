"""This project's side: its actual training step and loop, on random images in memory."""

import itertools
import pathlib
import tempfile
import time

import jax
import numpy as np

from vision import cpu, parallel
from vision.config import default
from vision.data.loading.dataset import Dataset, Unreadable
from vision.data.loading.device_loader import DeviceLoader
from vision.data.loading.sampler import Sampler
from vision.data.pipeline import Data
from vision.data.sources.arrays import ArraySource
from vision.training.loop import train
from vision.training.program import compile_program
from vision.training.setup import build_step

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
AHEAD = 8  # batches that are prepared on the device


def make_config(a):
    """Returns the config for the flags of `train.py` and `scaling.py`."""
    c = default()
    c.data.image_size = a.image_size
    c.data.channels = 3
    c.data.normalize = "mean_std"
    c.data.mean = MEAN
    c.data.std = STD
    c.model.name = a.model
    c.model.variant = a.variant
    c.model.dtype = a.dtype
    c.model.attention = a.attention
    c.model.remat = a.remat
    c.optimizer.name = a.optimizer
    c.optimizer.learning_rate = 0.01 if a.optimizer == "sgd" else 1e-3
    c.optimizer.weight_decay = 1e-4 if a.optimizer == "sgd" else 0.05
    c.train.steps = 1_000_000
    c.train.batch_size = a.batch
    c.train.steps_per_dispatch = a.steps_per_dispatch
    c.parallel.devices = 1
    c.parallel.onednn = a.onednn
    c.parallel.xla_options = a.xla_options
    c.log.progress = False
    cpu.choose(a.onednn)
    return c


def use_tf32():
    """Lets float32 products use TF32 if the device has it, as torch's side does; not on a CPU."""
    if jax.default_backend() != "cpu":
        jax.config.update("jax_default_matmul_precision", "tensorfloat32")


def memory_data(config, count, classes, mesh, val_count=0):
    """Returns a `Data` of random images on the device.

    Args:
        config: the run's config.
        count: images to train on.
        classes: number of classes.
        mesh: the result of `vision.parallel.make_mesh`.
        val_count: images of val and test, of those to train on; 0 = one batch.
    """
    size = config.data.image_size
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    labels = rng.integers(0, classes, count)
    names = tuple(map(str, range(classes)))
    eval_count = min(count, val_count or config.train.batch_size)
    unreadable = Unreadable(count, 0.0)

    def loader(n):
        source = ArraySource(images[:n], labels[:n], names, "random")
        sampler = Sampler(config.seed, source.labels)
        return DeviceLoader(Dataset(source, size, 3, 1.0, (), True, sampler), unreadable, mesh)

    loaders = {"train": loader(count), "val": loader(eval_count), "test": loader(eval_count)}
    return Data(loaders, names, size, 3, np.bincount(labels, minlength=classes))


class BareStep:
    """The trainer's compiled step, called in a bare `for` loop.

    Args:
        config: the run's config; each call runs `train.steps_per_dispatch` steps (0 = 1).
        data: the result of `memory_data`.
        mesh: the result of `vision.parallel.make_mesh`.
        fixed: whether to repeat one batch instead of drawing from the data on the device.

    Attributes:
        state: the training state.
        program: the `Program` of one call.
        flops: floating-point operations of one step's products.
    """

    def __init__(self, config, data, mesh, fixed=False):
        self._steps_per_call = max(1, config.train.steps_per_dispatch)
        size = config.train.batch_size
        loader = data.loaders["train"]
        step = build_step(config, data, mesh, config.train.steps)
        plan = ((i * self._steps_per_call, self._steps_per_call) for i in range(AHEAD))
        batches = list(loader.train_batches(plan, size))
        self._data = loader.data
        if fixed:
            first = next(loader.train_batches([(0, 1)], size))
            rows = jax.device_get(
                {name: values[first["index"]] for name, values in loader.data.items()}
            )
            rows = rows | {"index": jax.device_get(first["index"])}
            if self._steps_per_call > 1:
                rows = {
                    name: np.stack([values] * self._steps_per_call) for name, values in rows.items()
                }
            batches = [parallel.put_batch(rows, mesh, stacked=self._steps_per_call > 1)]
            self._data = {}
        self._batches = itertools.cycle(batches)
        self.state = step.initialize()
        update = step.update_many if self._steps_per_call > 1 else step.update
        arguments = self.state, batches[0], self._data
        self.program = compile_program(update, *arguments, options=config.parallel.xla_options)
        self.flops = self.program.flops / self._steps_per_call
        jax.block_until_ready(arguments)

    def run(self, steps):
        """Returns the seconds that `steps` steps take, measured over whole calls and scaled
        back."""
        calls = -(-steps // self._steps_per_call)
        start = time.perf_counter()
        for _ in range(calls):
            self.state, scalars = self.program(self.state, next(self._batches), self._data)
        jax.block_until_ready((self.state, scalars))
        return (time.perf_counter() - start) * steps / (calls * self._steps_per_call)


class Loop:
    """All of `vision.training.loop.train`, with logging; it evaluates and saves only at its end.

    Its time is that of `images_per_second` in result.json, which excludes the first call,
    evaluations and saving.
    """

    def __init__(self, config, data, mesh):
        self._config = config
        self._data = data
        self._mesh = mesh

    def run(self, steps):
        """Returns the seconds that `steps` steps take in a run with one additional call."""
        outcome, _ = self._train(steps)
        return steps * self._config.train.batch_size / outcome.images_per_second

    def _train(self, steps):
        """Returns (outcome, `time.perf_counter()` at its end) of a run with one additional call."""
        c = self._config.copy_and_resolve_references()
        c.train.steps = steps + max(1, c.train.steps_per_dispatch)
        c.train.eval_every = c.train.steps
        with tempfile.TemporaryDirectory() as folder:
            outcome = train(c, self._data, pathlib.Path(folder) / "run", self._mesh)
            return outcome, time.perf_counter()


class Epoch(Loop):
    """The same with all that follows an epoch's steps: the evaluation of the validation images,
    whose program comes from the compile cache, and a checkpoint, written and restored.

    Its time excludes only what precedes the end of the first call, as compiling the step does.
    """

    def run(self, steps):
        """Returns the seconds of an epoch of `steps` steps and of what follows it."""
        outcome, end = self._train(steps)
        return end - outcome.first_step


def peak_bytes(program):
    """Returns the peak device memory in bytes, or what a step needs if the device does not report
    it."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use", program.peak_bytes)
