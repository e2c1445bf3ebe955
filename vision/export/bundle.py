"""A bundle from a classifier: each format is written, run and compared with JAX before anything
takes its place."""

import contextlib
import importlib
import json
import os
import pathlib
import shutil

import numpy as np

from vision.bundle import directory as bundle
from vision.bundle.runtimes import batched, open_model
from vision.data.decode import UnreadableImage
from vision.data.loading.sampler import spread
from vision.data.pipeline import named_splits
from vision.data.sources import open_splits
from vision.errors import RunError, UserError, check_choice, first_line
from vision.evaluation.data import Joined, is_same
from vision.export import check
from vision.export.program import served
from vision.run.calibration import CALIBRATION, EVALUATION

FORMATS = ("onnx", "tflite", "stablehlo", "saved_model", "safetensors")
PRECISIONS = ("float32", "float16", "int8")
# of formats that may be narrower
# images, at most: compared; int8 calibrated with; the drift's reference
QUANTIZERS = {"onnx": "vision.compression.int8", "tflite": "vision.export.tflite"}
CHECKED = 64
CALIBRATED = 256
DESCRIBED = 1000
# of a heat map in float32: each is scaled by its own largest number, which may be small
HEAT_TOLERANCE = 1e-2
CHANGED = 0.1  # share of the images checked whose class int8 may change
BATCH = 50  # images whose embeddings are computed at a time


def export(
    classifier,
    out,
    formats,
    *,
    precision="float32",
    batch=0,
    data="",
    workdir="",
    heatmap=False,
    say=print,
):
    """Writes a bundle, which takes the place of one that is there.

    Args:
        classifier: a `vision.inference.Classifier`.
        out: directory of the bundle.
        formats: some of `FORMATS`. `vision.bundle.directory.open_bundle` runs ONNX.
        precision: "float32"; of ONNX and TFLite also "float16" and "int8".
        batch: images at a time; 0 = any number, where the format can.
        data: a source to compare and calibrate on; "" = the run's own.
        workdir: of the run, whose evaluation tells the model's quality.
        heatmap: whether model.onnx also returns heat maps; see `vision.export.heat`.
        say: called with a line of text about what is done.

    Raises:
        UserError: the directory holds other files, or cannot be written; a format cannot express
            the model.
        RunError: what was written differs from JAX by more than the format's tolerance. No bundle
            is written then.
    """
    formats = check_request(formats, precision, batch, heatmap)
    out = pathlib.Path(os.path.realpath(out))
    check_place(out)
    program = served(classifier, heatmap)
    images, train, origin = _samples(classifier, data, say)
    if precision == "int8" and train is None:
        raise UserError(
            "int8 is calibrated with images, and the run's cannot be opened: give --data SOURCE"
        )
    own = not data or is_same(data, classifier.config.data.source)
    reference = describe(program, train) if own and train is not None else None
    with replacing(out) as directory:
        checks = {}
        run = program
        for name in formats:
            if name == "safetensors":
                from vision.export.safetensors import write

                say(write(classifier, directory).replace(f"{directory}{os.sep}", ""))
                continue
            module = _module(name)
            _write(name, program, directory / module.NAME, batch, precision, train)
            checks[module.NAME], own = _verify(
                module, program, directory / module.NAME, precision, images, origin
            )
            run = own if name == formats[0] else run
            if name == "onnx" and heatmap:
                checks[module.NAME] |= _verify_heat(
                    program, directory / module.NAME, precision, images
                )
            say(_sentence(module.NAME, directory, checks[module.NAME], origin))
        bundle.write_manifest(
            directory,
            classes=program.classes,
            image_size=program.image_size,
            channels=program.channels,
            resize=program.resize,
            model=_main(formats),
            quality=quality(classifier, workdir) | {"precision": precision, "exported": checks},
            reference=reference,
            config=classifier.config.to_dict(),
            sample=bundle.write_sample(directory, images[0], run) if train is not None else None,
        )


def check_request(formats, precision, batch, heatmap=False):
    """Returns the formats, each once, those that can be run first; raises `UserError` for what
    cannot be."""
    for name in formats:
        check_choice("--format", name, FORMATS)
    check_choice("--precision", precision, PRECISIONS)
    if batch < 0:
        raise UserError(f"--batch = {batch}: it is at least 1, or 0 for any number")
    if heatmap and "onnx" not in formats:
        raise UserError("--heatmap is for --format onnx: add it")
    formats = [name for name in FORMATS if name in formats]
    others = [name for name in formats if name not in QUANTIZERS]
    if precision != "float32" and others:
        raise UserError(
            f"--precision = {precision} is for --format {' and '.join(QUANTIZERS)}: export {others[0]} by itself"
        )
    return formats


def _module(name):
    try:
        return importlib.import_module(f"vision.export.{name}")
    except ImportError as error:
        raise UserError(
            f"--format {name} needs {error.name or 'more'}: pip install 'vision[export]'"
        ) from error


def _main(formats):
    """Returns which file of the bundle is its model."""
    if formats[0] == "safetensors":
        return "model.safetensors"
    name = _module(formats[0]).NAME
    return name if "." in name else f"{name}/saved_model.pb"


def _write(name, program, path, batch, precision, train):
    """Writes one format in a precision; the float model that others are made from does not stay."""
    module = _module(name)
    if precision == "float32":
        module.write(program, path, batch)
        return
    wide = path.with_name(f"float_{path.name}")
    module.write(program, wide, batch)
    if precision == "float16":
        module.to_float16(wide, path)
    else:
        quantizer = importlib.import_module(QUANTIZERS[name])
        quantizer.quantize(str(wide), str(path), train[spread(CALIBRATED, len(train))])
    wide.unlink()


def _verify(module, program, path, precision, images, origin):
    """Returns (what comparing the file with JAX has given, its `run`); raises `RunError` where it
    differs too much."""
    try:
        run = module.load(path)
        found = check.measure(program, run, images)
    except Exception as error:  # the runtimes' exceptions have no common type
        first = first_line(error)
        raise RunError(
            f"{path.name} was written, but cannot be run: {first}\nNo bundle is written"
        ) from error
    difference = found["largest_difference"]
    changed = found["classes_changed"]
    found |= {"images": len(images), "of": origin}
    if precision == "int8":  # single probabilities may move far
        if not changed <= CHANGED:
            raise RunError(
                f"{path.name} gives {changed:.1%} of {len(images)} images ({origin}) another class than JAX does; "
                f"{CHANGED:.0%} may be. No bundle is written"
            )
        return found, run
    tolerance = module.TOLERANCE[precision]
    if not difference <= tolerance:  # nor where it is not a number
        raise RunError(
            f"{path.name} differs from JAX by {difference:.2g} on {len(images)} images ({origin}), more than "
            f"{tolerance:g}. No bundle is written"
        )
    return found | {"tolerance": tolerance}, run


def _verify_heat(program, path, precision, images):
    """Returns how far the heat maps are from JAX's; raises `RunError` where that is too much in
    float32."""
    found = open_model(path).explain(images)
    same = found[0].argmax(1) == program(images)[0].argmax(1)  # others are maps of another class
    largest = float(np.abs(found[2] - program.heat_maps(images))[same].max(initial=0))
    if precision == "float32" and not largest <= HEAT_TOLERANCE:
        raise RunError(
            f"{path.name}'s heat maps differ from JAX's by {largest:.2g}, more than {HEAT_TOLERANCE:g}. "
            "No bundle is written"
        )
    return {"largest_heat_difference": largest}


def _sentence(name, directory, found, origin):
    size = sum(
        file.stat().st_size
        for file in _files(directory)
        if file.relative_to(directory).parts[0] == name
    )
    allowed = f", {found['tolerance']:g} allowed" if "tolerance" in found else ""
    return (
        f"{name}: {size / 1e6:.1f} MB; on {found['images']} images ({origin}) it differs from JAX by "
        f"{found['largest_difference']:.1g} at most{allowed}; {found['classes_changed']:.1%} change class"
    )


def _samples(classifier, spec, say):
    """Returns (images to compare on, training images or None, where the former are from), uint8 (N,
    S, S, C)."""
    config = classifier.config.copy_and_resolve_references()
    c = config.data
    try:
        if spec and not is_same(spec, c.source):
            joined = Joined(list(open_splits(spec).values()))
            images = _read(classifier, joined, CHECKED), _read(classifier, joined, DESCRIBED)
            return *images, f"of {spec}"
        if c.source:
            splits, _ = named_splits(c, config.seed)
            images = (
                _read(classifier, splits["val"], CHECKED),
                _read(classifier, splits["train"], DESCRIBED),
            )
            return *images, "of the validation split"
    except UserError as error:
        if spec:
            raise
        say(f"the run's images cannot be opened: {error}")
    say(
        "comparing on random images, and without statistics of the training data: --data SOURCE names real ones"
    )
    shape = (CHECKED, classifier.image_size, classifier.image_size, classifier.channels)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8), None, "random"


def _read(classifier, source, count):
    """Returns at most `count` images from all over a source, as the model takes them; unreadable
    ones are left out."""
    found = []
    for index in spread(count, len(source)):
        with contextlib.suppress(UnreadableImage):
            found.append(classifier.prepare(source[int(index)]["image"]))
    if not found:
        raise UserError(
            f"not one of {len(source)} images can be read, beginning with {source.name(0)}"
        )
    return np.stack(found)


def describe(program, images):
    """Returns the statistics of training images that drift is measured from.

    Args:
        program: a `vision.export.program.Program`.
        images: uint8 (N, image_size, image_size, channels).

    Returns:
        {"images": N, "pixel_mean" and "pixel_std": by channel, pixels in [0, 1], "embedding_mean"
        and "embedding_std": by dimension}.
    """
    _, embeddings = batched(program, min(BATCH, len(images)))(images)
    embeddings = embeddings.astype(np.float64)
    levels = np.arange(256) / 255
    counts = np.stack(
        [np.bincount(images[..., i].ravel(), minlength=256) for i in range(images.shape[-1])]
    )
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ levels
    return {
        "images": len(images),
        "pixel_mean": mean,
        "pixel_std": np.sqrt((share * (levels - mean[:, None]) ** 2).sum(1)),
        "embedding_mean": embeddings.mean(0),
        "embedding_std": embeddings.std(0),
    }


def quality(classifier, workdir=""):
    """Returns {"temperature", and where the run's checkpoint has been evaluated, "split", "source",
    "images", "metrics"}: what was measured of the model before it was exported."""
    found = {"temperature": float(classifier.temperature)}
    folder = pathlib.Path(workdir, EVALUATION)
    if not workdir or not (folder / "metrics.json").is_file():
        return found
    try:
        metrics = json.loads((folder / "metrics.json").read_text())
        calibrated = folder / CALIBRATION
        if calibrated.is_file() and json.loads(calibrated.read_text())["step"] != classifier.step:
            return found  # it was trained further since
        data = metrics["data"]
        known = {"split": data["split"], "source": data["source"], "images": data["images"]}
        return found | known | {"metrics": metrics["metrics"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} is damaged: remove it, or run python -m vision.evaluation again"
        ) from error


def check_place(out):
    """Raises `UserError` where a bundle would take the place of anything but a bundle."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"cannot write to --out {out}: it is a file")
    try:
        known = {*json.loads((out / bundle.MANIFEST).read_text())["sha256"], bundle.MANIFEST}
    except (OSError, ValueError, KeyError, TypeError):
        known = set()
    others = [
        name for file in _files(out) if (name := file.relative_to(out).as_posix()) not in known
    ]
    if others:
        raise UserError(
            f"--out {out} holds other files than a bundle's, such as {min(others)}: name another directory"
        )


def _files(directory):
    return [path for path in directory.rglob("*") if not path.is_dir() or path.is_symlink()]


@contextlib.contextmanager
def replacing(out):
    """Gives a fresh directory, which takes the place of `out` when the block ends without an
    error."""
    temporary, old = (out.with_name(f".{out.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    try:
        temporary.mkdir(parents=True)
        yield temporary
        replaced = out.exists()
        if replaced:
            out.rename(old)
        try:
            temporary.rename(out)
        except OSError:
            if replaced:
                old.rename(out)
            raise
    except OSError as error:
        raise UserError(f"cannot write to --out {out}: {error.strerror or error}") from error
    finally:
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)
