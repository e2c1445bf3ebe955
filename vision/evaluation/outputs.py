"""What a model says of every image of a split: one pass over all devices, each image once."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vision import parallel
from vision.data.augment import normalize
from vision.data.loading import sampler
from vision.data.loading.dataset import NONE_READABLE
from vision.errors import UserError
from vision.support.progress import track

AHEAD = 2  # batches that the device works on while the host stores the ones before
EMBEDDED = 10_000  # embeddings kept, at most


@dataclasses.dataclass(frozen=True)
class Outputs:
    """A model's outputs on the readable images of a split, in the split's order.

    Attributes:
        logits: float32 (N, C).
        labels: int64 (N,), the source's.
        rows: int64 (N,), each image's position in the split's source.
        brightness, contrast: float32 (N,), mean and standard deviation of the pixels, in [0, 1].
        embeddings: float32 (M, D) of some of the images, drawn at random.
        embedded: int64 (M,), which of the N they are.
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
        classifier: a `vision.inference.Classifier`, or a `vision.bundle.directory.Bundle`, which
            computes on the host.
        mesh: from `vision.parallel.make_mesh`.
        views: `views(images) -> [(weight, images)]` of normalized images, whose logits are
            averaged; None = of the images alone.
    """

    def __init__(self, classifier, mesh, views=None):
        self.classifier = classifier
        self.mesh = mesh
        self._whole = parallel.replicated(mesh)
        self._look = jax.jit(self._look, out_shardings=self._whole)
        self._take = jax.jit(
            lambda images, index: images[index], out_shardings=parallel.batch_sharding(mesh)
        )
        if classifier.model is None:
            self._run = lambda images: classifier(np.asarray(images))
            return
        d = classifier.config.data
        dtype = jnp.promote_types(classifier.config.model.dtype, "float32")
        graph, state = nnx.split(classifier.model)
        state = jax.device_put(state, self._whole)

        @jax.jit
        def run(state, images):
            model = nnx.merge(graph, state)
            images = normalize(images, d.normalize, d.mean, d.std, dtype)
            if views is None:
                embeddings = model.embed(images)
                return self._gathered((model.head(embeddings), embeddings))
            logits = sum(weight * model(view) for weight, view in views(images))
            return self._gathered((logits, logits[:, :0]))

        self._run = lambda images: run(state, images)

    def __call__(self, images):
        """Returns (logits (B, C), embeddings (B, D)), float32, of uint8 images (B, H, W, channels);
        does not wait."""
        return self._run(images)

    def images(self, batch, data):
        """Returns a batch's images: its own, or those of `data`, a split that lives on the
        device."""
        return self._take(data["image"], batch["index"]) if data else batch["image"]

    def brightness(self, images):
        """Returns (mean, standard deviation) of each image's pixels, float32 (B,) in [0, 1]; does
        not wait."""
        return self._look(images)

    def _gathered(self, tree):
        return jax.lax.with_sharding_constraint(tree, self._whole)

    @staticmethod
    def _look(images):
        pixels = images.astype(jnp.float32).mean(-1).reshape(len(images), -1) / 255
        return pixels.mean(1), pixels.std(1)


def batch_size(c, mesh):
    """Returns how many images to evaluate at a time: as `config.train` says, rounded up to what the
    devices share."""
    return -(-(c.eval_batch_size or c.batch_size) // mesh.size) * mesh.size


def collect(forward, loader, batch_size, change=None, embedded=EMBEDDED, what=""):
    """Returns the `Outputs` of a split.

    The last batch is padded and masked, so that no image is dropped or counted twice on any number
    of devices. What grows with the split are the outputs themselves, 4 C + 32 bytes an image; of
    embeddings, no more than `embedded`.

    Args:
        forward: a `Forward`.
        loader: a split of `vision.data.pipeline.Data`.
        batch_size: images at a time, over all devices.
        change: `change(images, indices) -> images` of uint8 images (B, H, W, C), on the devices,
            and their places in the split, int32 (B,); None = as they are.
        embedded: embeddings to keep; the draw follows from the length of the split alone.
        what: what the bar says on a terminal; "" = no bar.

    Raises:
        UserError: not one image can be read, or a batch does not fit into the device's memory.
    """
    size = len(loader)
    batch_size = min(batch_size, -(-size // forward.mesh.size) * forward.mesh.size)
    draw = np.zeros(size, bool)
    draw[np.random.RandomState(0).permutation(size)[:embedded]] = True
    store = _Store(size, draw)
    pending = collections.deque()
    count = sampler.batch_count(batch_size, size)
    batches = loader.eval_batches(batch_size)
    with parallel.out_of_memory(
        lambda: f"evaluating {batch_size} images at a time: lower train.eval_batch_size"
    ):
        for step, batch in enumerate(track(batches, count, what) if what else batches):
            images = forward.images(batch, loader.data)
            indices, _ = sampler.eval_indices(step, batch_size, size)
            if change is not None:
                images = change(images, indices)
            found = (*forward(images), *forward.brightness(images), batch["mask"])
            for array in found:
                if isinstance(array, jax.Array):
                    array.copy_to_host_async()
            pending.append((indices, found))
            if len(pending) > AHEAD:
                store.add(*pending.popleft())
        while pending:
            store.add(*pending.popleft())
    return store.outputs(loader.dataset.source)


class _Store:
    """Arrays of a split's length, filled batch by batch."""

    def __init__(self, size, draw):
        self._size = size
        self._draw = draw
        self._arrays = None
        self._readable = np.zeros(size, bool)
        self._embeddings = []

    def add(self, indices, found):
        logits, embeddings, brightness, contrast, mask = (np.asarray(array) for array in found)
        if self._arrays is None:
            self._arrays = [
                np.zeros((self._size, *a.shape[1:]), np.float32)
                for a in (logits, brightness, contrast)
            ]
        rows = indices[mask]
        for array, part in zip(self._arrays, (logits, brightness, contrast), strict=True):
            array[rows] = part[mask]
        self._readable[rows] = True
        self._embeddings.append(np.asarray(embeddings, np.float32)[mask & self._draw[indices]])

    def outputs(self, source):
        rows = np.flatnonzero(self._readable)
        if not len(rows):
            raise UserError(NONE_READABLE.format(self._size, source.name(0)))
        kept = self._arrays if len(rows) == self._size else [array[rows] for array in self._arrays]
        embedded = np.flatnonzero(self._draw[rows])
        return Outputs(
            kept[0],
            np.asarray(source.labels, np.int64)[rows],
            rows,
            *kept[1:],
            np.concatenate(self._embeddings),
            embedded,
        )
