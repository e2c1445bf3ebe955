"""The generator of a run, and the images that it draws."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from vision import cpu, models, objectives
from vision.errors import UserError
from vision.models.layers.streams import Streams
from vision.objectives.gan import GAN
from vision.run.weights import ready, run_weights
from vision.training.setup import image_form

ATTRIBUTE = "average"  # of the objective: the generator whose images are the best
BATCH = 64


class Drawer:
    """Draws images of a class with the generator of a run.

    Args:
        workdir: the run.

    Attributes:
        config: the run's config.
        data: its data.json, and "step", the checkpoint's step.

    Raises:
        UserError: there is no run, it has another objective, or no intact checkpoint.
    """

    def __init__(self, workdir: pathlib.Path):
        self.config, self.data, arrays = run_weights(workdir, ATTRIBUTE)
        cpu.choose(self.config.parallel.onednn)
        objective = nnx.eval_shape(lambda: _objective(self.config, self.data))
        self._latent = objective.generator.latent
        generator = ready(objective.average, arrays)
        self._graph, self._state = nnx.split(generator)
        self._draw = jax.jit(self._drawn)

    def images(
        self, label: int, count: int, truncation: float | None, seed: int
    ) -> Iterator[np.ndarray]:
        """Yields images, uint8 (H, W, C), each a function of the seed, the label and its place.

        Args:
            label: the class.
            count: number of images.
            truncation: noise beyond this many standard deviations is drawn again: Brock et al. 2018
                (arXiv:1809.11096), section 3.1; None = none is.
            seed: seed of the noise.
        """
        labels = np.zeros((BATCH, len(self.data["classes"])), np.float32)
        labels[:, label] = 1
        key = jax.random.fold_in(jax.random.key(seed), label)
        for start in range(0, count, BATCH):
            shape = (BATCH, self._latent)
            batch_key = jax.random.fold_in(key, start // BATCH)
            if truncation is None:
                noise = jax.random.normal(batch_key, shape)
            else:
                noise = jax.random.truncated_normal(batch_key, -truncation, truncation, shape)
            yield from np.asarray(self._draw(self._state, noise, labels))[: count - start]

    def _drawn(self, state: Any, noise: jax.Array, labels: jax.Array) -> jax.Array:
        images = nnx.merge(self._graph, state)(noise, labels)
        return jnp.round((images + 1) * 127.5).astype(jnp.uint8)


def check_run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Raises `UserError` unless a run is one of the objective `gan`."""
    if config.objective.name != "gan":
        raise UserError(
            f"--workdir {workdir} is a run of the objective '{config.objective.name}', which draws "
            "no images: train one with configs/gan_folder.py:PATH, and give that"
        )


def _objective(config: ConfigDict, data: Mapping[str, Any]) -> GAN:
    rngs = Streams(0)
    shape = (data["image_size"], data["channels"])
    classes = data["classes"]
    model = models.build(config.model, len(classes), *shape, rngs)
    counts = np.ones(len(classes), np.int64)
    images = image_form(config, *shape)
    objective = objectives.build(
        config.objective, model, class_counts=counts, rngs=rngs, images=images
    )
    assert isinstance(objective, GAN)  # see check_run
    return objective
