"""What an analysis costs: seconds and memory of `vision.monitoring.drift` on a large log.

    python -m experiments.drift.cost --bundle runs/drift/neu/models/neu/1

Writes logs of 100,000 and of 1,000,000 rows, drawn at random from the bundle's reference, and runs
the command on each, with one window of 100,000 rows, and with windows of 1,000.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import pyarrow
import pyarrow.parquet

from vision import cli
from vision.bundle.directory import MANIFEST, read_manifest
from vision.reference.features import NAMES
from vision.reference.log_format import schema
from vision.reference.statistics import parse

FILE = 10_000  # rows, as the server's default
START = 1_760_000_000


def main(argv):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--bundle", type=pathlib.Path, required=True)
    a = p.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        for rows, window in ((100_000, 100_000), (1_000_000, 100_000), (1_000_000, 1000)):
            log = pathlib.Path(folder, f"{rows}")
            if not log.is_dir():
                write_log(log, a.bundle, rows)
            seconds, processor, memory = run(a.bundle, log, window, pathlib.Path(folder, "out"))
            print(
                f"{rows:,} rows, windows of {window:,}: {seconds:.1f} s ({processor:.1f} s of a "
                f"processor), {memory / 2**20:.0f} MiB",
                flush=True,
            )


def write_log(directory, bundle, rows):
    """Writes a log of a bundle's answers, whose numbers are drawn from its reference."""
    manifest = read_manifest(bundle)
    reference = parse(manifest.reference, len(manifest.classes), bundle / MANIFEST)
    random = np.random.default_rng(0)
    directory.mkdir(parents=True)
    for number in range(rows // FILE):
        columns = {
            "time": (START + number * FILE + np.arange(FILE)) * 1_000_000,
            "id": [f"{number}-{i}" for i in range(FILE)],
            "model": ["model"] * FILE,
            "version": ["1"] * FILE,
            "bundle": [manifest.fingerprint] * FILE,
            "shadow": [False] * FILE,
            "image": np.zeros(FILE, np.int32),
            "class": random.choice(
                np.array(manifest.classes, object),
                FILE,
                p=reference.class_counts / reference.class_counts.sum(),
            ).tolist(),
            "sha256": [None] * FILE,
            "kept": [None] * FILE,
            "unsure": [None] * FILE,
        }
        for name in NAMES:
            feature = reference.features[name]
            places = random.choice(
                len(feature.counts), FILE, p=feature.counts / feature.counts.sum()
            )
            columns[name] = feature.edges[np.minimum(places, len(feature.edges) - 1)]
        sketches = reference.sample[random.integers(0, len(reference.sample), FILE)]
        flat = pyarrow.array(sketches.ravel())
        columns["sketch"] = pyarrow.FixedSizeListArray.from_arrays(flat, sketches.shape[1])
        table = pyarrow.Table.from_pydict(columns, schema=schema(pyarrow))
        name = f"predictions-20991231T000000.000000Z-1-{number:06}.parquet"
        pyarrow.parquet.write_table(table, directory / name, compression="zstd")


# A program of its own runs the command: Linux counts the memory of the process that starts a
# program as that of the program, and a test run holds a gigabyte.
MEASURE = """
import json, os, subprocess, sys, time
begun = time.perf_counter()
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
seconds = time.perf_counter() - begun
with open(sys.argv[1], "w") as file:
    json.dump([seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024], file)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def run(bundle, log, window, out, *more, module="vision.monitoring.drift"):
    """Runs a command; returns (seconds, seconds of a processor, largest memory in bytes)."""
    flags = [f"--bundle={bundle}", f"--log={log}", f"--window={window}", f"--out={out}", *more]
    with tempfile.TemporaryDirectory() as folder:
        measured = pathlib.Path(folder, "usage.json")
        command = [sys.executable, "-m", module, *flags]
        process = subprocess.run([sys.executable, "-c", MEASURE, str(measured), *command])
        if process.returncode:
            raise RuntimeError(f"the command failed with exit code {process.returncode}")
        return tuple(json.loads(measured.read_text()))


if __name__ == "__main__":
    cli.run(main)
