"""Builds a TensorRT engine from a bundle's model.onnx, for the kind of GPU that it runs on.

    python scripts/deploy/tensorrt_build.py --bundle bundles/pets --out pets.engine --batch 1,8,32

It needs TensorRT 10 or 11 and nothing of this project. The engine takes `images`, uint8
(B, H, W, C), and returns `probabilities` and `embedding`, float32, as the bundle does; it computes
in the bundle's precision.
"""

import argparse
import json
import pathlib
import sys


def main(argv=None):
    values = _flags().parse_args(argv)
    bundle = pathlib.Path(values.bundle)
    batches = _batches(values.batch)
    try:
        manifest = json.loads((bundle / "bundle.json").read_text())
        side = manifest["image_size"]
        channels = manifest["channels"]
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"error: {bundle} is not a bundle: {error}")
    if not (bundle / "model.onnx").is_file():
        sys.exit(f"error: {bundle} has no model.onnx: python -m vision.export --format onnx")
    try:
        import tensorrt
    except ImportError:
        sys.exit(
            "error: this needs TensorRT: pip install tensorrt, on a machine with an NVIDIA GPU. "
            "On a Jetson it is preinstalled"
        )
    shapes = [(batch, side, side, channels) for batch in batches]
    engine = build(tensorrt, bundle / "model.onnx", shapes)
    pathlib.Path(values.out).write_bytes(engine)
    print(f"{values.out}: {len(engine) / 1e6:.1f} MB, TensorRT {tensorrt.__version__}")


def _flags():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", required=True, help="the bundle's directory")
    parser.add_argument("--out", required=True, help="file for the engine")
    parser.add_argument("--batch", default="1,8,32", help="batch sizes: minimum, optimum, maximum")
    return parser


def _batches(text):
    """Returns the three numbers of --batch."""
    try:
        least, best, most = map(int, text.split(","))
    except ValueError:
        sys.exit(f"error: --batch {text}: give three numbers, such as 1,8,32")
    if not 1 <= least <= best <= most:
        sys.exit(f"error: --batch {text}: the numbers must not decrease and be at least 1")
    return least, best, most


def build(trt, path, shapes):
    """Returns the bytes of an engine.

    Args:
        trt: the module `tensorrt`.
        path: the .onnx file.
        shapes: shapes of the input: the smallest, the one to optimize for, and the largest.
    """
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    # Types as in the file: the only way in TensorRT 11, an option in TensorRT 10.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        faults = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        sys.exit("\n".join(["error: TensorRT cannot read the model:", *faults]))
    config = builder.create_builder_config()
    images = network.get_input(0)
    if -1 in tuple(images.shape):  # a fixed batch size needs no profile
        profile = builder.create_optimization_profile()
        profile.set_shape(images.name, *shapes)
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        sys.exit("error: TensorRT could not build the engine: see above")
    return bytes(engine)


if __name__ == "__main__":
    main()
