"""Computes what limits each model and its fastest possible training step, on an H100 and here.

    python -m scripts.bench.roofline
    python -m scripts.bench.roofline --only vit

A step takes at least its operations / the peak of the matrix units, and at least its bytes / the
memory's bandwidth. Operations: the model's products (flops.py) and, for comparison, XLA's count of
the whole step before optimization. Bytes that no fusion avoids: the output of each convolution and
matrix product is written and read once in the forward pass, read once in the backward pass, and its
gradient is written and read once there, in the step's dtype; attention's scores never leave the
chip; weights are read twice in that dtype; the optimizer reads and writes float32 parameters and
moments, and the gradients are written and read. BatchNorm needs its whole input before it can scale
it, and most kernels read more than once, so a real step moves more. The H100's figures are NVIDIA's
(989 TFLOP/s in bfloat16, 3.35 TB/s); a CPU's are measured here.
"""

from scripts.bench import common
from vision import cli

MODELS = (  # model, variant, image size, classes, batch on an H100, batch on a CPU
    ("resnet", "50", 224, 1000, 256, 8),
    ("vit", "B/16", 224, 1000, 256, 8),
    ("vit", "S/16", 224, 1000, 256, 8),
    ("resnet", "cifar20", 32, 10, 128, 128),
    ("vit", "Ti/4", 32, 10, 512, 64),
)
MOMENTS = {"adamw": 2, "sgd": 1}
ITEM = {"float32": 4, "bfloat16": 2}


def main(argv):
    import jax

    p = common.make_parser(__doc__, "roofline")
    p.add_argument("--only", default="", help="models whose name contains this")
    a = p.parse_args(argv)
    here = jax.devices()[0]
    on_cpu = here.platform == "cpu"
    h100_peaks = (*common.PEAKS["H100"][::2], "data sheet")
    devices = [("H100", "bfloat16", h100_peaks)]
    if on_cpu:
        devices.append((common.device_name(), "float32", common.peaks("float32")))
    elif "H100" not in here.device_kind:
        devices.append((here.device_kind, "bfloat16", common.peaks("bfloat16")))
    rows = []
    for model in MODELS:
        if a.only in f"{model[0]} {model[1]}":
            rows += [_row(model, *device) for device in devices]
    facts = common.facts(a)
    facts["measured_on"] = facts.pop("device")
    common.print_table(rows)
    common.write_rows(a.csv, [facts | row for row in rows])


def _row(model, device, dtype, peaks):
    name, variant, size, classes, gpu_batch, cpu_batch = model
    batch = cpu_batch if "cores" in device else gpu_batch
    optimizer = "adamw" if name == "vit" else "sgd"
    costs, xla = _costs(name, variant, size, classes, batch, dtype, optimizer)
    work = {"model": name, "variant": variant, "image_size": size, "batch": batch, "dtype": dtype}
    moved = minimal_bytes(costs, batch, dtype, optimizer)
    return {"device": device} | work | _limits(costs.train * batch, xla, moved, batch, peaks)


def _limits(flops, xla, moved, batch, peaks):
    """Returns the columns of a step's least times, from its operations and its bytes."""
    flops_peak, bandwidth, source = peaks
    compute = flops / flops_peak
    memory = moved / bandwidth
    return {
        "train_gflop": flops / 1e9,
        "xla_gflop": xla and xla / 1e9,
        "gbyte": moved / 1e9,
        "peak_tflops": flops_peak / 1e12,
        "bandwidth_gbs": bandwidth / 1e9,
        "peaks": source,
        "compute_ms": compute * 1e3,
        "memory_ms": memory * 1e3,
        "limit": "FLOPs" if compute >= memory else "bytes",
        "roofline_ms": max(compute, memory) * 1e3,
        "roofline_images_per_second": batch / max(compute, memory),
    }


def minimal_bytes(costs, batch, dtype, optimizer):
    """Returns the least number of bytes that a step moves; see the top of the file."""
    activations = 5 * ITEM[dtype] * costs.activations * batch
    weights = 2 * ITEM[dtype] * costs.parameters
    update = 4 * (2 * (1 + MOMENTS[optimizer]) + 2) * costs.parameters
    return activations + weights + update


def _costs(name, variant, size, classes, batch, dtype, optimizer):
    """Returns (`Costs` of an image, XLA's operations of a step or None); compiles nothing."""
    from types import SimpleNamespace

    from scripts.bench import flops, ours
    from vision import parallel
    from vision.training.setup import build_step

    flags = SimpleNamespace(
        model=name,
        variant=variant,
        image_size=size,
        batch=batch,
        dtype=dtype,
        optimizer=optimizer,
        attention=None,
        remat=None,
        steps_per_dispatch=1,
        onednn="off",  # XLA cannot count what another library computes
        xla_options="",
    )
    config = ours.make_config(flags)
    mesh = parallel.make_mesh(1)
    data = ours.memory_data(config, batch, classes, mesh)
    step = build_step(config, data, mesh, 100)
    loader = data.loaders["train"]
    lowered = step.update.lower(step.abstract_state, loader.abstract_batch(batch), loader.data)
    xla = (lowered.cost_analysis() or {}).get("flops")
    return flops.model_costs(config.model, classes, size), xla


if __name__ == "__main__":
    cli.run(main)
