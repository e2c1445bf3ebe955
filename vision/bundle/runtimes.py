"""The runtimes that a bundle's model is run in: ONNX Runtime and LiteRT."""

import functools
import pathlib
import threading
from typing import NamedTuple

import numpy as np

from vision.errors import UserError, first_line
from vision.support.processes import cores

OUTPUTS = ["probabilities", "embedding"]
HEATMAP = "heatmap"  # which a model may return too
AGAIN = "export it again"
PROVIDERS = {  # of ONNX Runtime: what runs a model, and what does for operators that it lacks
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}


class Model(NamedTuple):
    """A model's file, opened in its runtime.

    Attributes:
        inputs: of each (dtype's name, shape without the batch).
        outputs: their names.
        run: `run(images) -> (probabilities (B, C), embedding (B, D))`, float32, of any number of
            uint8 images (B, H, W, channels); threads may share it.
        explain: the same with heat maps, float32 (B, h, w) in [0, 1], as a third array; None where
            the model has none.
    """

    inputs: list
    outputs: list
    run: callable
    explain: callable = None


def open_model(path, threads=0, provider="cpu"):
    """Returns the `Model` in a file.

    Args:
        path: .onnx or .tflite.
        threads: that run it; 0 = as many as there are cores.
        provider: one of `PROVIDERS`; a .tflite runs on the CPU alone. On a GPU a batch is filled up
            to a power of two, because each size that is new costs it time.

    Raises:
        UserError: the file or its runtime cannot be loaded.
    """
    path = pathlib.Path(path)
    if path.suffix not in RUNTIMES:
        raise UserError(
            f"{path} cannot be run: a bundle's model is {' or '.join(RUNTIMES)}. Export to ONNX"
        )
    return RUNTIMES[path.suffix](path, threads or cores(), provider)


def _open_onnx(path, threads, provider):
    """Opens it in ONNX Runtime."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("a bundle needs ONNX Runtime: pip install 'vision[serving]'") from error
    first = PROVIDERS[provider][0]
    if first not in onnxruntime.get_available_providers():
        raise UserError(
            f"this ONNX Runtime has no {first}: pip install onnxruntime-gpu in place of onnxruntime"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=PROVIDERS[provider])
    except Exception as error:  # its exceptions have no common type
        raise _damaged(path, error) from error
    if session.get_providers()[0] != first:  # it goes on with the others
        raise UserError(
            f"{first} cannot start: see that the GPU's libraries are those that this ONNX Runtime needs"
        )
    inputs = session.get_inputs()
    outputs = [output.name for output in session.get_outputs()]
    # a number, or a name where any number goes
    batch = inputs[0].shape[0] if inputs and inputs[0].shape else None
    fixed = batch if isinstance(batch, int) else 0

    def run(images, names=OUTPUTS):
        size = fixed or (len(images) if provider == "cpu" else 1 << (len(images) - 1).bit_length())
        return batched(lambda part: session.run(names, {inputs[0].name: part}), size)(images)

    known = [(i.type.removeprefix("tensor(").rstrip(")"), i.shape[1:]) for i in inputs]
    explain = functools.partial(run, names=[*OUTPUTS, HEATMAP]) if HEATMAP in outputs else None
    return Model(known, outputs, run, explain)


def _open_tflite(path, threads, provider):
    """Opens it in LiteRT."""
    if provider != "cpu":
        raise UserError(f"{path} runs on the CPU alone, not on {provider}: export to ONNX")
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise UserError(f"{path} needs LiteRT: pip install ai-edge-litert") from error
    try:
        # Of a path it would map the file, so that whoever writes to it later changes or ends what
        # runs.
        interpreter = Interpreter(model_content=path.read_bytes(), num_threads=threads)
        interpreter.allocate_tensors()
        signature = interpreter.get_signature_runner()
    except (ValueError, RuntimeError) as error:
        raise _damaged(path, error) from error
    # an interpreter is one buffer for each tensor
    inputs = signature.get_input_details()
    lock = threading.Lock()

    def run(images):
        with lock:
            found = signature(**{next(iter(inputs)): images})
        return [found[name] for name in OUTPUTS]

    shapes = [(np.dtype(i["dtype"]).name, i["shape"].tolist()) for i in inputs.values()]
    known = [(name, shape[1:]) for name, shape in shapes]
    return Model(known, list(signature.get_output_details()), batched(run, shapes[0][1][0]))


RUNTIMES = {".onnx": _open_onnx, ".tflite": _open_tflite}


def _damaged(path, error):
    return UserError(f"{path} cannot be loaded, {AGAIN}:\n{first_line(error)}")


def batched(run, size):
    """Returns a function that calls `run(images) -> arrays` with `size` images at a time, the last
    ones filled up.

    It then returns a tuple of arrays with as many rows as there were images. `size` 0 = all at
    once.
    """
    if not size:
        return lambda images: tuple(run(images))

    def run_all(images):
        found = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            padded = np.concatenate([part, np.repeat(part[:1], size - len(part), axis=0)])
            found.append([array[: len(part)] for array in run(padded)])
        return tuple(np.concatenate(arrays) for arrays in zip(*found, strict=True))

    return run_all
