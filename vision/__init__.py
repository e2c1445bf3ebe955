"""Image classification in JAX and Flax: from a folder of images to a served, monitored model.

    import vision

    model = vision.load("runs/pets")           # or a bundle, or "hf:OWNER/NAME"
    model.predict("new.jpg").class_name

`load`, `train`, `evaluate` and `export` are the stages as functions; docs/python.md shows them.
Importing this package imports none of the others that need more than Python itself: JAX comes with
the first call that computes with it.
"""

import importlib
import signal
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vision.version import __version__

if TYPE_CHECKING:
    import os
    import pathlib

    from ml_collections import ConfigDict

    from vision.api import EvaluationResult, LoadedModel, TrainedRun

__all__ = ["__version__", "evaluate", "export", "load", "train"]

if sys.argv[:1] == ["-m"]:
    # This is a program that still imports its modules: until `vision.cli` takes over, Ctrl-C ends
    # it without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def load(model: "str | os.PathLike[str]") -> "LoadedModel":
    """Returns a trained model, to predict, evaluate and export with.

    Args:
        model: a run directory, or what `train` returns, whose model JAX computes; the directory of
            a bundle, which runs without JAX; "hf:OWNER/NAME[@REVISION]", a repository of the
            Hugging Face hub that contains one of them; or a config file with pretrained weights,
            such as "configs/efficientnet_lite_imagenet.py".

    Raises:
        UserError: there is no such model, it is damaged, or a package that it needs is missing.
    """
    from vision.api.loading import load as load_model

    return load_model(model)


def train(
    config: "str | os.PathLike[str] | ConfigDict",
    workdir: "str | os.PathLike[str] | None" = None,
    overrides: Mapping[str, Any] | None = None,
) -> "TrainedRun":
    """Trains a model and tests it in this process, and returns its run.

    Called again with the same arguments and directory, it resumes a run that was interrupted and
    returns one that is finished. Ctrl-C, or a notebook's stop button, saves the run first.

    Args:
        config: a config file, as "configs/digits.py[:ARGUMENT]"; a `ConfigDict`, as
            `vision.config.default()` returns it; or images: a folder with a subfolder for each
            class, or any source such as "mnist5k". For images alone a config is chosen, as
            `python -m vision.main photos/` does, and written into the run as config.py.
        workdir: the run directory; None for a new one under runs/.
        overrides: {key: value} of the config, such as {"train.epochs": 2}.

    Raises:
        UserError: the config is wrong or does not fit the data, or a package is missing.
        RunError: the run cannot go on, for example because its loss is no longer finite.
        KeyboardInterrupt: it was interrupted; the run is saved.
    """
    from vision.api.training import train as train_run

    return train_run(config, workdir, overrides)


def evaluate(
    model: "str | os.PathLike[str] | LoadedModel",
    data: "str | os.PathLike[str]" = "",
    out: "str | os.PathLike[str] | None" = None,
    *,
    split: str = "",
    overrides: Mapping[str, Any] | None = None,
) -> "EvaluationResult":
    """Returns how good a model is on labeled images, with 95 % intervals, and writes the report.

    Args:
        model: a loaded model, or what `load` takes.
        data: a folder with a subfolder for each class, or any source; "" for the model's own.
        out: directory of the report, which is made if necessary; None for no report, but the
            evaluation of a run's own test split is always written, into RUN/evaluation. Models
            that are loaded later are calibrated by it.
        split: "train", "val", "test" or "all"; "" for test, or for all of new images.
        overrides: {key: value} of the config's section evaluation, such as
            {"evaluation.bootstrap": 0}, and of the other keys that do not change the model.

    Raises:
        UserError: the data do not fit the model, or a package is missing.
    """
    from vision.api.model import LoadedModel

    loaded = model if isinstance(model, LoadedModel) else load(model)
    return loaded.evaluate(data, out, split=split, overrides=overrides)


def export(
    model: "str | os.PathLike[str] | LoadedModel",
    out: "str | os.PathLike[str]",
    formats: str | Sequence[str] = "onnx",
    *,
    precision: str = "float32",
    batch: int = 0,
    heatmap: bool = False,
    data: str = "",
) -> "pathlib.Path":
    """Writes a model as a bundle, verified against JAX, and returns the bundle's directory.

    `python -m vision.export --help` says what each format is for, and has more options.

    Args:
        model: a loaded model, or what `load` takes, but not a bundle.
        out: the directory; a bundle that is there already is replaced.
        formats: "onnx", "tflite", "stablehlo", "saved_model", "coreml", "safetensors" or "web";
            several in a list.
        precision: "float32", "float16" or "int8".
        batch: images in a batch; 0 for any number.
        heatmap: whether the bundle gives heat maps.
        data: source of the images to compare and calibrate on; "" for the run's own.

    Raises:
        UserError: a format cannot express the model, or a package is missing.
        RunError: what was exported differs from JAX. Nothing is written then.
    """
    from vision.api.model import LoadedModel

    loaded = model if isinstance(model, LoadedModel) else load(model)
    return loaded.export(out, formats, precision=precision, batch=batch, heatmap=heatmap, data=data)


class _ExportPackage(types.ModuleType):
    """The package `vision.export`, which is called as the function above."""

    __call__ = staticmethod(export)
    __wrapped__ = staticmethod(export)  # whose signature a notebook shows


def _make_callable(function: Callable[..., object]) -> None:
    """Lets the package `vision.export` be called as a function.

    Python binds a package to its name as soon as any of its modules is imported, in place of a
    function with that name. So the package has the name from the start, and calls the function.
    """
    package = importlib.import_module("vision.export")
    package.__class__ = _ExportPackage
    package.__doc__ = function.__doc__


_make_callable(export)
