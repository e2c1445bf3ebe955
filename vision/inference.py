"""A trained model as those use it who do not train: from pixels to probabilities and embeddings."""

import functools
import json
import pathlib

import jax
import numpy as np
from flax import nnx

from vision import models
from vision.bundle.directory import open_bundle
from vision.config.ranges import validate
from vision.data.augment import normalize
from vision.data.decode import resize_crop, to_channels
from vision.data.pipeline import interpolation_of
from vision.errors import UserError
from vision.models.layers.streams import Streams
from vision.models.weights import pretrained
from vision.models.weights.published import imagenet_classes
from vision.run.resolve import resolve_config
from vision.run.weights import open_run, ready

CALIBRATION = "calibration.json"
# of a run's directory: what python -m vision.evaluation writes of its test split
EVALUATION = "evaluation"


class Classifier:
    """A model with its weights, its classes and the way its images are prepared.

    Args:
        config: the run's config, with what its weights ask for
            (`vision.run.resolve.resolve_config`).
        model: an `nnx.Module` in evaluation mode.
        classes: names, in the logits' order.
        image_size, channels: of the images that it takes.
        temperature: what the logits are divided by to give probabilities
            (`vision.evaluation.measures.calibration`).
        step: of the run's checkpoint that the weights are from; None where they are from no run.
    """

    def __init__(self, config, model, classes, image_size, channels, temperature=1.0, step=None):
        self.temperature = temperature
        self.step = step
        self.config = config
        self.classes = tuple(classes)
        self.image_size = image_size
        self.channels = channels
        self.model = model
        self._graph, self._state = nnx.split(model)

    def prepare(self, image):
        """Returns an image, uint8 (H, W, 1 or 3) of any size, as the model takes it: uint8 (size,
        size, channels)."""
        c = self.config.data
        image = to_channels(image, self.channels)
        return resize_crop(
            image, self.image_size, c.crop_fraction or 1.0, interpolation=interpolation_of(c)
        )

    def __call__(self, images):
        """Returns (logits (B, C), embeddings (B, D)), float32 arrays of NumPy, of uint8 images (B,
        H, W, channels)."""
        return jax.device_get(self._run(self._state, images))

    def probabilities_and_embeddings(self, images):
        """Returns (probabilities (B, C), float64, embeddings (B, D), float32) of uint8 images (B,
        H, W, channels)."""
        logits, embeddings = self(images)
        return softmax(logits / self.temperature), embeddings

    @functools.cached_property
    def _run(self):
        d = self.config.data
        dtype = jax.numpy.promote_types(self.config.model.dtype, "float32")

        @jax.jit
        def run(state, images):
            model = nnx.merge(self._graph, state)
            embeddings = model.embed(normalize(images, d.normalize, d.mean, d.std, dtype))
            return model.head(embeddings), embeddings

        return run


def from_flags(config, workdir, bundle=None):
    """Returns the model that a command's flags name: a `Classifier`, or a
    `vision.bundle.directory.Bundle`.

    Args:
        config: of its --config; None where that is not given.
        workdir: its --workdir, "" where that is not given.
        bundle: its --bundle, "" where that is not given; None = the command has no such flag.

    Raises:
        UserError: not exactly one of them is given, or it holds no model.
    """
    if (config is not None) + bool(workdir) + bool(bundle) != 1:
        flags = "--workdir RUN" if bundle is None else "--workdir RUN, --bundle DIR"
        raise UserError(f"which model? Give {flags}, or --config FILE with pretrained weights")
    if bundle:
        return open_bundle(bundle)
    if config is not None:
        validate(config)
    return from_run(workdir) if workdir else from_config(config)


def from_run(workdir):
    """Returns the `Classifier` of a run's best checkpoint; raises `UserError` where there is
    none."""
    config, data, model = open_run(workdir)
    step = data["step"]
    temperature = _temperature(
        pathlib.Path(workdir, EVALUATION, CALIBRATION), step, config.data.source
    )
    return Classifier(
        config, model, data["classes"], data["image_size"], data["channels"], temperature, step
    )


def _temperature(file, step, source):
    """Returns the temperature that an evaluation has fitted to a run's checkpoint; 1 where it has
    fitted none."""
    if not file.is_file():
        return 1.0
    try:
        found = json.loads(file.read_text())
        # A run that was trained further has another best checkpoint; and other data tell nothing of
        # the run's own.
        return (
            float(found["temperature"])
            if (found["step"], found["source"]) == (step, source)
            else 1.0
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is damaged: remove it, or run python -m vision.evaluation again"
        ) from error


def from_config(config):
    """Returns the `Classifier` of a config's pretrained weights, which needs no training.

    Raises:
        UserError: the config names no weights; they cannot be read, or hold no classifier.
    """
    c = config.model
    if not c.pretrained:
        raise UserError("this config has no model.pretrained: train it, then give --workdir RUN")
    config = resolve_config(config)
    if pretrained.is_run(c.pretrained):
        run = from_run(c.pretrained)
        return Classifier(
            config, run.model, run.classes, run.image_size, run.channels, run.temperature
        )
    c = config.model
    d = config.data
    known = pretrained.describe(c.pretrained, pretrained.architecture(c))
    count = known.classes if known else len(imagenet_classes())
    if not d.image_size:
        raise UserError(
            f"nothing is known of how images were prepared for {c.pretrained}: set data.image_size and more"
        )
    channels = d.channels or 3
    arrays = pretrained.load(c, count, d.image_size, channels)
    model = nnx.eval_shape(lambda: models.build(c, count, d.image_size, channels, Streams(0)))
    missing = [name for name in pretrained.shapes(model) if name not in arrays]
    if missing:
        raise UserError(
            f"{c.pretrained} holds no classifier for {count} classes: train one on your images"
        )
    names = [name for _, name in imagenet_classes()] if count == 1000 else map(str, range(count))
    names = (known and known.class_names) or names
    return Classifier(config, ready(model, arrays), names, d.image_size, channels)


def softmax(logits):
    """Returns probabilities, float64 (B, C), of logits (B, C)."""
    shifted = np.exp(np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)
