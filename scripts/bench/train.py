"""Measures the training speed of any model against PyTorch or itself, in one run and in turn.

    python -m scripts.bench.train --model vit --variant Ti/4 --image-size 32 --batch 64 \\
        --against torch
    python -m scripts.bench.train --model resnet --variant 50 --image-size 224 --batch 256 \\
        --dtype bfloat16 --classes 1000 --against compile
    python -m scripts.bench.train --model resnet --variant cifar20 --image-size 32 --batch 128 \\
        --against step

--against:
    torch    the same architecture in eager PyTorch, channels_last for convolutions, AMP for
             bfloat16, fused optimizer
    compile  the same under torch.compile
    timm     timm's module of the same architecture under torch.compile
    loader   the trainer's loop with data on the device, against a torch.compile loop with a
             DataLoader that crops and flips; both augment
    epoch    the same for an epoch as a whole: its steps, the loss and accuracy of --val-images
             images and, on our side, a checkpoint
    step     the trainer's loop against its own compiled step, called in a bare `for` loop
    defaults the step with --xla-options against the step without
    xla      the step with oneDNN, on a CPU, against the same step by XLA alone
    none     only the step

Both sides start from uint8 images on the device and normalize them inside the step; both use the
same optimizer, loss (cross-entropy) and number of parameters, which is checked. Ours also reports
accuracy and the gradient's norm, as it always does. The ratio is that of the medians' images per
second: above 1, ours is faster. MFU counts only the model's products (see flops.py). The last line
is `ratio: R`.
"""

import os
import statistics
import tempfile

from scripts.bench import common
from vision import cli
from vision.errors import UserError
from vision.support.memory import keep_freed_memory

AGAINST = ("torch", "compile", "timm", "loader", "epoch", "step", "defaults", "xla", "none")
LOOPS = ("loader", "epoch", "step")  # compare the trainer's loop
AUGMENTED = ("loader", "epoch")  # have a DataLoader on the other side
TORCH_FLAGS = (
    "model",
    "variant",
    "image_size",
    "batch",
    "dtype",
    "classes",
    "optimizer",
    "images",
    "val_images",
    "data",
    "workers",
    "compile_mode",
    "layout",
    "against",
)
NOTED_FLAGS = (
    "model",
    "variant",
    "image_size",
    "batch",
    "dtype",
    "classes",
    "against",
    "loader_step",
    "images",
    "val_images",
    "data",
    "optimizer",
    "attention",
    "remat",
    "steps_per_dispatch",
    "onednn",
    "xla_options",
    "compile_mode",
    "layout",
    "rounds",
    "steps",
)


def main(argv):
    a = parse(argv)
    keep_freed_memory()  # as vision.main does
    # The two sides share one GPU, so neither may take all of its memory at the start. JAX reads
    # this when it starts.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    with tempfile.TemporaryDirectory() as cache:
        # Each run of the loop compiles its step, all but the first one from this cache.
        if a.against in LOOPS:
            jax.config.update("jax_compilation_cache_dir", cache)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        row = measure(a)
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()
    common.write_rows(a.csv, [row])
    if row["ratio"] is not None:
        print(f"ratio: {row['ratio']:.2f}")


def measure(a):
    """Runs the comparison that the flags describe and returns its row."""
    from scripts.bench import flops, ours
    from vision import cpu, parallel

    ours.use_tf32()
    config = ours.make_config(a)
    mesh = parallel.make_mesh(1)
    if a.against in AUGMENTED:
        config.augment.pad_crop = 4
        config.augment.flip_horizontal = True
    data = ours.memory_data(config, a.images, a.classes, mesh, a.val_images)
    costs = flops.model_costs(config.model, a.classes, a.image_size)
    bare = ours.BareStep(config, data, mesh, a.data == "fixed")
    theirs = None
    sides = {"ours": bare}
    if a.against in LOOPS:
        loop = ours.Epoch if a.against == "epoch" else ours.Loop
        sides = {"ours": loop(config, data, mesh)}
    try:
        if a.against == "step":
            sides["theirs"] = bare
        elif a.against == "defaults":
            config.parallel.xla_options = ""
            sides["theirs"] = ours.BareStep(config, data, mesh, a.data == "fixed")
        elif a.against == "xla":
            cpu.choose("off")
            sides["theirs"] = ours.BareStep(config, data, mesh, a.data == "fixed")
        elif a.against != "none":
            sides["theirs"] = theirs = _start_torch(a, costs.parameters)
        for side in sides.values():
            side.run(a.warmup)
        runs = {name: lambda side=side: side.run(a.steps) for name, side in sides.items()}
        seconds = common.alternate(runs, a.rounds)
    finally:
        if theirs:
            theirs.close()
    return _report(a, seconds, costs, bare, theirs, ours.peak_bytes(bare.program))


def _start_torch(a, parameters):
    from experiments.speed.torch_side import TorchSide

    spec = {name: getattr(a, name) for name in TORCH_FLAGS}
    if a.against in AUGMENTED:
        spec["against"] = a.loader_step
        side = TorchSide(a.torch_python, a.against, **spec)
    else:
        side = TorchSide(a.torch_python, "step", **spec)
    side.check_parameters(parameters)
    return side


def _report(a, seconds, costs, bare, theirs, peak_bytes):
    """Prints the table and returns the row."""
    peak, _, source = common.peaks(a.dtype)
    memory = {"ours": peak_bytes, "theirs": theirs and theirs.peak_bytes}
    speeds = {}
    table = []
    for name, times in seconds.items():
        step = statistics.median(times) / a.steps
        figures = {
            "images_per_second": a.batch / step,
            "step_ms": step * 1e3,
            "best_step_ms": min(times) / a.steps * 1e3,
            "mfu": costs.train * a.batch / step / peak,
            "peak_bytes": memory[name],
        }
        table.append({"side": "ours" if name == "ours" else a.against} | figures)
        speeds |= {f"{name}_{key}": value for key, value in figures.items()}
    common.print_table(table)
    print(
        f"{costs.train * a.batch / 1e9:.4g} GFLOP a step by the model's products, "
        f"{bare.flops / 1e9:.4g} in the program"
    )
    if theirs and source == "measured":
        print(
            "peak_bytes: ours is what XLA plans for a step, theirs the most its process held; "
            "compare on a GPU only"
        )
    print(
        f"peak {peak / 1e12:.4g} TFLOP/s ({source}); medians of {a.rounds} rounds of {a.steps} "
        "steps, in turn"
    )
    facts = common.facts(a, theirs.facts["torch"] if theirs else "")
    flags = {name: getattr(a, name) for name in NOTED_FLAGS}
    ratios = common.compare(seconds, "ours", "theirs") if "theirs" in seconds else {"ratio": None}
    flops = {
        "model_flops": costs.train * a.batch,
        "program_flops": bare.flops,
        "peak_flops": peak,
    }
    return facts | flags | ratios | speeds | flops


def parse(argv):
    """Returns the flags; those that depend on others are filled in."""
    p = common.make_parser(__doc__, "train")
    add_model_flags(p)
    p.add_argument("--against", choices=AGAINST, default="torch")
    p.add_argument(
        "--data",
        choices=("resident", "fixed"),
        default="resident",
        help="draw batches, or repeat one",
    )
    p.add_argument(
        "--images",
        type=int,
        default=0,
        help="images in the dataset; 0 = 50,000 up to 64 px, else 1,024",
    )
    p.add_argument(
        "--val-images",
        type=int,
        default=0,
        help="images that an epoch ends with; 0 = a fifth of --images",
    )
    p.add_argument("--rounds", type=int, default=5, help="number of timings of each side")
    p.add_argument(
        "--steps", type=int, default=20, help="steps per timing; of an epoch, --images decides"
    )
    p.add_argument(
        "--warmup", type=int, default=3, help="steps of each side before the first timing"
    )
    _add_torch_flags(p)
    a = p.parse_args(argv)
    a.images = max(a.batch, a.images or (50_000 if a.image_size <= 64 else 1024))
    a.optimizer = a.optimizer or ("adamw" if a.model == "vit" else "sgd")
    if a.against == "epoch":
        a.steps = a.images // a.batch
        a.val_images = a.val_images or max(1, a.images // 5)
    has_torch = a.against in ("torch", "compile", "timm", *AUGMENTED)
    if a.optimizer not in ("sgd", "adamw") and has_torch:
        raise UserError(f"--optimizer must be sgd or adamw against torch, got {a.optimizer}")
    if a.against in LOOPS:
        a.data = "resident"
    return a


def _add_torch_flags(p):
    common.add_torch_python(p)
    p.add_argument(
        "--compile-mode", default="default", help="torch.compile's mode, for example max-autotune"
    )
    p.add_argument(
        "--layout",
        choices=("channels_last", "contiguous"),
        default="channels_last",
        help="memory layout of torch's images",
    )
    p.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count(),
        help="workers of torch's DataLoader; default: all cores",
    )
    p.add_argument(
        "--loader-step",
        choices=("torch", "compile"),
        default="compile",
        help="torch's side of loader and epoch",
    )


def add_model_flags(p):
    """Adds the flags that `ours.make_config` reads."""
    p.add_argument("--model", default="vit")
    p.add_argument("--variant", default="Ti/4")
    p.add_argument("--image-size", type=int, default=32)
    p.add_argument("--classes", type=int, default=10)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    p.add_argument(
        "--optimizer", default="", help="default: adamw for vit, sgd with momentum for others"
    )
    p.add_argument("--attention", help="config.model.attention")
    p.add_argument("--remat", help="config.model.remat")
    p.add_argument(
        "--onednn", choices=("auto", "off"), default="auto", help="config.parallel.onednn"
    )
    p.add_argument("--steps-per-dispatch", type=int, default=1, help="steps per call")
    p.add_argument(
        "--xla-options", default="", help='config.parallel.xla_options: "NAME=VALUE NAME=VALUE"'
    )


if __name__ == "__main__":
    cli.run(main)
