"""A model's outputs on every image of a split: one pass over all devices, each image once."""

import collections
import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from vision import cpu, parallel
from vision.data.augment import normalize
from vision.data.inputs import IMAGE, pack, with_image
from vision.data.loading import sampler
from vision.data.loading.dataset import NONE_READABLE
from vision.data.loading.loader import Batch, Loader
from vision.errors import UserError
from vision.inference import Predictor
from vision.support.progress import Progress

AHEAD = 2  # batches that the device works on while the host stores earlier ones
EMBEDDED = 10_000  # embeddings kept, at most

Views = Callable[[Any], Iterable[tuple[float, Any]]]
Change = Callable[[jax.Array, np.ndarray], jax.Array]


@dataclasses.dataclass(frozen=True)
class Outputs:
    """A model's outputs on the readable images of a split, in the split's order.

    Attributes:
        logits: float32 (N, C).
        labels: int64 (N,), the labels of the source.
        rows: int64 (N,), each image's position in the split's source.
        brightness: float32 (N,), mean of the pixels, in [0, 1].
        contrast: float32 (N,), standard deviation of the pixels, in [0, 1].
        embeddings: float32 (M, D), of M images drawn at random.
        embedded: int64 (M,), which of the N images these are.
    """

    logits: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    embeddings: np.ndarray
    embedded: np.ndarray


class Forward:
    """A classifier's forward pass on the devices of a mesh.

    Args:
        classifier: the model; a `vision.bundle.directory.Bundle` computes on the host.
        mesh: from `vision.parallel.make_mesh`.
    """

    def __init__(self, classifier: Predictor, mesh: jax.sharding.Mesh):
        self.classifier = classifier
        self.mesh = mesh
        self._replicated = parallel.replicated(mesh)
        self._statistics = jax.jit(_pixel_statistics, out_shardings=self._replicated)
        self._divided = parallel.batch_sharding(mesh)
        self._take = jax.jit(lambda images, index: images[index], out_shardings=self._divided)
        self._replicate = jax.jit(lambda mask: mask, out_shardings=self._replicated)
        if classifier.model is None and not parallel.is_single_process():
            raise UserError("a bundle is evaluated by one process: start only one")
        self._run = self._on_host if classifier.model is None else self._compiled()

    def _on_host(self, inputs):
        fields = {}
        images = inputs
        if isinstance(inputs, dict):
            fields = {k: np.asarray(v) for k, v in inputs.items() if k != IMAGE}
            images = inputs[IMAGE]
        return self.classifier(pack(np.asarray(images), fields))

    def _compiled(self):
        """Returns `run(inputs) -> (logits, embeddings)` on the devices.

        Normalizing is a program of its own, so that one program of the model serves the images and
        all their views.
        """
        d = self.classifier.config.data
        dtype = jnp.promote_types(self.classifier.config.model.dtype, "float32")
        graph, state = nnx.split(self.classifier.model)
        state = jax.device_put(state, self._replicated)

        self._normalize = jax.jit(
            lambda images: normalize(images, d.normalize, d.mean, d.std, dtype),
            out_shardings=self._divided,
        )

        def run(state, normalized):
            model = nnx.merge(graph, state)
            embeddings = model.embed(normalized)
            outputs = (model.head(embeddings), embeddings)
            return jax.lax.with_sharding_constraint(outputs, self._replicated)

        self._model = jax.jit(cpu.fused(run, self.mesh.size))
        self._run_normalized = functools.partial(self._model, state)
        return lambda inputs: self._run_normalized(with_image(inputs, self._normalize))

    def averaging(self, views: Views) -> "Forward":
        """Returns the same forward pass, but with the mean of the logits of each image's views.

        It has no embeddings. The model's program is shared, not compiled again.

        Args:
            views: `views(inputs) -> [(weight, inputs)]` of a model's normalized inputs.
        """

        @jax.jit
        def arrange(inputs):
            return [
                (weight, jax.lax.with_sharding_constraint(view, self._divided))
                for weight, view in views(inputs)
            ]

        @functools.partial(jax.jit, out_shardings=self._replicated)
        def average(weighted):
            logits = sum(weight * logits for weight, logits in weighted)
            return logits, logits[:, :0]

        def run(inputs):
            weighted = arrange(with_image(inputs, self._normalize))
            return average([(weight, self._run_normalized(view)[0]) for weight, view in weighted])

        forward = copy.copy(self)
        forward._run = run
        return forward

    def __call__(
        self, images: jax.Array, fields: Mapping[str, jax.Array] | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns (logits (B, C), embeddings (B, D)), float32, without waiting for them.

        Args:
            images: uint8 (B, H, W, channels).
            fields: {name: (B, ...)}, what the model takes beside them.
        """
        return self._run({IMAGE: images} | dict(fields) if fields else images)

    def fields(self, batch: Batch, data: dict[str, Any]) -> dict[str, jax.Array]:
        """Returns what the model takes of a batch beside its images; arguments as of `images`."""
        fields = self.classifier.fields
        if not data:
            return {name: batch[name] for name in fields}
        return {name: self._take(data[name], batch["index"]) for name in fields}

    def images(self, batch: Batch, data: dict[str, Any]) -> jax.Array:
        """Returns a batch's images.

        Args:
            batch: a batch of `eval_batches`.
            data: what is on the devices, whose images the batch indexes; {} if the batch holds its
                images itself.
        """
        return self._take(data["image"], batch["index"]) if data else batch["image"]

    def mask(self, batch: Batch) -> jax.Array:
        """Returns which images of a batch count, bool (B,), on every process."""
        return self._replicate(batch["mask"])

    def brightness(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (mean, standard deviation) of each image's pixels, without waiting for them.

        Both are float32 (B,), in [0, 1].
        """
        return self._statistics(images)


def _pixel_statistics(images):
    pixels = images.astype(jnp.float32).mean(-1).reshape(len(images), -1) / 255
    return pixels.mean(1), pixels.std(1)


def batch_size(c: ConfigDict, mesh: jax.sharding.Mesh) -> int:
    """Returns the number of images to evaluate at a time, a multiple of the number of devices.

    Args:
        c: config.train.
        mesh: the devices.
    """
    return -(-(c.eval_batch_size or c.batch_size) // mesh.size) * mesh.size


def collect(
    forward: Forward,
    loader: Loader,
    batch_size: int,
    change: Change | None = None,
    embedded: int = EMBEDDED,
    label: str = "evaluating",
) -> Outputs:
    """Returns a model's outputs on a split.

    The last batch is padded and masked, so that no image is dropped or counted twice on any number
    of devices. Only the outputs themselves grow with the split, by 4 C + 32 bytes per image; at
    most `embedded` embeddings are kept.

    Args:
        forward: the model's forward pass.
        loader: a split's loader, from `vision.data.pipeline.Data`.
        batch_size: images at a time, over all devices.
        change: `change(images, indices) -> images` of uint8 images (B, H, W, C) on the devices,
            and their positions in the split, int32 (B,); None leaves the images as they are.
        embedded: number of embeddings to keep; which ones depends only on the length of the split.
        label: of the pass, for its progress.

    Raises:
        UserError: if no image can be read, or a batch does not fit into the device's memory.
    """
    size = len(loader)
    batch_size = min(batch_size, -(-size // forward.mesh.size) * forward.mesh.size)
    is_embedded = np.zeros(size, bool)
    is_embedded[np.random.RandomState(0).permutation(size)[:embedded]] = True
    store = _Store(size, is_embedded)
    pending: collections.deque = collections.deque()
    advice = f"evaluating {batch_size} images at a time: lower train.eval_batch_size"
    with parallel.out_of_memory(lambda: advice), Progress(label, size, "images") as work:
        for step, batch in enumerate(work.over(loader.eval_batches(batch_size), batch_size)):
            images = forward.images(batch, loader.data)
            indices, _ = sampler.eval_indices(step, batch_size, size)
            if change is not None:
                images = change(images, indices)
            fields = forward.fields(batch, loader.data)
            arrays = (*forward(images, fields), *forward.brightness(images), forward.mask(batch))
            _start_copies(arrays)
            pending.append((indices, arrays))
            if len(pending) > AHEAD:
                store.add(*pending.popleft())
        while pending:
            store.add(*pending.popleft())
    return store.outputs(loader.dataset.source)


def _start_copies(arrays):
    """Starts copying the arrays to the host, without waiting."""
    for array in arrays:
        if isinstance(array, jax.Array):
            array.copy_to_host_async()


class _Store:
    """Arrays as long as a split, filled batch by batch.

    Args:
        size: number of images.
        is_embedded: bool (size,), whether to keep each image's embedding.
    """

    def __init__(self, size, is_embedded):
        self._size = size
        self._is_embedded = is_embedded
        self._arrays = None
        self._readable = np.zeros(size, bool)
        self._embeddings = []

    def add(self, indices, arrays):
        """Adds a batch.

        Args:
            indices: positions in the split, int (B,).
            arrays: logits, embeddings, brightness, contrast and mask of the batch.
        """
        logits, embeddings, brightness, contrast, mask = (np.asarray(array) for array in arrays)
        batch = (logits, brightness, contrast)
        if self._arrays is None:
            self._arrays = [np.zeros((self._size, *a.shape[1:]), np.float32) for a in batch]
        rows = indices[mask]
        for array, values in zip(self._arrays, batch, strict=True):
            array[rows] = values[mask]
        self._readable[rows] = True
        chosen = mask & self._is_embedded[indices]
        self._embeddings.append(np.asarray(embeddings, np.float32)[chosen])

    def outputs(self, source):
        """Returns the `Outputs` on the images that could be read."""
        rows = np.flatnonzero(self._readable)
        if not len(rows):
            raise UserError(NONE_READABLE.format(self._size, source.name(0)))
        arrays = self._arrays
        if len(rows) < self._size:
            arrays = [array[rows] for array in arrays]
        logits, brightness, contrast = arrays
        return Outputs(
            logits=logits,
            labels=np.asarray(source.labels, np.int64)[rows],
            rows=rows,
            brightness=brightness,
            contrast=contrast,
            embeddings=np.concatenate(self._embeddings),
            embedded=np.flatnonzero(self._is_embedded[rows]),
        )
