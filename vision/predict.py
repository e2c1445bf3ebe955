"""Classifies image files, with a run's model or a config's pretrained weights.

    python -m vision.predict --workdir runs/pets photos/ new.jpg
    python -m vision.predict --config configs/efficientnet_lite_imagenet.py --format csv photos/

Prints the top classes of each file as they come: any number of files, of folders all images below. A file that cannot
be read is named on stderr, and the exit code is then 1.
"""

import concurrent.futures
import csv
import json
import os
import pathlib
import sys

import numpy as np
from absl import flags

from vision import cli
from vision.data.decode import UnreadableImage, decode
from vision.data.sources._files import find_images
from vision.errors import RunError, UserError, check_choice

FORMATS = ("table", "csv", "json")


def main(argv):
    config, values, words = cli.parse_stage(argv, __doc__, _flags)
    check_choice("--format", values.format, FORMATS)
    if values.top < 1 or values.batch_size < 1:
        raise UserError(f"--top = {values.top}, --batch_size = {values.batch_size}: both are at least 1")
    files = list_files(words)
    from vision import inference

    classifier = inference.from_flags(config, values.workdir)
    write = {"table": _Table, "csv": _Csv, "json": _Json}[values.format](sys.stdout)
    unreadable = 0
    for file, found in predict(classifier, files, values.top, values.batch_size):
        if isinstance(found, UnreadableImage):
            unreadable += 1
            print(f"unreadable: {found}", file=sys.stderr)
        else:
            write(file, found)
    if unreadable:
        raise RunError(f"{unreadable} of {len(files)} files cannot be read")


def _flags(values):
    flags.DEFINE_string("workdir", "", "directory of a run", flag_values=values)
    flags.DEFINE_string("format", "table", "table, csv or json (one object a line)", flag_values=values)
    flags.DEFINE_integer("top", 5, "classes a file", flag_values=values)
    flags.DEFINE_integer("batch_size", 32, "images at a time", flag_values=values)


def list_files(words):
    """Returns the files that `words` name, and all images below each folder; raises `UserError` for what is missing."""
    if not words:
        raise UserError("which images? Give files or folders")
    files = []
    for word in map(pathlib.Path, words):
        if not word.exists():
            raise UserError(f"there is no file or folder {word}")
        found = sorted(find_images(word)) if word.is_dir() else [str(word)]
        if not found:
            raise UserError(f"folder {word} holds no images")
        files += found
    return files


def predict(classifier, files, top=5, batch_size=32):
    """Yields (file, [(class, probability), ...]) for each file in order, highest first.

    What cannot be read yields its `UnreadableImage` instead. Memory does not grow with the number of files.
    """
    from vision.inference import softmax

    def load(file):
        try:
            return classifier.prepare(decode(file))
        except UnreadableImage as error:
            return error

    top = min(top, len(classifier.classes))
    batch_size = min(batch_size, len(files))  # one shape, compiled once: the last batch is padded
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(files), batch_size):
            chunk = files[start : start + batch_size]
            loaded = list(pool.map(load, chunk))
            images = [image for image in loaded if not isinstance(image, UnreadableImage)]
            rows = iter(())
            if images:
                padded = np.stack(images + images[:1] * (batch_size - len(images)))
                rows = iter(softmax(classifier(padded)[0]))
            for file, image in zip(chunk, loaded, strict=True):
                if isinstance(image, UnreadableImage):
                    yield file, image
                    continue
                row = next(rows)
                best = np.argsort(-row, kind="stable")[:top]
                yield file, [(classifier.classes[i], float(row[i])) for i in best]


class _Table:
    def __init__(self, out):
        self._out = out

    def __call__(self, file, found):
        words = ", ".join(f"{name} {100 * p:.1f} %" for name, p in found)
        print(f"{file}: {words}", file=self._out, flush=True)


class _Csv:
    def __init__(self, out):
        self._writer = csv.writer(out, lineterminator="\n")
        self._writer.writerow(("file", "rank", "class", "probability"))

    def __call__(self, file, found):
        self._writer.writerows((file, i, name, f"{p:.6f}") for i, (name, p) in enumerate(found, 1))


class _Json:
    def __init__(self, out):
        self._out = out

    def __call__(self, file, found):
        top = [{"class": name, "probability": p} for name, p in found]
        print(json.dumps({"file": file, "top": top}), file=self._out, flush=True)


if __name__ == "__main__":
    cli.run(main)
