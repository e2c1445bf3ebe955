"""Exports a trained model for other programs and verifies that it is the same model.

    python -m vision.export --workdir runs/pets --out bundles/pets
    python -m vision.export --workdir runs/pets --format onnx,tflite,saved_model --out bundles/pets
    python -m vision.export --workdir runs/pets --format onnx,tflite --precision int8 \\
        --out bundles/pets-int8
    python -m vision.export --config configs/efficientnet_lite_imagenet.py --data folder:photos \\
        --out bundles/lite0

The result is a bundle: the model from uint8 pixels to probabilities, in each format, and
bundle.json. Each file is run in its own runtime and compared with JAX on images of the validation
split; if it differs, nothing is written. With --heatmap, model.onnx also returns where in the image
it sees the class, which the server's page shows. For callers that cannot prepare images, such as
MediaPipe, --resize-inside SIZE takes larger ones and --rgb gives a gray model three channels:
docs/edge.md.

onnx: ONNX Runtime, TensorRT; any number of images at a time, or --batch of them. tflite: LiteRT, on
phones. stablehlo: JAX and XLA without this project. saved_model: TensorFlow Serving. coreml: apps
on Apple's systems; on Linux an interpreter checks the file, because Apple's runtime is missing.
safetensors: `model.safetensors` with timm's names and layouts, and timm's `config.json`; alone, it
is written without a bundle. timm loads it with `timm.create_model(NAME, num_classes=N,
checkpoint_path="pets/model.safetensors")`, this project with
`model.pretrained=pets/model.safetensors`. web: the folder web/ in the bundle, a page that
classifies images in the browser and that any static web server can host. --web-runtime chooses what
runs the model there; its npm packages are downloaded, or taken from --web-packages.
"""

import os

from absl import flags

from vision import cli
from vision.config.flags import parse_stage
from vision.errors import UserError
from vision.export import stage, web
from vision.export.options import ExportOptions

RUNNABLE = ("onnx", "tflite")  # by this project


def main(argv: list[str]) -> None:
    config, values, words = parse_stage(argv, __doc__, _flags)
    if words:
        raise UserError(f"unexpected argument '{words[0]}': flags start with --")
    if not values.out:
        raise UserError("where to? Give --out DIRECTORY")
    web_runtime = str(values["web-runtime"].value)
    web_packages = str(values["web-packages"].value)
    _require_packages(values)
    from vision import inference

    options = ExportOptions(
        values.format,
        values.precision,
        values.batch,
        values.heatmap,
        values.splits,
        rgb=values.rgb,
        resize_inside=int(values["resize-inside"].value or 0),
        web_runtime=web_runtime,
        web_packages=web_packages,
    )
    classifier = inference.from_flags(config, values.workdir)
    assert isinstance(classifier, inference.Classifier)  # there is no --bundle
    stage.write(classifier, values.out, options, values.data, values.workdir)
    if options.formats == ("safetensors",):
        return
    if options.formats[0] in RUNNABLE:
        cli.show(f"{values.out}: python -m vision.predict --bundle {values.out} photos/")
    else:
        cli.show(values.out)
    if web.FOLDER in options.formats:
        place = os.path.join(values.out, web.FOLDER)
        cli.show(f"{place}: python -m http.server --directory {place}")


def _require_packages(values):
    """Raises `UserError` if packages for a format are missing, or flags of web are given alone."""
    if web.FOLDER not in values.format:
        for flag in ("web-runtime", "web-packages"):
            if values[flag].present:
                raise UserError(f"--{flag} needs --format web: add it")
    stage.require_packages(values.format, str(values["web-runtime"].value))


def _flags(values):
    flags.DEFINE_string("workdir", "", "run directory", flag_values=values)
    flags.DEFINE_list(
        "format",
        "onnx",
        "onnx, tflite, stablehlo, saved_model, coreml, safetensors, web",
        flag_values=values,
    )
    flags.DEFINE_string(
        "precision",
        "float32",
        "float32; for onnx, tflite, coreml and web also float16 and int8",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "batch",
        0,
        "images in a batch; 0 = any number, if the format allows it",
        flag_values=values,
    )
    flags.DEFINE_string(
        "data",
        "",
        "source of images to compare and calibrate on; default: the run's own",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "heatmap",
        False,
        "onnx: also return where the model sees the most probable class",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "rgb",
        False,
        "gray model: take three channels and convert them to one in the graph",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "resize-inside",
        0,
        "take images with this side, and resize and crop them in the graph; 0 leaves that to the "
        "caller",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "splits",
        True,
        "list the names of the run's images, so that the bundle is measured on the same ones",
        flag_values=values,
    )
    flags.DEFINE_string(
        "web-runtime",
        next(iter(web.RUNTIMES)),
        f"what runs the model of web in the browser: {' or '.join(web.RUNTIMES)}",
        flag_values=values,
    )
    flags.DEFINE_string(
        "web-packages",
        "",
        "folder with the npm packages of web's runtime; default: download them once",
        flag_values=values,
    )
    flags.DEFINE_string("out", "", "directory to write to", flag_values=values)


if __name__ == "__main__":
    cli.run(main, outlives_output=True)
