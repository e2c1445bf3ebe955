"""What a bundle has for each target: sizes, the export's comparison with JAX, times of what runs.

A target is what runs one of the bundle's files, or one of its folders: see `TARGETS`.
"""

import pathlib
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from vision.bundle import runtimes
from vision.bundle.directory import Bundle
from vision.export import web
from vision.support.directories import files_in
from vision.support.extras import is_missing
from vision.support.schema import mismatch

# by the suffix of a file, or the name of a folder; in the order of the report
TARGETS = {
    ".onnx": "ONNX Runtime",
    ".tflite": "LiteRT",
    ".mlpackage": "Core ML",
    ".stablehlo": "StableHLO",
    "saved_model": "TensorFlow",
    web.FOLDER: "browser",
}
PACKAGES = {".onnx": "onnxruntime", ".tflite": "ai-edge-litert"}  # that run a model here
GZIP_LEVEL = 6  # the default of gzip and of most web servers
GZIP_BITS = 31  # a window of 32 KiB, gzip's header: see zlib
CHUNK = 1 << 20  # bytes
# what the export writes into bundle.json about each format
COMPARISON = {"largest_difference": float, "classes_changed": float, "images": int, "of": str}


def target_paths(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files and folders of a bundle that a target runs, in the order of `TARGETS`."""
    order = list(TARGETS)
    paths = [path for path in sorted(folder.iterdir()) if _kind(path) in TARGETS]
    return sorted(paths, key=lambda path: order.index(_kind(path)))


def runs_beside(folder: pathlib.Path, bundle: Bundle) -> dict[str, Callable]:
    """Returns {file: `run(images)`} of a bundle's files that can run here, without its model.

    Args:
        folder: the bundle's directory.
        bundle: the bundle.

    Raises:
        UserError: a file cannot be loaded.
    """
    return {
        path.name: runtimes.open_model(path).run
        for path in target_paths(folder)
        if path.name != bundle.file
        and path.suffix in PACKAGES
        and not is_missing(PACKAGES[path.suffix])
    }


def describe_targets(
    folder: pathlib.Path, bundle: Bundle, milliseconds: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Returns what report.json says about a bundle's targets.

    Args:
        folder: the bundle's directory.
        bundle: the bundle.
        milliseconds: {file: how long an image takes} of the files that were run.

    Returns:
        A dict for each target. "target": its name in `TARGETS`; "file": name of the file or folder;
        "precision": "float32", "float16" or "int8", None if the bundle does not say; "bytes": size
        of the file or folder; "download": see `download_size`; "ms": milliseconds of an image (of a
        batch if the file has a fixed one), None if it was not run; "compared": what the export
        measured, {"largest_difference", "classes_changed", "images", "of"}, None if the bundle does
        not say; "copy_of": the file that a page for the browser has a copy of, None for others.
    """
    quality = bundle.quality or {}
    precision = None if mismatch(quality, {"precision": str}) else quality["precision"]
    return [
        {
            "target": TARGETS[_kind(path)],
            "file": path.name,
            "precision": precision,
            "bytes": sum(file.stat().st_size for file in _files(path)),
            "download": download_size(path),
            "ms": milliseconds.get(path.name),
            "compared": _comparison(quality, path.name),
            "copy_of": web.model_name(path) if path.name == web.FOLDER else None,
        }
        for path in target_paths(folder)
    ]


def download_size(path: pathlib.Path) -> int:
    """Returns the bytes of what is downloaded to run a file or folder, compressed by gzip.

    Each file is compressed on its own, as a web server does; app stores compress by the same method
    (deflate). Of a page for the browser, this is what a visitor loads: the page, the model and one
    variant of the runtime.
    """
    files = web.loaded_files(path) if path.name == web.FOLDER else _files(path)
    return sum(map(_gzip_size, files))


def _gzip_size(path):
    compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_BITS)
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            size += len(compressor.compress(chunk))
    return size + len(compressor.flush())


def _kind(path):
    """Returns the key of `TARGETS` that a path would have."""
    return path.suffix or path.name


def _files(path):
    return files_in(path) if path.is_dir() else [path]


def _comparison(quality, name):
    """Returns what bundle.json says about the comparison of a format with JAX; None if nothing."""
    if mismatch(quality, {"exported": {name: COMPARISON}}):
        return None
    return {key: quality["exported"][name][key] for key in COMPARISON}
