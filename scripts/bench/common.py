"""Helpers of the benchmarks: alternating timings, peaks of devices, tables, and CSV rows.

Nothing here imports JAX before it is called, so that a benchmark can configure JAX first.
"""

import argparse
import csv
import datetime
import importlib.metadata
import os
import pathlib
import platform
import re
import statistics
import subprocess
import time

ROOT = pathlib.Path(__file__).parents[2]
SPEED = "experiments/speed"

# FLOP/s of dense matrix products (bfloat16, and TF32 for float32) and bytes/s of memory, from
# NVIDIA's data sheets. The first name contained in the device's kind counts.
PEAKS = {
    "H200": (989e12, 494e12, 4.80e12),
    "H100 PCIe": (756e12, 378e12, 2.00e12),
    "H100 NVL": (835e12, 417e12, 3.90e12),
    "H100": (989e12, 494e12, 3.35e12),  # SXM
    "A100-SXM4-40GB": (312e12, 156e12, 1.56e12),
    "A100": (312e12, 156e12, 2.04e12),
}


def make_parser(doc, name, folder=SPEED):
    """Returns an `ArgumentParser` with the flags of every benchmark; `name` is the CSV file's, in
    a folder."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    path = f"{folder}/{name}.csv"
    parser.add_argument(
        "--csv",
        default=path,
        metavar="PATH",
        help=f"CSV file to append rows to; '' = none (default: {path})",
    )
    parser.add_argument(
        "--label", default="", help="label written to the rows, by which the page finds them"
    )
    parser.add_argument("--goal", default="", help="goal written to the rows")
    return parser


def add_torch_python(p):
    """Adds the flag that names the interpreter of PyTorch's side."""
    p.add_argument(
        "--torch-python",
        default="",
        metavar="PATH",
        help="interpreter with torch; default: this one",
    )


def facts(a=None, torch=""):
    """Returns the columns that describe where a row comes from, as a dict of strings.

    Args:
        a: the parsed flags, for --label and --goal.
        torch: version of torch on the other side; "" if there is none.
    """
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    device = {"device": device_name(), "python": platform.python_version()}
    labels = {"label": a.label, "goal": a.goal} if a else {}
    return labels | {"date": now, "commit": _commit()} | device | versions | {"torch": torch}


def device_name():
    """Returns the kind of JAX's first device, with the number of cores for a CPU."""
    import jax

    device = jax.devices()[0]
    return cpu_name() if device.platform == "cpu" else device.device_kind


def cpu_name():
    """Returns the CPU's model and the number of cores that this process may use."""
    info = pathlib.Path("/proc/cpuinfo")
    match = re.search(r"model name\s*: (.*)", info.read_text()) if info.is_file() else None
    if match:
        name = match.group(1).strip()
    else:
        name = platform.processor() or platform.machine()
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def alternate(sides, rounds):
    """Times the sides in turn, so that other load on the machine affects all of them alike.

    Args:
        sides: {name: function without arguments that returns seconds}.
        rounds: number of runs of each.

    Returns:
        {name: [seconds, ...]}.
    """
    seconds = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            seconds[name].append(run())
    return seconds


def compare(seconds, ours, theirs):
    """Returns {"ratio", "ratio_of_best"}: the speed of `ours` relative to `theirs`, by the medians
    and by the minima."""
    our_seconds = seconds[ours]
    their_seconds = seconds[theirs]
    return {
        "ratio": statistics.median(their_seconds) / statistics.median(our_seconds),
        "ratio_of_best": min(their_seconds) / min(our_seconds),
    }


def peaks(dtype):
    """Returns (FLOP/s, bytes/s, "data sheet" or "measured") of JAX's first device.

    Known accelerators are looked up; other devices are measured now, with a product of matrices of
    side 2,048 (8,192 unless it is a CPU) and by adding one to 256 MiB in place.

    Args:
        dtype: "float32" or "bfloat16".
    """
    import jax

    kind = jax.devices()[0].device_kind
    for name, (bfloat16, tf32, bandwidth) in PEAKS.items():
        if name in kind:
            return bfloat16 if dtype == "bfloat16" else tf32, bandwidth, "data sheet"
    return _measure_product(dtype), _measure_copy(), "measured"


def best_seconds(run, repeats=7):
    """Returns the least time of `repeats` calls of `run()`, after a warm-up call."""
    run()
    timings = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        timings.append(time.perf_counter() - start)
    return min(timings)


def print_table(rows):
    """Prints dicts of equal keys as an aligned table; None is a dash."""
    texts = [{key: _text(value) for key, value in row.items()} for row in rows]
    widths = {key: max(len(key), *(len(row[key]) for row in texts)) for key in texts[0]}
    print("  ".join(key.ljust(width) for key, width in widths.items()).rstrip())
    for row in texts:
        print("  ".join(row[key].ljust(width) for key, width in widths.items()).rstrip())


def write_rows(path, rows):
    """Appends dicts to a CSV file; new columns are added and left empty in the older rows."""
    if not path:
        return
    file = pathlib.Path(path)
    old = read_rows(file)
    columns = list(dict.fromkeys(key for row in [*old, *rows] for key in row))
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(old)
        writer.writerows({key: _text(value, "") for key, value in row.items()} for row in rows)


def read_rows(path):
    """Returns the rows of a CSV file as dicts of strings; [] if there is no file."""
    file = pathlib.Path(path)
    if not file.is_file():
        return []
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def _text(value, missing="-"):
    if value is None:
        return missing
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _commit():
    """Returns the commit of this code, with "-dirty" if it has changed; "" outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _measure_product(dtype):
    import jax
    import jax.numpy as jnp

    side = 2048 if jax.default_backend() == "cpu" else 8192
    x = jnp.ones((side, side), dtype)
    product = jax.jit(lambda a: a @ a)
    return 2 * side**3 / best_seconds(lambda: product(x).block_until_ready())


def _measure_copy(count=2**26):
    import jax
    import jax.numpy as jnp

    buffer = [jnp.zeros(count, jnp.float32)]
    add = jax.jit(lambda a: a + 1, donate_argnums=0)

    def run():
        buffer[0] = add(buffer[0]).block_until_ready()

    return 2 * 4 * count / best_seconds(run)
