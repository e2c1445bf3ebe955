"""Training a head on embeddings: the frozen network sees each image once, and never again.

The embeddings become the data set, and the model a head. Checkpoints still hold the network too, so
that a run's weights are those of a whole model.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx, traverse_util
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vision import objectives, parallel
from vision.data.loading.device_loader import DeviceLoader
from vision.data.loading.loader import Loader
from vision.data.pipeline import Data
from vision.errors import UserError
from vision.support.progress import Progress, print_line
from vision.training import interruption
from vision.training.evaluate import eval_batch_size
from vision.training.inputs import STRONG, EmbeddingInputs
from vision.training.setup import assemble_step, plan_objective
from vision.training.smote import extend
from vision.training.starts import Starts
from vision.training.step import State, TrainStep
from vision.training.teachers import Teacher

CHANGING = (  # keys of config.augment that change images from step to step
    "pad_crop",
    "random_resized_crop",
    "flip_horizontal",
    "flip_alternating",
    "flip_vertical",
    "rot90",
    "affine",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "grayscale",
    "blur",
    "solarize",
    "randaugment_layers",
    "random_erasing",
    "mixup",
    "cutmix",
)


class HeadOnly(nnx.Module):
    """A model whose images are embeddings already.

    Args:
        head: maps embeddings (B, D) to logits (B, C).
    """

    def __init__(self, head: nnx.Module):
        self.head = head

    def embed(self, embeddings: jax.Array) -> jax.Array:
        """Returns the embeddings."""
        return embeddings

    def __call__(self, embeddings: jax.Array) -> jax.Array:
        return self.head(embeddings)


def _headed(model: Any) -> HeadOnly:
    return HeadOnly(model.head)


class HeadTraining:
    """The training of a head on what the network before it embeds.

    Args:
        config: the run's config.
        data: the images.
        mesh: from `vision.parallel.make_mesh`.
        steps: length of the training.
        images_step: the `TrainStep` of the whole model.
        starts: what the whole model starts from.
        teachers: from `vision.training.teachers.read_teachers`.

    Attributes:
        data: `Data` of the embeddings.
        train_step: the `TrainStep` of the head.

    Raises:
        UserError: the config changes images from step to step.
    """

    def __init__(
        self,
        config: ConfigDict,
        data: Data,
        mesh: Mesh,
        steps: int,
        images_step: TrainStep,
        starts: Starts,
        teachers: Mapping[str, Teacher],
    ):
        definition = objectives.define(config.objective)
        if tuple(definition.inputs) != ("train",) or len(definition.inputs["train"]) > 1:
            raise UserError(
                f"transfer.cache_embeddings: the objective '{definition.name}' needs several views "
                "of an image, or other images, but each image has only one cached embedding"
            )
        if teachers:
            raise UserError(
                f"transfer.cache_embeddings: '{min(teachers)}' of the objective "
                f"'{definition.name}' needs the images themselves: set it to False"
            )
        (view,) = definition.inputs["train"]
        check(config, "strong" if view == STRONG else "augment")
        # What the objective refuses, it refuses before all images are embedded.
        nnx.eval_shape(plan_objective(config, data, definition, teachers, _headed).create)
        began = time.perf_counter()
        self._start = starts.state(images_step, data.loaders["train"])
        self.data = embed_data(config, data, images_step, self._start)
        count = sum(map(len, data.loaders.values()))
        print_line(f"embedded {count:,} images in {time.perf_counter() - began:.1f} s")
        build = plan_objective(config, self.data, definition, teachers, _headed)
        inputs = EmbeddingInputs(len(data.classes), mesh, view)
        self.train_step = assemble_step(config, build, inputs, mesh, steps)
        learned = traverse_util.flatten_dict(self.train_step.abstract_state["rest"])
        rest = traverse_util.flatten_dict(self._start["rest"])
        self._network = {path: array for path, array in rest.items() if path not in learned}

    def start(self) -> State:
        """Returns the head's state before the first step."""
        return self.without_network(self._start)

    def without_network(self, state: State) -> State:
        """Returns the head's state from the whole model's."""
        rest = traverse_util.flatten_dict(state["rest"])
        kept = {path: array for path, array in rest.items() if path not in self._network}
        return state | {"rest": traverse_util.unflatten_dict(kept)}

    def with_network(self, state: State) -> State:
        """Returns the whole model's state from the head's: what a checkpoint holds."""
        rest = traverse_util.flatten_dict(state["rest"]) | self._network
        return state | {"rest": traverse_util.unflatten_dict(rest)}


def check(config: ConfigDict, section: str = "augment") -> None:
    """Raises `UserError` if the config changes images from step to step.

    Args:
        config: the run's config.
        section: the section that augments them.
    """
    active = [f"{section}.{key}" for key in CHANGING if config[section][key]]
    if config.data.random_crop_area:
        active.append("data.random_crop_area")
    if config.train.test_time_augmentation != "none":
        active.append("train.test_time_augmentation")
    if config.model.dropout:
        active.append("model.dropout")
    if active:
        raise UserError(
            "transfer.cache_embeddings sees each image once, without augmentation: turn off "
            f"{', '.join(active)}"
        )


def embed_split(
    train_step: TrainStep, state: State, loader: Loader, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Embeds a split's images, in order.

    Returns:
        (embeddings float32 (N, D), whether each image can be read, bool (N,)).

    Raises:
        Interrupted: a signal has come.
    """
    outputs, readable = _over_batches(train_step.embed, state, loader, batch_size)
    return outputs, readable


def encode_split(
    train_step: TrainStep, state: State, loader: Loader, batch_size: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Encodes a split's images and fields, in order, as the objective does.

    Returns:
        ({name: (N, ...)}, whether each image can be read, bool (N,)).

    Raises:
        Interrupted: a signal has come.
    """
    return _over_batches(train_step.encode, state, loader, batch_size)


def _over_batches(
    call: Callable[..., Any], state: State, loader: Loader, batch_size: int
) -> tuple[Any, np.ndarray]:
    """Returns the outputs of `call`, a tree of arrays and a mask, of a split's images in order."""
    outputs = []
    readable = []
    advice = f"embedding {batch_size} images at a time: lower train.eval_batch_size"
    work = Progress("embedding", len(loader), "images")
    with parallel.out_of_memory(lambda: advice), work:
        for batch in work.over(loader.eval_batches(batch_size), batch_size):
            interruption.raise_if_agreed()
            batch_outputs, mask = parallel.fetch(call(state, batch, loader.data))
            outputs.append(batch_outputs)
            readable.append(mask)
    joined = jax.tree.map(lambda *parts: np.concatenate(parts)[: len(loader)], *outputs)
    return joined, np.concatenate(readable)[: len(loader)]


def embed_data(config: ConfigDict, data: Data, train_step: TrainStep, state: State) -> Data:
    """Returns the `Data` whose loaders hold the images' embeddings by the model in `state`."""
    loaders: dict[str, Loader] = {}
    for name, loader in data.loaders.items():
        vectors, readable = embed_split(train_step, state, loader, eval_batch_size(config.train))
        arrays: list[Any] = [
            vector if ok else None for vector, ok in zip(vectors, readable, strict=True)
        ]
        dataset = loader.dataset
        if name == "train" and config.imbalance.sampling == "smote":
            dataset, arrays = extend(dataset, arrays, config.seed)
        loaders[name] = DeviceLoader(dataset, loader.unreadable, loader.mesh, arrays)
    return dataclasses.replace(data, loaders=loaders)
