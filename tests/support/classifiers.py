"""The smallest classifier of every architecture, with random weights."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vision import inference
from vision.config import default
from vision.models.layers.streams import Streams
from vision.support.modules import find, names

SPECIAL = {  # variant, side of the images, and options of `build`
    "alexnet": ("mu", 64, {}),
    "inception": ("mu", 80, {}),
    "mlp": ("mu", 32, {"image_size": 32, "channels": 3}),
    "swin": ("mu", 24, {"window": 2, "image_size": 24}),  # pads and shifts its windows
    "vit": ("mu/4", 16, {"image_size": 16}),
}
# of images alone; the other one: tests/slow/test_fusion.py
ARCHITECTURES = tuple(name for name in names("vision.models") if name != "fusion")


def classifier(name, temperature=0.7, dtype="float32", classes=5, **keys):
    """Returns a `vision.inference.Classifier` of an architecture, for RGB images.

    Its probabilities are not extreme.
    """
    variant, size, options = SPECIAL.get(name, ("mu", 32, {}))
    module = find("model", name, "vision.models")
    options = options | keys
    model = nnx.eval_shape(
        lambda: module.build(variant, classes, rngs=Streams(0), dtype=jnp.dtype(dtype), **options)
    )
    random = np.random.default_rng(0)
    for i, (path, variable) in enumerate(nnx.to_flat_state(nnx.state(model))):
        if isinstance(variable, nnx.RngState):
            key = isinstance(variable, nnx.RngKey)
            variable.set_value(
                jax.random.key(i) if key else np.zeros(variable.shape, variable.dtype)
            )
            continue
        fan = np.prod(variable.shape[:-1]) if len(variable.shape) > 1 else 25
        value = random.normal(0, (2 / fan) ** 0.5, variable.shape) + (path[-1] in ("scale", "var"))
        variable.set_value(
            jnp.asarray(np.abs(value) if path[-1] == "var" else value, variable.dtype)
        )
    model.eval()
    c = default()
    c.model.name = name
    c.model.variant = variant
    c.model.dtype = dtype
    c.model.options.update({k: v for k, v in options.items() if k == "window"})
    return inference.Classifier(
        c, model, [f"class {i}" for i in range(classes)], size, 3, temperature
    )


def images(model, count):
    """Returns uint8 images (count, size, size, 3) of a classifier's size.

    They are noise, each darker than the one before.
    """
    noise = np.random.default_rng(1).uniform(0, 256, (count, model.image_size, model.image_size, 3))
    return (noise * np.linspace(1, 0.2, count)[:, None, None, None]).astype(np.uint8)
