"""Writes a bundle's model.onnx into a model repository of NVIDIA Triton, with its config.pbtxt and
labels.

    python scripts/deploy/triton_repository.py --bundle bundles/pets --out triton/pets --version 1
    tritonserver --model-repository triton

The model takes `images`, uint8 (B, H, W, C), and returns what the bundle's does. Triton gathers
requests into batches; its classification extension on `probabilities` gives names of classes.
Images are decoded and cropped by the client, as bundle.json says: Triton does not.
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
        sys.exit("error: --version and --max-batch are at least 1, --max-delay is not negative")
    try:
        from vision.bundle.directory import open_bundle
        from vision.errors import UserError
    except ImportError as error:
        sys.exit(
            f"error: this needs the server's packages, {error.name} is missing: pip install 'vision[serving]'"
        )
    try:
        known = open_bundle(bundle)  # nothing of it is missing or has changed
    except UserError as error:
        sys.exit(f"error: {error}")
    if not (bundle / "model.onnx").is_file():
        sys.exit(f"error: {bundle} holds no model.onnx: python -m vision.export --format onnx")
    folder = out / str(values.version)
    folder.mkdir(parents=True, exist_ok=True)
    (out / "labels.txt").write_text(
        "".join(f"{' '.join(name.split())}\n" for name in known.classes)
    )
    (out / "config.pbtxt").write_text(
        config(out.name, bundle / "model.onnx", values.max_batch, values.max_delay)
    )
    shutil.copyfile(bundle / "model.onnx", folder / "model.onnx.tmp")
    (folder / "model.onnx.tmp").rename(folder / "model.onnx")  # last: Triton may be watching
    print(f"{out}: version {values.version}, {len(known.classes)} classes")


def _flags():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", required=True, help="directory of the bundle")
    parser.add_argument(
        "--out", required=True, help="directory in the repository; its name is the model's"
    )
    parser.add_argument("--version", type=int, default=1, help="number of the version")
    parser.add_argument("--max-batch", type=int, default=32, help="images in a batch")
    parser.add_argument(
        "--max-delay", type=float, default=0.002, help="seconds that an image may wait for others"
    )
    return parser


def config(name, path, max_batch=32, max_delay=0.002):
    """Returns the text of a config.pbtxt.

    Args:
        name: of the model.
        path: of model.onnx. Where its batch has a fixed size, Triton does not gather requests.
        max_batch: images in a batch.
        max_delay: seconds that an image may wait for others.
    """
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    fixed = given.shape[0] if isinstance(given.shape[0], int) else 0
    first = 0 if fixed else 1  # axis of a shape that config.pbtxt tells
    image = np.zeros([fixed or 1, *given.shape[1:]], np.uint8)
    found = session.run(None, {given.name: image})
    names = [output.name for output in session.get_outputs()]
    outputs = [
        _tensor(name, array, first, "labels.txt" if name == "probabilities" else "")
        for name, array in zip(names, found, strict=True)
    ]
    lines = [
        f"name: {json.dumps(name)}",
        'platform: "onnxruntime_onnx"',
        f"max_batch_size: {0 if fixed else max_batch}",
        f"input [{_tensor(given.name, image, first)}]",
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
    return f"{{ {text}{f', label_filename: {json.dumps(labels)}' if labels else ''} }}"


if __name__ == "__main__":
    main()
