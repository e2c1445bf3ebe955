"""The function that every format is written from: uint8 pixels in, probabilities and embedding
out."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vision import models
from vision.data.augment import normalize
from vision.data.pipeline import interpolation_of
from vision.export.heat import check_linear, class_activation
from vision.models.layers.streams import Streams


@dataclasses.dataclass(frozen=True)
class Program:
    """What a classifier does when it is served.

    Attributes:
        function: pure, of uint8 images (B, image_size, image_size, channels): returns
            (probabilities (B, C), embedding (B, D)), float32. Normalization, temperature and
            softmax are part of it, the weights its constants.
        reference: (function, weights): the same as `function(weights, images)` by the model's own
            operations, which are faster in JAX and are what exports are compared to. The weights
            are arguments there: XLA's CPU backend (jax 0.10.2, AVX-512) returns infinite maxima of
                products with a constant matrix whose numbers are all
            equal, as those of a new head are.
        classes: names, in the order of the probabilities.
        image_size, channels: of the images.
        resize: {"crop_fraction", "interpolation"}, as `vision.data.decode.resize_crop` takes them.
        explained: as `function`, which also returns heat maps, float32 (B, h, w) in [0, 1]; None
            where none are wanted.
    """

    function: Callable
    reference: tuple
    classes: tuple
    image_size: int
    channels: int
    resize: dict
    explained: Callable | None = None

    def __call__(self, images):
        """Returns (probabilities (B, C), embedding (B, D)), float32 arrays of NumPy, of uint8
        images: JAX's own."""
        return jax.device_get(self._jitted(self.reference[1], np.asarray(images)))

    def heat_maps(self, images):
        """Returns heat maps, float32 (B, h, w), of uint8 images: JAX's own; where there is
        `explained`."""
        run = jax.jit(functools.partial(self.reference[0], heatmap=True))
        return jax.device_get(run(self.reference[1], np.asarray(images)))[2]

    @functools.cached_property
    def _jitted(self):
        return jax.jit(self.reference[0])

    def shape(self, batch):
        """Returns the `jax.ShapeDtypeStruct` of so many images; `batch` may be a symbolic
        dimension."""
        return jax.ShapeDtypeStruct(
            (batch, self.image_size, self.image_size, self.channels), jnp.uint8
        )


def served(classifier, heatmap=False):
    """Returns the `Program` of a `vision.inference.Classifier`, in float32 whatever the run
    computed in.

    With `heatmap` it has `explained`; raises `UserError` where the model is none that
    `vision.export.heat` is for.
    """
    d = classifier.config.data
    model = _in_float32(classifier)
    if heatmap:
        check_linear(model, classifier.image_size, classifier.channels)
    resize = {"crop_fraction": d.crop_fraction or 1.0, "interpolation": interpolation_of(d)}
    reference = _function(model, d, classifier.temperature)
    _simplify(model)
    run, weights = _function(model, d, classifier.temperature)
    function = functools.partial(run, weights)
    explained = functools.partial(run, weights, heatmap=True) if heatmap else None
    classes = tuple(classifier.classes)
    size = classifier.image_size
    return Program(function, reference, classes, size, classifier.channels, resize, explained)


def _function(model, d, temperature):
    """Returns (function of weights and images, the weights)."""
    graph, state = nnx.split(model)
    state = jax.tree.map(jnp.asarray, nnx.to_pure_dict(state))

    def function(state, images, heatmap=False):
        model = nnx.merge(graph, state)
        images = normalize(images, d.normalize, d.mean, d.std)
        last = list(model.features(images).values())[-1] if heatmap else None
        embedding = model.pool(last) if heatmap else model.embed(images)
        logits = model.head(embedding)
        probabilities = jax.nn.softmax(logits if temperature == 1 else logits / temperature)
        if heatmap:
            return probabilities, embedding, class_activation(model, last, probabilities)
        return probabilities, embedding

    return function, state


def _in_float32(classifier):
    """Returns a copy of the model, in evaluation mode, which computes in float32."""
    c = classifier.config.model
    model = nnx.clone(classifier.model)
    if c.dtype != "float32":
        c = c.copy_and_resolve_references()
        c.dtype = "float32"
        size = classifier.image_size
        channels = classifier.channels
        wide = nnx.eval_shape(
            lambda: models.build(c, len(classifier.classes), size, channels, Streams(0))
        )
        nnx.update(wide, nnx.state(model))
        model = wide
    model.eval()
    return model


def _simplify(model):
    """Leaves a model only what other runtimes have: lax's own convolutions, attention by plain
    matrix products."""
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.Conv):
            module.conv_general_dilated = jax.lax.conv_general_dilated
        if hasattr(module, "implementation"):
            module.implementation = "plain"
