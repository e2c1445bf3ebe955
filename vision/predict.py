"""Classifies image files with the model of a run, a bundle or a config's pretrained weights.

    python -m vision.predict --workdir runs/pets photos/ new.jpg
    python -m vision.predict --bundle bundles/pets 'photos/**/*.jpg'      # needs no JAX
    python -m vision.predict --config configs/efficientnet_lite_imagenet.py --format csv photos/
    python -m vision.predict --workdir runs/clip --zero-shot 'cat,dog' [--templates FILE] photos/
    python -m vision.predict --workdir runs/skin --table new.csv
    python -m vision.predict --workdir runs/steel --tiles 224 --normal good --maps maps line.png
    python -m vision.predict --workdir runs/pets --pictures looked_at photos/

Prints the top classes of each file as soon as they are known. Arguments are any number of files,
folders (all images below them) and quoted patterns (*, ?, [...]; ** spans any depth). A file that
cannot be read is named on stderr, and the exit code is then 1. --zero-shot names the classes for a
run with a text tower ("classes": those of its data); a file of --templates has a prompt a line,
such as "a photo of a {}.". --table is for models of more than images: a CSV file with a column
`path`, or as it was called in training, and those that the model takes. --pictures writes a copy
of each image, with its classes and their probabilities below it, into a directory. --tiles cuts
each image into overlapping squares of so many of its pixels, classifies each like a separate image,
and makes one decision of them: docs/tiles.md.
"""

import glob
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from vision import cli
from vision.bundle.runtimes import batched
from vision.config.flags import parse_stage
from vision.data.annotated import annotating
from vision.data.decode import UnreadableImage, decode
from vision.data.files import find_files
from vision.data.formats import known_extensions
from vision.data.inputs import pack
from vision.errors import RunError, UserError, check_choice, check_count, printable
from vision.support.ahead import load_ahead
from vision.support.cells import Writer, column_width, fitted
from vision.support.memory import keep_freed_memory
from vision.tiles import command as tiles
from vision.tiles.writers import WRITERS as TILED_WRITERS

if TYPE_CHECKING:
    from vision.inference import Predictor

FORMATS = ("table", "csv", "json")


def main(argv: Sequence[str]) -> None:
    config, values, words = parse_stage(argv, __doc__, _flags)
    check_choice("--format", values.format, FORMATS)
    check_count("--top", values.top, 1, 10**9)
    check_count("--batch_size", values.batch_size, 1, 65_536)
    options = tiles.from_flags(values, words)
    if options is not None and values.table:
        raise UserError(f"give either --tiles or --table {values.table}, not both")
    if options is not None and values.pictures:
        raise UserError(f"--pictures {values.pictures} cannot go with --tiles: use --maps")
    files = iter(()) if values.table and not words else find(words)
    if config is None or config.parallel.keep_memory:
        keep_freed_memory()
    classifier = _open(config, values)
    top = min(values.top, len(classifier.classes))
    if options is None:
        fields = None
        if values.table:
            files, fields = _read_table(classifier, values.table, words)
        else:
            _check_images_suffice(classifier)
        write = _WRITERS[values.format](sys.stdout, classifier.classes, top)
        with annotating(values.pictures, classifier.config.data.bits) as annotate:
            predictions = predict(classifier, files, top, values.batch_size, fields)
            _print(_annotated(predictions, annotate), write)
    else:
        tiles.check_model(classifier, classifier.fields, options)
        write = TILED_WRITERS[values.format](sys.stdout, classifier.classes, top)
        _print(tiles.classify(classifier, files, options, values.batch_size), write)


def _annotated(predictions, annotate):
    """Yields each (file, prediction) once its picture is written."""
    for file, prediction in predictions:
        annotate(file, prediction)
        yield file, prediction


def _print(predictions, write):
    """Writes each (file, prediction) as soon as it is known, and names unreadable files."""
    count = 0
    unreadable = 0
    for file, prediction in predictions:
        count += 1
        if isinstance(prediction, UnreadableImage):
            unreadable += 1
            print(f"unreadable: {prediction}", file=sys.stderr)
        else:
            write(file, prediction)
    if unreadable:
        raise RunError(f"{unreadable} of {count} files cannot be read")


def _flags(values):
    flags.DEFINE_string("workdir", "", "run directory", flag_values=values)
    flags.DEFINE_string("bundle", "", "bundle directory", flag_values=values)
    flags.DEFINE_string(
        "format", "table", "table, csv or json (one object per line)", flag_values=values
    )
    flags.DEFINE_integer("top", 5, "number of classes per file", flag_values=values)
    text = "classes to choose from, such as 'cat,dog', or classes: those of the run's data"
    flags.DEFINE_string("zero-shot", "", text, flag_values=values)
    text = "with --zero-shot, a file of prompts with a {} for the class, one a line"
    flags.DEFINE_string("templates", "", text, flag_values=values)
    text = "CSV file of images with what the model takes beside them"
    flags.DEFINE_string("table", "", text, flag_values=values)
    text = "directory for copies of the images with their classes and probabilities"
    flags.DEFINE_string("pictures", "", text, flag_values=values)
    flags.DEFINE_integer("batch_size", 32, "images per batch", flag_values=values)
    tiles.define_flags(values)


def _open(config, values):
    workdir = values.workdir
    bundle = values.bundle
    zero_shot = values["zero-shot"].value
    if zero_shot or values.templates:
        from vision import matching  # imports JAX

        return matching.from_flags(config, workdir, zero_shot, values.templates, bundle)
    if bundle and not workdir and config is None:
        from vision.bundle.directory import open_bundle

        return open_bundle(bundle)
    from vision import inference  # imports JAX

    return inference.from_flags(config, workdir, bundle)


def _check_images_suffice(classifier):
    """Raises `UserError` if a model takes more than images, and there is no table."""
    if classifier.encoder is not None:
        names = ", ".join(classifier.encoder.names)
        raise UserError(
            f"this model takes {names} beside the image: give --table FILE.csv with these columns "
            "and one of paths"
        )


def _read_table(classifier, table, words):
    """Returns (paths of the images, their fields) of --table."""
    from vision.data.examples import read_examples

    if words:
        raise UserError(f"give either --table {table} or images, such as {words[0]}, not both")
    if classifier.encoder is None:
        raise UserError(f"--table {table}: this model takes images alone, name them instead")
    return read_examples(table, classifier.encoder, classifier.config.data.source)


def find(words: Sequence[str]) -> Iterator[str]:
    """Returns an iterator over the image files that the arguments name.

    Every argument is checked before the first file is yielded. Folders are walked in the order of
    names, patterns in the order of the file system; only the names in the folders being read are
    kept in memory.

    Args:
        words: files, folders (all images below them) and patterns.

    Raises:
        UserError: if there are no arguments, or one of them leads to no file.
    """
    if not words:
        raise UserError("which images? Give files, folders or quoted patterns")
    for word in words:
        if next(_expand(word), None) is not None:
            continue
        if os.path.isdir(word):
            raise UserError(f"folder {word} holds no images")
        if glob.has_magic(word):
            raise UserError(
                f"no image matches {word}: * stays in one folder, ** spans all folders below"
            )
        raise UserError(f"there is no file or folder {word}")
    return itertools.chain.from_iterable(map(_expand, words))


def _expand(word):
    """Yields the files that one argument names, if any."""
    if os.path.isdir(word):
        yield from find_files(word, known_extensions())
    elif os.path.exists(word):
        yield word
    elif glob.has_magic(word):
        for file in glob.iglob(word, recursive=True):
            if file.lower().endswith(known_extensions()) and not os.path.isdir(file):
                yield file


def predict(
    classifier: "Predictor",
    files: Iterable[str],
    top: int = 5,
    batch_size: int = 32,
    fields: Mapping[str, np.ndarray] | None = None,
) -> Iterator[tuple[str, list[tuple[str, float]] | UnreadableImage]]:
    """Yields (file, [(class, probability), ...]) for each file in order, most probable class first.

    A file that cannot be read yields its `UnreadableImage` instead. Memory does not grow with the
    number of files, and images are decoded while the model runs on earlier ones.

    Args:
        classifier: the model.
        files: paths.
        top: number of classes per file.
        batch_size: images per batch.
        fields: {name: (N, ...)}, what the model takes beside each of the N files.
    """

    def load(numbered):
        try:
            return classifier.prepare(decode(numbered[1], bits=classifier.config.data.bits))
        except UnreadableImage as error:
            return error

    run = None
    for batch in load_ahead(enumerate(files), load, batch_size):
        loaded = [(row, file, image) for (row, file), image in batch]
        # Every batch is padded to the size of the first, so that the model compiles once.
        run = run or batched(classifier.probabilities_and_embeddings, len(loaded))
        probabilities = _run(run, loaded, fields or {})
        yield from _ranked(classifier.classes, loaded, probabilities, top)


def _run(run, loaded, fields):
    """Returns the probabilities of the readable images of one batch."""
    readable = [item for item in loaded if not isinstance(item[2], UnreadableImage)]
    if not readable:
        return np.empty((0, 0))
    rows = [row for row, _, _ in readable]
    images = np.stack([image for _, _, image in readable])
    return run(pack(images, {name: values[rows] for name, values in fields.items()}))[0]


def _ranked(classes, loaded, every_probability, top):
    """Yields the results of one batch."""
    rows = iter(every_probability)
    for _, file, image in loaded:
        if isinstance(image, UnreadableImage):
            yield file, image
            continue
        probabilities = next(rows)
        if not np.isfinite(probabilities).all():
            raise RunError(
                f"the model gives NaN or infinite probabilities for {file}: train it again"
            )
        best = np.argsort(-probabilities, kind="stable")[:top]
        yield file, [(classes[i], float(probabilities[i])) for i in best]


class _Table:
    """Columns of equal width; the file comes last, since the longest path is not known yet."""

    def __init__(self, out, classes, top):
        self._out = out
        self._width = column_width(classes)
        cells = [f"{f'top {i}':<{self._width + 8}}" for i in range(1, top + 1)]
        print("  ".join([*cells, "file"]), file=out, flush=True)

    def __call__(self, file, prediction):
        cells = [f"{100 * p:5.1f} % {fitted(name, self._width)}" for name, p in prediction]
        print("  ".join([*cells, printable(file)]), file=self._out, flush=True)


class _Csv:
    def __init__(self, out, classes, top):
        self._writer = Writer(out)
        self._writer.writerow(("file", "rank", "class", "probability"))

    def __call__(self, file, prediction):
        for rank, (name, probability) in enumerate(prediction, 1):
            self._writer.writerow((file, rank, name, f"{probability:.6f}"))


class _Json:
    def __init__(self, out, classes, top):
        self._out = out

    def __call__(self, file, prediction):
        top = [{"class": name, "probability": p} for name, p in prediction]
        print(json.dumps({"file": file, "top": top}), file=self._out, flush=True)


_WRITERS: dict[str, type] = {"table": _Table, "csv": _Csv, "json": _Json}

if __name__ == "__main__":
    cli.run(main)
