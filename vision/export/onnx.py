"""ONNX, for ONNX Runtime, TensorRT and others: jax2onnx's graph, simplified, with its constants
folded.

The input `images` is uint8 (B, H, W, C); the outputs are `probabilities`, `embedding` and, where it
is asked for, `heatmap`, float32.
"""

import contextlib
import errno
import logging
import os
import tempfile

import jax.numpy as jnp

from vision.bundle.runtimes import HEATMAP, OUTPUTS, open_model
from vision.errors import UserError, first_line
from vision.export.explain import raised_at, refused
from vision.export.simplify import drop_unused, join_normalization, simplify
from vision.support.files import replacing

NAME = "model.onnx"
TOLERANCE = {"float32": 1e-4, "float16": 5e-2}  # EfficientNet-Lite0 differs by 0.02 in float16
# TensorRT 10 and ONNX Runtime 1.18 read them
OPSET = 21
IR_VERSION = 10
# of jax2onnx 0.17.1: it makes invalid graphs of deeper ResNets
FAULTY = "remove_redundant_transpose_pairs"
INSTALL = "exporting to ONNX needs more: pip install 'vision[export]'"


def write(program, path, batch=0):
    """Writes a `vision.export.program.Program`, in float32.

    Args:
        program: what to write.
        path: of the file.
        batch: images at a time; 0 = any number.

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
        raise _located(error, program, batch) from error
    join_normalization(model.graph)
    drop_unused(model.graph)
    _tidy(model, batch)
    onnx.checker.check_model(model, full_check=True)
    save(model, path)


def save(model, path):
    """Writes an `onnx.ModelProto`, whole or not at all."""
    with replacing(path, binary=True) as file:
        file.write(model.SerializeToString())


def to_float16(path, out):
    """Writes a float32 model again, with weights and arithmetic in float16; inputs and outputs stay
    as they are.

    Raises:
        UserError: ONNX Runtime's converter is not installed.
    """
    import onnx

    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        raise UserError(
            "--precision float16 needs ONNX Runtime: pip install 'vision[export]'"
        ) from error
    model = convert_float_to_float16(onnx.load(path), keep_io_types=True)
    onnx.checker.check_model(model, full_check=True)
    save(model, out)


def load(path):
    """Returns `run(images) -> (probabilities, embedding)`: NumPy, float32, of any number of images;
    by ONNX Runtime."""
    return open_model(path).run


def _converted(program, batch):
    """Returns jax2onnx's `onnx.ModelProto` of a program."""
    function = program.function
    names = OUTPUTS
    if program.explained is not None:
        function = program.explained
        names = [*OUTPUTS, HEATMAP]
    try:
        return _convert(
            function, [program.shape(batch or "B")], input_names=["images"], output_names=names
        )
    except UserError:
        raise
    except Exception as error:  # its exceptions have no common type
        raise UserError(_explain(error, batch)) from error


def _convert(function, shapes, **names):
    """Returns jax2onnx's `onnx.ModelProto` of a function of arrays."""
    try:
        import jax2onnx
    except ImportError as error:
        raise UserError(INSTALL) from error
    _load_plugins()
    with _without_faulty_pass(), _quiet("onnx_ir"):
        return jax2onnx.to_onnx(
            function, shapes, opset=OPSET, normalization_mode="prefer_native", **names
        )


def _load_plugins():
    """Loads jax2onnx's plugins, one of which puts a `jnp.cumsum` of fewer arguments in JAX's place,
    for good."""
    from jax2onnx.plugins.plugin_system import import_all_plugins

    cumsum = jnp.cumsum
    try:
        import_all_plugins()
    finally:
        jnp.cumsum = cumsum


def _explain(error, batch):
    """Returns what jax2onnx's exception says of the model."""
    primitive, where = raised_at(error)
    where = f" ({where})" if where else ""
    if "No plugins registered" in str(error):
        return f"ONNX has no operation for JAX's '{primitive}'{where}"
    reason = first_line(error).rstrip(".")
    hint = "" if batch else ". Where the batch's size is the reason, --batch 1 helps"
    what = f"JAX's '{primitive}'" if primitive else "this model"
    return f"{what} cannot be written as ONNX{where}: {reason}{hint}"


def _located(error, program, batch):
    """Returns a `UserError` that says too which of a model's operations jax2onnx writes wrongly,
    where one is alone."""

    def refuses(function, shapes):
        try:
            with tempfile.TemporaryDirectory() as folder:
                _fold(_convert(function, shapes), os.path.join(folder, NAME))
        except Exception:  # of one kind or another: it is refused
            return True
        return False

    primitive, where = refused(program, batch or 1, refuses)
    return UserError(f"{error}\nIt is JAX's '{primitive}' ({where})") if primitive else error


@contextlib.contextmanager
def _without_faulty_pass():
    from jax2onnx.converter import ir_optimizations as passes

    everything = passes._OPTIMIZER_PASSES
    kept = tuple(each for each in everything if each.name != FAULTY)
    if len(kept) + 1 != len(everything):
        raise UserError(
            "exporting needs jax2onnx 0.17.1, whose faults are known: pip install 'vision[export]'"
        )
    passes._OPTIMIZER_PASSES = kept
    try:
        yield
    finally:
        passes._OPTIMIZER_PASSES = everything


@contextlib.contextmanager
def _quiet(name):
    """Silences a logger that warns of what `_tidy` mends."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _fold(model, path):
    """Returns the model after ONNX Runtime's basic optimizations, which give plain ONNX again.

    Constants are folded, batch norms too into the convolutions before them, and pairs of transposes
    cancel.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = f"{path}.folded"
    options.log_severity_level = 3
    try:
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return onnx.load(options.optimized_model_filepath)
    except Exception as error:  # its exceptions have no common type
        if "erializ" in str(error) or "pars" in str(error):  # written in part, or not at all
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"ONNX Runtime cannot read what jax2onnx has made of this model: {first}"
        ) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(options.optimized_model_filepath)


def _tidy(model, batch):
    """Names the batch's size, and drops the mention of operators that are not used and of shapes
    within."""
    del model.graph.value_info[:]
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    model.ir_version = IR_VERSION
    for value in (*model.graph.input, *model.graph.output):
        first = value.type.tensor_type.shape.dim[0]
        if not batch:
            first.dim_param = "batch"
