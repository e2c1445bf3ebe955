"""Everything that one training holds open, and what it does between two steps."""

import contextlib
import functools
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vision import metrics, objectives, parallel
from vision.data.loading.loader import DataFailed, Loader
from vision.data.loading.sampler import run_length
from vision.data.loading.workers import check_limits
from vision.data.pipeline import Data
from vision.errors import UserError
from vision.run.best import LAST
from vision.run.checkpoints import open_checkpoints
from vision.run.directory import open_workdir, write_data
from vision.run.failure import clear_failure, note_failure
from vision.run.splits import storing_division
from vision.run.vocabulary import write_tokenizer
from vision.support import signals
from vision.support.files import replacing
from vision.support.memory import collect_as_usual
from vision.support.progress import print_line
from vision.training import interruption
from vision.training.call import Call
from vision.training.dispatch import CompiledSteps, explain_memory, plan
from vision.training.embeddings import HeadTraining, embed_split, encode_split
from vision.training.evaluate import eval_batch_size, evaluate
from vision.training.host import ALONE, PRUNED, Host, Validation
from vision.training.log import RunLog
from vision.training.meter import Meter
from vision.training.outcome import Outcome
from vision.training.pace import Pace
from vision.training.policy import PROGRESS, UNTRAINED, ValidationPolicy
from vision.training.profiler import Profiler
from vision.training.setup import build_step, training_loader
from vision.training.shared import can_share
from vision.training.starts import Starts
from vision.training.step import State
from vision.training.teachers import read_teachers, write_teachers
from vision.training.variables import Constants, check_values


class Session:
    """A training, from the config to its outcome.

    Creating it finds the faults of a config and touches no file; entering it opens the run's
    directory. However it ends, a save that has begun is finished and the log is closed.

    Args:
        config: the run's config.
        data: what the run learns from.
        workdir: the run directory.
        mesh: from `vision.parallel.make_mesh`.
        host: who watches, and with whom programs are shared.

    Raises:
        UserError: the config does not fit its data or devices.
    """

    def __init__(
        self,
        config: ConfigDict,
        data: Data,
        workdir: pathlib.Path,
        mesh: Mesh,
        host: Host = ALONE,
    ):
        self._config = config
        self._workdir = workdir
        self._mesh = mesh
        self._host = host
        self._pruned = False
        self._definition = objectives.define(config.objective, config.continual.previous)
        images = len(data.loaders["train"])
        self._steps = run_length(config.train, images)
        c = config.train
        self._eval_every = c.eval_every or max(1, round(images / c.batch_size))
        self._teachers = read_teachers(config, data, self._definition, workdir)
        shared = host.shared if can_share(config, self._teachers) else None
        build = functools.partial(build_step, config, data, mesh, self._steps, self._teachers)
        self._images_step = shared.step(config, data, mesh, build) if shared else build()
        self._starts = Starts(
            config, data, workdir, self._definition, self._teachers, self._images_step.constant
        )
        abstract_state = self._images_step.abstract_state
        check_values(abstract_state, self._starts.arrays, self._starts.copies)
        self._constants = Constants(abstract_state, self._starts.constants, mesh)
        self._head_training: HeadTraining | None = None
        self._train_step = self._images_step
        self._data = data
        if config.transfer.cache_embeddings:
            self._head_training = HeadTraining(
                config, data, mesh, self._steps, self._images_step, self._starts, self._teachers
            )
            self._train_step = self._head_training.train_step
            self._data = self._head_training.data
        self._loader = training_loader(config, self._data, self._definition)
        val = self._data.loaders["val"]
        check_limits(
            self._loader.shared_memory(c.batch_size) + val.shared_memory(eval_batch_size(c)),
            config.data.workers,
        )
        if shared:
            self._updates = shared.updates(config, self._train_step, self._loader, mesh)
        else:
            self._updates = CompiledSteps(config, self._train_step, self._loader, mesh)
        self._updates.lower(self._plan(0, self._steps))
        self._done = 0
        self._saved_step = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Session":
        config = self._config.copy_and_resolve_references()
        config.objective.options = self._definition.config.options  # complete, with its defaults

        def fill_directory() -> None:
            clear_failure(self._workdir)
            for name, text in self._host.files.items():
                with replacing(self._workdir / name) as file:
                    file.write(text)
            with storing_division(self._workdir, self._data) as splits:
                write_data(self._workdir, self._data, splits)
            if self._data.encoder is not None:
                write_tokenizer(self._workdir, self._data.encoder.tokenizer)
            write_teachers(self._workdir, self._definition, self._teachers, self._starts.constants)

        with contextlib.ExitStack() as stack:  # closes what is open if a later one fails
            self._signals = stack.enter_context(signals.listening())
            parallel.on_main_process(lambda: open_workdir(self._workdir, config))
            # From here on the directory is this run's. It sees an error as those below leave it.
            stack.push(self._note_failure)
            parallel.on_main_process(fill_directory)
            stack.enter_context(explain_memory(self._config.train, self._updates, self._mesh))
            checkpoints = open_checkpoints(self._workdir, self._config, print_line)
            self._checkpoints = stack.enter_context(checkpoints)
            parallel.on_main_process(checkpoints.remove_unfinished)
            self._updates.begin()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def resume(self) -> None:
        """Restores the newest checkpoint, or begins; then opens the log and compiles the steps."""
        self._state, progress = self._begin()
        start = int(self._state["step"])
        self._done = start
        self._saved_step = start
        config = self._config
        log = RunLog(
            self._workdir,
            config.log,
            start,
            self._steps,
            repeats=progress.get("validation_is_due", False),
            active=parallel.is_main_process(),
            tracking=self._host.tracking,
        )
        self._log = self._stack.enter_context(log)
        self._policy = ValidationPolicy(config, progress)
        self._meter = Meter(
            self._log,
            lambda step: self._loader.names(step, config.train.batch_size),
            config.train.batch_size,
            self._workdir,
            progress.get("meter"),
        )
        self._pace = Pace()
        self._introduce()
        self._first_step: float | None = None
        self._began = time.perf_counter() - progress.get("train_seconds", 0)
        self._scalars: dict[str, float] | None = None
        self._interrupted = False
        self._end = self._steps
        self._why = "finished"
        if progress.get("validation_is_due"):
            self._checkpoints.add_metrics(start, self.validate())
        if self._policy.stopped and start < self._steps:
            self._end = start
            self._why = "stopped early"
        self._updates.prepare(self._plan(start, self._end), self._log.print_line)

    def calls(self) -> Iterator[Call]:
        """Yields the calls of the train step that are left, with their batches under way."""
        start = self._done
        batch_size = self._config.train.batch_size
        batches = self._loader.train_batches(self._plan(start, self._end), batch_size)
        self._batches = self._stack.enter_context(contextlib.closing(batches))
        trace_to = self._workdir / "tensorboard" if self._config.profile else None
        self._profiler = self._stack.enter_context(Profiler(trace_to, self._log.print_line))
        for number, (first, count) in enumerate(self._plan(start, self._end)):
            yield Call(number, first, count)

    def update(self, call: Call) -> None:
        """Runs the steps of a call; waits for the device only if it is a second behind."""
        self._profiler.before(call.number, call.first, self._state)
        batch = next(self._batches)
        self._signals.stay()  # from here on there is something to save
        self._state, scalars = self._updates(self._state, batch, call.steps)
        self._done = call.done
        self._scalars = None
        self._meter.add(call.first, call.steps, scalars)
        if self._first_step is None:
            self._first_step = time.perf_counter()
            collect_as_usual()
        self._log.advance(call.done)
        self._pace.add(scalars["loss"])
        self._interrupted = interruption.is_agreed()

    def evaluates_after(self, call: Call) -> bool:
        """Returns whether the validation split is evaluated after a call."""
        return self._validates_at(call.done)

    def saves_after(self, call: Call) -> bool:
        """Returns whether a checkpoint is written after a call without an evaluation."""
        every = self._config.checkpoint.every
        return self._interrupted or bool(every and call.done % every == 0)

    def reports_after(self, call: Call) -> bool:
        """Returns whether the training's scalars are logged after a call."""
        return call.reaches_multiple(self._config.log.every)

    def stops_after(self, call: Call) -> bool:
        """Returns whether the training ends after a call that is not its last."""
        if call.done == self._end:
            return False
        if self._pruned:
            self._why = PRUNED
        elif self._policy.stopped:
            self._why = "stopped early"
        elif self._interrupted:
            self._why = "interrupted"
        return self._pruned or self._policy.stopped or self._interrupted

    def validate(self) -> dict[str, float]:
        """Evaluates the validation split, logs it, and lets the policy follow from it.

        Returns:
            {name: value} of the evaluation.
        """
        self._meter.flush(self._state["params"])
        scalars = self._measure()
        self._scalars = scalars
        self._log.evaluation(self._done, scalars)
        self._state = self._policy.update(scalars, self._state, self._mesh)
        if self._host.watch is not None:
            validation = Validation(self._done, self._steps, scalars)
            self._pruned = bool(self._host.watch(validation))
        return scalars

    def save(self) -> None:
        """Begins to write a checkpoint, with the scalars of an evaluation at this step."""
        if self._scalars is None:
            self._meter.flush(self._state["params"])
        self._log.settle()  # a resumed run and its tracker have the lines up to its checkpoint
        progress = self._policy.state() | {
            "meter": self._meter.state(),
            "train_seconds": time.perf_counter() - self._began,
            # It was broken off: whoever resumes makes up for it, as policies follow from it.
            "validation_is_due": self._scalars is None and self._validates_at(self._done),
        }
        self._checkpoints.save(self._done, self._saved(self._state), progress, self._scalars)
        self._saved_step = self._done
        self._meter.restart()
        self._pace.restart()

    @contextlib.contextmanager
    def saving_what_is_done(self) -> Iterator[None]:
        """Saves the finished steps if a signal, or a failure of the data, breaks the training off.

        A signal then counts as an end; a failure is raised again once the checkpoint is written.
        """
        try:
            yield
        except signals.Interrupted:
            self._why = "interrupted"
            self._save_rest()
        except (UserError, DataFailed):
            if parallel.is_single_process():  # only one may have failed, but all save together
                self._save_rest()
                self._checkpoints.wait()
            raise

    def report(self) -> None:
        """Logs the scalars that the device has finished by now."""
        self._meter.report()

    def outcome(self) -> Outcome:
        """Waits for the last checkpoint, and returns the best one with how the training ended."""
        self._checkpoints.remove_surplus()
        train_seconds = time.perf_counter() - self._began
        best_step = self._done
        best = self._saved(self._state)
        if self._why != "interrupted":
            best_step, best = self._checkpoints.restore_best(self._constants.saved_state)
        return Outcome(
            why=self._why,
            steps=self._done,
            best_step=best_step,
            state=self._images_step.completed(self._constants.added_to(best)),
            step=self._images_step,
            images_per_second=self._meter.images_per_second,
            first_step=self._first_step,
            train_seconds=train_seconds,
        )

    def _note_failure(self, kind: object, error: BaseException | None, trace: object) -> None:
        if parallel.is_main_process():
            note_failure(self._workdir, error, self._done)

    def _save_rest(self) -> None:
        if self._done > self._saved_step:
            self.save()

    def _validates_at(self, step: int) -> bool:
        return step % self._eval_every == 0 or step == self._end

    def _plan(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        periods = (self._eval_every, self._config.checkpoint.every)
        return plan(start, end, self._updates.most, periods)

    def _begin(self) -> tuple[State, dict[str, Any]]:
        """Returns (state, progress) of the newest checkpoint, or of the beginning."""
        like = self._constants.saved_state
        restored = self._checkpoints.restore_latest(like, (UNTRAINED, PROGRESS))
        if restored is not None:
            state, progress = restored
            if "slow" in like and "slow" not in state:
                print_line(
                    "the checkpoint is from a version whose lookahead did not average BatchNorm "
                    "statistics: from here on it does"
                )
            state = self._images_step.completed(self._constants.added_to(state))
            if self._head_training is not None:
                state = self._head_training.without_network(state)
            return state, progress
        if self._head_training is not None:
            return self._head_training.start(), {}
        return self._starts.state(self._train_step, self._loader), {}

    def _saved(self, state: State) -> State:
        """Returns the state as a checkpoint holds it: the whole model's, without constants."""
        if self._head_training is not None:
            state = self._head_training.with_network(state)
        return self._constants.taken_from(state)

    def _measure(self) -> dict[str, float]:
        """Returns {"val/NAME": value}: of the classifier, and the objective's own measures."""
        batch_size = eval_batch_size(self._config.train)
        summary = evaluate(self._train_step, self._state, self._data.loaders["val"], batch_size)
        measures = metrics.scalars(summary)
        measures |= self._definition.measure(self._data.loaders, self._embed, self._encode)
        scalars = {f"val/{name}": float(value) for name, value in measures.items()}
        is_last_best = self._config.checkpoint.metric == LAST
        return scalars | {LAST: float(self._done)} if is_last_best else scalars

    def _embed(self, loader: Loader) -> tuple[np.ndarray, np.ndarray]:
        """Returns (embeddings (N, D), labels (N,)) of the images of a split that can be read."""
        batch_size = eval_batch_size(self._config.train)
        embeddings, readable = embed_split(self._train_step, self._state, loader, batch_size)
        return embeddings[readable], loader.dataset.source.labels[readable]

    def _encode(self, loader: Loader) -> dict[str, np.ndarray]:
        """Returns what the objective encodes of the images of a split that can be read."""
        batch_size = eval_batch_size(self._config.train)
        encoded, readable = encode_split(self._train_step, self._state, loader, batch_size)
        return {name: values[readable] for name, values in encoded.items()}

    def _introduce(self) -> None:
        """Shows what is about to be trained: the parameters, and the first augmented images."""
        from clu import parameter_overview

        log = self._log
        config = self._config
        if self._done:
            log.print_line(f"resumed {self._workdir} at step {self._done}/{self._steps}")
            return
        total, learning = self._images_step.parameters
        share = "" if learning == total else f", of which {learning:,} learn"
        batch_size = config.train.batch_size
        epochs = self._steps * batch_size / len(self._loader)
        log.print_line(
            f"{config.model.name} {config.model.variant}: {total:,} parameters{share}, "
            f"{self._steps:,} steps = {epochs:.1f} epochs"
        )
        overview = parameter_overview.get_parameter_overview
        log.text("parameters", overview(self._state["params"], include_stats=False))
        if config.log.tensorboard and config.log.images and self._head_training is None:
            first = self._loader.train_batches([(0, 1)], batch_size)
            with contextlib.closing(first) as batches:
                images = self._train_step.preview(self._state, next(batches), self._loader.data)
            log.images(0, parallel.fetch(images)[: config.log.images])
