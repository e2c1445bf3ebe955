"""Which images of a finished run are remembered when a training goes on from it."""

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from vision import parallel
from vision.data.augment import normalize
from vision.data.decode import UnreadableImage
from vision.data.inputs import require_images_alone
from vision.data.labeled import count_labeled, draw_labeled
from vision.data.loading.dataset import Dataset
from vision.data.loading.sampler import Sampler
from vision.data.pipeline import resize_of
from vision.data.sources import Source
from vision.errors import UserError, check_choice
from vision.models import fields_of
from vision.run.weights import open_run
from vision.training import interruption

SELECTIONS = ("herding", "random")
KEY = "continual.memory"
ALL = "all"
BATCH = 256  # images that are embedded at a time


def chooser(config: ConfigDict) -> Callable[[Source], np.ndarray] | None:
    """Returns what chooses the images to remember; None if `config.continual.memory` is "".

    It takes the source of all images that the previous run has learned from, and returns the
    positions there, int64 (M,), the most important of each class first. It raises `UserError` if
    the source has too few.

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
    return functools.partial(_choose, config)


def _choose(config: ConfigDict, pool: Source) -> np.ndarray:
    c = config.continual
    if c.memory == ALL:
        return np.arange(len(pool))
    if c.selection == "random":
        return draw_labeled(c.memory, pool.labels, pool.classes, c.memory_seed, KEY)
    counts = count_labeled(c.memory, pool.labels, pool.classes, KEY)
    embeddings = _embed(config, pool)
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
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    units = embeddings / np.maximum(lengths, 1e-12)
    chosen: list[int] = []
    total = np.zeros(units.shape[1])
    free = np.ones(len(units), bool)
    for number in range(1, min(count, len(units)) + 1):
        means = (total + units) / number
        distances = np.square(units.mean(0) - means).sum(1)
        best = int(np.where(free, distances, np.inf).argmin())
        chosen.append(best)
        free[best] = False
        total = total + units[best]
    return np.array(chosen, np.int64)


def _embed(config: ConfigDict, pool: Source) -> np.ndarray:
    """Returns the previous model's embeddings, float64 (N, D); NaN for unreadable images."""
    run_config, data, model = open_run(config.continual.previous)
    require_images_alone(fields_of(run_config.model), "continual.selection = 'herding'")
    c = run_config.data
    dataset = Dataset(
        pool,
        data["image_size"],
        data["channels"],
        area=(),
        exact=False,
        sampler=Sampler(0, pool.labels),
        **resize_of(c),
    )
    graph, state = nnx.split(model)

    @jax.jit
    def embed(state: Any, images: jax.Array) -> jax.Array:
        inputs = normalize(images, c.normalize, c.mean, c.std, jax.numpy.float32)
        merged: Any = nnx.merge(graph, state, copy=True)
        return merged.embed(inputs)

    rows = []
    for start in range(0, len(pool), BATCH):
        interruption.raise_if_agreed()
        images = np.zeros((BATCH, *[data["image_size"]] * 2, data["channels"]), np.uint8)
        readable = np.zeros(BATCH, bool)
        for place, index in enumerate(range(start, min(start + BATCH, len(pool)))):
            try:
                images[place] = dataset.image(index)
                readable[place] = True
            except UnreadableImage:
                continue
        vectors = np.asarray(embed(state, images), np.float64)
        rows.append(np.where(readable[:, None], vectors, np.nan))
    return np.concatenate(rows)[: len(pool)]
