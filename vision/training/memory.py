"""Which images of a finished run are remembered when a training goes on from it."""

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vision import parallel
from vision.data.augment import normalize
from vision.data.inputs import require_images_alone
from vision.data.labeled import count_labeled, draw_labeled
from vision.data.loading.dataset import Dataset, Unreadable
from vision.data.loading.sampler import Sampler
from vision.data.loading.worker_loader import WorkerLoader
from vision.data.pipeline import resize_of
from vision.data.sources import Source
from vision.errors import UserError, check_choice
from vision.models import fields_of
from vision.run.weights import open_run
from vision.support.progress import Progress
from vision.training import interruption

SELECTIONS = ("herding", "random")
KEY = "continual.memory"
ALL = "all"
BATCH = 256  # images that are embedded at a time


def chooser(config: ConfigDict, mesh: Mesh) -> Callable[[Source], np.ndarray] | None:
    """Returns what chooses the images to remember; None if `config.continual.memory` is "".

    It takes the source of all images that the previous run has learned from, and returns the
    positions there, int64 (M,), the most important of each class first. It raises `UserError` if
    the source has too few.

    Args:
        config: the run's config.
        mesh: from `vision.parallel.make_mesh`.

    Raises:
        UserError: the selection is unknown, or old images are to be remembered that are not there.
    """
    c = config.continual
    check_choice("continual.selection", c.selection, SELECTIONS)
    if not c.memory:
        return None
    if not c.previous:
        raise UserError(f"{KEY} = '{c.memory}' needs continual.previous, the run to go on from")
    if not c.old_data:
        raise UserError(
            f"{KEY} = '{c.memory}' needs the images of the previous run: leave "
            'continual.old_data=True, or set continual.memory=""'
        )
    return functools.partial(_choose, config, mesh)


def _choose(config: ConfigDict, mesh: Mesh, pool: Source) -> np.ndarray:
    c = config.continual
    if c.memory == ALL:
        return np.arange(len(pool))
    if c.selection == "random":
        return draw_labeled(c.memory, pool.labels, pool.classes, c.memory_seed, KEY)
    counts = count_labeled(c.memory, pool.labels, pool.classes, KEY)
    embeddings = _embed(config, mesh, pool)
    ranked = []
    for label, count in enumerate(counts):
        places = np.flatnonzero((pool.labels == label) & np.isfinite(embeddings[:, 0]))
        ranked += list(enumerate(places[herd(embeddings[places], count)]))
    ranked.sort(key=lambda pair: pair[0])  # stable: the classes stay in their order
    chosen = [int(place) for _, place in ranked]
    # Two machines may round embeddings differently.
    return np.array(json.loads(parallel.from_main_process(json.dumps(chosen))), np.int64)


def herd(embeddings: np.ndarray, count: int) -> np.ndarray:
    """Chooses vectors one by one so that their mean stays as near as possible to that of all.

    Rebuffi et al. 2016 (arXiv:1611.07725), algorithm 4, on embeddings of length 1.

    Args:
        embeddings: float (N, D), of one class.
        count: how many to choose; all, if there are fewer.

    Returns:
        int64 (M,), positions, the best first.
    """
    vectors = np.asarray(embeddings, np.float64)
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    mean = units.sum(0) / max(len(units), 1)
    # |mean - (total + u) / k|^2 is least where u . (k mean - total) - |u|^2 / 2 is largest; a
    # vector of zeros stays one, so that not all lengths are 1.
    halves = np.square(units).sum(1) / 2
    chosen: list[int] = []
    total = np.zeros(units.shape[1])
    for number in range(1, min(count, len(units)) + 1):
        # Unlike BLAS, einsum gives equal vectors equal products: the first of them is chosen.
        gains = np.einsum("nd,d->n", units, number * mean - total) - halves
        gains[chosen] = -np.inf
        best = int(gains.argmax())
        chosen.append(best)
        total += units[best]
    return np.array(chosen, np.int64)


def _embed(config: ConfigDict, mesh: Mesh, pool: Source) -> np.ndarray:
    """Returns the previous model's embeddings, float32 (N, D); NaN for unreadable images."""
    run_config, data, model = open_run(config.continual.previous)
    require_images_alone(fields_of(run_config.model), "continual.selection = 'herding'")
    loader = _loader(config, run_config, data, mesh, pool)
    c = run_config.data
    graph, state = nnx.split(model)
    replicated = parallel.replicated(mesh)
    state = jax.device_put(state, replicated)

    @functools.partial(jax.jit, out_shardings=replicated)
    def embed(state: Any, images: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        inputs = normalize(images, c.normalize, c.mean, c.std, jax.numpy.float32)
        merged: Any = nnx.merge(graph, state, copy=True)
        return merged.embed(inputs), mask

    batch_size = -(-BATCH // mesh.size) * mesh.size
    rows = []
    with Progress("embedding the old images", len(pool), "images") as work:
        for batch in work.over(loader.eval_batches(batch_size), batch_size):
            interruption.raise_if_agreed()
            vectors, readable = parallel.fetch(embed(state, batch["image"], batch["mask"]))
            rows.append(np.where(readable[:, None], vectors, np.nan))
    return np.concatenate(rows)[: len(pool)]


def _loader(
    config: ConfigDict,
    run_config: ConfigDict,
    data: Mapping[str, Any],
    mesh: Mesh,
    pool: Source,
) -> WorkerLoader:
    """Returns a loader of images as the previous run saw them in evaluation."""
    side = data["image_size"]
    dataset = Dataset(
        pool,
        side,
        data["channels"],
        area=(),
        exact=False,
        sampler=Sampler(0, pool.labels),
        **resize_of(run_config.data),
    )
    # Starting processes takes seconds, which few images are not worth.
    is_large = len(pool) * side**2 * data["channels"] > config.data.resident_gib * 2**30
    workers = config.data.workers if pool.encoded and is_large else 0
    unreadable = Unreadable(len(pool), 1.0)  # any number of them: they are not chosen
    return WorkerLoader(dataset, unreadable, workers, mesh, config.data.worker_timeout)
