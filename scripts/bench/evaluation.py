"""Times the evaluation of images, with all outputs on the host, against the bare forward pass.

    python -m scripts.bench.evaluation
    python -m scripts.bench.evaluation --model resnet --variant 50 --image-size 224 --batch 256 \\
        --dtype bfloat16

Both sides take turns on the same random images, which live on the device. The bare pass computes
logits and embeddings and leaves them there; ours also measures brightness and contrast, pads and
masks the last batch, and copies everything to the host. The metrics with their intervals follow and
are timed separately. The last line is `ratio: R`, images/s of ours over the bare pass's.
"""

import statistics
import time

import numpy as np

from scripts.bench import common
from vision import cli

WORK = ("model", "variant", "image_size", "classes", "dtype", "images", "batch", "rounds")
HIDDEN = ("date", "commit", "device", "label", "goal")  # columns that are not printed


def main(argv):
    p = common.make_parser(__doc__, "evaluation")
    p.add_argument("--model", default="resnet")
    p.add_argument("--variant", default="cifar20")
    p.add_argument("--image-size", type=int, default=32)
    p.add_argument("--classes", type=int, default=10)
    p.add_argument("--dtype", default="float32")
    p.add_argument("--images", type=int, default=50_000)
    p.add_argument("--batch", type=int, default=1000)
    p.add_argument("--rounds", type=int, default=3)
    a = p.parse_args(argv)
    forward, loader = _prepare(a)
    seconds = common.alternate(
        {"ours": lambda: _ours(forward, loader, a), "bare": lambda: _bare(forward, loader, a)},
        a.rounds,
    )
    speeds = {
        f"{name}_images_per_second": a.images / statistics.median(times)
        for name, times in seconds.items()
    }
    work = {name: getattr(a, name) for name in WORK}
    ratios = common.compare(seconds, "ours", "bare")
    row = common.facts(a) | work | ratios | speeds | {"metrics_s": _metrics(a)}
    common.print_table([{key: value for key, value in row.items() if key not in HIDDEN}])
    common.write_rows(a.csv, [row])
    print(f"ratio: {row['ratio']:.2f}")


def _prepare(a):
    """Returns (`Forward`, resident loader of random images), compiled."""
    from flax import nnx

    from vision import inference, models, parallel
    from vision.config import default
    from vision.data.loading.dataset import Dataset, Unreadable
    from vision.data.loading.device_loader import DeviceLoader
    from vision.data.loading.sampler import Sampler
    from vision.data.sources.arrays import ArraySource
    from vision.evaluation.outputs import Forward

    c = default()
    c.model.name = a.model
    c.model.variant = a.variant
    c.model.dtype = a.dtype
    model = models.build(c.model, a.classes, a.image_size, 3, nnx.Rngs(0))
    model.eval()
    names = tuple(map(str, range(a.classes)))
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (a.images, a.image_size, a.image_size, 3), np.uint8)
    source = ArraySource(images, random.integers(0, a.classes, a.images), names, "random")
    dataset = Dataset(source, a.image_size, 3, 1.0, (), True, Sampler(0, source.labels))
    mesh = parallel.make_mesh()
    loader = DeviceLoader(dataset, Unreadable(a.images, 0.0), mesh)
    forward = Forward(inference.Classifier(c, model, names, a.image_size, 3), mesh)
    first = next(iter(loader.eval_batches(a.batch)))
    forward(forward.images(first, loader.data))
    return forward, loader


def _ours(forward, loader, a):
    from vision.evaluation.outputs import collect

    start = time.perf_counter()
    collect(forward, loader, a.batch)
    return time.perf_counter() - start


def _bare(forward, loader, a):
    import jax

    start = time.perf_counter()
    for batch in loader.eval_batches(a.batch):
        outputs = forward(forward.images(batch, loader.data))
    jax.block_until_ready(outputs)
    return time.perf_counter() - start


def _metrics(a):
    """Returns the seconds that all metrics of random outputs take, with the default number of
    bootstrap draws."""
    from vision.config import default
    from vision.evaluation.measures import intervals

    random = np.random.default_rng(0)
    logits = random.normal(size=(a.images, a.classes)).astype(np.float32)
    labels = random.integers(0, a.classes, a.images)
    start = time.perf_counter()
    names = tuple(map(str, range(a.classes)))
    intervals.with_intervals(logits, labels, names, default().evaluation.bootstrap)
    return time.perf_counter() - start


if __name__ == "__main__":
    cli.run(main)
