"""Converts a float32 bundle to INT8, and measures the changes in accuracy, size and speed.

    python -m vision.compression.quantize --bundle bundles/pets --out bundles/pets-int8
    python -m vision.compression.quantize --bundle bundles/lite0 --data folder:photos \\
        --out bundles/lite0-int8

The activations' ranges come from training images. If INT8 then loses more accuracy on the
validation images than --max-drop, in percentage points, layers stay in float, the most sensitive
first, until it no longer does. The accuracy that is printed and stored in bundle.json is from the
test images, which are not used for any choice. A source that has no splits and that the model was
not trained on is split in three at random.

On a CPU without integer dot products (VNNI), weights have 7 bits, because its sums saturate with 8.
--weight-bits 8 makes a bundle for other CPUs, but the measurements made here do not apply to them.

If INT8 loses too much, or too many layers stay in float, continue training the run with its layers
rounded in the same way (quantization-aware training), at a low learning rate; then export and
quantize the new run as usual:

    python -m vision.main --config CONFIG --config.model.pretrained=runs/pets \\
        --config.objective.quantize=int8
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from vision import cli
from vision.bundle.directory import (
    Bundle,
    open_bundle,
    read_manifest,
    write_manifest,
    write_sample,
    write_splits,
)
from vision.compression.float_layers import choose
from vision.compression.int8 import (
    METHODS,
    MIN_IMAGES,
    CalibratedModel,
    dot_product,
    is_quantized,
)
from vision.config.flags import parse_stage
from vision.data.decode import decode
from vision.data.inputs import require_images_alone
from vision.errors import UserError, check_choice, check_count, check_range
from vision.reference.unsure import no_thresholds
from vision.support.directories import replacing_directory
from vision.support.extras import require_stage
from vision.support.progress import waiting
from vision.version import __version__

VALIDATION_IMAGES = 1000  # to choose layers by, at most
BATCH = 32


def main(argv: list[str]) -> None:
    config, values, words = parse_stage(argv, __doc__, _flags)
    if words:
        raise UserError(f"unexpected argument '{words[0]}': flags start with --")
    if config is not None or not values.bundle or not values.out:
        raise UserError("which model, and where to? Give --bundle FLOAT_BUNDLE --out INT8_BUNDLE")
    max_drop: Any = values["max-drop"].value
    weight_bits: Any = values["weight-bits"].value
    check_choice("--calibration", values.calibration, METHODS)
    check_range("--weight-bits", weight_bits, weight_bits in (0, 7, 8), "0, 7 or 8")
    check_count("--images", values.images, MIN_IMAGES, 1_000_000)
    check_range("--max-drop", max_drop, max_drop >= 0, "at least 0 percentage points")
    require_stage("quantizing", "quantize")
    quantize_bundle(
        values.bundle,
        values.out,
        values.data,
        method=values.calibration,
        count=values.images,
        max_drop=max_drop,
        weight_bits=weight_bits,
        report=cli.show,
    )


def _flags(values):
    flags.DEFINE_string("bundle", "", "directory of a float32 bundle", flag_values=values)
    flags.DEFINE_string("out", "", "directory of the INT8 bundle", flag_values=values)
    flags.DEFINE_string(
        "data", "", "source; default: what the model was trained on", flag_values=values
    )
    flags.DEFINE_string(
        "calibration", "minmax", "minmax, entropy or percentile", flag_values=values
    )
    flags.DEFINE_integer("images", 256, "training images to calibrate with", flag_values=values)
    flags.DEFINE_float(
        "max-drop", 0.5, "percentage points of accuracy that may be lost", flag_values=values
    )
    flags.DEFINE_integer(
        "weight-bits", 0, "8, or 7 without VNNI; 0 chooses for this CPU", flag_values=values
    )


def quantize_bundle(
    bundle: pathlib.Path | str,
    out: pathlib.Path | str,
    data: str = "",
    *,
    method: str = "minmax",
    count: int = 256,
    max_drop: float = 0.5,
    weight_bits: int = 0,
    report: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Writes an INT8 bundle of a float32 one, which replaces an existing bundle.

    Args:
        bundle: directory of the float32 bundle.
        out: directory of the INT8 bundle.
        data: a source; "" for the one of the bundle's config.
        method, weight_bits: see `vision.compression.int8.CalibratedModel`.
        count: training images to calibrate with.
        max_drop: percentage points of accuracy that may be lost on the validation images.
        report: called with a line of text on the progress.

    Returns:
        The "quality" of the bundle's bundle.json.

    Raises:
        UserError: the bundle cannot be opened, or is not float32; the data cannot be opened, or are
            too few; no layer can be INT8 without losing more; `out` cannot be written.
    """
    from vision.export.place import check_place

    model = open_bundle(bundle)
    require_images_alone(model.fields, "INT8")
    float_manifest = read_manifest(bundle)
    path = pathlib.Path(bundle, model.file)
    if is_quantized(path):
        raise UserError(f"{bundle} is INT8 already: give the float32 bundle that it was made from")
    out = pathlib.Path(out).resolve()
    check_place(out)
    images = _open(model, data, count, report)
    report(
        f"{images.spec}: {len(images.train)} images to calibrate with ({method}), "
        f"{len(images.val)} to choose layers by"
    )
    with waiting(f"calibrating with {len(images.train)} images"):
        calibrated = CalibratedModel(path, images.train, method, weight_bits)
    float_layers, drop = choose(calibrated, model, images.val, images.val_labels, max_drop, report)
    quantization = {
        "calibration": method,
        "images": len(images.train),
        "weight_bits": calibrated.weight_bits,
        "float_layers": [calibrated.layers[name] for name in float_layers],
        "layers": len(calibrated.layers),
        "validation_images": len(images.val),
        "validation_drop": drop,
    }
    with replacing_directory(out) as directory:
        from vision.export.onnx import NAME, save

        save(calibrated.model(float_layers), directory / NAME)
        if model.past:
            write_splits(directory, model.past)
        manifest = dataclasses.replace(
            float_manifest,
            model=NAME,
            quality=None,
            sample=None,
            unsure=None,
            version=__version__,
        )
        write_manifest(directory, manifest)
        small = open_bundle(directory)
        quality = _measure(model, small, (path, directory / NAME), images, report)
        quality["temperature"] = (model.quality or {}).get("temperature", 1.0)
        quality["quantization"] |= quantization
        sample = float_manifest.sample
        if sample:
            image = decode(pathlib.Path(bundle, sample["file"]), model.channels)
            sample = write_sample(directory, image, small.probabilities_and_embeddings)
        write_manifest(directory, dataclasses.replace(manifest, quality=quality, sample=sample))
    if model.evidence is not None:
        report(no_thresholds("int8"))
    report(f"{out}: python -m vision.predict --bundle {out} photos/")
    return quality


@dataclasses.dataclass(frozen=True)
class _Images:
    """Three parts of a source that share no image.

    Attributes:
        spec: the source's name.
        train: uint8 (N, H, W, C), to calibrate with.
        val: uint8 (M, H, W, C), to choose layers by.
        val_labels: int (M,), among the model's classes.
        is_correct: `is_correct(bundle) -> bool (T,)`, whether a bundle classifies each of the test
            images as labeled.
    """

    spec: str
    train: np.ndarray
    val: np.ndarray
    val_labels: np.ndarray
    is_correct: Callable[[Bundle], np.ndarray]


def _open(model, spec, count, report):
    """Returns the `_Images` to quantize a bundle with, at most `count` of them to calibrate.

    How they differ from those that the model was trained on is reported.
    """
    from vision import parallel
    from vision.data.splits import same_images
    from vision.evaluation.data import open_split
    from vision.evaluation.outputs import Forward, collect

    mesh = parallel.make_mesh()
    split = open_split(model, model.config, mesh, spec)
    for line in split.data.changes.lines():
        report(f"note: since training began, {line}")
    loaders = split.data.loaders
    if split.name == "all":
        loaders = _thirds(loaders["all"])
    elif same_images(loaders["val"].dataset.source, loaders["test"].dataset.source):
        loaders = loaders | {"val": loaders["train"].part(np.arange(len(loaders["train"]))[1::2])}
        loaders["train"] = loaders["train"].part(np.arange(len(loaders["train"]))[::2])
    train, _ = _arrays(loaders["train"], count)
    val, labels = _arrays(loaders["val"], VALIDATION_IMAGES)
    labels = split.positions[labels]

    def is_correct(bundle):
        forward = Forward(bundle, mesh)
        outputs = split.labeled(collect(forward, loaders["test"], BATCH, embedded=0))
        return outputs.logits.argmax(1) == outputs.labels

    return _Images(split.spec, train, val[labels >= 0], labels[labels >= 0], is_correct)


def _thirds(loader):
    """Returns {"train", "val", "test"} of a loader, divided at random."""
    parts = np.array_split(np.random.RandomState(0).permutation(len(loader)), 3)
    if not len(parts[-1]):
        raise UserError(
            f"{len(loader)} images are too few: calibrating, choosing layers and measuring each "
            "need some"
        )
    return {
        name: loader.part(np.sort(part))
        for name, part in zip(("train", "val", "test"), parts, strict=True)
    }


def _arrays(loader, count):
    """Returns (images, labels) of at most `count` images of a loader, drawn at random."""
    from vision.data.loading.device_loader import DeviceLoader
    from vision.evaluation.evaluator import sample

    loader = sample(loader, count)
    loader = loader if loader.data else DeviceLoader(loader.dataset, loader.unreadable, loader.mesh)
    return np.asarray(loader.data["image"]), np.asarray(loader.data["label"])


def _measure(model, small, files, images, report):
    """Returns the INT8 model's quality beside the float32 one's, and reports it.

    Args:
        model: the float32 bundle.
        small: the INT8 bundle.
        files: paths of the two models' files.
        images: the `_Images`.
        report: called with a line of text.
    """
    from vision.compression import latency
    from vision.evaluation.measures.statistics import paired_shares, share

    correct = {"float32": images.is_correct(model), "int8": images.is_correct(small)}
    accuracies = {name: share(values.sum(), len(values)) for name, values in correct.items()}
    change = paired_shares(correct["int8"], correct["float32"])
    sizes = [file.stat().st_size for file in files]
    runs = {
        "float32": model.probabilities_and_embeddings,
        "int8": small.probabilities_and_embeddings,
    }
    batches = [np.resize(images.val, (size, *images.val.shape[1:])) for size in (1, BATCH)]
    with waiting("measuring the latency"):
        latencies = [latency.compare(runs, batch) for batch in batches]
    count = len(correct["int8"])
    quality = {
        "split": "test",
        "source": images.spec,
        "images": count,
        "precision": "int8",
        "metrics": {"accuracy": accuracies["int8"]},
        "float32": {"metrics": {"accuracy": accuracies["float32"]}, "bytes": sizes[0]},
        "quantization": {
            "cpu": dot_product(),
            "bytes": sizes[1],
            "change": change,
            "latency": latencies,
        },
    }
    for line in _describe(quality):
        report(line)
    return quality


def _describe(quality):
    """Returns the lines that are printed about an INT8 model's quality."""
    quantization = quality["quantization"]
    float_size = quality["float32"]["bytes"]
    size = quantization["bytes"]
    float_accuracy = _percentages(quality["float32"]["metrics"]["accuracy"])
    accuracy = _percentages(quality["metrics"]["accuracy"])
    points = [100 * quantization["change"][key] for key in ("difference", "low", "high")]
    lines = [
        f"size: {float_size / 1e6:.2f} MB to {size / 1e6:.2f} MB, "
        f"{float_size / size:.2f} times smaller",
        f"accuracy on {quality['images']} test images: float32 {float_accuracy}, INT8 {accuracy}",
        "change: {:+.2f} points ({:+.2f} to {:+.2f})".format(*points),
    ]
    for latencies in quantization["latency"]:
        models = latencies["models"]
        lines.append(
            f"batch {latencies['batch']}: {models['float32']['p50']:.2f} ms to "
            f"{models['int8']['p50']:.2f} ms, {models['int8']['speedup']:.2f} times as fast "
            f"(VNNI: {quantization['cpu']})"
        )
    return lines


def _percentages(accuracy):
    low = 100 * accuracy["low"]
    high = 100 * accuracy["high"]
    return f"{100 * accuracy['value']:.1f} % ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    cli.run(main, outlives_output=True)
