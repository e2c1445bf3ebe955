"""StableHLO, JAX's own: a serialized `jax.export.Exported`, which runs in JAX on CPU, GPU and TPU,
without this code.

    run = jax.export.deserialize(open("model.stablehlo", "rb").read()).call
    probabilities, embedding = run(images)      # uint8 (B, H, W, C)

JAX reads it for six months at least. What runs StableHLO elsewhere takes `.mlir_module_serialized`
of it.
"""

import contextlib
import pathlib

import jax
import numpy as np
from jax import export as jax_export

from vision.bundle.runtimes import batched
from vision.errors import UserError
from vision.support.files import replacing

NAME = "model.stablehlo"
TOLERANCE = {"float32": 1e-4}
PLATFORMS = ("cpu", "cuda", "tpu")


def write(program, path, batch=0):
    """Writes a `vision.export.program.Program`, in float32.

    Args:
        program: what to write.
        path: of the file.
        batch: images at a time; 0 = any number.

    Raises:
        UserError: the model computes with the number of images in a way that needs to know it.
        OSError: the file cannot be written.
    """
    size = batch or jax_export.symbolic_shape("batch")[0]
    with any_number(batch):
        exported = jax_export.export(jax.jit(program.function), platforms=PLATFORMS)(
            program.shape(size)
        )
    with replacing(path, binary=True) as file:
        file.write(exported.serialize())


def load(path):
    """Returns `run(images) -> (probabilities, embedding)`: NumPy, float32, of any number of images;
    by JAX.

    Raises:
        UserError: the file holds no such program.
    """
    try:
        exported = jax_export.deserialize(bytearray(pathlib.Path(path).read_bytes()))
    except Exception as error:  # what a damaged buffer raises has no common type
        raise UserError(f"{path} cannot be loaded: export it again") from error
    size = exported.in_avals[0].shape[0]
    call = jax.jit(exported.call)
    return batched(
        lambda images: jax.device_get(call(np.asarray(images))),
        size if isinstance(size, int) else 0,
    )


@contextlib.contextmanager
def any_number(batch):
    """Raises `UserError` where a model is traced for any number of images, `batch` 0, and needs to
    know how many."""
    try:
        yield
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.InconclusiveDimensionOperation,
        TypeError,
    ) as error:
        if batch:
            raise
        raise UserError(
            "this model cannot be written for any number of images: give --batch 1, or more"
        ) from error
