"""What a model is given of a batch: augmented and normalized in training, plain in evaluation."""

import zlib
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vision import parallel
from vision.data.augment import alternating_flips, augment, normalize
from vision.data.loading.loader import Batch
from vision.data.pipeline import UNLABELED
from vision.errors import UserError
from vision.objectives.contract import TRAIN

AUGMENT, NOISE = range(2)  # the purposes that a step's key is split for
ROW = ("index", "mask")  # of a batch, where an example is and whether it counts
STRONG = "strong"  # the view that is augmented as config.strong says


class Inputs(Protocol):
    """Turns a batch, as a loader places it on the devices, into what a model takes."""

    def train(self, state: Mapping[str, Any], batch: Batch, data: Batch) -> dict[str, Any]:
        """Returns the batch that an objective's `loss` takes, without the progress."""

    def evaluate(self, batch: Batch, data: Batch) -> tuple[Any, jax.Array]:
        """Returns (the model's input (B, ...), labels int32 (B,))."""

    def encode(self, batch: Batch, data: Batch) -> dict[str, jax.Array]:
        """Returns {"image": the model's input (B, ...)} and the source's fields."""

    def preview(self, state: Mapping[str, Any], batch: Batch, data: Batch) -> jax.Array:
        """Returns the images that a training step sees, (B, H, W, C) in [0, 255]."""

    def normalize(self, images: jax.Array) -> jax.Array:
        """Returns the model's input for uint8 images (B, H, W, C)."""


def step_key(state: Mapping[str, Any], purpose: int) -> jax.Array:
    """Returns a step's key, which follows from (seed, step) only: a resumed run repeats it."""
    run = jax.random.key(state["seed"])
    return jax.random.fold_in(jax.random.fold_in(run, state["step"]), purpose)


class ImageInputs:
    """Images, each view augmented on its own.

    Args:
        config: the run's config.
        views: {loader: names of the views of its images}, "train" first.
        num_classes: C.
        sizes: {loader: images of its split}.
        mesh: from `vision.parallel.make_mesh`.
        fields: those of the source that the model takes beside the image: its input is then
            {"image": normalized images, field: (B, ...)}.

    Raises:
        UserError: labels would be mixed that belong to several views, to no loss, or to texts and
            columns, which cannot be mixed.
    """

    def __init__(
        self,
        config: ConfigDict,
        views: Mapping[str, tuple[str, ...]],
        num_classes: int,
        sizes: Mapping[str, int],
        mesh: Mesh,
        fields: tuple[str, ...] = (),
    ):
        self._fields = fields
        self._config = config
        self._views = views
        self._num_classes = num_classes
        self._sizes = sizes
        self._mesh = mesh
        self._check_mixing()

    def _check_mixing(self) -> None:
        """Mixup and CutMix mix labels with images, so they need one view, of labeled images."""
        if self._views == {TRAIN: self._views[TRAIN][:1]} and not self._fields:
            return
        reason = "takes several views, or unlabeled images"
        if self._fields:
            reason = f"trains a model of more than images ({', '.join(self._fields)})"
        for names in self._views.values():
            for view in names:
                section = "strong" if view == STRONG else "augment"
                mixing = [key for key in ("mixup", "cutmix") if self._config[section][key]]
                if mixing:
                    raise UserError(
                        f"{section}.{mixing[0]} mixes labels, but the objective "
                        f"'{self._config.objective.name}' {reason}: set {section}.{mixing[0]}=0"
                    )

    def train(self, state: Mapping[str, Any], batch: Batch, data: Batch) -> dict[str, Any]:
        """Returns {view: the model's input, "label": float (B, C)} and the source's fields.

        The views of other loaders are dicts under their names, each with "index", int32 (B,):
        the places of its images in their split, for objectives that remember each one. Those of
        "memory" have a "label" too.
        """
        inputs: dict[str, Any] = {}
        for loader, views in self._views.items():
            if loader == TRAIN:
                target = inputs
            else:
                target = inputs[loader] = {}
            examples = self._examples(*_rows_of(loader, batch, data))
            if loader != TRAIN:
                target["index"] = examples["index"]
            for place, view in enumerate(views):
                images, labels = self._augment(state, examples, loader, place)
                target[view] = self._joined(self.normalize(images), examples)
                if loader != UNLABELED:
                    target["label"] = labels
            target |= fields_of(examples)
        return inputs

    def evaluate(self, batch: Batch, data: Batch) -> tuple[Any, jax.Array]:
        """Returns (the model's input, labels int32 (B,))."""
        examples = self._examples(batch, data)
        return self._joined(self.normalize(examples["image"]), examples), examples["label"]

    def encode(self, batch: Batch, data: Batch) -> dict[str, jax.Array]:
        """Returns {"image": normalized images (B, H, W, C)} and the source's fields."""
        examples = self._examples(batch, data)
        return fields_of(examples) | {"image": self.normalize(examples["image"])}

    def preview(self, state: Mapping[str, Any], batch: Batch, data: Batch) -> jax.Array:
        """Returns the first view of the training images, (B, H, W, C) in [0, 255]."""
        examples = self._examples(*_rows_of(TRAIN, batch, data))
        return self._augment(state, examples, TRAIN, 0)[0]

    def normalize(self, images: jax.Array) -> jax.Array:
        """Returns the model's input, at least float32.

        A model rounds it to its own dtype at a place where that does no harm.
        """
        c = self._config
        dtype = jnp.promote_types(c.model.dtype, "float32")
        return normalize(images, c.data.normalize, c.data.mean, c.data.std, dtype)

    def _joined(self, images: jax.Array, examples: Batch) -> Any:
        """Returns the model's input: normalized images, with the fields that it takes."""
        if not self._fields:
            return images
        return {"image": images} | {name: examples[name] for name in self._fields}

    def _examples(self, batch: Batch, data: Batch) -> Batch:
        return fetch_examples(batch, data, self._mesh)

    def _augment(
        self, state: Mapping[str, Any], examples: Batch, loader: str, place: int
    ) -> tuple[jax.Array, jax.Array]:
        """Returns (images, soft labels) of the view at a place among the loader's views."""
        labels = examples["label"]
        policy = self._config.augment
        if self._views[loader][place] == STRONG:
            policy = self._config.strong
        flips = None
        if policy.flip_alternating:
            # Unsigned: 4 billion images before it wraps.
            first = state["step"].astype(jnp.uint32) * len(labels)
            seen = first + jnp.arange(len(labels), dtype=jnp.uint32)
            epochs = seen // self._sizes[loader]
            flips = alternating_flips(state["seed"], examples["index"], epochs)
        key = step_key(state, AUGMENT)
        if (loader, place) != (TRAIN, 0):
            key = jax.random.fold_in(jax.random.fold_in(key, place), zlib.crc32(loader.encode()))
        return augment(policy, key, examples["image"], labels, self._num_classes, flips=flips)


class EmbeddingInputs:
    """Embeddings in the place of images: they are what the model takes, as they are.

    Args:
        num_classes: C.
        mesh: from `vision.parallel.make_mesh`.
        view: what the objective calls the images.
    """

    def __init__(self, num_classes: int, mesh: Mesh, view: str = "image"):
        self._num_classes = num_classes
        self._view = view
        self._mesh = mesh

    def train(self, state: Mapping[str, Any], batch: Batch, data: Batch) -> dict[str, Any]:
        """Returns {view: embeddings (B, D), "label": float (B, C)} and the source's fields."""
        examples = fetch_examples(batch, data, self._mesh)
        labels = jax.nn.one_hot(examples["label"], self._num_classes)
        return fields_of(examples) | {self._view: examples["image"], "label": labels}

    def evaluate(self, batch: Batch, data: Batch) -> tuple[jax.Array, jax.Array]:
        """Returns (embeddings (B, D), labels int32 (B,))."""
        examples = fetch_examples(batch, data, self._mesh)
        return examples["image"], examples["label"]

    def encode(self, batch: Batch, data: Batch) -> dict[str, jax.Array]:
        """Returns {"image": embeddings (B, D)} and the source's fields."""
        examples = fetch_examples(batch, data, self._mesh)
        return fields_of(examples) | {"image": examples["image"]}

    def preview(self, state: Mapping[str, Any], batch: Batch, data: Batch) -> jax.Array:
        """Returns the embeddings."""
        return self.evaluate(batch, data)[0]

    def normalize(self, images: jax.Array) -> jax.Array:
        """Returns the embeddings as they are."""
        return images


def fetch_examples(batch: Batch, data: Batch, mesh: Mesh) -> Batch:
    """Returns a batch's arrays, taken from `data` by index if they live on the devices.

    Args:
        batch: from a loader; batches of other loaders inside it are left out.
        data: the loader's data; {} if the batch carries its arrays itself.
        mesh: from `vision.parallel.make_mesh`.
    """
    examples = {name: value for name, value in batch.items() if not isinstance(value, dict)}
    sharding = parallel.batch_sharding(mesh)
    for name, values in data.items():
        if not isinstance(values, dict):
            rows = values[batch["index"]]
            examples[name] = jax.lax.with_sharding_constraint(rows, sharding)
    return examples


def fields_of(examples: Batch) -> Batch:
    """Returns the source's fields among a batch's arrays."""
    return {k: values for k, values in examples.items() if k not in ("image", "label", *ROW)}


def _rows_of(loader: str, batch: Batch, data: Batch) -> tuple[Batch, Batch]:
    """Returns one loader's (batch, data), out of those of all loaders."""
    if loader == TRAIN:
        return batch, data
    return batch[loader], data.get(loader, {})
