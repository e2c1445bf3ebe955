"""Measures training on 1, 2, 4 and 8 devices: images per second and bytes on each device.

    python -m scripts.bench.scaling                                       # on a CPU: fake devices
    python -m scripts.bench.scaling --model resnet --variant 50 --image-size 224 --batch 256 \\
        --dtype bfloat16

Weak: --batch images per device. Strong: --batch images over all of them. `dp` (data parallel) keeps
the whole state on each device, `fsdp` a shard (config.parallel.fsdp = all devices). Each row comes
from a process of its own.

On a CPU the devices are fake: they share its cores, so perfect scaling is a constant number of
images per second, and only the bytes and the cost of the split itself are meaningful. The last line
is `state: R`, the ratio of the state's bytes per device with fsdp and without, on the most devices.
"""

import argparse
import json
import os
import subprocess
import sys

from scripts.bench import common
from scripts.bench.train import add_model_flags
from vision import cli
from vision.errors import UserError


def main(argv):
    p = common.make_parser(__doc__, "scaling")
    add_model_flags(p)
    p.set_defaults(batch=32)
    p.add_argument("--devices", default="1,2,4,8", help="numbers of devices, comma-separated")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument(
        "--steps", type=int, default=5, help="steps per timing; the best of the rounds counts"
    )
    p.add_argument("--child", default="", help=argparse.SUPPRESS)
    a = p.parse_args(argv)
    a.optimizer = a.optimizer or ("adamw" if a.model == "vit" else "sgd")
    if a.child:
        return print(json.dumps(_measure(a, **json.loads(a.child))))
    counts = [int(count) for count in a.devices.split(",")]
    rows = []
    for batches in ("weak", "strong"):
        group = [
            row for state in ("dp", "fsdp") for row in _series(a, argv, counts, batches, state)
        ]
        for row in group:  # relative to the first, on the fewest devices
            grown = 1 if row["platform"] == "cpu" else row["devices"] / group[0]["devices"]
            row["efficiency"] = row["images_per_second"] / group[0]["images_per_second"] / grown
        rows += group
    common.print_table([{k: v for k, v in row.items() if k in SHOWN} for row in rows])
    common.write_rows(a.csv, rows)
    most = {row["state"]: row["state_bytes"] for row in rows if row["devices"] == max(counts)}
    if len(most) == 2:
        print(f"state: {most['fsdp'] / most['dp']:.3f}")


SHOWN = (
    "batches",
    "state",
    "devices",
    "global_batch",
    "images_per_second",
    "efficiency",
    "state_bytes",
    "step_bytes",
)


def _series(a, argv, counts, batches, state):
    """Returns the rows of one kind of batches and state, from the fewest devices to the most."""
    rows = []
    for count in counts:
        if state == "fsdp" and count == 1:
            continue
        batch = a.batch * count if batches == "weak" else a.batch
        if batch % count:
            print(f"skipped: {batch} images do not divide over {count} devices")
            continue
        fsdp = count if state == "fsdp" else 1
        figures = _child(argv, {"devices": count, "fsdp": fsdp, "batch": batch})
        if "skipped" in figures:
            print(f"skipped: {figures['skipped']}")
            break
        setting = {
            "model": a.model,
            "variant": a.variant,
            "image_size": a.image_size,
            "dtype": a.dtype,
        }
        setting |= {"batches": batches, "state": state, "devices": count}
        rows.append(figures.pop("facts") | setting | figures)
    return rows


def _child(argv, request):
    """Runs one measurement in a process of its own, with fake devices if the platform is cpu."""
    fake = f"--xla_force_host_platform_device_count={request['devices']}"  # concerns CPUs only
    environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {fake}"}
    command = [sys.executable, "-m", "scripts.bench.scaling", *argv, "--child", json.dumps(request)]
    done = subprocess.run(command, cwd=common.ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{request} failed: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _measure(a, devices, fsdp, batch):
    """Returns the figures of one row, or {"skipped": why}."""
    import jax

    from scripts.bench import ours
    from vision import parallel

    if len(jax.devices()) < devices:
        return {"skipped": f"{devices} devices: there are {len(jax.devices())}"}
    a.batch = batch
    config = ours.make_config(a)
    config.parallel.devices = devices
    config.parallel.fsdp = fsdp
    mesh = parallel.make_mesh(devices, fsdp)
    bare = ours.BareStep(config, ours.memory_data(config, 4 * batch, a.classes, mesh), mesh)
    bytes_on_one = parallel.bytes_on_one_device(bare.state)
    bare.run(1)
    best = min(bare.run(a.steps) for _ in range(a.rounds))
    return {
        "facts": common.facts(a),
        "platform": jax.default_backend(),
        "global_batch": batch,
        "images_per_second": batch * a.steps / best,
        "state_bytes": bytes_on_one,
        "step_bytes": bare.program.peak_bytes,
    }


if __name__ == "__main__":
    cli.run(main)
