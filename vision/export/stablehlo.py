"""StableHLO, JAX's own format: a serialized `jax.export.Exported`.

It runs in JAX on CPU, GPU and TPU, without this project:

    run = jax.export.deserialize(open("model.stablehlo", "rb").read()).call
    probabilities, embeddings = run(images)      # uint8 (B, H, W, C)

JAX can read it for at least six months. Other runtimes of StableHLO take its
`.mlir_module_serialized`.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax import export as jax_export

from vision.bundle.runtimes import batched
from vision.errors import UserError
from vision.export.program import Program
from vision.support.files import replacing

NAME = "model.stablehlo"
TOLERANCE = {"float32": 1e-4}
PLATFORMS = ("cpu", "cuda", "tpu")


def write(program: Program, path: pathlib.Path | str, batch: int = 0) -> None:
    """Writes a program, in float32.

    Args:
        program: the program to write.
        path: the file to write.
        batch: images in a batch; 0 for any number.

    Raises:
        UserError: the model's computation depends on the number of images.
        OSError: the file cannot be written.
    """
    size = batch or jax_export.symbolic_shape("batch")[0]
    with any_number(batch):
        exported = jax_export.export(jax.jit(program.function), platforms=PLATFORMS)(
            program.shape(size)
        )
    with replacing(path, binary=True) as file:
        file.write(exported.serialize())


def load(path: pathlib.Path | str) -> Callable:
    """Returns `run(images) -> (probabilities, embeddings)`, float32, by JAX.

    It takes any number of images.

    Raises:
        UserError: the file does not contain such a program.
    """
    try:
        exported = jax_export.deserialize(bytearray(pathlib.Path(path).read_bytes()))
    except Exception as error:  # a damaged buffer's exceptions have no common type
        raise UserError(f"{path} cannot be loaded: export it again") from error
    size = exported.in_avals[0].shape[0]
    call = jax.jit(exported.call)
    return batched(
        lambda images: jax.device_get(call(np.asarray(images))),
        size if isinstance(size, int) else 0,
    )


@contextlib.contextmanager
def any_number(batch: int) -> Iterator[None]:
    """Explains the exceptions of tracing a model for any number of images.

    Args:
        batch: images in a batch; 0 if the model is traced for any number.

    Raises:
        UserError: the number is free, and the model's computation depends on it.
    """
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
            "this model cannot be exported for any number of images: give --batch 1, or more"
        ) from error
