"""What a training needs before its first step: model, objective, optimizer and schedule."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vision import metrics, models, objectives, parallel
from vision.config import default
from vision.data.augment import normalize
from vision.data.augment.views import CHOICES
from vision.data.captions import FIELD
from vision.data.loading.joint import JointLoader
from vision.data.loading.loader import Loader
from vision.data.pipeline import UNLABELED, Data
from vision.data.recall import MEMORY
from vision.data.tokenizer import PAD
from vision.errors import UserError, check_choice
from vision.models.layers.streams import Streams
from vision.models.surgery.transfer import prepare
from vision.objectives.contract import RESERVED, ImageForm
from vision.run.best import DIRECTIONS, LAST, direction, doubt
from vision.support.naming import matching
from vision.training.evaluate import eval_batch_size
from vision.training.inputs import STRONG, ImageInputs, Inputs
from vision.training.optimizer import make_optimizer, make_schedule
from vision.training.state import StateSpec, select
from vision.training.step import Optimizers, TrainStep
from vision.training.teachers import Architectures, Teacher, read_teachers


@dataclasses.dataclass(frozen=True)
class Build:
    """An objective to be created, and what creating it finds out.

    Attributes:
        create: builds the objective; the `create` of `StateSpec`.
        layers: {name of a parameter in the model: layer}, filled by `create`.
    """

    create: Callable[[], Any]
    layers: dict[str, int]


def build_step(
    config: ConfigDict,
    data: Data,
    mesh: Mesh,
    steps: int,
    teachers: Mapping[str, Teacher] | None = None,
) -> TrainStep:
    """Builds model, objective, optimizer and schedule, and compiles nothing yet.

    Args:
        config: the run's config.
        data: what the run learns from.
        mesh: from `vision.parallel.make_mesh`.
        steps: length of the training.
        teachers: from `read_teachers`; None reads them from the runs themselves.

    Raises:
        UserError: the config does not fit its data or devices.
    """
    definition = objectives.define(config.objective, config.continual.previous)
    check_settings(config, data, mesh, definition)
    if teachers is None:
        teachers = read_teachers(config, data, definition, None)
    build = plan_objective(config, data, definition, teachers)
    sizes = {name: len(loader) for name, loader in data.loaders.items()}
    views = {name: definition.inputs[name] for name in _loaders_of(data, definition)}
    fields = models.fields_of(config.model)
    inputs = ImageInputs(config, views, len(data.classes), sizes, mesh, fields)
    return assemble_step(config, build, inputs, mesh, steps)


def plan_objective(
    config: ConfigDict,
    data: Data,
    definition: objectives.Definition,
    teachers: Mapping[str, Teacher],
    change: Callable[[Any], Any] = lambda model: model,
) -> Build:
    """Returns how the objective is built.

    Args:
        config: the run's config.
        data: what the run learns from.
        definition: of the objective.
        teachers: from `read_teachers`.
        change: makes another model of the one that `config.model` names.
    """
    layers: dict[str, int] = {}

    def create() -> Any:
        rngs = Streams(config.seed)
        model = models.build(config.model, len(data.classes), data.image_size, data.channels, rngs)
        layers.update(prepare(config.transfer, model, rngs))
        return definition.build(
            change(model),
            class_counts=data.class_counts,
            classes=data.classes,
            rngs=rngs,
            architectures=Architectures(definition, teachers),
            sizes={name: len(loader) for name, loader in data.loaders.items()},
            text=data.text_shape,
            tasks=data.tasks,
            images=image_form(config, data.image_size, data.channels),
        )

    return Build(create, layers)


def image_form(config: ConfigDict, image_size: int, channels: int) -> ImageForm:
    """Returns what the normalized images of a run are like.

    Args:
        config: the run's config.
        image_size: side of every image, pixels.
        channels: 1 or 3.
    """
    d = config.data
    pixels = np.array([0, 255], np.float64)[:, None, None, None].repeat(channels, -1)
    # Python's numbers: a trace must not look into JAX's.
    with jax.ensure_compile_time_eval():
        extremes = np.asarray(normalize(jnp.asarray(pixels), d.normalize, d.mean, d.std))
    black, white = (tuple(map(float, row)) for row in extremes.reshape(2, channels))
    return ImageForm((image_size, image_size, channels), black, white)


def assemble_step(
    config: ConfigDict, build: Build, inputs: Inputs, mesh: Mesh, steps: int
) -> TrainStep:
    """Returns the train step of an objective that is about to be built."""
    spec = StateSpec(build.create)
    matching("optimizer.freeze", config.optimizer.freeze, build.layers, "parameter")
    if spec.whole_batch and config.train.accumulate > 1:
        raise UserError(
            f"train.accumulate must be 1 for the objective '{config.objective.name}', whose loss "
            f"compares all images of a batch, got {config.train.accumulate}"
        )

    def make_optimizers(schedule: optax.Schedule, decay: Any) -> Optimizers:
        return {
            player: make_optimizer(
                config.optimizer,
                schedule,
                select(spec.abstract_params, attributes),
                steps,
                config.transfer,
                build.layers,
                decay,
            )
            for player, attributes in spec.players.items()
        }

    def make_rated(rates: Mapping[str, jax.Array]) -> tuple[optax.Schedule, Optimizers]:
        rate = rates["learning_rate"]
        unit = make_schedule(config.schedule, 1.0, steps)  # every schedule is linear in its peak

        def schedule(step: Any) -> Any:
            return rate * unit(step)

        return schedule, make_optimizers(schedule, rates["weight_decay"])

    schedule = make_schedule(config.schedule, config.optimizer.learning_rate, steps)
    optimizers = make_optimizers(schedule, None)
    return TrainStep(config, spec, inputs, schedule, optimizers, steps, mesh, make_rated=make_rated)


def set_direction(config: ConfigDict) -> tuple[ConfigDict, str]:
    """Returns a config whose `checkpoint.mode` says which values of the metric are better.

    A later stage may not have the objective that declares it.

    Returns:
        (config, a sentence if the mode contradicts the metric, else "").

    Raises:
        UserError: there is no such mode or objective.
    """
    c = config.checkpoint
    check_choice("checkpoint.mode", c.mode, ("auto", *DIRECTIONS))
    directions = objectives.define(config.objective).directions
    declared = {f"val/{name}": mode for name, mode in directions.items()}
    config = config.copy_and_resolve_references()
    config.checkpoint.mode = direction(c, declared)
    return config, doubt(c, declared)


def check_settings(
    config: ConfigDict, data: Data, mesh: Mesh, definition: objectives.Definition
) -> None:
    """Raises `UserError` if settings do not fit each other, the data or the devices."""
    c = config.train
    parallel.check_divisible("train.batch_size", c.batch_size, mesh, c.accumulate)
    parallel.check_divisible("train.eval_batch_size", eval_batch_size(c), mesh)
    check_choice("train.test_time_augmentation", c.test_time_augmentation, CHOICES)
    names = (*metrics.scalar_names(len(data.classes)), *definition.measures)
    measures = [*(f"val/{name}" for name in names), LAST]
    check_choice("checkpoint.metric", config.checkpoint.metric, measures)
    check_choice("checkpoint.mode", config.checkpoint.mode, ("auto", *DIRECTIONS))
    if config.schedule.name == "plateau" and config.optimizer.lookahead:
        raise UserError(
            "optimizer.lookahead and schedule.name=plateau cannot be combined: choose another "
            "schedule"
        )
    if config.early_stopping.enabled and config.checkpoint.metric == LAST:
        raise UserError(
            f"early_stopping.enabled needs a metric that can stall, but checkpoint.metric = {LAST} "
            "always rises: choose another one, or set early_stopping.enabled=False"
        )
    _check_strong(config, definition)
    if models.fields_of(config.model) and not getattr(definition.module, "FIELDS", False):
        raise UserError(
            f"the objective '{definition.name}' gives its model only images, but the model "
            f"'{config.model.name}' takes more: set objective.name=supervised"
        )
    if config.data.unlabeled and UNLABELED not in definition.inputs:
        raise UserError(
            f"data.unlabeled = '{config.data.unlabeled}': the objective '{definition.name}' does "
            'not use unlabeled images: set it to ""'
        )
    if config.continual.memory and MEMORY not in definition.inputs:
        raise UserError(
            f"continual.memory = '{config.continual.memory}': the objective '{definition.name}' "
            'has no memory: set objective.name=continual, or continual.memory=""'
        )
    d = config.data
    pixels = jax.ShapeDtypeStruct((1, data.image_size, data.image_size, data.channels), "uint8")
    jax.eval_shape(lambda x: normalize(x, d.normalize, d.mean, d.std), pixels)


def _check_strong(config: ConfigDict, definition: objectives.Definition) -> None:
    """A strong view that nothing changes would be weaker than the others, in silence."""
    has_strong = any(STRONG in views for views in definition.inputs.values())
    if has_strong and config.strong.to_dict() == default().strong.to_dict():
        raise UserError(
            f"the objective '{definition.name}' has a view 'strong', but no key of strong is set: "
            "set strong.randaugment_layers=2, for example, or what augment has"
        )


def training_loader(config: ConfigDict, data: Data, definition: objectives.Definition) -> Loader:
    """Returns the loader of the train step's batches, from all that the objective asks for.

    Args:
        config: the run's config.
        data: what the run learns from.
        definition: of the objective.

    Raises:
        UserError: there are no unlabeled images, or a source has a field under a name that a batch
            uses itself.
    """
    loaders = _loaders_of(data, definition)
    for name in loaders:
        if name not in data.loaders:
            raise UserError(
                f"the objective '{definition.name}' learns from {name} images too: set "
                f'data.{name} to a source, or to "rest" for the training images'
            )
    _check_fields(data, definition.inputs)
    _check_captions(config, data)
    ratios = {UNLABELED: config.data.unlabeled_ratio, MEMORY: config.continual.memory_ratio}
    beside = {name: (data.loaders[name], ratios[name]) for name in loaders if name != "train"}
    train = data.loaders["train"]
    return JointLoader(train, beside) if beside else train


def _loaders_of(data: Data, definition: objectives.Definition) -> list[str]:
    """Returns the loaders that an objective learns from; a run may have no memory."""
    return [name for name in definition.inputs if name != MEMORY or MEMORY in data.loaders]


def _check_captions(config: ConfigDict, data: Data) -> None:
    """Only a model that takes texts itself can do without some."""
    if data.text_shape is None or FIELD in models.fields_of(config.model):
        return
    for name, loader in data.loaders.items():
        ids = loader.dataset.fields.get(FIELD)
        missing = 0 if ids is None else int((ids == PAD).all(1).sum())
        if missing:
            raise UserError(
                f"{missing:,} images of {name} have no caption, which the objective "
                f"'{config.objective.name}' needs: leave out empty=keep, and name the captions of "
                "each joined source"
            )


def _check_fields(data: Data, inputs: Mapping[str, tuple[str, ...]]) -> None:
    reserved = {"image", *RESERVED, *inputs}
    for views in inputs.values():
        reserved |= set(views)
    for name, loader in data.loaders.items():
        taken = reserved & set(loader.dataset.fields)
        if taken:
            raise UserError(
                f"the source of {name} has a field '{min(taken)}', a reserved name: rename it"
            )
