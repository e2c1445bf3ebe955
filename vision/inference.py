"""A trained model as its users see it: from pixels to probabilities and embeddings."""

import functools
import pathlib
from collections.abc import Iterable
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from vision import cpu, models
from vision.bundle.directory import open_bundle
from vision.config.validate import validate
from vision.data.augment import normalize
from vision.data.decode import prepare
from vision.data.fields import FieldEncoder
from vision.data.inputs import check, unpack, with_image
from vision.data.pipeline import resize_of
from vision.data.recall import Past
from vision.errors import UserError
from vision.models.layers.streams import Streams
from vision.models.weights import pretrained
from vision.reference.unsure import Evidence
from vision.run.calibration import run_temperature
from vision.run.resolve import published_classes, resolve_config
from vision.run.splits import past_of
from vision.run.unsure import run_evidence, stored_evidence
from vision.run.vocabulary import run_encoder
from vision.run.weights import open_run, ready


class Predictor(Protocol):
    """A model that classifies images, whatever runs it.

    `Classifier` computes with JAX, `vision.bundle.directory.Bundle` with the runtime of its file.

    Attributes:
        classes: class names, in the order of the logits.
        image_size: side of the images, pixels.
        channels: 1 or 3.
        resize: {"crop_fraction", "interpolation"}, how `prepare` resizes images.
        config: config of the training; a bundle that does not know its own has the defaults,
            without a data.source.
        temperature: divides the logits before the softmax; 1 for a bundle, whose probabilities are
            calibrated already.
        model: the module with its parameters; None for a bundle.
        past: the division of its run's data into splits; None if that is unknown.
        fields: what its batches have beside the image (`vision.data.inputs`); () for images alone.
        encoder: makes the fields from texts and columns; None without fields.
        evidence: what validation images say about unsure answers; None if nothing was measured.
    """

    @property
    def evidence(self) -> Evidence | None: ...

    @property
    def fields(self) -> tuple[str, ...]: ...

    @property
    def encoder(self) -> FieldEncoder | None: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def image_size(self) -> int: ...

    @property
    def channels(self) -> int: ...

    @property
    def resize(self) -> dict[str, Any]: ...

    @property
    def config(self) -> ConfigDict: ...

    @property
    def temperature(self) -> float: ...

    @property
    def model(self) -> nnx.Module | None: ...

    @property
    def past(self) -> Past | None: ...

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Returns an image, uint8 (H, W, 1 or 3), resized to (image_size, image_size, channels)."""

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (logits (B, C), embeddings (B, D)), float32, of prepared images."""

    def probabilities_and_embeddings(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (probabilities (B, C), embeddings (B, D)) of prepared images."""


class Classifier:
    """A model with its weights, its classes and the preparation of its images.

    Args:
        config: the run's config, completed from its weights
            (`vision.run.resolve.resolve_config`).
        model: an `nnx.Module` in evaluation mode.
        classes: class names, in the order of the logits.
        image_size: side of the images, pixels.
        channels: 1 or 3.
        temperature: divides the logits before the softmax
            (`vision.evaluation.measures.calibration`).
        step: step of the run's checkpoint that the weights come from; None if they come from no
            run.
        past: the division of that run's data into splits; None if that is unknown.
        encoder: of texts and columns, if the model takes them.
        evidence: what validation images say about unsure answers; None if nothing was measured.
        outdated: what they said about another checkpoint of the run, or with another temperature or
            other data, in place of `evidence`; None if there is no such thing.
    """

    def __init__(
        self,
        config: ConfigDict,
        model: nnx.Module,
        classes: Iterable[str],
        image_size: int,
        channels: int,
        temperature: float = 1.0,
        step: int | None = None,
        past: Past | None = None,
        *,
        encoder: FieldEncoder | None = None,
        evidence: Evidence | None = None,
        outdated: Evidence | None = None,
    ):
        self.evidence = evidence
        self.outdated = outdated
        self.fields = models.fields_of(config.model)
        self.encoder = encoder if self.fields else None
        cpu.choose(config.parallel.onednn)
        self.past = past
        self.temperature = temperature
        self.step = step
        self.config = config
        self.classes = tuple(classes)
        self.image_size = image_size
        self.channels = channels
        self.model = model
        self._graph, self._state = nnx.split(model)

    @property
    def resize(self) -> dict[str, Any]:
        """{"crop_fraction", "interpolation"}, how `prepare` resizes images."""
        return resize_of(self.config.data)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Returns an image as the model takes it.

        Args:
            image: uint8 (H, W, 1 or 3), of any size.

        Returns:
            uint8 (image_size, image_size, channels).
        """
        return prepare(image, self.image_size, self.channels, self.resize)

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (logits (B, C), embeddings (B, D)), float32 NumPy arrays.

        Args:
            images: uint8 (B, H, W, channels), or with `fields` a batch of `vision.data.inputs`.

        Raises:
            UserError: the model takes more than images, and is given images alone.
        """
        check(images, self.fields)
        return jax.device_get(self._run(self._state, unpack(images)))

    def probabilities_and_embeddings(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (probabilities (B, C), float64, embeddings (B, D), float32).

        Args:
            images: uint8 (B, H, W, channels).
        """
        logits, embeddings = self(images)
        return softmax(logits / self.temperature), embeddings

    @functools.cached_property
    def _run(self):
        d = self.config.data
        dtype = jax.numpy.promote_types(self.config.model.dtype, "float32")

        @jax.jit
        @cpu.fused
        def run(state, inputs):
            model = nnx.merge(self._graph, state)
            normalized = with_image(
                inputs, lambda images: normalize(images, d.normalize, d.mean, d.std, dtype)
            )
            embeddings = model.embed(normalized)
            return model.head(embeddings), embeddings

        return run


def from_flags(config: ConfigDict | None, workdir: str, bundle: str | None = None) -> Predictor:
    """Returns the model that a command's flags name.

    Args:
        config: the config of --config; None if the flag is not given.
        workdir: the value of --workdir; "" if it is not given.
        bundle: the value of --bundle; "" if it is not given, None if the command has no such flag.

    Raises:
        UserError: if not exactly one of them is given, or it holds no model.
    """
    if (config is not None) + bool(workdir) + bool(bundle) != 1:
        flags = "--workdir RUN" if bundle is None else "--workdir RUN, --bundle DIR"
        raise UserError(f"which model? Give {flags}, or --config FILE with pretrained weights")
    if bundle:
        return open_bundle(bundle)
    if config is not None:
        validate(config)
        return from_config(config)
    return from_run(workdir)


def from_run(workdir: pathlib.Path | str) -> Classifier:
    """Returns the `Classifier` of a run's best checkpoint; raises `UserError` if there is none."""
    config, data, model = open_run(workdir)
    step = data["step"]
    temperature = run_temperature(workdir, step, config.data.source)
    past = past_of(workdir, config.data.source)
    shape = (data["image_size"], data["channels"])
    encoder = None
    if models.fields_of(config.model):
        encoder = run_encoder(workdir, config)
    evidence = run_evidence(workdir, step, config.data.source, temperature)
    return Classifier(
        config,
        model,
        data["classes"],
        *shape,
        temperature,
        step,
        past,
        encoder=encoder,
        evidence=evidence,
        outdated=stored_evidence(workdir) if evidence is None else None,
    )


def from_config(config: ConfigDict) -> Classifier:
    """Returns the `Classifier` of a config's pretrained weights, which needs no training.

    Raises:
        UserError: if the config names no weights, or they cannot be read or hold no classifier.
    """
    if not config.model.pretrained:
        raise UserError("this config has no model.pretrained: train it, then give --workdir RUN")
    config = resolve_config(config)
    c = config.model
    if pretrained.is_run(c.pretrained):
        run = from_run(c.pretrained)
        return Classifier(
            config,
            run.model,
            run.classes,
            run.image_size,
            run.channels,
            run.temperature,
            past=past_of(c.pretrained, config.data.source),
            encoder=run.encoder,
        )
    count, classes = published_classes(c)
    image_size = config.data.image_size
    channels = config.data.channels or 3
    if not image_size:
        raise UserError(
            f"how images were prepared for {c.pretrained} is unknown: set data.image_size, "
            "data.normalize and so on"
        )
    arrays = pretrained.load(c, count, image_size, channels)
    model = nnx.eval_shape(lambda: models.build(c, count, image_size, channels, Streams(0)))
    if any(name not in arrays for name in pretrained.shapes(model)):
        raise UserError(
            f"{c.pretrained} holds no classifier for {count} classes: train one on your images"
        )
    return Classifier(config, ready(model, arrays), classes, image_size, channels)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities, float64 (B, C), of logits (B, C)."""
    shifted = np.exp(np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)
