"""The export as a stage: the packages that it needs, and what is written for which formats."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vision import cli
from vision.errors import check_choice
from vision.export import web
from vision.export.options import ExportOptions
from vision.stages import stage_of
from vision.support.extras import require

if TYPE_CHECKING:
    from vision.inference import Classifier

# The packages that write and run each format; the others need none.
PACKAGES = {
    "onnx": stage_of("export").only,
    "tflite": ("ai-edge-litert", "flatbuffers", "litert-converter"),
    "saved_model": ("orbax-export", "tensorflow"),
    "coreml": ("coremltools", "stablehlo-coreml"),
}
# The extras of pyproject.toml with these packages, unless it is "export".
EXTRAS = {"saved_model": ("export", "tfds"), "coreml": ("coreml",)}


def require_packages(formats: Sequence[str], web_runtime: str = next(iter(web.RUNTIMES))) -> None:
    """Raises `UserError` if a package for a format is missing; says what to install.

    Args:
        formats: names of formats.
        web_runtime: what runs the model in the page of "web".
    """
    writers = {name: name for name in formats}  # what needs a format: itself, or the page
    if web.FOLDER in writers:
        check_choice("--web-runtime", web_runtime, web.RUNTIMES)
        writers.setdefault(web.RUNTIMES[web_runtime], web.FOLDER)
    for name, writer in writers.items():
        if name in PACKAGES:
            extras = EXTRAS.get(name, ("export",))
            require(f"--format {writer}", *extras, only=PACKAGES[name])


def write(
    classifier: "Classifier",
    out: pathlib.Path | str,
    options: ExportOptions,
    data: str = "",
    workdir: pathlib.Path | str = "",
) -> None:
    """Writes a bundle, or only a file of weights if nothing else is wanted; prints what it does.

    Args:
        classifier: the model.
        out: the directory.
        options: formats and their properties.
        data: source of the images to compare and calibrate on; "" for the run's own.
        workdir: directory of the run; "" for none.

    Raises:
        UserError: a format cannot express the model, or the directory cannot be written.
        RunError: what was exported differs from JAX. Nothing is written then.
    """
    from vision.export import bundle, safetensors  # they import JAX

    if options.formats == ("safetensors",):
        cli.show(safetensors.write(classifier, out))
    else:
        bundle.export(classifier, out, options, data=data, workdir=workdir, report=cli.show)
