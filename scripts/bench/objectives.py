"""What an objective's step takes beside the passes of its network.

    python -m scripts.bench.objectives fixmatch    # against its bare forward and backward passes
    python -m scripts.bench.objectives simclr      # against the same step without augmentation

Both sides are compiled programs on images that lie on the device, timed in turn. FixMatch's passes
are forward and backward of the labeled and the strong images, and forward of the weak ones, with
nothing else: neither augmentation, loss, optimizer nor metrics. Goals: FixMatch's step takes at
most 1.1 times its passes, SimCLR's views at most a tenth of its step.
"""

import statistics
import time

import jax
import jax.numpy as jnp
from flax import nnx

from scripts.bench import common
from scripts.bench.ours import memory_data
from vision import cli, cpu, models, objectives, parallel
from vision.config import default
from vision.config.load import load
from vision.models.layers.streams import Streams
from vision.training.setup import build_step, training_loader

CONFIGS = {"fixmatch": "configs/fixmatch_cifar10.py:250", "simclr": "configs/simclr_cifar10.py"}
IMAGES = 2048
CLASSES = 10


def main(argv):
    p = common.make_parser(__doc__, "objectives")
    p.add_argument("objective", choices=tuple(CONFIGS))
    p.add_argument("--model", default="resnet")
    p.add_argument("--variant", default="cifar20")
    p.add_argument("--batch", type=int, default=16, help="labeled images a step; simclr: images")
    p.add_argument("--rounds", type=int, default=5)
    a = p.parse_args(argv)
    config = _config(a)
    cpu.choose(config.parallel.onednn)
    step = _Step(config)
    if a.objective == "fixmatch":
        other = _Passes(config)
        name = "bare passes"
    else:
        plain = config.copy_and_resolve_references()
        plain.augment = default().augment
        other = _Step(plain)
        name = "without augmentation"
    seconds = common.alternate({"step": step.run, name: other.run}, a.rounds)
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    ratio = medians["step"] / medians[name]
    row = {
        "objective": a.objective,
        "model": f"{a.model} {a.variant}",
        "batch": a.batch,
        "unlabeled_ratio": config.data.unlabeled_ratio if a.objective == "fixmatch" else None,
        "against": name,
        "step_ms": 1e3 * medians["step"],
        "against_ms": 1e3 * medians[name],
        "ratio": ratio,
        "ratio_of_best": min(seconds["step"]) / min(seconds[name]),
        "rounds": a.rounds,
    }
    common.print_table([row])
    common.write_rows(a.csv, [common.facts(a) | row])


def _config(a):
    """Returns the config of a paper's training, with the model and the batch of the flags."""
    c = load(CONFIGS[a.objective])
    c.data.image_size = 32
    c.data.channels = 3
    c.data.labels = ""
    c.model.name = a.model
    c.model.variant = a.variant
    c.model.options = {}
    c.train.batch_size = a.batch
    c.train.steps = 1000
    c.parallel.devices = 1
    return c


class _Step:
    """The trainer's compiled step of an objective, on one batch."""

    def __init__(self, config):
        mesh = parallel.make_mesh(1)
        data = memory_data(config, IMAGES, CLASSES, mesh)
        definition = objectives.define(config.objective)
        if "unlabeled" in definition.inputs:
            data.loaders["unlabeled"] = data.loaders["train"]
        loader = training_loader(config, data, definition)
        step = build_step(config, data, mesh, config.train.steps)
        self._state = step.initialize()
        self._batch = next(loader.train_batches([(0, 1)], config.train.batch_size))
        self._data = loader.data
        self._update = step.update.lower(self._state, self._batch, self._data).compile()
        self.run()

    def run(self):
        """Returns the seconds of one step."""
        start = time.perf_counter()
        self._state, scalars = self._update(self._state, self._batch, self._data)
        jax.block_until_ready((self._state, scalars))
        return time.perf_counter() - start


class _Passes:
    """The passes of the network that FixMatch needs at the least."""

    def __init__(self, config):
        model = models.build(config.model, CLASSES, 32, 3, Streams(0))
        model.train()
        graph, params, rest = nnx.split(model, nnx.Param, ...)
        labeled = config.train.batch_size
        unlabeled = labeled * config.data.unlabeled_ratio
        key = jax.random.key(0)
        learned = jax.random.normal(key, (labeled + unlabeled, 32, 32, 3))
        weak = jax.random.normal(key, (unlabeled, 32, 32, 3))

        def logits(params, images):
            return nnx.merge(graph, params, rest, copy=True)(images)

        def passes(params, learned, weak):
            guesses = logits(params, weak)
            gradient = jax.grad(lambda p: jnp.square(logits(p, learned)).mean())(params)
            return guesses, gradient

        self._arguments = (params, learned, weak)
        self._passes = jax.jit(passes).lower(*self._arguments).compile()
        self.run()

    def run(self):
        """Returns the seconds of the passes."""
        start = time.perf_counter()
        jax.block_until_ready(self._passes(*self._arguments))
        return time.perf_counter() - start


if __name__ == "__main__":
    cli.run(main)
