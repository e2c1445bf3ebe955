"""Times an exported model in ONNX Runtime against the same model jitted by JAX, in turn.

    python -m scripts.bench.export
    python -m scripts.bench.export --models vit:S/16 --sizes 1 --fixed

Both sides take the same uint8 images and return probabilities and embeddings to the host, on all
cores of a CPU. The models have random weights, on which time does not depend, and 1,000 classes at
224 px. --fixed exports for the batch size that is timed instead of for any. `ratio` is images/s of
ONNX Runtime over JAX's.
"""

import pathlib
import statistics
import tempfile
import time

from scripts.bench import common
from vision import cli

MODELS = "efficientnet_lite:0,resnet:50,mobilenet:large,vit:S/16"
HIDDEN = ("date", "commit", "device", "label")  # columns that are not printed


def main(argv):
    p = common.make_parser(__doc__, "export")
    p.add_argument("--models", default=MODELS, help="NAME:VARIANT,...")
    p.add_argument("--sizes", default="1,32", help="images at a time")
    p.add_argument("--image-size", type=int, default=224)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=0.5, help="seconds of each side per round")
    p.add_argument("--fixed", action="store_true", help="export for one batch size")
    a = p.parse_args(argv)
    rows = []
    for name in a.models.split(","):
        rows += _rows(name, a)
    common.print_table(
        [{key: value for key, value in row.items() if key not in HIDDEN} for row in rows]
    )
    common.write_rows(a.csv, rows)
    print(f"lowest ratio: {min(row['ratio'] for row in rows):.2f}")


def _rows(name, a):
    """Yields a row for each batch size of one model."""
    import numpy as np

    from vision.export import check, onnx

    model, program = _program(name, a.image_size)
    for size in map(int, a.sizes.split(",")):
        images = np.random.default_rng(0).integers(
            0, 256, (size, a.image_size, a.image_size, 3), np.uint8
        )
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, onnx.NAME)
            onnx.write(program, path, size if a.fixed else 0)
            run = onnx.load(path)
        difference = check.compare(program, run, images)
        sides = {"onnx": _timer(run, images, a.seconds), "jax": _timer(program, images, a.seconds)}
        seconds = common.alternate(sides, a.rounds)
        medians = {f"{side}_ms": 1e3 * statistics.median(times) for side, times in seconds.items()}
        work = {
            "model": model,
            "batch": size,
            "fixed": a.fixed,
            "rounds": a.rounds,
            "difference": difference,
        }
        yield common.facts(a) | work | medians | common.compare(seconds, "onnx", "jax")


def _timer(run, images, least):
    """Returns a function that calls `run(images)` for at least `least` seconds; it returns the
    seconds per call."""
    run(images)

    def seconds():
        start = time.perf_counter()
        calls = 0
        while calls == 0 or time.perf_counter() - start < least:
            run(images)
            calls += 1
        return (time.perf_counter() - start) / calls

    return seconds


def _program(name, image_size):
    """Returns (name, `vision.export.program.Program`) of a model with random weights."""
    from vision import inference, models
    from vision.config import default
    from vision.export.program import served
    from vision.models.layers.streams import Streams

    c = default()
    c.model.name, _, c.model.variant = name.partition(":")
    c.model.dtype = "float32"
    model = models.build(c.model, 1000, image_size, 3, Streams(0))
    model.eval()
    return name, served(inference.Classifier(c, model, tuple(map(str, range(1000))), image_size, 3))


if __name__ == "__main__":
    cli.run(main)
