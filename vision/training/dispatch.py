"""How training steps reach the device: how many per call, compiled ahead, with what they cost."""

import concurrent.futures
import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vision import parallel
from vision.data.loading.loader import Batch, Loader
from vision.support.progress import waiting
from vision.training.program import Program, compile_lowered, count_flops, parse_options
from vision.training.step import State, TrainStep

ON_ACCELERATORS = 32  # steps per call: the gaps between calls then cost nothing that can be seen
RATES = ("learning_rate", "weight_decay")  # of config.optimizer
CALL_FLOPS = (
    4e12  # most that such a call computes: about a second of an old GPU, 20 ms of a new one
)


def plan(
    start: int, steps: int, most: int, periods: Sequence[int] = ()
) -> Iterator[tuple[int, int]]:
    """Yields (first step, count) for each call from `start` to `steps`.

    A call never runs over a multiple of one of the `periods` (0 = none), where something else is to
    be done. It runs one step or a fixed number: `most`, or fewer if that divides the shortest
    period better. Which of the two depends on the step only, so a resumed run repeats what the
    first would have done.
    """
    periods = [period for period in periods if period] or [max(steps, 1)]
    shortest = min([steps, *periods])
    several = max(1, shortest // max(1, math.ceil(shortest / most)))
    done = start
    while done < steps:
        before = max(done // period * period for period in periods)
        after = min(done // period * period + period for period in periods)
        fits = (done - before) % several == 0 and done + several <= min(after, steps)
        count = several if fits else 1
        yield done, count
        done += count


def steps_per_call(flops: float | None) -> int:
    """Returns how many steps a call runs if one takes so many FLOP; None if that is unknown."""
    if not flops:
        return ON_ACCELERATORS
    return max(1, min(ON_ACCELERATORS, int(CALL_FLOPS / flops)))


class CompiledSteps:
    """The compiled train step: a program for one step, and one for several in a call.

    Args:
        config: the run's config.
        train_step: the run's `TrainStep`.
        loader: the training loader.
        mesh: from `vision.parallel.make_mesh`.
        with_rates: whether the learning rate and the weight decay are arguments of the programs,
            which several runs can then use.

    Attributes:
        most: most steps that one call runs. Only data that live on the devices allow several; on
            CPUs it is one, as XLA runs convolutions nine times slower inside a loop there.
    """

    def __init__(
        self,
        config: ConfigDict,
        train_step: TrainStep,
        loader: Loader,
        mesh: Mesh,
        *,
        with_rates: bool = False,
    ):
        self._train_step = train_step
        self._data = loader.data
        self._mesh = mesh
        self._batch = loader.abstract_batch(config.train.batch_size)
        self._options = parse_options(config.parallel.xla_options)
        self._accumulate = config.train.accumulate
        self._traced: dict[int, tuple[Any, Any]] = {}  # with the lowered program
        self._compiling: dict[int, concurrent.futures.Future[Program]] = {}
        self._programs: dict[int, Program] = {}
        self._rates = (rates_of(config, mesh),) if with_rates else ()
        self.most = 1
        if loader.is_resident:
            self.most = config.train.steps_per_dispatch or self._default_steps()

    def _default_steps(self) -> int:
        """Returns how many steps a call runs, so that a signal takes effect soon.

        It follows from the config only, not from a measured time: a resumed run repeats its calls.
        """
        if jax.default_backend() == "cpu":
            return 1
        return steps_per_call(self._flops())

    def use(self, config: ConfigDict, loader: Loader) -> None:
        """Lets the programs run on another run's data, of the same shapes, and with its rates."""
        self._data = loader.data
        if self._rates:
            self._rates = (rates_of(config, self._mesh),)

    def forget(self) -> None:
        """Lets go of the data of the latest run; `use` gives others."""
        self._data = {}

    def lower(self, calls: Iterable[tuple[int, int]]) -> None:
        """Traces the programs for the calls of `plan`, which finds the faults of a config."""
        with waiting("tracing the train step"):
            for count in {count for _, count in calls} - self._traced.keys():
                traced = self._trace(count)
                self._traced[count] = traced, traced.lower()

    def begin(self) -> None:
        """Begins to compile what is traced, in a thread, while the first state is made.

        On CPUs only: a compiler for GPUs measures how fast its programs are.
        """
        if jax.default_backend() != "cpu" or not self._traced:
            return
        thread = concurrent.futures.ThreadPoolExecutor(1, "compile")
        for count in self._traced.keys() - self._programs.keys():
            self._compiling[count] = thread.submit(self._compile, count)
        thread.shutdown(wait=False)  # it ends after its tasks

    def prepare(self, calls: Iterable[tuple[int, int]], report: Callable[[str], object]) -> None:
        """Compiles the programs for the calls of `plan`, and reports what a step costs."""
        planned = list(calls)
        self.lower(planned)
        with waiting("compiling the train step"):
            for count in {count for _, count in planned} - self._programs.keys():
                compiling = self._compiling.pop(count, None)
                self._programs[count] = compiling.result() if compiling else self._compile(count)
        if self._programs:
            report(self.describe())

    def _compile(self, count: int) -> Program:
        return compile_lowered(*self._traced[count], self._options)

    def __call__(self, state: State, batch: Batch, count: int) -> tuple[State, dict[str, Any]]:
        """Runs `count` steps.

        Returns:
            (state, scalars), the scalars with a leading axis if there are several steps.
        """
        return self._programs[count](state, batch, self._data, *self._rates)

    def describe(self) -> str:
        """Returns what one step costs, in words."""
        parts = []
        if flops := self._flops():
            parts.append(f"{flops / 1e9:,.2f} GFLOP a step")
        if memory := self.memory():
            fixed, temporary = map(_format_bytes, memory)
            text = f"{fixed} of state and data and {temporary} of temporaries a device"
            limit = parallel.memory_limit()
            if limit:
                text += f", which has {_format_bytes(limit)}"
            parts.append(text)
        most = max(self._programs)
        if most > 1:
            parts.append(f"{most} steps a dispatch")
        return "; ".join(parts)

    def memory(self) -> tuple[int, int] | None:
        """Returns (fixed, temporary): bytes of state and data, and what a step needs beside them.

        None if the platform does not say.
        """
        memories = [p.memory for p in self._programs.values() if p.memory]
        if not memories:
            return None
        fixed = max(memory["arguments"] for memory in memories)
        return fixed, max(memory["temporaries"] for memory in memories)

    def _flops(self) -> int:
        """Returns the floating-point operations of one step's products."""
        return self._programs[1].flops if 1 in self._programs else count_flops(self._trace(1))

    def _trace(self, count):
        jitted, *arguments = self._arguments(count)
        return jitted.trace(*arguments)

    def _arguments(self, count: int) -> tuple[Any, ...]:
        batch = self._batch
        if count > 1:
            sharding = parallel.batch_sharding(self._mesh, stacked=True)
            batch = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype, sharding=sharding),
                batch,
            )
        jitted = self._train_step.update if count == 1 else self._train_step.update_many
        return jitted, self._train_step.abstract_state, batch, self._data, *self._rates


def rates_of(config: ConfigDict, mesh: Mesh) -> dict[str, jax.Array]:
    """Returns {name: float32 ()} of the rates that a step can have as arguments."""
    rates = {name: np.asarray(config.optimizer[name], np.float32) for name in RATES}
    return parallel.put_replicated(rates, mesh)


def explain_memory(
    c: ConfigDict, updates: CompiledSteps, mesh: Mesh
) -> contextlib.AbstractContextManager[None]:
    """Returns a context in which running out of device memory becomes a `UserError` with advice.

    Args:
        c: config.train.
        updates: the run's `CompiledSteps`.
        mesh: from `vision.parallel.make_mesh`.
    """
    return parallel.out_of_memory(lambda: _suggestion(c, updates, mesh.size))


def _suggestion(c: ConfigDict, updates: CompiledSteps, devices: int) -> str:
    memory = updates.memory()
    limit = parallel.memory_limit()
    factor = 2
    needs = ""
    if memory:
        fixed, temporary = memory
        needs = f" (a step needs {_format_bytes(temporary)} on top of "
        needs += f"{_format_bytes(fixed)} of state and data"
        needs += f"; the device has {_format_bytes(limit)})" if limit else ")"
        # Nine tenths: the allocator leaves gaps.
        free = 0.9 * limit - fixed if limit else 0
        if free > 0:
            factor = max(2, math.ceil(temporary / free))
    per_device = c.batch_size // devices
    candidates = range(c.accumulate * factor, per_device + 1)
    parts = next((n for n in candidates if per_device % n == 0), None)
    smaller = per_device // factor * devices
    advice = []
    if parts:
        advice.append(f"train.accumulate={parts} (the same batch in {parts} parts)")
    if smaller:
        advice.append(f"train.batch_size={smaller}")
    advice.append("model.remat=blocks")
    if devices > 1:
        advice.append("parallel.fsdp=0")
    images = c.batch_size // c.accumulate
    return f"with {images} images at a time{needs}.\nSet {', or '.join(advice)}"


def _format_bytes(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
