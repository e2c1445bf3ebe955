"""Writes a bundle's model.onnx, config.pbtxt and labels into a model repository of NVIDIA Triton.

    python scripts/deploy/triton_repository.py --bundle bundles/pets --out triton/pets --version 1
    tritonserver --model-repository triton

The model takes `images`, uint8 (B, H, W, C), and returns the same as the bundle's. Triton gathers
requests into batches; its classification extension on `probabilities` returns class names. The
client must decode and crop images as described in bundle.json, since Triton does not.
"""

import argparse
import json
import pathlib
import shutil
import sys

TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}


def main(argv=None):
    values = _flags().parse_args(argv)
    bundle = pathlib.Path(values.bundle)
    out = pathlib.Path(values.out)
    if values.version < 1 or values.max_batch < 1 or values.max_delay < 0:
        sys.exit("error: --version and --max-batch must be at least 1, --max-delay at least 0")
    try:
        from vision.bundle.directory import open_bundle
        from vision.errors import UserError
    except ImportError as error:
        sys.exit(
            f"error: this needs the server's packages, {error.name} is missing: "
            "./scripts/setup serving"
        )
    try:
        classes = open_bundle(bundle).classes  # also checks that no file is missing or has changed
    except UserError as error:
        sys.exit(f"error: {error}")
    if not (bundle / "model.onnx").is_file():
        sys.exit(f"error: {bundle} has no model.onnx: python -m vision.export --format onnx")
    folder = out / str(values.version)
    folder.mkdir(parents=True, exist_ok=True)
    labels = "".join(f"{' '.join(name.split())}\n" for name in classes)
    (out / "labels.txt").write_text(labels)
    text = config(out.name, bundle / "model.onnx", values.max_batch, values.max_delay)
    (out / "config.pbtxt").write_text(text)
    shutil.copyfile(bundle / "model.onnx", folder / "model.onnx.tmp")
    (folder / "model.onnx.tmp").rename(folder / "model.onnx")  # last: Triton may be watching
    print(f"{out}: version {values.version}, {len(classes)} classes")


def _flags():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", required=True, help="the bundle's directory")
    parser.add_argument(
        "--out", required=True, help="directory in the repository; its name is the model's"
    )
    parser.add_argument("--version", type=int, default=1, help="version number")
    parser.add_argument("--max-batch", type=int, default=32, help="images in a batch")
    parser.add_argument(
        "--max-delay", type=float, default=0.002, help="seconds that an image may wait for others"
    )
    return parser


def config(name, path, max_batch=32, max_delay=0.002):
    """Returns the text of a config.pbtxt.

    Args:
        name: the model's name.
        path: model.onnx; if its batch size is fixed, Triton does not gather requests.
        max_batch: images in a batch.
        max_delay: seconds that an image may wait for others.
    """
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    model_input = session.get_inputs()[0]
    fixed = model_input.shape[0] if isinstance(model_input.shape[0], int) else 0
    first = 0 if fixed else 1  # first axis that config.pbtxt describes
    images = np.zeros([fixed or 1, *model_input.shape[1:]], np.uint8)
    arrays = session.run(None, {model_input.name: images})
    names = [output.name for output in session.get_outputs()]
    outputs = [
        _tensor(name, array, first, "labels.txt" if name == "probabilities" else "")
        for name, array in zip(names, arrays, strict=True)
    ]
    lines = [
        f"name: {json.dumps(name)}",
        'platform: "onnxruntime_onnx"',
        f"max_batch_size: {0 if fixed else max_batch}",
        f"input [{_tensor(model_input.name, images, first)}]",
        f"output [{', '.join(outputs)}]",
    ]
    if not fixed:
        lines.append(
            f"dynamic_batching {{ max_queue_delay_microseconds: {round(1e6 * max_delay)} }}"
        )
    return "\n".join(lines) + "\n"


def _tensor(name, array, first, labels=""):
    dims = ", ".join(map(str, array.shape[first:]))
    text = f"name: {json.dumps(name)}, data_type: {TYPES[array.dtype.name]}, dims: [{dims}]"
    if labels:
        text += f", label_filename: {json.dumps(labels)}"
    return f"{{ {text} }}"


if __name__ == "__main__":
    main()
