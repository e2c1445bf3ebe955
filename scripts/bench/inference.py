"""Times the answers to a batch of images: ours, ONNX Runtime's and PyTorch's, in turn.

    python -m scripts.bench.inference --model resnet --variant 50 --batch 32
    python -m scripts.bench.inference --model vit --variant S/16 --batch 1 --fixed --against onnx

Each side gets the same number of uint8 images in the host's memory, normalizes them, and returns
what it computes to the host, on all cores of a CPU:

    ours     `vision.inference.Classifier`: logits and embeddings
    onnx     our ONNX export in ONNX Runtime: probabilities and embeddings. --fixed exports for the
             batch size that is timed instead of for any
    torch    the same architecture in eager PyTorch under inference_mode, channels_last for
             convolutions: probabilities
    compile  the same under torch.compile

The weights are random; time does not depend on them. The number of parameters of PyTorch's model is
checked, and the export's results are compared with ours. A ratio is ours over another side's, in
images per second by the medians: above 1, ours is faster. The last line names them all.
"""

import math
import pathlib
import statistics
import tempfile
import time

import numpy as np

from scripts.bench import common
from vision import cli
from vision.errors import check_choice
from vision.support.memory import keep_freed_memory

AGAINST = ("onnx", "torch", "compile")
WORK = ("model", "variant", "image_size", "classes", "batch", "fixed", "rounds")
HIDDEN = ("date", "commit", "device", "label", "goal")  # columns that are not printed


def main(argv):
    a = parse(argv)
    keep_freed_memory()  # as vision.predict and vision.evaluation do
    row = measure(a)
    common.print_table([{key: value for key, value in row.items() if key not in HIDDEN}])
    common.write_rows(a.csv, [row])
    print(", ".join(f"ratio to {name}: {row[f'ratio_{name}']:.2f}" for name in a.against))


def parse(argv):
    """Returns the flags; `against` is a list."""
    p = common.make_parser(__doc__, "inference")
    p.add_argument("--model", default="resnet")
    p.add_argument("--variant", default="50")
    p.add_argument("--image-size", type=int, default=224)
    p.add_argument("--classes", type=int, default=1000)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--against", default=",".join(AGAINST), help="NAME,...")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=2.0, help="seconds of each side per round")
    p.add_argument("--fixed", action="store_true", help="export for one batch size")
    common.add_torch_python(p)
    a = p.parse_args(argv)
    a.against = a.against.split(",")
    for name in a.against:
        check_choice("--against", name, AGAINST)
    return a


def measure(a):
    """Runs the comparison that the flags describe and returns its row."""
    from scripts.bench import flops
    from vision import cpu

    classifier = _classifier(a)
    shape = (a.batch, a.image_size, a.image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    sides = {"ours": _repeated(classifier, images)}
    parameters = flops.model_costs(classifier.config.model, a.classes, a.image_size).parameters
    difference = None
    torch = {}
    try:
        for name in a.against:
            if name == "onnx":
                run, difference = _exported(classifier, images, a.fixed)
                sides[name] = _repeated(run, images)
            else:
                torch[name] = _start_torch(a, name)
                torch[name].check_parameters(parameters)
                sides[name] = torch[name].run
        runs = {name: _at_least(run, a.seconds) for name, run in sides.items()}
        seconds = common.alternate(runs, a.rounds)
    finally:
        for side in torch.values():
            side.close()
    version = next((side.facts["torch"] for side in torch.values()), "")
    work = {name: getattr(a, name) for name in WORK}
    work["convolutions"] = "oneDNN" if cpu.uses_onednn() else "XLA"
    return common.facts(a, version) | work | {"difference": difference} | _figures(seconds)


def _figures(seconds):
    """Returns the medians in ms and the ratios; None for a side that was not measured."""
    figures = {}
    for name in ("ours", *AGAINST):
        times = seconds.get(name)
        figures[f"{name}_ms"] = 1e3 * statistics.median(times) if times else None
    for name in AGAINST:
        ratios = {"ratio": None, "ratio_of_best": None}
        if name in seconds:
            ratios = common.compare(seconds, "ours", name)
        figures |= {f"{key}_{name}": value for key, value in ratios.items()}
    return figures


def _classifier(a):
    """Returns a `Classifier` with random weights."""
    from vision import inference, models
    from vision.config import default
    from vision.models.layers.streams import Streams

    c = default()
    c.model.name = a.model
    c.model.variant = a.variant
    c.model.dtype = "float32"
    model = models.build(c.model, a.classes, a.image_size, 3, Streams(0))
    model.eval()
    return inference.Classifier(c, model, tuple(map(str, range(a.classes))), a.image_size, 3)


def _exported(classifier, images, fixed):
    """Returns (function of images, that runs the export; its largest difference to ours)."""
    from vision.export import check, onnx
    from vision.export.program import served

    program = served(classifier)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, onnx.NAME)
        onnx.write(program, path, len(images) if fixed else 0)
        run = onnx.load(path)
    return run, check.compare(program, run, images)


def _start_torch(a, against):
    from experiments.speed.torch_side import TorchSide

    spec = {name: getattr(a, name) for name in WORK}
    options = {"against": against, "layout": "channels_last", "compile_mode": "default"}
    return TorchSide(a.torch_python, "inference", **spec, **options)


def _repeated(run, images):
    """Returns a function of a number of calls of `run(images)`, which returns their seconds."""

    def seconds(calls):
        start = time.perf_counter()
        for _ in range(calls):
            run(images)
        return time.perf_counter() - start

    return seconds


def _at_least(run, least):
    """Returns a function that times calls for about `least` seconds and returns those of one.

    How many calls that takes is measured now, after a first one, which may compile.
    """
    run(1)
    calls = max(1, math.ceil(least / run(1)))
    return lambda: run(calls) / calls


if __name__ == "__main__":
    cli.run(main)
