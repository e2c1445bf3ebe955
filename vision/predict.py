"""Classifies image files, with a run's model, a bundle's or a config's pretrained weights.

    python -m vision.predict --workdir runs/pets photos/ new.jpg
    python -m vision.predict --bundle bundles/pets 'photos/**/*.jpg'      # needs no JAX
    python -m vision.predict --config configs/efficientnet_lite_imagenet.py --format csv photos/

Prints the top classes of each file as they come: any number of files, of folders all images below,
of quoted patterns (*, ?, [...]; ** is any depth) the images that match. A file that cannot be read
is named on stderr, and the exit code is then 1.
"""

import collections
import concurrent.futures
import csv
import glob
import itertools
import json
import os
import sys

import numpy as np
from absl import flags

from vision import cli
from vision.data.decode import UnreadableImage, decode
from vision.data.files import EXTENSIONS, find_images
from vision.errors import RunError, UserError, check_choice
from vision.support.processes import cores

FORMATS = ("table", "csv", "json")
AHEAD = 2  # batches that are decoded while the model runs
NAME = 20  # characters of a class in the table, at most


def main(argv):
    config, values, words = cli.parse_stage(argv, __doc__, _flags)
    check_choice("--format", values.format, FORMATS)
    if values.top < 1 or values.batch_size < 1:
        raise UserError(
            f"--top = {values.top}, --batch_size = {values.batch_size}: both are at least 1"
        )
    files = find(words)
    classifier = _open(config, values.workdir, values.bundle)
    top = min(values.top, len(classifier.classes))
    write = {"table": _Table, "csv": _Csv, "json": _Json}[values.format](
        sys.stdout, classifier.classes, top
    )
    count = unreadable = 0
    for file, found in predict(classifier, files, top, values.batch_size):
        count += 1
        if isinstance(found, UnreadableImage):
            unreadable += 1
            print(f"unreadable: {found}", file=sys.stderr)
        else:
            write(file, found)
    if unreadable:
        raise RunError(f"{unreadable} of {count} files cannot be read")


def _flags(values):
    flags.DEFINE_string("workdir", "", "directory of a run", flag_values=values)
    flags.DEFINE_string("bundle", "", "directory of a bundle", flag_values=values)
    flags.DEFINE_string(
        "format", "table", "table, csv or json (one object a line)", flag_values=values
    )
    flags.DEFINE_integer("top", 5, "classes a file", flag_values=values)
    flags.DEFINE_integer("batch_size", 32, "images at a time", flag_values=values)


def _open(config, workdir, bundle):
    if bundle and not workdir and config is None:
        from vision.bundle.directory import open_bundle

        return open_bundle(bundle)
    from vision import inference  # imports JAX

    return inference.from_flags(config, workdir, bundle)


def find(words):
    """Returns an iterator over the files that `words` name, all images below folders, and those
    that match patterns.

    Each word is looked at before the first file is yielded. Folders are walked by name, patterns in
    whatever order the file system has; kept are the names in the folders that are open, never all.

    Raises:
        UserError: there are no words, or one of them leads to no file.
    """
    if not words:
        raise UserError("which images? Give files, folders or quoted patterns")
    for word in words:
        if next(_expand(word), None) is not None:
            continue
        if os.path.isdir(word):
            raise UserError(f"folder {word} holds no images")
        if glob.has_magic(word):
            raise UserError(f"no image matches {word}: * stays in one folder, ** reaches all below")
        raise UserError(f"there is no file or folder {word}")
    return itertools.chain.from_iterable(map(_expand, words))


def _expand(word):
    """Yields the files of one word; nothing where there are none."""
    if os.path.isdir(word):
        try:
            yield from find_images(word)
        except OSError as error:
            raise UserError(f"folder {error.filename} cannot be read: {error.strerror}") from error
    elif os.path.exists(word):
        yield word
    elif glob.has_magic(word):
        found = glob.iglob(word, recursive=True)
        yield from (
            file for file in found if file.lower().endswith(EXTENSIONS) and os.path.isfile(file)
        )


def predict(classifier, files, top=5, batch_size=32):
    """Yields (file, [(class, probability), ...]) for each file in order, highest first.

    What cannot be read yields its `UnreadableImage` instead. Memory does not grow with the number
    of files, and images are decoded while the model works on those before.

    Args:
        classifier: a `vision.inference.Classifier` or a `vision.bundle.directory.Bundle`.
        files: an iterable of paths.
        top: classes a file.
        batch_size: images at a time.
    """

    def load(file):
        try:
            return classifier.prepare(decode(file))
        except UnreadableImage as error:
            return error

    files = iter(files)
    waiting = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(cores()) as pool:

        def read_on():
            chunk = list(itertools.islice(files, batch_size))
            if chunk:
                waiting.append([(file, pool.submit(load, file)) for file in chunk])

        for _ in range(AHEAD):
            read_on()
        batch_size = min(batch_size, len(waiting[0])) if waiting else batch_size
        while waiting:
            loaded = [(file, image.result()) for file, image in waiting.popleft()]
            read_on()
            yield from _classify(classifier, loaded, top, batch_size)


def _classify(classifier, loaded, top, batch_size):
    """Yields what `predict` does for one batch, padded to one shape, so that the model is compiled
    once."""
    images = [image for _, image in loaded if not isinstance(image, UnreadableImage)]
    rows = iter(())
    if images:
        padded = np.stack(images + images[:1] * (batch_size - len(images)))
        rows = iter(classifier.probabilities_and_embeddings(padded)[0])
    for file, image in loaded:
        if isinstance(image, UnreadableImage):
            yield file, image
            continue
        row = next(rows)
        best = np.argsort(-row, kind="stable")[:top]
        yield file, [(classifier.classes[i], float(row[i])) for i in best]


class _Table:
    """Columns of one width; files come last, as nobody knows the longest name before the end."""

    def __init__(self, out, classes, top):
        self._out = out
        self._width = min(max(map(len, classes)), NAME)
        cells = [f"{f'top {i}':<{self._width + 8}}" for i in range(1, top + 1)]
        print("  ".join([*cells, "file"]), file=out, flush=True)

    def __call__(self, file, found):
        cells = [f"{100 * p:5.1f} % {self._fit(name)}" for name, p in found]
        print("  ".join([*cells, file]), file=self._out, flush=True)

    def _fit(self, name):
        name = name if len(name) <= self._width else f"{name[: self._width - 1]}…"
        return f"{name:<{self._width}}"


class _Csv:
    def __init__(self, out, classes, top):
        self._writer = csv.writer(out, lineterminator="\n")
        self._writer.writerow(("file", "rank", "class", "probability"))

    def __call__(self, file, found):
        self._writer.writerows((file, i, name, f"{p:.6f}") for i, (name, p) in enumerate(found, 1))


class _Json:
    def __init__(self, out, classes, top):
        self._out = out

    def __call__(self, file, found):
        top = [{"class": name, "probability": p} for name, p in found]
        print(json.dumps({"file": file, "top": top}), file=self._out, flush=True)


if __name__ == "__main__":
    cli.run(main)
