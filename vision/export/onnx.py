"""ONNX, for ONNX Runtime, TensorRT and others: jax2onnx's graph, simplified and constant-folded.

The input `images` is uint8 (B, H, W, C); a model of more than images has further inputs, named as
in `vision.data.fields`. The outputs are `probabilities`, `embedding` and, if
requested, `heatmap`, float32.
"""

import contextlib
import errno
import logging
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from vision.bundle.runtimes import HEATMAP, OUTPUTS, open_model
from vision.errors import UserError, first_line
from vision.export.explain import raised_at, refused
from vision.export.program import Program
from vision.export.simplify import drop_unused, join_normalization, simplify
from vision.support import disk
from vision.support.extras import require
from vision.support.files import replacing

NAME = "model.onnx"
TOLERANCE = {"float32": 1e-4, "float16": 5e-2}  # EfficientNet-Lite0 differs by 0.02 in float16
# TensorRT 10 and ONNX Runtime 1.18 can read these
OPSET = 21
IR_VERSION = 10
# a pass of jax2onnx 0.17.1 that makes invalid graphs of deeper ResNets
FAULTY_PASS = "remove_redundant_transpose_pairs"


def write(program: Program, path: pathlib.Path | str, batch: int = 0) -> None:
    """Writes a program, in float32.

    Args:
        program: the program to write.
        path: the file to write.
        batch: images in a batch; 0 for any number.

    Raises:
        UserError: ONNX cannot express an operation of the model; jax2onnx is not installed.
        OSError: the file cannot be written.
    """
    import onnx

    model = _converted(program, batch)
    simplify(model.graph)
    try:
        model = _fold(model, path)
    except UserError as error:
        raise _with_place(error, program, batch) from error
    join_normalization(model.graph)
    drop_unused(model.graph)
    _tidy(model, batch)
    onnx.checker.check_model(model, full_check=True)
    save(model, path)


def save(model: Any, path: pathlib.Path | str) -> None:
    """Writes an `onnx.ModelProto`, all of it or nothing."""
    with replacing(path, binary=True) as file:
        file.write(model.SerializeToString())


def to_float16(path: pathlib.Path | str, out: pathlib.Path | str) -> None:
    """Converts a float32 file to float16 weights and arithmetic; inputs and outputs stay the same.

    Raises:
        UserError: ONNX Runtime's converter is not installed.
    """
    import onnx

    require("--precision float16", "export", only=("onnxruntime",))
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    sorted_model = OnnxModel(convert_float_to_float16(onnx.load(path), keep_io_types=True))
    # Its casts of several inputs come after what takes them.
    sorted_model.topological_sort()
    model = sorted_model.model
    onnx.checker.check_model(model, full_check=True)
    save(model, out)


def load(path: pathlib.Path | str) -> Callable:
    """Returns `run(images) -> (probabilities, embeddings)`, float32, by ONNX Runtime.

    It takes any number of images.
    """
    return open_model(path).run


def _converted(program, batch):
    """Returns jax2onnx's `onnx.ModelProto` of a program."""
    function = program.function
    names = OUTPUTS
    if program.explained is not None:
        function = program.explained
        names = [*OUTPUTS, HEATMAP]
    shapes = program.shapes(batch or "B")
    inputs = ["images", *program.fields]
    try:
        return _convert(function, shapes, input_names=inputs, output_names=names)
    except UserError:
        raise
    except Exception as error:  # its exceptions have no common type
        raise UserError(_explain(error, batch)) from error


def _convert(function, shapes, **names):
    """Returns jax2onnx's `onnx.ModelProto` of a function of arrays."""
    require("exporting to ONNX", "export", only=("jax2onnx",))
    import jax2onnx

    _load_plugins()
    with _without_faulty_pass(), _quiet("onnx_ir"):
        return jax2onnx.to_onnx(
            function, shapes, opset=OPSET, normalization_mode="prefer_native", **names
        )


def _load_plugins():
    """Loads jax2onnx's plugins and restores `jnp.cumsum`.

    One of the plugins permanently replaces it by a version with fewer arguments.
    """
    from jax2onnx.plugins.plugin_system import import_all_plugins

    cumsum = jnp.cumsum
    try:
        import_all_plugins()
    finally:
        jnp.cumsum = cumsum


def _explain(error, batch):
    """Returns an error message for an exception of jax2onnx."""
    primitive, where = raised_at(error)
    where = f" ({where})" if where else ""
    if "No plugins registered" in str(error):
        return f"ONNX has no operation for JAX's '{primitive}'{where}"
    reason = first_line(error).rstrip(".")
    hint = "" if batch else ". If the free batch size is the reason, --batch 1 helps"
    subject = f"JAX's '{primitive}'" if primitive else "this model"
    return f"{subject} cannot be written as ONNX{where}: {reason}{hint}"


def _with_place(error, program, batch):
    """Returns a `UserError` that also names the operation that jax2onnx writes wrongly.

    If it is not a single operation, the error is returned as it is.
    """

    def refuses(function, shapes):
        try:
            with tempfile.TemporaryDirectory() as folder:
                _fold(_convert(function, shapes), os.path.join(folder, NAME))
        except Exception:  # any kind means that it is refused
            return True
        return False

    primitive, where = refused(program, batch or 1, refuses)
    return UserError(f"{error}\nIt is JAX's '{primitive}' ({where})") if primitive else error


@contextlib.contextmanager
def _without_faulty_pass():
    """Removes `FAULTY_PASS` from jax2onnx's optimizer."""
    from jax2onnx.converter import ir_optimizations

    passes = ir_optimizations._OPTIMIZER_PASSES
    sound = tuple(item for item in passes if item.name != FAULTY_PASS)
    if len(sound) + 1 != len(passes):
        raise UserError(
            "exporting needs jax2onnx 0.17.1, the tested version: ./scripts/setup export"
        )
    ir_optimizations._OPTIMIZER_PASSES = sound
    try:
        yield
    finally:
        ir_optimizations._OPTIMIZER_PASSES = passes


@contextlib.contextmanager
def _quiet(name):
    """Silences a logger that warns about problems that `_tidy` fixes."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _fold(model, path):
    """Returns the model after ONNX Runtime's basic optimizations, which result in plain ONNX.

    Constants are folded, as are batch norms into the convolutions before them, and pairs of
    transposes cancel.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = f"{path}.folded"
    options.log_severity_level = 3  # errors
    try:
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return onnx.load(options.optimized_model_filepath)
    except Exception as error:  # its exceptions have no common type
        # "serialize" or "parse": the file was written only in part, or not at all
        if disk.refusal(error) or "erializ" in str(error) or "pars" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise UserError(
            f"ONNX Runtime cannot read what jax2onnx made of this model: {first_line(error)}"
        ) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(options.optimized_model_filepath)


def _tidy(model, batch):
    """Names a free batch dimension, and drops unused operator sets and the shapes inside."""
    del model.graph.value_info[:]
    used = {node.domain for node in model.graph.node}
    opsets = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    model.ir_version = IR_VERSION
    for value in (*model.graph.input, *model.graph.output):
        first = value.type.tensor_type.shape.dim[0]
        if not batch:
            first.dim_param = "batch"
