"""Builds a TensorRT engine from a bundle's model.onnx, on the GPU that it will run on: an engine
fits no other kind.

    python scripts/deploy/tensorrt_build.py --bundle bundles/pets --out pets.engine --batch 1,8,32

Needs TensorRT 10 or 11 and nothing of this project. The engine takes `images`, uint8 (B, H, W, C),
and returns `probabilities` and `embedding`, float32, as the bundle does; it computes in the
bundle's precision.
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
        sys.exit(f"error: {bundle} holds no model.onnx: python -m vision.export --format onnx")
    try:
        import tensorrt
    except ImportError:
        sys.exit(
            "error: this needs TensorRT: pip install tensorrt, on a machine with an NVIDIA GPU. A Jetson has it"
        )
    engine = build(
        tensorrt, bundle / "model.onnx", [(batch, side, side, channels) for batch in batches]
    )
    pathlib.Path(values.out).write_bytes(engine)
    print(
        f"{values.out}: {pathlib.Path(values.out).stat().st_size / 1e6:.1f} MB, TensorRT {tensorrt.__version__}"
    )


def _flags():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", required=True, help="directory of the bundle")
    parser.add_argument("--out", required=True, help="file of the engine")
    parser.add_argument("--batch", default="1,8,32", help="images at a time: least, best, most")
    return parser


def _batches(text):
    """Returns the three numbers of --batch."""
    try:
        least, best, most = map(int, text.split(","))
    except ValueError:
        sys.exit(f"error: --batch {text}: give three numbers, such as 1,8,32")
    if not 1 <= least <= best <= most:
        sys.exit(f"error: --batch {text}: they go up from 1")
    return least, best, most


def build(trt, path, shapes):
    """Returns an engine, bytes.

    Args:
        trt: the module `tensorrt`.
        path: of the .onnx file.
        shapes: of the input: the smallest, the one that it is fastest for, and the largest.
    """
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    # Types as in the file: TensorRT 11 knows nothing else, TensorRT 10 has to be told.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        faults = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        sys.exit("\n".join(["error: TensorRT cannot read the model:", *faults]))
    config = builder.create_builder_config()
    images = network.get_input(0)
    if -1 in tuple(images.shape):  # with a fixed batch there is nothing to choose
        profile = builder.create_optimization_profile()
        profile.set_shape(images.name, *shapes)
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        sys.exit("error: TensorRT could not build the engine: see above")
    return bytes(engine)


if __name__ == "__main__":
    main()
