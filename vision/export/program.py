"""The function that every format is exported from: from uint8 pixels to probabilities."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vision import models
from vision.data.augment import normalize
from vision.data.decode import prepare
from vision.data.inputs import IMAGE, unpack
from vision.export.heat import check_linear, class_activation
from vision.inference import Classifier
from vision.models.layers.streams import Streams


@dataclasses.dataclass(frozen=True)
class Program:
    """What a classifier computes when it is served.

    Attributes:
        function: a pure function of uint8 images (B, image_size, image_size, channels), and of an
            array for each of `fields`, that returns (probabilities (B, C), embeddings (B, D)),
            float32. Normalization, temperature and softmax are part of it, the weights its
            constants.
        reference: (function, weights): the same as `function(weights, *arrays)` by the model's own
            operations, which are faster in JAX; exports are compared with it. The weights are
            arguments there: XLA's CPU backend (jax 0.10.2, AVX-512) returns infinite maxima for
            products with a constant matrix whose numbers are all equal, as those of a new head are.
        classes: names, in the order of the probabilities.
        image_size, channels: size and channels of the images.
        resize: {"crop_fraction", "interpolation"}, as `vision.data.decode.resize_crop` takes them.
        explained: as `function`, but also returns heat maps, float32 (B, h, w) in [0, 1]; None
            if none are wanted.
        modules: names of the Python modules that define the model's layers.
        fields: {name: (dtype, shape without B)} of what the model takes beside the images.
    """

    function: Callable
    reference: tuple[Callable, Any]
    classes: tuple[str, ...]
    image_size: int
    channels: int
    resize: dict[str, Any]
    explained: Callable | None = None
    modules: tuple[str, ...] = ()
    fields: Mapping[str, tuple[str, tuple[int, ...]]] = dataclasses.field(default_factory=dict)

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (probabilities (B, C), embeddings (B, D)), float32, computed by JAX.

        Args:
            images: uint8 (B, image_size, image_size, channels), or with `fields` a batch of
                `vision.data.inputs`.
        """
        return jax.device_get(self._jitted(self.reference[1], *self._arrays(images)))

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Returns an image as the program takes it: uint8 (image_size, image_size, channels).

        Args:
            image: uint8 (H, W, 1 or 3), of any size.
        """
        return prepare(image, self.image_size, self.channels, self.resize)

    def _arrays(self, batch: np.ndarray) -> list[np.ndarray]:
        """Returns the arguments of `function` for a batch."""
        arrays = unpack(np.asarray(batch))
        return [arrays[name] for name in (IMAGE, *self.fields)] if self.fields else [arrays]

    def heat_maps(self, images: np.ndarray) -> np.ndarray:
        """Returns heat maps, float32 (B, h, w), computed by JAX; only if there is `explained`.

        Args:
            images: uint8 (B, image_size, image_size, channels).
        """
        run = jax.jit(functools.partial(self.reference[0], heatmap=True))
        return jax.device_get(run(self.reference[1], np.asarray(images)))[2]

    @functools.cached_property
    def _jitted(self):
        return jax.jit(self.reference[0])

    def shape(self, batch: Any) -> jax.ShapeDtypeStruct:
        """Returns the shape of `batch` images, a number or a symbolic dimension."""
        return jax.ShapeDtypeStruct(
            (batch, self.image_size, self.image_size, self.channels), jnp.uint8
        )

    def shapes(self, batch: Any) -> list[jax.ShapeDtypeStruct]:
        """Returns the shapes of the arguments of `function`, as `shape` does."""
        more = self.fields.values()
        return [self.shape(batch), *(jax.ShapeDtypeStruct((batch, *s), t) for t, s in more)]


def served(classifier: Classifier, heatmap: bool = False) -> Program:
    """Returns the `Program` of a classifier, in float32 whatever the run computed in.

    Args:
        classifier: the classifier to serve.
        heatmap: whether it has `explained`.

    Raises:
        UserError: heat maps are wanted of a model that `vision.export.heat` does not support.
    """
    d = classifier.config.data
    model = _in_float32(classifier)
    if heatmap:
        check_linear(model, classifier.image_size, classifier.channels)
    names = classifier.fields
    reference = _function(model, d, classifier.temperature, names)
    _simplify(model)
    run, weights = _function(model, d, classifier.temperature, names)
    return Program(
        function=functools.partial(run, weights),
        reference=reference,
        classes=tuple(classifier.classes),
        image_size=classifier.image_size,
        channels=classifier.channels,
        resize=classifier.resize,
        explained=functools.partial(run, weights, heatmap=True) if heatmap else None,
        modules=_defining_modules(model),
        fields=classifier.encoder.signature if classifier.encoder else {},
    )


def _function(model, d, temperature, names):
    """Returns (function of weights, images and the named fields; the weights)."""
    graph, state = nnx.split(model)
    state = jax.tree.map(jnp.asarray, nnx.to_pure_dict(state))

    def function(state, images, *fields, heatmap=False):
        model = nnx.merge(graph, state)
        inputs = normalize(images, d.normalize, d.mean, d.std)
        if names:
            inputs = {IMAGE: inputs} | dict(zip(names, fields, strict=True))
        last = list(model.features(inputs).values())[-1] if heatmap else None
        embedding = model.pool(last) if heatmap else model.embed(inputs)
        logits = model.head(embedding)
        probabilities = jax.nn.softmax(logits if temperature == 1 else logits / temperature)
        if heatmap:
            return probabilities, embedding, class_activation(model, last, probabilities)
        return probabilities, embedding

    return function, state


def _in_float32(classifier):
    """Returns a copy of the model, in evaluation mode, that computes in float32."""
    c = classifier.config.model
    model = nnx.clone(classifier.model)
    if c.dtype != "float32":
        c = c.copy_and_resolve_references()
        c.dtype = "float32"
        size = classifier.image_size
        channels = classifier.channels
        float32_model = nnx.eval_shape(
            lambda: models.build(c, len(classifier.classes), size, channels, Streams(0))
        )
        nnx.update(float32_model, nnx.state(model))
        model = float32_model
    model.eval()
    return model


def _simplify(model):
    """Limits a model to operations of other runtimes: attention by plain matrix products."""
    for _, module in nnx.iter_modules(model):
        if hasattr(module, "implementation"):
            module.implementation = "plain"


def _defining_modules(model):
    """Returns the names of the Python modules with the classes of a model's layers, sorted."""
    classes = {cls for _, module in nnx.iter_modules(model) for cls in type(module).__mro__}
    return tuple(sorted({cls.__module__ for cls in classes}))
