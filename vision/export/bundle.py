"""Exports a classifier as a bundle.

Each format is written, run and compared with JAX before the bundle takes its place.
"""

import importlib
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from vision.bundle import directory as bundle
from vision.bundle.encoder import write_encoder
from vision.bundle.runtimes import open_model
from vision.data.inputs import require_images_alone
from vision.data.sources import is_same
from vision.errors import RunError, UserError, first_line
from vision.export import check, web
from vision.export.options import QUANTIZERS, ExportOptions
from vision.export.place import check_place
from vision.export.preparation import prepared_inside
from vision.export.program import served
from vision.export.samples import open_samples, reference
from vision.export.tflite_metadata import attach, check_labels
from vision.inference import Classifier
from vision.reference.unsure import no_thresholds
from vision.run.calibration import EVALUATE_AGAIN, EVALUATION, read_calibration
from vision.support.directories import files_in, replacing_directory
from vision.support.progress import waiting
from vision.support.reading import read_json
from vision.support.schema import NATURAL

CALIBRATION_IMAGES = 256  # at most
# for heat maps in float32: each is divided by its own maximum, which may be small
HEAT_TOLERANCE = 1e-2
MAX_CLASSES_CHANGED = 0.1  # share of the compared images whose class int8 may change


def export(
    classifier: Classifier,
    out: pathlib.Path | str,
    options: ExportOptions,
    *,
    data: str = "",
    workdir: pathlib.Path | str = "",
    report: Callable[[str], object] = print,
) -> None:
    """Writes a bundle, which replaces an existing one.

    Args:
        classifier: the classifier to export.
        out: directory of the bundle.
        options: formats and their properties.
        data: a source of images to compare and calibrate on; "" for the run's own.
        workdir: directory of the run, whose evaluation becomes the bundle's quality.
        report: called with a line of text on the progress.

    Raises:
        UserError: the directory contains other files or cannot be written; a format cannot express
            the model.
        RunError: an exported model differs from JAX by more than the format's tolerance. No bundle
            is written then.
    """
    out = pathlib.Path(os.path.realpath(out))
    check_place(out)
    if options.precision == "int8" and "tflite" in options.formats:
        _check_sums(classifier.config)
    if "tflite" in options.formats:
        check_labels(classifier.classes)
    _check_fields(classifier, options)
    program = served(classifier, options.heatmap)
    program = prepared_inside(program, options.rgb, options.resize_inside)
    runtime = _fetch_runtime(classifier, options)
    samples = open_samples(classifier, program, data, report)
    _check_calibration(options, samples)
    is_training_data = not data or is_same(data, classifier.config.data.source)
    with replacing_directory(out) as directory:
        exported = {}
        runs = {}
        for name in options.formats:
            if name == web.FOLDER:
                continue  # it is written last, around a model that is verified by then
            if name == "safetensors":
                _write_safetensors(classifier, directory, report)
                continue
            file = _module(name).NAME
            exported[file], runs[name] = _write_verified(name, program, directory, options, samples)
            report(_summary(file, directory, exported[file], samples.origin))
            _report_note(name, report)
        run = next(iter(runs.values()), program)
        sample = None
        if samples.train is not None:
            sample = bundle.write_sample(directory, samples.comparison[0], run)
        measured = {"precision": options.precision, "exported": exported}
        splits = _write_splits(classifier, directory, report) if options.splits else None
        manifest = bundle.Manifest(
            classes=program.classes,
            image_size=program.image_size,
            channels=program.channels,
            resize=program.resize,
            model=_model_file(options.formats),
            quality=quality(classifier, workdir) | measured,
            reference=_reference(program, runs, samples) if is_training_data else None,
            config=classifier.config.to_dict(),
            inputs=write_encoder(directory, classifier.encoder),
            sample=sample,
            splits=splits,
            seen=_seen(classifier, options),
            unsure=_unsure(classifier, options, report),
        )
        if runtime is not None:
            run = runs[web.RUNTIMES[runtime.name]]
            _write_page(directory, out, manifest, runtime, run)
            report(f"{web.FOLDER}/: {_size(directory, web.FOLDER) / 1e6:.1f} MB")
        bundle.write_manifest(directory, manifest)


def _reference(program, runs, samples):
    """Returns the bundle's `reference`, of the first format that is not interpreted, or of JAX."""
    fast = [run for name, run in runs.items() if not hasattr(_module(name), "IS_INTERPRETED")]
    return reference(program, next(iter(fast), program), samples)


def _fetch_runtime(classifier, options):
    """Returns the runtime of the page that "web" writes; None if it is not wanted."""
    if web.FOLDER not in options.formats:
        return None
    web.check_bits(classifier.config.data.bits)
    return web.fetch(options.web_runtime, options.web_packages)


def _write_page(directory, out, manifest, runtime, run):
    """Writes the page of "web" for a bundle that will be called `out`."""
    web.write(directory, web.title(out), manifest, runtime, run)


def _seen(classifier, options):
    """Returns what the model sees of the shorter side; None if the bundle's resize says so."""
    return (classifier.config.data.crop_fraction or 1.0) if options.resize_inside else None


def _unsure(classifier, options, report):
    """Returns what the bundle knows about unsure answers; None if nothing holds for it."""
    evidence = classifier.evidence
    stored = evidence or classifier.outdated
    if stored is None:
        return None
    if options.precision != "float32":
        report(no_thresholds(options.precision))
        return None
    if evidence is None:
        rule = f", and its rule {stored.rule}," if stored.rule else ""
        report(
            f"the bundle has no thresholds for unsure answers: the run's{rule} were measured for "
            "another checkpoint, temperature or source: run python -m vision.evaluation.unsure "
            "again, and export again"
        )
        return None
    return evidence.contents


def _check_fields(classifier, options):
    """Raises `UserError` if a format cannot take all of a model's inputs."""
    refused = [f"--format {name}" for name in reversed(options.formats) if name != "onnx"]
    if options.precision == "int8":
        refused.append("--precision int8")
    if options.heatmap:
        refused.append("--heatmap")
    if options.rgb:
        refused.append("--rgb")
    if options.resize_inside:
        refused.append("--resize-inside")
    if refused:
        require_images_alone(classifier.fields, refused[0])


def _check_calibration(options, samples):
    """Raises `UserError` if there are no images to calibrate int8 with."""
    is_calibrated = options.precision == "int8" and set(options.formats) & QUANTIZERS.keys()
    if is_calibrated and samples.train is None:
        raise UserError(
            "int8 is calibrated with images, and the run's cannot be opened: give --data SOURCE"
        )


def _check_sums(config):
    """Raises `UserError` if a model sums the probabilities of merged classes.

    LiteRT computes everything before the last softmax in int8, in which small sums vanish: the
    class of 80 % of the images changed.
    """
    if config.model.head_groups:
        raise UserError(
            "--precision int8 of tflite cannot sum the probabilities of merged classes "
            "(model.head_groups): give --format onnx, or --precision float16"
        )


def _module(name):
    """Returns the module of a format."""
    return importlib.import_module(f"vision.export.{name}")


def _model_file(formats):
    """Returns the file of the bundle that is its model."""
    if formats[0] == "safetensors":
        return "model.safetensors"
    module = _module(formats[0])
    return getattr(module, "MODEL_FILE", module.NAME)  # of a format that is a directory


def _write_safetensors(classifier, directory, report):
    from vision.export.safetensors import write

    report(write(classifier, directory).replace(f"{directory}{os.sep}", ""))


def _write_splits(classifier, directory, report):
    """Writes the list of the run's images; returns what bundle.json says about it, or None."""
    if classifier.past is None:
        return None
    try:
        return bundle.write_splits(directory, classifier.past)
    except UserError as error:
        report(f"the bundle will not list the run's images: {error}")
        return None


def _write_verified(name, program, directory, options, samples):
    """Writes one format and compares it with JAX.

    Returns:
        (the result of the comparison as a dict, the `run` of the written file).
    """
    module = _module(name)
    path = directory / module.NAME
    with waiting(f"converting to {name}"):
        _write(name, program, path, options, samples.train)
    with waiting(f"comparing {path.name} with JAX"):
        result, run = _verify(module, program, path, options.precision, samples)
        if name == "onnx" and options.heatmap:
            result |= _verify_heat(program, path, options.precision, samples.comparison)
    return result, run


def _write(name, program, path, options, train):
    """Writes one format in a precision; an intermediate float32 model is removed."""
    _write_graph(name, program, path, options, train)
    if name == "tflite":
        attach(program, path)


def _write_graph(name, program, path, options, train):
    module = _module(name)
    if hasattr(module, "TAKES_PRECISION"):
        module.write(program, path, options.batch, options.precision)
        return
    if options.precision == "float32":
        module.write(program, path, options.batch)
        return
    float_path = path.with_name(f"float_{path.name}")
    module.write(program, float_path, options.batch)
    if options.precision == "float16":
        module.to_float16(float_path, path)
    else:
        quantizer = importlib.import_module(QUANTIZERS[name])
        calibration = train.spread(CALIBRATION_IMAGES).read()
        quantizer.quantize(str(float_path), str(path), calibration)
    float_path.unlink()


def _verify(module, program, path, precision, samples):
    """Compares a file with JAX.

    Returns:
        (the result of the comparison as a dict, the file's `run`).

    Raises:
        RunError: they differ too much.
    """
    images = samples.comparison
    origin = samples.origin
    try:
        run = module.load(path)
        result = check.measure(program, run, images)
    except Exception as error:  # the runtimes' exceptions have no common type
        raise RunError(
            f"{path.name} was written, but cannot be run: {first_line(error)}\nNo bundle is written"
        ) from error
    result |= {"images": len(images), "of": origin}
    if precision == "int8":  # single probabilities may move far
        changed = result["classes_changed"]
        if not changed <= MAX_CLASSES_CHANGED:
            raise RunError(
                f"{path.name} changes the class of {changed:.1%} of {len(images)} images "
                f"({origin}) compared with JAX, more than {MAX_CLASSES_CHANGED:.0%}. "
                "No bundle is written"
            )
        return result, run
    difference = result["largest_difference"]
    tolerance = module.TOLERANCE[precision]
    if not difference <= tolerance:  # also if it is NaN
        raise RunError(
            f"{path.name} differs from JAX by {difference:.2g} on {len(images)} images "
            f"({origin}), more than {tolerance:g}. No bundle is written"
        )
    return result | {"tolerance": tolerance}, run


def _verify_heat(program, path, precision, images):
    """Returns how far the heat maps are from JAX's.

    Raises:
        RunError: they are in float32 and differ too much.
    """
    probabilities, _, heat = open_model(path).explain(images)
    # the other maps are of another class
    is_same_class = probabilities.argmax(1) == program(images)[0].argmax(1)
    difference = np.abs(heat - program.heat_maps(images))[is_same_class]
    largest = float(difference.max(initial=0))
    if precision == "float32" and not largest <= HEAT_TOLERANCE:
        raise RunError(
            f"{path.name}'s heat maps differ from JAX's by {largest:.2g}, more than "
            f"{HEAT_TOLERANCE:g}. No bundle is written"
        )
    return {"largest_heat_difference": largest}


def _report_note(name, report):
    """Reports what a reader must know of a format, if there is anything."""
    module = _module(name)
    if hasattr(module, "NOTE"):
        report(f"{module.NAME}: {module.NOTE}")


def _summary(name, directory, result, origin):
    """Returns a sentence on an exported model: its size and its differences from JAX."""
    allowed = f", {result['tolerance']:g} allowed" if "tolerance" in result else ""
    return (
        f"{name}: {_size(directory, name) / 1e6:.1f} MB; on {result['images']} images ({origin}) "
        f"it differs from JAX by at most {result['largest_difference']:.1g}{allowed}; "
        f"{result['classes_changed']:.1%} change class"
    )


def _size(directory, name):
    """Returns the bytes of a file of a bundle, or of the files in a directory of it."""
    return sum(
        file.stat().st_size
        for file in files_in(directory)
        if file.relative_to(directory).parts[0] == name
    )


def quality(classifier: Classifier, workdir: pathlib.Path | str = "") -> dict[str, Any]:
    """Returns what was measured of a model before it was exported.

    Args:
        classifier: the model.
        workdir: directory of its run; "" if there is none.

    Returns:
        {"temperature"}, and "split", "source", "images" and "metrics" if the run's checkpoint has
        been evaluated.

    Raises:
        UserError: the evaluation is damaged.
    """
    temperature = {"temperature": float(classifier.temperature)}
    folder = pathlib.Path(workdir, EVALUATION)
    if not workdir or not (folder / "metrics.json").is_file():
        return temperature
    evaluated = {"split": str, "source": str, "images": NATURAL}
    schema = {"data": evaluated, "metrics": {str: object}}
    metrics = read_json(folder / "metrics.json", schema, EVALUATE_AGAIN)
    calibration = read_calibration(folder)
    if calibration is not None and calibration.step != classifier.step:
        return temperature  # it has been trained further since
    data = {key: metrics["data"][key] for key in evaluated}
    return temperature | data | {"metrics": metrics["metrics"]}
