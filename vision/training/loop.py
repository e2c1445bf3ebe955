"""The training loop: resume, then for each step batch, update, log, evaluate, save, stop."""

import contextlib
import dataclasses
import functools
import signal
import time

import jax
import numpy as np

from vision import metrics, models, objectives, parallel
from vision.data.augment import normalize
from vision.data.augment.views import CHOICES
from vision.data.loading.sampler import run_length
from vision.errors import UserError, check_choice
from vision.models.layers.streams import Streams
from vision.models.surgery.transfer import prepare
from vision.run.checkpoints import open_checkpoints
from vision.run.directory import open_workdir, write_data
from vision.run.initial import initial_weights
from vision.training.dispatch import CompiledSteps, explain_memory, plan
from vision.training.embeddings import check as check_unchanging
from vision.training.embeddings import embed_data
from vision.training.evaluate import eval_batch_size, evaluate
from vision.training.log import RunLog, say
from vision.training.meter import Meter
from vision.training.optimizer import make_optimizer, make_schedule
from vision.training.patience import Patience
from vision.training.state import StateSpec
from vision.training.step import TrainStep
from vision.training.trace import Trace

SAMPLE = 5000  # images that a model which initializes itself from data sees


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        why: "finished", "stopped early" or "interrupted".
        steps: finished steps.
        best_step: of the checkpoint that `state` is from.
        state: the best checkpoint's.
        step: the compiled `TrainStep`, for evaluating it.
        images_per_second: while training, without the first step; 0.0 where nothing was left to
            train.
        first_step: `time.perf_counter()` at the end of the first step, or None.
        train_seconds: wall time from the first batch to the end, with evaluations, over all of the
            run's processes.
    """

    why: str
    steps: int
    best_step: int
    state: dict
    step: TrainStep
    images_per_second: float
    first_step: float | None
    train_seconds: float


def train(config, data, workdir, mesh):
    """Trains to the end, to an early stop, or to a SIGTERM; resumes where `workdir` holds
    checkpoints.

    Args:
        config: the run's config.
        data: a `vision.data.pipeline.Data`.
        workdir: `pathlib.Path`.
        mesh: from `vision.parallel.make_mesh`.

    Raises:
        UserError: for a config that does not fit its data or devices.
        RunError: where the loss is no longer finite; the last good checkpoint is left.
    """
    c = config.train
    steps, eval_every = _lengths(c, len(data.loaders["train"]))
    train_step = build_step(config, data, mesh, steps)
    weights = initial_weights(config, data, workdir)
    whole, data = (
        _embed(config, data, mesh, steps, weights)
        if config.transfer.cache_embeddings
        else (train_step, data)
    )
    loader = data.loaders["train"]
    updates = CompiledSteps(config, train_step, loader, mesh)
    plan_from = functools.partial(
        plan, steps=steps, most=updates.most, periods=(eval_every, config.checkpoint.every)
    )
    updates.lower(plan_from(0))  # a config that cannot run leaves no directory
    parallel.on_main_process(lambda: (open_workdir(workdir, config), write_data(workdir, data)))
    # However this ends, a save that has begun is finished and the log closed.
    with explain_memory(c, updates, mesh), contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(open_checkpoints(workdir, config, say))
        state, progress = _begin(train_step, checkpoints, loader, weights)
        start = int(state["step"])
        log = stack.enter_context(
            RunLog(workdir, config.log, start, steps, parallel.is_main_process())
        )
        watch = _Watch(config, progress)
        meter = Meter(
            log,
            lambda step: loader.names(step, c.batch_size),
            c.batch_size,
            workdir,
            progress.get("meter"),
        )
        _introduce(log, config, workdir, train_step, state, loader, steps)
        done = start
        first_step = None
        began = time.perf_counter() - progress.get("train_seconds", 0)
        why, steps = (
            ("stopped early", start) if watch.stopped and start < steps else ("finished", steps)
        )
        calls = functools.partial(plan_from, start, steps=steps)
        updates.prepare(calls(), log.say)

        def save(scalars=None):
            log.flush()  # a resumed run finds the lines up to its checkpoint
            progress = watch.state() | {
                "meter": meter.state(),
                "train_seconds": time.perf_counter() - began,
            }
            checkpoints.save(done, state, progress, scalars)
            meter.resumed()

        batches = stack.enter_context(
            contextlib.closing(loader.train_batches(calls(), c.batch_size))
        )
        signals = stack.enter_context(_Signals())
        trace = stack.enter_context(Trace(config.profile and workdir / "tensorboard", log.say))
        for number, (first, count) in enumerate(calls()):
            trace.before(number, first, state)
            state, scalars = updates(state, next(batches), count)
            done = first + count
            meter.add(first, count, scalars)
            first_step = first_step or time.perf_counter()
            log.advance(done)
            interrupted = parallel.stop_is_agreed(signals.received, number)
            last = done == steps
            if done % eval_every == 0 or last:
                meter.flush(state["params"])
                measured = _validate(train_step, state, data, c)
                log.evaluation(done, measured)
                state = watch.update(measured, state, mesh)
                save(measured)
            elif interrupted or (config.checkpoint.every and done % config.checkpoint.every == 0):
                meter.flush(state["params"])
                save()
            elif done // config.log.every > first // config.log.every:
                meter.report()
            if (watch.stopped or interrupted) and not last:
                why = "stopped early" if watch.stopped else "interrupted"
                break
        checkpoints.wait()
        train_seconds = time.perf_counter() - began
        best_step, best = (done, state) if why == "interrupted" else checkpoints.restore_best(state)
    return Outcome(
        why, done, best_step, best, whole, meter.images_per_second, first_step, train_seconds
    )


def build_step(config, data, mesh, steps):
    """Builds model, objective, optimizer and schedule, and compiles nothing yet."""
    c = config.train
    parallel.check_divisible("train.batch_size", c.batch_size, mesh, c.accumulate)
    parallel.check_divisible("train.eval_batch_size", eval_batch_size(c), mesh)
    shape = (1, data.image_size, data.image_size, data.channels)
    check_choice("train.test_time_augmentation", c.test_time_augmentation, CHOICES)
    check_choice(
        "checkpoint.metric", config.checkpoint.metric, [f"val/{name}" for name in metrics.SCALARS]
    )
    check_choice("checkpoint.mode", config.checkpoint.mode, ("max", "min"))
    if config.schedule.name == "plateau" and config.optimizer.lookahead:
        raise UserError(
            "optimizer.lookahead and schedule.name=plateau cannot go together: choose another schedule"
        )
    d = config.data
    jax.eval_shape(
        lambda x: normalize(x, d.normalize, d.mean, d.std), jax.ShapeDtypeStruct(shape, "uint8")
    )
    num_classes = len(data.classes)
    layers = {}

    def create():
        rngs = Streams(config.seed)
        model = models.build(config.model, num_classes, data.image_size, data.channels, rngs)
        layers.update(prepare(config.transfer, model, rngs))
        return objectives.build(config.objective, model, class_counts=data.class_counts, rngs=rngs)

    spec = StateSpec(create)
    schedule = make_schedule(config.schedule, config.optimizer.learning_rate, steps)
    optimizer = make_optimizer(
        config.optimizer, schedule, spec.abstract_params, steps, config.transfer, layers
    )
    return TrainStep(
        config, spec, schedule, optimizer, num_classes, len(data.loaders["train"]), steps, mesh
    )


def _embed(config, data, mesh, steps, weights):
    """Returns (step, data): the `TrainStep` for images, and the `Data` of what the frozen model
    embeds them as."""
    check_unchanging(config)
    whole = config.copy_and_resolve_references()
    whole.transfer.cache_embeddings = False
    train_step = build_step(whole, data, mesh, steps)
    began = time.perf_counter()
    embedded = embed_data(
        config, data, train_step, _start(train_step, data.loaders["train"], weights)
    )
    say(
        f"embedded {sum(map(len, data.loaders.values())):,} images in {time.perf_counter() - began:.1f} s"
    )
    return train_step, embedded


def _begin(train_step, checkpoints, loader, weights):
    """Returns (state, progress) of the newest checkpoint, or of the beginning, with an empty
    progress."""
    return checkpoints.restore_latest(train_step.abstract_state) or (
        _start(train_step, loader, weights),
        {},
    )


def _start(train_step, loader, weights):
    """Returns the state before the first step."""
    state = train_step.initialize()
    if weights:
        return train_step.start_from(state, weights)
    if train_step.adapts_to_data:
        return train_step.initialize_from_data(state, loader.sample(SAMPLE))
    return state


def _lengths(c, images):
    """Returns (steps, eval_every) in optimizer steps."""
    return run_length(c, images), c.eval_every or max(1, round(images / c.batch_size))


def _validate(train_step, state, data, c):
    summary = evaluate(train_step, state, data.loaders["val"], eval_batch_size(c))
    return {f"val/{k}": v for k, v in metrics.scalars(summary).items()}


def _introduce(log, config, workdir, train_step, state, loader, steps):
    """Shows what is about to be trained: the parameters, and what augmentation makes of the first
    images."""
    from clu import parameter_overview

    if state["step"]:
        log.say(f"resumed {workdir} at step {state['step']}/{steps}")
        return

    c = config.train
    (count, learn) = train_step.parameters
    some = "" if learn == count else f", of which {learn:,} learn"
    epochs = steps * c.batch_size / len(loader)
    log.say(
        f"{config.model.name} {config.model.variant}: {count:,} parameters{some}, {steps:,} steps = {epochs:.1f} epochs"
    )
    log.text(
        "parameters",
        parameter_overview.get_parameter_overview(state["params"], include_stats=False),
    )
    if config.log.tensorboard and config.log.images and not config.transfer.cache_embeddings:
        with contextlib.closing(loader.train_batches([(0, 1)], c.batch_size)) as batches:
            images = train_step.look(state, next(batches), loader.data)
        log.images(0, parallel.fetch(images)[: config.log.images])


class _Watch:
    """What follows from the validations so far: early stopping, and the plateau schedule's
    factor."""

    def __init__(self, config, progress):
        self._config = config
        stop = config.early_stopping
        self._early = Patience(config.checkpoint.mode, stop.patience, stop.min_delta)
        self._plateau = Patience("min", config.schedule.patience)
        self.lr_scale = 1.0
        self.stopped = False
        if progress:
            self._early.restore(progress["early"])
            self._plateau.restore(progress["plateau"])
            self.lr_scale = progress["lr_scale"]
            self.stopped = progress["stopped"]

    def update(self, measured, state, mesh):
        """Takes an evaluation; returns the state, with a lower rate where the loss has not fallen
        for long enough."""
        if self._config.early_stopping.enabled:
            self.stopped = self._early.update(measured[self._config.checkpoint.metric])
        if self._config.schedule.name == "plateau" and self._plateau.update(measured["val/loss"]):
            self.lr_scale *= self._config.schedule.factor
            scale = np.asarray(self.lr_scale, state["lr_scale"].dtype)
            return state | {"lr_scale": parallel.put_replicated(scale, mesh)}
        return state

    def state(self):
        """What a checkpoint must hold, as JSON can; the config too, so that a checkpoint alone
        tells what it is of."""
        watchers = {"early": self._early.state(), "plateau": self._plateau.state()}
        return watchers | {
            "lr_scale": self.lr_scale,
            "stopped": self.stopped,
            "config": self._config.to_dict(),
        }


class _Signals:
    """Notes a SIGTERM or a Ctrl-C, so that the loop can save and end; a second Ctrl-C ends at
    once."""

    def __enter__(self):
        self.received = False
        self._before = {}
        # Of several processes all must stop at one step: there JAX's runtime takes SIGTERM, and
        # Ctrl-C just ends.
        for number in (signal.SIGTERM, signal.SIGINT) if parallel.is_single_process() else ():
            # not in the main thread, as in some notebooks: then nobody listens
            with contextlib.suppress(ValueError):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            # None: not set from Python
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number, frame):
        self.received = True
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
