"""What training holds in memory: with 10,000 classes, and over as many steps as a day has."""

import json
import pathlib
import resource
import shutil
import statistics
import time

import numpy as np

from experiments.reliability.stages import python, start, train

CLASSES = 10_000
MOST_GIB = 2.0
MOST_MB = 10.0  # of result.json
EVERY = 2.0  # seconds between two looks at the memory
GROWTH = 0.02  # of the median of the last quarter over the second: "flat"


def many_classes(work):
    """Returns the row of a training on 10,000 classes."""
    file = work / "classes.npz"
    if not file.is_file():
        images = np.random.RandomState(0).randint(0, 255, (4 * CLASSES, 8, 8, 3)).astype(np.uint8)
        np.savez(file, images=images, labels=np.repeat(np.arange(CLASSES), 4))
    out = work / "classes"
    shutil.rmtree(out, ignore_errors=True)
    command = python("vision.main", "--config", "configs/resnet_folder.py:x", "--workdir", str(out))
    settings = {
        "data.source": f"arrays:{file}",
        "data.image_size": 8,
        "model.name": "cnn",
        "model.variant": "mu",
        "train.steps": 4,
        "train.eval_every": 2,
        "train.batch_size": 512,
    }
    command += [f"--config.{key}={value}" for key, value in settings.items()]
    code, peak = _peak(command)
    size = (out / "result.json").stat().st_size / 1e6 if not code else float("nan")
    return {
        "what": f"{CLASSES:,} classes",
        "exit": code,
        "peak_mib": round(peak / 2**20),
        "result_json_mb": round(size, 2),
        "ok": not code and peak < MOST_GIB * 2**30 and size < MOST_MB,
    }


def _peak(command):
    """Returns (exit status, the largest resident memory in bytes) of a command."""
    process = start({}, command)
    peak = 0
    while process.poll() is None:
        status = pathlib.Path(f"/proc/{process.pid}/status")
        for line in status.read_text().splitlines() if status.exists() else ():
            if line.startswith("VmHWM"):
                peak = max(peak, int(line.split()[1]) * 1024)
        time.sleep(0.05)
    process.communicate()
    return process.returncode, peak


def day(work):
    """Returns the row of a tiny model's training over a day's worth of steps."""
    out = work / "day"
    shutil.rmtree(out, ignore_errors=True)
    process = start({}, train("day", out))
    page = resource.getpagesize()
    sizes = []
    while process.poll() is None:
        try:
            pages = pathlib.Path(f"/proc/{process.pid}/statm").read_text().split()[1]
        except (OSError, IndexError):
            break
        sizes.append(int(pages) * page / 2**20)
        time.sleep(EVERY)
    _, text = process.communicate()
    quarter = max(1, len(sizes) // 4)
    second = statistics.median(sizes[quarter : 2 * quarter] or [0])
    last = statistics.median(sizes[-quarter:] or [0])
    steps = 0
    if not process.returncode:
        steps = json.loads((out / "result.json").read_text())["steps"]
    return {
        "what": f"{steps:,} steps",
        "exit": process.returncode,
        "peak_mib": round(max(sizes, default=0)),
        "second_quarter_mib": round(second, 1),
        "last_quarter_mib": round(last, 1),
        "ok": not process.returncode and last <= (1 + GROWTH) * second,
        "problem": text[-300:].replace("\n", " ") if process.returncode else "",
    }
