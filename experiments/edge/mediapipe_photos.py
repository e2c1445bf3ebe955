"""Compares MediaPipe's ImageClassifier with `vision.predict` on photos, as a Markdown table.

    python -m experiments.edge.mediapipe_photos PYTHON PHOTOS BUNDLE [BUNDLE ...]

PYTHON is that of an environment with `mediapipe==1.2.2`; each BUNDLE has a model.tflite. The first
one is what `vision.predict` runs. A photo's class is its folder's name, or for the files of
`imagenet_samples.tar` the number that their names begin with.
"""

import json
import pathlib
import subprocess
import sys

from vision import cli

HEAD = "| bundle | run by | region | top-1 | photos with the class of `vision.predict` | shift of \
its probability, median and largest |\n|---|---|---|---|---|---|"


def main(argv):
    python, photos, first, *others = argv
    classify = str(pathlib.Path(__file__).with_name("mediapipe_classify.py"))
    classes = json.loads(pathlib.Path(first, "bundle.json").read_text())["classes"]
    expected = predict(first, photos)
    truth = {file: truth_of(pathlib.Path(file), classes) for file in expected}
    print(HEAD)
    print(row(first, "`vision.predict`", "", expected, expected, truth))
    for bundle in (first, *others):
        if bundle != first:
            print(row(bundle, "`vision.predict`", "", predict(bundle, photos), expected, truth))
        for region in ("crop", "whole"):
            lines = run([python, classify, bundle, region, photos])
            classified = {line["file"]: line["classes"] for line in lines}
            print(row(bundle, "MediaPipe", region, classified, expected, truth))


def run(command):
    """Returns what a command prints as lines of JSON."""
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in output.splitlines()]


def predict(bundle, photos):
    """Returns {file: {class: probability}}, the most probable class first."""
    flags = ["--bundle", bundle, "--format", "json", "--top", "5", photos]
    return {
        line["file"]: {entry["class"]: entry["probability"] for entry in line["top"]}
        for line in run([sys.executable, "-m", "vision.predict", *flags])
    }


def truth_of(path, classes):
    return path.parent.name if path.parent.name in classes else classes[int(path.name[:4])]


def row(bundle, runner, region, classified, expected, truth):
    """Returns a line of the table."""
    top = {file: next(iter(classified[file])) for file in truth}
    right = sum(top[file] == truth[file] for file in truth)
    same = sum(top[file] == next(iter(expected[file])) for file in truth)
    shifts = sorted(
        abs(probability - classified[file].get(name, 0))
        for file in truth
        for name, probability in list(expected[file].items())[:1]
    )
    shift = f"{shifts[len(shifts) // 2]:.4f}, {shifts[-1]:.2f}"
    name = pathlib.Path(bundle).name
    share = f"{right / len(truth):.1%}"
    return f"| {name} | {runner} | {region} | {share} | {same} of {len(truth)} | {shift} |"


if __name__ == "__main__":
    cli.run(main)
