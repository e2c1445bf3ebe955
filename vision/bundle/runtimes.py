"""The runtimes for a bundle's model: ONNX Runtime and LiteRT."""

import functools
import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vision.data.inputs import IMAGE, unpack
from vision.errors import UserError, first_line
from vision.support.extras import require
from vision.support.processes import cores

OUTPUTS = ["probabilities", "embedding"]
HEATMAP = "heatmap"  # an optional output
EXPORT_AGAIN = "export it again"
# of ONNX Runtime: the provider that runs a model, then those for operators that it lacks
PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}


class Model(NamedTuple):
    """A model's file, opened in its runtime.

    Attributes:
        inputs: (name of the dtype, shape without the batch) of each input.
        outputs: names of the outputs.
        run: `run(images) -> (probabilities (B, C), embeddings (B, D))`, float32, of any number of
            uint8 images (B, H, W, channels), or if there are more inputs of a batch of
            `vision.data.inputs`; safe to share between threads.
        explain: `run` with heat maps, float32 (B, h, w) in [0, 1], as a third array; None if the
            model has none.
    """

    inputs: list[tuple[str, list[int]]]
    outputs: list[str]
    run: Callable
    explain: Callable | None = None


def open_model(path: pathlib.Path | str, threads: int = 0, provider: str = "cpu") -> Model:
    """Returns the `Model` in a file.

    Args:
        path: a .onnx or .tflite file.
        threads: threads that run the model; 0 uses all cores.
        provider: one of `PROVIDERS`; a .tflite runs only on the CPU. On a GPU, batches are padded
            to a power of two, because every new size costs time.

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
    """Opens a model in ONNX Runtime."""
    require(str(path), "serving", only=("onnxruntime",))
    import onnxruntime

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
    if session.get_providers()[0] != first:  # it silently falls back to the next one
        raise UserError(
            f"{first} cannot start: install the versions of the GPU libraries that this ONNX "
            "Runtime needs"
        )
    inputs = session.get_inputs()
    outputs = [output.name for output in session.get_outputs()]
    # a number, or a name if the batch size is free
    batch = inputs[0].shape[0] if inputs and inputs[0].shape else None
    fixed_size = batch if isinstance(batch, int) else 0

    def run(images, names=OUTPUTS):
        size = fixed_size or _batch_size(len(images), provider)
        return batched(lambda part: session.run(names, _arguments(inputs, part)), size)(images)

    signature = [(i.type.removeprefix("tensor(").rstrip(")"), i.shape[1:]) for i in inputs]
    explain = functools.partial(run, names=[*OUTPUTS, HEATMAP]) if HEATMAP in outputs else None
    return Model(signature, outputs, run, explain)


def _arguments(inputs, batch):
    """Returns {name of an input: array} of a batch."""
    arrays = unpack(batch)
    if not isinstance(arrays, dict):
        return {inputs[0].name: arrays}
    images = {inputs[0].name: arrays.pop(IMAGE)}
    return images | arrays


def _batch_size(count, provider):
    """Returns the batch size to run `count` images with: on a GPU, the next power of two."""
    return count if provider == "cpu" else 1 << (count - 1).bit_length()


def _open_tflite(path, threads, provider):
    """Opens a model in LiteRT."""
    if provider != "cpu":
        raise UserError(f"{path} runs only on the CPU, not on {provider}: export to ONNX")
    require(str(path), "serving", only=("ai-edge-litert",))
    from ai_edge_litert.interpreter import Interpreter

    try:
        # Given a path, LiteRT would map the file, so that a later write to it would change or
        # crash the running model.
        interpreter = Interpreter(model_content=path.read_bytes(), num_threads=threads)
        interpreter.allocate_tensors()
        runner = interpreter.get_signature_runner()
    except (ValueError, RuntimeError) as error:
        raise _damaged(path, error) from error
    inputs = runner.get_input_details()
    lock = threading.Lock()  # an interpreter has one buffer for each tensor

    def run(images):
        with lock:
            outputs = runner(**{next(iter(inputs)): images})
        return [outputs[name] for name in OUTPUTS]

    shapes = [(np.dtype(i["dtype"]).name, i["shape"].tolist()) for i in inputs.values()]
    signature = [(name, shape[1:]) for name, shape in shapes]
    return Model(signature, list(runner.get_output_details()), batched(run, shapes[0][1][0]))


RUNTIMES: dict[str, Callable[[pathlib.Path, int, str], Model]] = {
    ".onnx": _open_onnx,
    ".tflite": _open_tflite,
}


def _damaged(path, error):
    return UserError(f"{path} cannot be loaded, {EXPORT_AGAIN}:\n{first_line(error)}")


def batched(
    run: Callable[[np.ndarray], Sequence[np.ndarray]], size: int
) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
    """Returns a function that calls `run(images) -> arrays` on batches of `size` images.

    The last batch is padded. The function returns a tuple of arrays with one row for each image.

    Args:
        run: the function to call.
        size: images in a batch; 0 means all at once.
    """
    if not size:
        return lambda images: tuple(run(images))

    def run_all(images):
        results = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            padded = np.concatenate([part, np.repeat(part[:1], size - len(part), axis=0)])
            results.append([array[: len(part)] for array in run(padded)])
        return tuple(np.concatenate(arrays) for arrays in zip(*results, strict=True))

    return run_all
