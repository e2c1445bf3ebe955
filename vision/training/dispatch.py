"""How training steps reach the device: how many at a call, compiled ahead, with what they cost."""

import math

import jax

from vision import parallel
from vision.training.program import compile_lowered, count_flops, parse_options

ON_ACCELERATORS = 32  # steps a call: dispatching and its gaps then cost nothing that can be seen


def plan(start, steps, most, periods=()):
    """Yields (first step, how many) for each call from `start` to `steps`.

    A call never runs over a multiple of one of the `periods` (0 = none), where something else is to
    be done. It runs one step or a fixed number, `most` or what divides the shortest period better.
    Which depends on the step alone: a resumed run repeats what the first would have done.
    """
    periods = [period for period in periods if period] or [max(steps, 1)]
    shortest = min([steps, *periods])
    several = max(1, shortest // max(1, math.ceil(shortest / most)))
    done = start
    while done < steps:
        before = max(done // period * period for period in periods)
        after = min(done // period * period + period for period in periods)
        whole = (done - before) % several == 0 and done + several <= min(after, steps)
        count = several if whole else 1
        yield done, count
        done += count


class CompiledSteps:
    """The compiled training step: a program for one step, and one for several in a call.

    Args:
        config: the run's config.
        train_step: the run's `TrainStep`.
        loader: the training split's.
        mesh: from `vision.parallel.make_mesh`.

    Attributes:
        most: steps that one call runs at most. Only data that live on the device allow several; on
            CPUs it is one, as XLA runs convolutions nine times slower inside a loop there.
    """

    def __init__(self, config, train_step, loader, mesh):
        self._step = train_step
        self._data = loader.data
        self._mesh = mesh
        self._batch = loader.abstract_batch(config.train.batch_size)
        self._options = parse_options(config.parallel.xla_options)
        self._accumulate = config.train.accumulate
        self._lowered = {}
        self._programs = {}
        usual = 1 if jax.default_backend() == "cpu" else ON_ACCELERATORS
        self.most = (config.train.steps_per_dispatch or usual) if loader.data else 1

    def lower(self, calls):
        """Traces the programs for what `plan` yields, which finds the faults of a config."""
        for count in {count for _, count in calls} - self._lowered.keys():
            jitted, *arguments = self._arguments(count)
            self._lowered[count] = jitted.lower(*arguments)

    def prepare(self, calls, say):
        """Compiles the programs for what `plan` yields, and says what a step costs."""
        counts = {count for _, count in calls}
        self.lower((None, count) for count in counts)
        for count in counts:
            self._programs[count] = compile_lowered(self._lowered[count], self._options)
        if self._programs:
            say(self.describe())

    def __call__(self, state, batch, count):
        """Runs `count` steps; returns (state, scalars), the scalars with a leading axis where there
        are several."""
        return self._programs[count](state, batch, self._data)

    def describe(self):
        """Says what one step costs, in words."""
        most = max(self._programs)
        flops = self._programs[1].flops if 1 in self._programs else count_flops(*self._arguments(1))
        if jax.default_backend() != "cpu":
            # XLA counts once what a loop does; on CPUs there is none
            flops = flops and flops * self._accumulate
        parts = [f"{flops / 1e9:,.2f} GFLOP a step"] if flops else []
        if memory := self.memory():
            limit = parallel.memory_limit()
            parts.append(
                "{} of state and data and {} of temporaries a device".format(*map(_bytes, memory))
            )
            parts[-1] += f", which has {_bytes(limit)}" if limit else ""
        return "; ".join(parts + ([f"{most} steps a dispatch"] if most > 1 else []))

    def memory(self):
        """Returns (fixed, temporary): bytes of state and data, and what a step needs beside them;
        None if unknown."""
        known = [p.memory for p in self._programs.values() if p.memory]
        if not known:
            return None
        return max(m["arguments"] for m in known), max(m["temporaries"] for m in known)

    def _arguments(self, count):
        batch = self._batch
        if count > 1:
            sharding = parallel.batch_sharding(self._mesh, stacked=True)
            batch = {
                k: jax.ShapeDtypeStruct((count, *v.shape), v.dtype, sharding=sharding)
                for k, v in batch.items()
            }
        jitted = self._step.update if count == 1 else self._step.update_many
        return jitted, self._step.abstract_state, batch, self._data


def explain_memory(c, updates, mesh):
    """A context that turns running out of device memory into a `UserError` which says what would
    fit.

    Args:
        c: config.train.
        updates: the run's `CompiledSteps`.
        mesh: from `vision.parallel.make_mesh`.
    """
    return parallel.out_of_memory(lambda: _suggestion(c, updates, mesh.size))


def _suggestion(c, updates, devices):
    memory = updates.memory()
    limit = parallel.memory_limit()
    factor = 2
    known = ""
    if memory:
        fixed, needed = memory
        known = f" (a step needs {_bytes(needed)} beside {_bytes(fixed)} of state and data"
        known += f"; the device has {_bytes(limit)})" if limit else ")"
        free = 0.9 * limit - fixed if limit else 0  # nine tenths: the allocator leaves gaps
        factor = max(2, math.ceil(needed / free)) if free > 0 else 2
    each = c.batch_size // devices
    parts = next((n for n in range(c.accumulate * factor, each + 1) if each % n == 0), None)
    smaller = each // factor * devices
    advice = [f"train.accumulate={parts} (the same batch in {parts} parts)"] if parts else []
    advice += [f"train.batch_size={smaller}"] if smaller else []
    advice += ["model.remat=blocks", "parallel.fsdp=0"] if devices > 1 else ["model.remat=blocks"]
    return (
        f"with {c.batch_size // c.accumulate} images at a time{known}.\nSet {', or '.join(advice)}"
    )


def _bytes(count):
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
