"""Makes an INT8 bundle of a float32 one, and measures what that costs in accuracy and brings in
size and speed.

    python -m vision.compression.quantize --bundle bundles/pets --out bundles/pets-int8
    python -m vision.compression.quantize --bundle bundles/lite0 --data folder:photos --out
    bundles/lite0-int8

The activations' ranges come from training images. Where INT8 then loses more accuracy on the
validation images than --max-drop, in percentage points, layers stay in float, the most sensitive
first, until it no longer does. The accuracy that is printed, and stored in bundle.json, is that of
the test images, by which nothing was chosen. A source without splits that the model was not trained
on is divided in three at random.

On a CPU without integer dot products (VNNI) weights have 7 bits, as with 8 its sums saturate;
--weight-bits 8 makes a bundle for other CPUs, but what is measured here is then not what they give.

Where INT8 loses too much, or too many layers stay in float, let the run go on training with its
layers rounded likewise (quantization-aware training), at a low learning rate; then export and
quantize the new run, which is like any other:

    python -m vision.main --config CONFIG --config.model.pretrained=runs/pets
    --config.objective.quantize=int8
"""

import dataclasses
import pathlib
import tempfile
from collections.abc import Callable

import numpy as np
from absl import flags

from vision import __version__, cli
from vision.compression.int8 import LEAST, METHODS, Calibrated, dot_product, is_quantized
from vision.config.flags import parse_stage
from vision.data.decode import decode
from vision.errors import UserError, check_choice, check_range

VALIDATION = 1000  # images that layers are chosen by, at most
SAMPLE = 128  # of them, those that each layer's sensitivity is measured on
BATCH = 32
SHOWN = 5  # sensitive layers that are printed


def main(argv):
    config, values, words = parse_stage(argv, __doc__, _flags)
    if words:
        raise UserError(f"unexpected argument '{words[0]}': flags start with --")
    if config is not None or not values.bundle or not values.out:
        raise UserError("which model, and where to? Give --bundle FLOAT_BUNDLE --out INT8_BUNDLE")
    max_drop = values["max-drop"].value
    weight_bits = values["weight-bits"].value
    check_choice("--calibration", values.calibration, METHODS)
    check_choice("--weight-bits", weight_bits, (0, 7, 8))
    check_range("--images", values.images, values.images >= LEAST, f"at least {LEAST}")
    check_range("--max-drop", max_drop, max_drop >= 0, "at least 0 percentage points")
    quantize_bundle(
        values.bundle,
        values.out,
        values.data,
        method=values.calibration,
        count=values.images,
        max_drop=max_drop,
        weight_bits=weight_bits,
    )


def _flags(values):
    flags.DEFINE_string("bundle", "", "directory of a float32 bundle", flag_values=values)
    flags.DEFINE_string("out", "", "directory of the INT8 bundle", flag_values=values)
    flags.DEFINE_string(
        "data", "", "another source than the one that the model was trained on", flag_values=values
    )
    flags.DEFINE_string(
        "calibration", "minmax", "minmax, entropy or percentile", flag_values=values
    )
    flags.DEFINE_integer("images", 256, "training images to calibrate with", flag_values=values)
    flags.DEFINE_float(
        "max-drop", 0.5, "percentage points of accuracy that may be lost", flag_values=values
    )
    flags.DEFINE_integer(
        "weight-bits", 0, "8, or 7 without VNNI; 0 = as this CPU is", flag_values=values
    )


def quantize_bundle(
    bundle, out, data="", *, method="minmax", count=256, max_drop=0.5, weight_bits=0, say=print
):
    """Writes an INT8 bundle of a float32 one, which takes the place of a bundle that is there.

    Args:
        bundle, out: directories.
        data: a source; "" = the one of the bundle's config.
        method, weight_bits: see `vision.compression.int8.Calibrated`.
        count: training images to calibrate with.
        max_drop: percentage points of accuracy that may be lost on the validation images.
        say: called with a line of text about what is done.

    Returns:
        What bundle.json says as its quality.

    Raises:
        UserError: the bundle cannot be opened, or is not float32; the data cannot be opened, or are
            too few; no layer can be INT8 without losing more; `out` cannot be written.
    """
    from vision.bundle.directory import open_bundle, read_manifest, write_manifest, write_sample
    from vision.export.place import check_place, replacing_directory

    model = open_bundle(bundle)
    manifest = read_manifest(bundle)
    path = pathlib.Path(bundle, manifest.model)
    if is_quantized(path):
        raise UserError(f"{bundle} is INT8 already: give the float32 bundle that it was made of")
    out = pathlib.Path(out).resolve()
    check_place(out)
    images = _open(model, data, count)
    say(
        f"{images.spec}: {len(images.train)} images to calibrate with ({method}), {len(images.val)} to choose layers by"
    )
    calibrated = Calibrated(path, images.train, method, weight_bits)
    kept, val_drop = choose(calibrated, model, images.val, images.val_labels, max_drop, say)
    with replacing_directory(out) as directory:
        from vision.export.onnx import NAME, save

        save(calibrated.model(kept), directory / NAME)
        float_quality = manifest.quality or {}
        sample = manifest.sample
        manifest = dataclasses.replace(
            manifest, model=NAME, quality=None, sample=None, version=__version__
        )
        write_manifest(directory, manifest)
        small = open_bundle(directory)
        quality = _measure(model, small, (path, directory / NAME), images, say)
        quality["temperature"] = float_quality.get("temperature", 1.0)
        quality["quantization"] |= {
            "calibration": method,
            "images": len(images.train),
            "weight_bits": calibrated.weight_bits,
            "float_layers": [calibrated.layers[name] for name in kept],
            "layers": len(calibrated.layers),
            "validation_images": len(images.val),
            "validation_drop": val_drop,
        }
        if sample:
            image = decode(pathlib.Path(bundle, sample["file"]), model.channels)
            sample = write_sample(directory, image, small.probabilities_and_embeddings)
        write_manifest(directory, dataclasses.replace(manifest, quality=quality, sample=sample))
    say(f"{out}: python -m vision.predict --bundle {out} photos/")
    return quality


@dataclasses.dataclass(frozen=True)
class _Images:
    """Three parts of a source that share no image.

    Attributes:
        spec: the source's name.
        train: uint8 (N, H, W, C), to calibrate with.
        val: uint8 (M, H, W, C), to choose layers by.
        val_labels: int (M,), among the model's classes.
        right: `right(bundle) -> bool (T,)`, whether it classifies each of the test images as it is
            labeled.
    """

    spec: str
    train: np.ndarray
    val: np.ndarray
    val_labels: np.ndarray
    right: Callable


def _open(model, spec, count):
    """Returns the `_Images` to quantize a bundle with, `count` of them or fewer to calibrate
    with."""
    from vision import parallel
    from vision.data.splits import same_images
    from vision.evaluation.data import open_split
    from vision.evaluation.outputs import Forward, collect

    mesh = parallel.make_mesh()
    split = open_split(model, model.config, mesh, spec)
    loaders = split.data.loaders
    if split.name == "all":
        loaders = _thirds(loaders["all"])
    elif same_images(loaders["val"].dataset.source, loaders["test"].dataset.source):
        loaders = loaders | {"val": loaders["train"].part(np.arange(len(loaders["train"]))[1::2])}
        loaders["train"] = loaders["train"].part(np.arange(len(loaders["train"]))[::2])
    train, _ = _arrays(loaders["train"], count)
    val, labels = _arrays(loaders["val"], VALIDATION)
    labels = split.positions[labels]

    def right(bundle):
        found = split.labeled(collect(Forward(bundle, mesh), loaders["test"], BATCH, embedded=0))
        return found.logits.argmax(1) == found.labels

    return _Images(split.spec, train, val[labels >= 0], labels[labels >= 0], right)


def _thirds(loader):
    """Returns {"train", "val", "test"} of a loader, divided at random."""
    parts = np.array_split(np.random.RandomState(0).permutation(len(loader)), 3)
    if not len(parts[-1]):
        raise UserError(
            f"{len(loader)} images are too few to calibrate, to choose layers and to measure by"
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


def choose(calibrated, model, images, labels, max_drop, say=print):
    """Returns the layers that stay in float so that no more than `max_drop` is lost, and what then
    is lost.

    Sensitivity is what a single layer in INT8 costs, all others being float: such models are made
    soonest, and losses that make up for one another by chance hide no layer. It is the mean
    Kullback-Leibler divergence of the probabilities from the float model's, as accuracy on few
    images hardly tells one layer from another.

    Args:
        calibrated: a `vision.compression.int8.Calibrated`.
        model: the float `vision.bundle.directory.Bundle`.
        images: uint8 (M, H, W, C), of the validation split.
        labels: int (M,).
        max_drop: percentage points of accuracy.
        say: called with a line of text about what is done.

    Returns:
        (names, percentage points lost on these images; below 0 where INT8 is better).

    Raises:
        UserError: even with a single layer in INT8 more is lost.
    """
    expected = _probabilities(model.probabilities_and_embeddings, images)

    def lost(found):
        return 100 * float(
            (expected.argmax(1) == labels).mean() - (found.argmax(1) == labels).mean()
        )

    found = _quantized(calibrated, (), images)
    if lost(found) <= max_drop:
        return (), lost(found)
    say(
        f"all {len(calibrated.layers)} layers in INT8 lose {lost(found):.2f} points; measuring each layer"
    )
    costs = sensitivity(calibrated, expected[:SAMPLE], images[:SAMPLE])
    order = sorted(costs, key=costs.get, reverse=True)
    for name in order[:SHOWN]:
        say(f"  {calibrated.layers[name]}: {costs[name]:.4f} nats")
    count = 1
    while count < len(order):
        drop = lost(_quantized(calibrated, order[:count], images))
        say(f"{count} layers in float: {drop:.2f} points lost")
        if drop <= max_drop:
            return tuple(order[:count]), drop
        count += 1 + count // 3
    raise UserError(
        f"INT8 loses more than {max_drop:g} points however many layers stay in float: give more --images, another "
        f"--calibration, or raise --max-drop"
    )


def sensitivity(calibrated, expected, images):
    """Returns {layer: nats}: how far the probabilities are from the float model's with this one
    layer in INT8.

    Args:
        calibrated: a `vision.compression.int8.Calibrated`.
        expected: probabilities (N, C) of the float model.
        images: uint8 (N, H, W, C).
    """
    costs = {}
    for name in calibrated.layers:
        others = [other for other in calibrated.layers if other != name]
        costs[name] = _divergence(expected, _quantized(calibrated, others, images))
    return costs


def _divergence(p, q):
    """Returns the mean over images of KL(p || q), nats."""
    p, q = (np.maximum(np.asarray(one, np.float64), 1e-12) for one in (p, q))
    return float((p * np.log(p / q)).sum(1).mean())


def _quantized(calibrated, keep_float, images):
    """Returns the probabilities of an INT8 model, as ONNX Runtime computes them here."""
    from vision.export.onnx import NAME, load, save

    with tempfile.TemporaryDirectory() as folder:
        save(calibrated.model(keep_float), pathlib.Path(folder, NAME))
        return _probabilities(load(pathlib.Path(folder, NAME)), images)


def _probabilities(run, images):
    return np.concatenate([run(images[i : i + BATCH])[0] for i in range(0, len(images), BATCH)])


def _measure(model, small, files, images, say):
    """Returns the INT8 model's quality beside the float one's: accuracy, size and latency, and says
    them."""
    from vision.compression import latency
    from vision.evaluation.measures.statistics import paired_bootstrap, share

    right = {"float32": images.right(model), "int8": images.right(small)}
    shares = {name: share(one.sum(), len(one)) for name, one in right.items()}
    change = paired_bootstrap(right["int8"].astype(float), right["float32"].astype(float))
    sizes = [file.stat().st_size for file in files]
    runs = {
        "float32": model.probabilities_and_embeddings,
        "int8": small.probabilities_and_embeddings,
    }
    batches = [np.resize(images.val, (size, *images.val.shape[1:])) for size in (1, BATCH)]
    speeds = [latency.compare(runs, batch) for batch in batches]
    say(
        f"size: {sizes[0] / 1e6:.2f} MB to {sizes[1] / 1e6:.2f} MB, {sizes[0] / sizes[1]:.2f} times smaller"
    )
    texts = [
        f"{100 * s['value']:.1f} % ({100 * s['low']:.1f} to {100 * s['high']:.1f})"
        for s in shares.values()
    ]
    say(f"accuracy on {len(right['int8'])} test images: float32 {texts[0]}, INT8 {texts[1]}")
    points = [100 * change[key] for key in ("difference", "low", "high")]
    say("change: {:+.2f} points ({:+.2f} to {:+.2f})".format(*points))
    cpu = dot_product()
    for speed in speeds:
        p50 = [speed["models"][name]["p50"] for name in runs]
        ratio = speed["models"]["int8"]["speedup"]
        say(
            f"batch {speed['batch']}: {p50[0]:.2f} ms to {p50[1]:.2f} ms, {ratio:.2f} times as fast (VNNI: {cpu})"
        )
    known = {"split": "test", "source": images.spec, "images": len(right["int8"])}
    return known | {
        "precision": "int8",
        "metrics": {"accuracy": shares["int8"]},
        "float32": {"metrics": {"accuracy": shares["float32"]}, "bytes": sizes[0]},
        "quantization": {"cpu": cpu, "bytes": sizes[1], "change": change, "latency": speeds},
    }


if __name__ == "__main__":
    cli.run(main)
