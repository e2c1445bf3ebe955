"""Core ML, for apps on Apple's systems from iOS 18 and macOS 15 on.

Converted from StableHLO by stablehlo-coreml and coremltools. The input `image` is an image, RGB or
gray, of the model's size; the outputs are `classLabel`, the most probable class, and
`classLabel_probs`, the probability of each, as Apple's Vision framework wants them of a classifier,
and `embedding`, float32 (1, D). Normalization, temperature and softmax are inside.

Apple's runtime runs only on Apple's systems, so `load` interprets the written program with its
weights instead: see `vision.export.coreml.package`.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jax.extend.mlir.dialects import stablehlo
from jax.interpreters import mlir

from vision.bundle.runtimes import OUTPUTS, batched
from vision.errors import UserError
from vision.export.coreml.package import Package
from vision.export.coreml.quiet import silenced
from vision.export.explain import explain
from vision.export.program import Program
from vision.support.extras import require

NAME = "model.mlpackage"
MODEL_FILE = f"{NAME}/Data/com.apple.CoreML/model.mlmodel"
TAKES_PRECISION = True  # `write` makes float16 and int8 itself
IS_INTERPRETED = True  # by `load`, and slow: up to a second for an image
NOTE = "checked by an interpreter of its program; Apple's runtime was not run"
TOLERANCE = {"float32": 1e-4, "float16": 5e-2}
INPUT = "image"
MAX_RANK = 5
LABEL = "classLabel"  # Core ML's default; its probabilities are `classLabel_probs`
PACKAGES = ("coremltools", "stablehlo-coreml")
# It joins a model's normalization to a batch norm whose float32 constants lose precision: the
# probabilities of EfficientNet-Lite0 shift by 4e-5.
INEXACT_PASS = "common::fuse_elementwise_to_batchnorm"
QUANTIZING_PASS = "compression::linear_quantize_weights"


def write(
    program: Program, path: pathlib.Path | str, batch: int = 0, precision: str = "float32"
) -> None:
    """Writes a program as an `.mlpackage`, a directory.

    Args:
        program: the program to write.
        path: the directory, whose name ends in `.mlpackage`.
        batch: 0 or 1: Core ML takes one image at a time.
        precision: of the weights and of arithmetic: "float32", "float16", or "int8" for int8
            weights, symmetric, with a scale for each output channel, and float16 arithmetic.

    Raises:
        UserError: Core ML lacks an operation of the model; the packages are not installed.
        OSError: the directory cannot be written.
    """
    require("exporting to Core ML", "coreml", only=PACKAGES)
    shape = (1, program.channels, program.image_size, program.image_size)

    def function(image):  # its argument is the name of the input
        return program.function(jnp.transpose(image, (0, 2, 3, 1)))

    try:
        with silenced():
            model = _convert(
                function,
                [jax.ShapeDtypeStruct(shape, jnp.float32)],
                precision,
                classes=program.classes,
            )
    except (UserError, OSError):
        raise
    except Exception as error:  # its exceptions have no common type
        raise UserError(_explain(error, program)) from error
    _describe(model, program)
    with silenced():
        model.save(str(path))


def load(path: pathlib.Path | str) -> Callable:
    """Returns `run(images) -> (probabilities, embeddings)`, float32, by an interpreter in NumPy.

    It takes any number of images.

    Raises:
        UserError: the package cannot be loaded; coremltools is not installed.
    """
    require(str(path), "coreml", only=PACKAGES[:1])
    package = Package(path)

    def run(images):
        outputs = package(images[0])
        probabilities = outputs[f"{LABEL}_probs"]
        return np.array([list(probabilities.values())], np.float32), outputs[OUTPUTS[1]]

    return batched(run, 1)


def _convert(function, shapes, precision="float32", classes=()):
    """Returns the `coremltools.models.MLModel` of a function of arrays.

    Args:
        function: the function; with `classes`, of an image (1, C, H, W) in [0, 255], and it returns
            probabilities and an embedding.
        shapes: a `jax.ShapeDtypeStruct` of each argument.
        precision: see `write`.
        classes: names of the classes; () for a model that is not a classifier.
    """
    import coremltools
    import stablehlo_coreml

    exported = jax_export.export(jax.jit(function), platforms=("cpu",))(*shapes)
    module = stablehlo.deserialize_portable_artifact(
        mlir.make_ir_context(), exported.mlir_module_serialized
    )
    target = coremltools.target.iOS18
    mil = stablehlo_coreml.convert(module, target)
    options: dict[str, Any] = {}
    if classes:
        main = mil.functions["main"]
        for output, name in zip(main.outputs, OUTPUTS, strict=True):
            output.name = name
        gray = shapes[0].shape[1] == 1
        layout = coremltools.colorlayout.GRAYSCALE if gray else coremltools.colorlayout.RGB
        image = coremltools.ImageType(INPUT, shapes[0].shape, color_layout=layout)
        config = coremltools.ClassifierConfig(
            list(classes), LABEL, predicted_probabilities_output=OUTPUTS[0]
        )
        options = {"inputs": [image], "classifier_config": config}
    arithmetic = coremltools.precision
    return coremltools.convert(
        mil,
        source="milinternal",
        convert_to="mlprogram",
        minimum_deployment_target=target,
        compute_precision=arithmetic.FLOAT32 if precision == "float32" else arithmetic.FLOAT16,
        pass_pipeline=_passes(precision),
        skip_model_load=True,
        **options,
    )


def _passes(precision):
    """Returns the passes over the program; the last one quantizes, before a classifier is made."""
    import stablehlo_coreml
    from coremltools.optimize import coreml as optimize

    passes = stablehlo_coreml.build_pass_pipeline()
    passes.remove_passes({INEXACT_PASS})
    if precision == "int8":
        config = optimize.OpLinearQuantizerConfig(
            mode="linear_symmetric", dtype="int8", granularity="per_channel"
        )
        passes.append_pass(QUANTIZING_PASS)
        passes.set_options(QUANTIZING_PASS, {"config": optimize.OptimizationConfig(config)})
    return passes


def _explain(error, program):
    """Returns an error message for an exception of the converter, with the place in the model."""

    def convert(function, shapes):
        with silenced():
            _convert(*_flat(function, shapes))

    return explain(error, program, 1, "Core ML", convert)


def _flat(function, shapes):
    """Returns (a function, shapes of its arguments) without inputs and outputs of high rank.

    Core ML has no such arrays, but what lies between reshapes it may still express.
    """

    def of_flat(*arrays):
        shaped = [array.reshape(s.shape) for array, s in zip(arrays, shapes, strict=True)]
        results = function(*shaped)
        return [y.reshape(-1) if y.ndim > MAX_RANK else y for y in results]

    flat = [s if len(s.shape) <= MAX_RANK else s.update(shape=(s.size,)) for s in shapes]
    return of_flat, flat


def _describe(model, program):
    """Adds texts for Xcode's view of the model, and how an app has to crop an image."""
    size = program.image_size
    kind = "gray" if program.channels == 1 else "RGB"
    share = program.resize["crop_fraction"]
    model.short_description = f"Classifies an image: one of {len(program.classes)} classes."
    model.input_description[INPUT] = (
        f"A {kind} image of {size} x {size} pixels: the middle {share:g} of its short side"
    )
    model.output_description[LABEL] = "The most probable class"
    model.output_description[f"{LABEL}_probs"] = "The probability of each class"
    model.output_description[OUTPUTS[1]] = "What the last layer takes"
    for key, value in program.resize.items():
        model.user_defined_metadata[key] = str(value)
