"""Checks of an architecture against the reference that tests/models/make/ stored."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.support.references import FOLDER
from vision.export.safetensors import to_timm
from vision.models import surgery
from vision.models.weights.names import find_scheme, translate


def load_reference(name, create, module):
    """Returns (model, reference): `create()` with the weights of a file, and the file's arrays.

    The model is in evaluation mode. `vision.models.weights.names` reads references/NAME.npz with
    the architecture's own rules.
    """
    with np.load(FOLDER / f"{name}.npz") as file:
        reference = dict(file)
    model = nnx.eval_shape(create)
    state = dict(nnx.to_flat_state(nnx.state(model, nnx.Not(nnx.RngState))))
    named = {".".join(map(str, path)): variable for path, variable in state.items()}
    arrays = {
        k.removeprefix("weights/"): v for k, v in reference.items() if k.startswith("weights/")
    }
    translated = translate(module, {k: v.shape for k, v in named.items()}, arrays)
    for key, variable in named.items():
        variable.set_value(jnp.asarray(translated[key]))
    for i, (_, variable) in enumerate(nnx.to_flat_state(nnx.state(model, nnx.RngState))):
        variable.set_value(jax.random.key(i) if variable.dtype != jnp.uint32 else jnp.uint32(0))
    model.eval()
    return model, reference


def check_reference(name, create, module, tolerance=2e-5):
    """Asserts that a tiny model's features, embedding and logits equal the reference's."""
    model, reference = load_reference(name, create, module)
    check_names(model, reference, module)

    @jax.jit
    def run(images):
        features = model.features(images)
        *_, last = features.values()
        return features | {
            "embedding": model.embed(images),
            "logits": model(images),
            "pooled": model.pool(last),
        }

    ours = run(reference["images"])
    stored = {
        k.removeprefix("outputs/"): v for k, v in reference.items() if k.startswith("outputs/")
    }
    assert stored.keys() <= ours.keys()
    assert {"embedding", "logits"} < stored.keys()
    for key, expected in stored.items():
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(
            ours[key] / scale, expected / scale, rtol=0, atol=tolerance, err_msg=key
        )
    np.testing.assert_allclose(ours["pooled"], ours["embedding"], rtol=1e-4, atol=1e-4)


def check_names(model, reference, module):
    """Asserts that exporting to timm's names restores the reference, if it has those names."""
    theirs = {
        k.removeprefix("weights/"): v for k, v in reference.items() if k.startswith("weights/")
    }
    ours = {name: np.asarray(v.get_value()) for name, v in surgery.variables(model).items()}
    shapes = {name: array.shape for name, array in ours.items()}
    if find_scheme(module, shapes, theirs)[0] != "timm":
        return
    exported = to_timm(module, ours)
    ignored = getattr(module, "IGNORED", "^$")
    assert exported.keys() == {name for name in theirs if not re.search(ignored, name)}
    for name, array in exported.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def filled(create):
    """Returns `create()` with random parameters from NumPy, which saves compiling initializers.

    Scales are near 1.
    """
    model = nnx.eval_shape(create)
    random = np.random.default_rng(0)
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        value = random.normal(0, 0.3, variable.shape) + (path[-1] == "scale")
        variable.set_value(jnp.asarray(value, variable.dtype))
    return model
