"""OpenVINO beside ONNX Runtime: how fast a bundle's model.onnx is, and how far its answers are.

    PYTHON -m experiments.edge.openvino BUNDLE --photos PHOTOS

PYTHON is that of an environment with `openvino` beside this project's packages. Both run each image
on one thread, in turn: first one of them, for the next image the other. Other programs on the
machine then slow both alike, so the ratio of the medians says more than the milliseconds.
"""

import argparse
import pathlib
import statistics
import time

import numpy as np

from vision import cli
from vision.bundle.directory import open_bundle
from vision.data.decode import decode
from vision.data.loading.sampler import spread

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}  # as OpenVINO calls them


def main(argv):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("bundle", type=pathlib.Path, help="a bundle with model.onnx")
    p.add_argument("--photos", type=pathlib.Path, required=True, help="folder of image files")
    p.add_argument("--count", type=int, default=50, help="images, from all over the folder")
    p.add_argument("--precision", choices=PRECISIONS, default="float32", help="of OpenVINO")
    a = p.parse_args(argv)
    bundle = open_bundle(a.bundle, threads=1)
    files = sorted(path for path in a.photos.rglob("*") if path.is_file())
    images = [bundle.prepare(decode(files[i]))[None] for i in spread(a.count, len(files))]
    runs = {
        "ONNX Runtime": lambda image: bundle.probabilities_and_embeddings(image)[0],
        "OpenVINO": open_openvino(a.bundle / "model.onnx", PRECISIONS[a.precision]),
    }
    answers, times = measure(runs, images)
    reference, other = (np.concatenate(answers[name]) for name in runs)
    medians = [statistics.median(times[name]) for name in runs]
    cli.show(
        f"{a.bundle.name}, OpenVINO in {a.precision}, {len(images)} images",
        *(f"{name}: {ms:.1f} ms" for name, ms in zip(runs, medians, strict=True)),
        f"OpenVINO is {medians[0] / medians[1]:.2f} times as fast",
        f"largest difference of a probability: {np.abs(reference - other).max():.1e}",
        f"same class: {(reference.argmax(1) == other.argmax(1)).sum()} of {len(images)}",
    )


def open_openvino(path, precision):
    """Returns `run(images) -> probabilities` of an ONNX file, on one thread."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": precision}
    model = openvino.Core().compile_model(str(path), "CPU", settings)
    return lambda images: np.array(model({"images": images})["probabilities"])


def measure(runs, images):
    """Returns ({name: answers}, {name: milliseconds}) of each image."""
    answers = {name: [] for name in runs}
    times = {name: [] for name in runs}
    for run in runs.values():
        run(images[0])
    for number, image in enumerate(images):
        for name in list(runs)[:: -1 if number % 2 else 1]:
            begun = time.perf_counter()
            answers[name].append(runs[name](image))
            times[name].append(1000 * (time.perf_counter() - begun))
    return answers, times


if __name__ == "__main__":
    cli.run(main)
