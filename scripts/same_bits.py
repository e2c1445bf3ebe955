"""Compares every config's smoke run in two checkouts, bit for bit: numbers and weights.

    git worktree add /tmp/before COMMIT
    python -m scripts.same_bits --before /tmp/before            # all configs, about 20 s each
    python -m scripts.same_bits --before /tmp/before --only vit_mnist5k

Each run is a process of its own, on one device, from generated images if the config's data are not
available. It compares the lines of metrics.jsonl without the speed, the numbers of result.json, and
the checksums of the checkpoints. Exits with 1 if any run differs or fails.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import cv2
import numpy as np

REPOSITORY = pathlib.Path(__file__).parent.parent
OWN_DATA = ("digits", "vit_mnist5k", "resnet_mnist5k", "longtail_mnist5k")
MODES = ("full", "head", "partial", "lora", "scratch")
TIMED = ("images_per_second", "seconds_to_first_step", "train_seconds", "date", "git_commit")


def specs(photos):
    """Yields (name, arguments of vision.main) for every config."""
    for path in sorted((REPOSITORY / "configs").glob("*.py")):
        name = path.stem
        if name == "transfer_folder":
            for mode in MODES:
                yield f"{name}-{mode}", ["--config", f"configs/{name}.py:{photos}:{mode}:smoke"]
            continue
        arguments = ["--config", f"configs/{name}.py:smoke"]
        if name not in OWN_DATA:
            arguments.append(f"--config.data.source=folder:{photos}")
            if name.endswith("cifar10"):
                arguments.append("--config.data.image_size=32")
        yield name, arguments


def make_photos(folder):
    """Writes three classes of twenty JPEG images, 70 x 80 pixels, each class in its own color."""
    generator = np.random.RandomState(0)
    for label, name in enumerate(("cat", "dog", "owl")):
        (folder / name).mkdir(parents=True)
        for i in range(20):
            image = generator.randint(0, 128, (70, 80, 3)).astype(np.uint8)
            image[..., label] += 100
            cv2.imwrite(str(folder / name / f"{i}.jpg"), image)


def run(checkout, arguments, workdir):
    """Runs a config in a checkout; returns its `outcome`, or what it printed if it failed."""
    command = [sys.executable, "-m", "vision.main", *arguments, f"--workdir={workdir}"]
    command += ["--config.parallel.devices=1", "--config.log.tensorboard=False"]
    environment = os.environ | {"PYTHONPATH": str(checkout), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode:
        return {"failed": done.stderr.strip()[-2000:]}
    return outcome(pathlib.Path(workdir))


def outcome(workdir):
    """Returns {part: numbers} of a run directory, without times and dates."""
    result = json.loads((workdir / "result.json").read_text())
    numbers = {
        key: value for key, value in result.items() if key not in (*TIMED, "config", "versions")
    }
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    untimed = [
        {k: v for k, v in line.items() if not k.endswith("images_per_second")} for line in lines
    ]
    checksums = {}
    for file in sorted(workdir.glob("checkpoints/*/record/metadata")):
        record = json.loads(file.read_text())
        checksums[file.parts[-3]] = record.get("arrays", record["checksum"])  # older ones
    return {"result": numbers, "metrics": untimed, "checksums": checksums}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=pathlib.Path, required=True, help="the other checkout")
    parser.add_argument("--only", default="", help="configs whose names contain this")
    parser.add_argument(
        "--out", type=pathlib.Path, help="directory to keep the runs in; default: none is kept"
    )
    flags = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        make_photos(folder / "photos")
        for name, arguments in specs(folder / "photos"):
            if flags.only not in name:
                continue
            runs = {}
            for side, checkout in (("before", flags.before.resolve()), ("after", REPOSITORY)):
                workdir = (flags.out or folder) / side / name
                runs[side] = run(checkout, arguments, workdir)
            same = runs["before"] == runs["after"] and "failed" not in runs["after"]
            steps = len(runs["after"].get("checksums", ()))
            print(
                f"{name}: {'same bits' if same else 'DIFFERENT'}, {steps} checkpoints", flush=True
            )
            if not same:
                failures += 1
                print(difference(runs["before"], runs["after"]), flush=True)
    sys.exit(1 if failures else 0)


def difference(before, after):
    """Returns a few lines on how two outcomes differ."""
    if "failed" in before or "failed" in after:
        return f"  before: {before.get('failed', 'ended')}\n  after: {after.get('failed', 'ended')}"
    parts = [key for key in before if before[key] != after.get(key)]
    return "\n".join(
        f"  {key}: {str(before[key])[:300]}\n   now {str(after.get(key))[:300]}" for key in parts
    )


if __name__ == "__main__":
    main()
