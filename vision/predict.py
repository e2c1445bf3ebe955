"""Classifies image files with the model of a run, a bundle or a config's pretrained weights.

    python -m vision.predict --workdir runs/pets photos/ new.jpg
    python -m vision.predict --bundle bundles/pets 'photos/**/*.jpg'      # needs no JAX
    python -m vision.predict --config configs/efficientnet_lite_imagenet.py --format csv photos/
    python -m vision.predict --workdir runs/clip --zero-shot 'cat,dog' [--templates FILE] photos/
    python -m vision.predict --workdir runs/skin --table new.csv
    python -m vision.predict --bundle bundles/pets --unsure precision=0.99 photos/
    python -m vision.predict --workdir runs/steel --tiles 224 --normal good --maps maps line.png
    python -m vision.predict --workdir runs/pets --pictures looked_at [--heat-map] photos/

Prints the top classes of each file as soon as they are known. Arguments are any number of files,
folders (all images below them) and quoted patterns (*, ?, [...]; ** spans any depth). If a file
cannot be read, its name goes to stderr and the exit code is 1. --zero-shot names the classes for a
run with a text tower ("classes" means those of its data); a --templates file has one prompt per
line, such as "a photo of a {}.". --table is for models that take more than images: a CSV file with
the column `path` (or its name in training) and the columns that the model takes. --unsure answers
"unsure" if the precision that you ask for cannot be kept, or answers with a set of classes:
docs/unsure.md. --pictures writes a copy of each image into a directory, with its classes and their
probabilities below it; --heat-map adds next to it where the model sees the most probable class.
--tiles cuts each image into overlapping squares of this many pixels a side, classifies each as a
separate image, and combines them into one decision: docs/tiles.md.
"""

import glob
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

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
from vision.data.pictures import overlay
from vision.errors import RunError, UserError, check_choice, check_count
from vision.explain.heat_maps import HeatMaps, heat_maps
from vision.reference import unsure
from vision.support.ahead import load_ahead
from vision.support.memory import keep_freed_memory
from vision.support.outputs import check_outside
from vision.support.progress import print_line, waiting
from vision.tiles import command as tiles
from vision.tiles.writers import WRITERS as TILED_WRITERS
from vision.writers import WRITERS

if TYPE_CHECKING:
    from vision.inference import Predictor

Image = TypeVar("Image")  # whatever `answers` is given


def main(argv: Sequence[str]) -> None:
    config, values, words = parse_stage(argv, __doc__, _flags)
    check_choice("--format", values.format, WRITERS)
    check_count("--top", values.top, 1, 10**9)
    check_count("--batch_size", values.batch_size, 1, 65_536)
    check_outside("--pictures", values.pictures, words)
    with_heat_maps = values["heat-map"].value
    if with_heat_maps and not values.pictures:
        raise UserError("--heat-map needs --pictures DIR, where the pictures are written")
    options = tiles.from_flags(values, words)
    if options is not None:
        _check_goes_with_tiles(values)
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
        rule = _rule(classifier, values.unsure)
        write = WRITERS[values.format](sys.stdout, classifier.classes, top, rule)
        ranked = top if rule is None else rule.listed(top, len(classifier.classes))
        heat = _heat_maps(classifier, values) if with_heat_maps else None
        with _annotating(classifier, values, heat) as annotate:
            predictions = _ranked(classifier, files, ranked, values.batch_size, fields, heat)
            _print(_annotated(predictions, annotate, top), write)
    else:
        tiles.check_model(classifier, classifier.fields, options)
        write = TILED_WRITERS[values.format](sys.stdout, classifier.classes, top)
        _print(tiles.classify(classifier, files, options, values.batch_size), write)


def _check_goes_with_tiles(values):
    """Raises `UserError` if a flag was given that does not go with --tiles."""
    if values.table:
        raise UserError(f"give either --tiles or --table {values.table}, not both")
    if values.pictures:
        raise UserError(f"--pictures {values.pictures} cannot go with --tiles: use --maps")
    if values.unsure:
        raise UserError(
            f"--unsure {values.unsure} cannot go with --tiles: it is for images that are not cut"
        )


def _annotating(classifier, values, heat):
    """Returns the context in which pictures are written to --pictures."""
    caption = heat.caption if heat else ""
    return annotating(values.pictures, classifier.config.data.bits, caption)


def _annotated(predictions, annotate, top):
    """Yields each (file, prediction) once its picture, with the top classes, is written."""
    for file, prediction, answer in predictions:
        if answer is not None:
            has_map = answer.heat_map is not None
            annotate(
                file, prediction[:top], overlay(answer.image, answer.heat_map) if has_map else None
            )
        yield file, prediction


def _print(predictions, write):
    """Writes each (file, prediction) as soon as it is known, and names unreadable files."""
    count = 0
    unreadable = 0
    with waiting("classifying") as work:
        for file, prediction in predictions:
            count += 1
            work.note(f"{count:,} images")
            if isinstance(prediction, UnreadableImage):
                unreadable += 1
                print_line(f"unreadable: {prediction}")
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
    text = f"when to be unsure: {unsure.FORMS}, or {unsure.OWN}: the one chosen for the model"
    flags.DEFINE_string("unsure", "", text, flag_values=values)
    text = "classes to choose from, such as 'cat,dog'; 'classes' means those of the run's data"
    flags.DEFINE_string("zero-shot", "", text, flag_values=values)
    text = "with --zero-shot, a file with one prompt per line, with {} for the class"
    flags.DEFINE_string("templates", "", text, flag_values=values)
    text = "CSV file of images and the other inputs of the model"
    flags.DEFINE_string("table", "", text, flag_values=values)
    text = "directory for copies of the images, with their classes and probabilities"
    flags.DEFINE_string("pictures", "", text, flag_values=values)
    text = "with --pictures, also show where in each image the most probable class is seen"
    flags.DEFINE_bool("heat-map", False, text, flag_values=values)
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


def _heat_maps(classifier, values):
    """Returns what computes the maps of --heat-map."""
    name = values.bundle or values.workdir
    export = "python -m vision.export --heatmap"
    return heat_maps(classifier, name, "--heat-map", export)


def _check_images_suffice(classifier):
    """Raises `UserError` if a model takes more than images, and there is no table."""
    if classifier.encoder is not None:
        names = ", ".join(classifier.encoder.names)
        raise UserError(
            f"this model takes {names} besides the image: give --table FILE.csv with these columns "
            "and one of paths"
        )


def _rule(classifier, text):
    """Returns the rule of --unsure; None without the flag."""
    if not text:
        return None
    remedy = "run python -m vision.evaluation.unsure on its run, and export a bundle again"
    return unsure.rule_for(text, classifier.evidence, "--unsure", remedy)


def _read_table(classifier, table, words):
    """Returns (paths of the images, their fields) of --table."""
    from vision.data.examples import read_examples

    if words:
        raise UserError(f"give either --table {table} or images, such as {words[0]}, not both")
    if classifier.encoder is None:
        raise UserError(f"--table {table}: this model takes only images: name them instead")
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


class Answer(NamedTuple):
    """What a model says about an image.

    Attributes:
        probabilities: float (C,), of the classes.
        embedding: float32 (D,).
        image: uint8 (image_size, image_size, channels), the image as the model has seen it.
        heat_map: float32 (image_size, image_size) in [0, 1], where in `image` the most probable
            class is seen; None if that was not asked for.
    """

    probabilities: np.ndarray
    embedding: np.ndarray
    image: np.ndarray
    heat_map: np.ndarray | None = None


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
    for file, prediction, _ in _ranked(classifier, files, top, batch_size, fields):
        yield file, prediction


def _ranked(classifier, files, top, batch_size, fields=None, heat=None):
    """Yields (file, prediction, answer): what `predict` yields, and the `Answer` or None."""

    def read(file):
        return decode(file, bits=classifier.config.data.bits)

    files = iter(files)
    first = list(itertools.islice(files, batch_size))
    batch_size = max(1, len(first))  # of fewer files than a batch, a smaller program
    files = itertools.chain(first, files)
    for file, answer in answers(classifier, files, read, batch_size, fields, heat):
        if isinstance(answer, UnreadableImage):
            yield file, answer, None
        else:
            yield file, rank(classifier.classes, answer.probabilities, top, file), answer


def answers(
    classifier: "Predictor",
    images: Iterable[Image],
    read: Callable[[Image], np.ndarray],
    batch_size: int,
    fields: Mapping[str, np.ndarray] | None = None,
    heat: HeatMaps | None = None,
) -> Iterator[tuple[Image, Answer | UnreadableImage]]:
    """Yields (image, `Answer`) for each image in order, or its `UnreadableImage`.

    Memory does not grow with the number of images, and they are read while the model runs on
    earlier ones.

    Args:
        classifier: the model.
        images: whatever `read` takes, such as paths.
        read: returns an image's pixels, uint8 (H, W, 1 or 3); called by several threads.
        batch_size: images per batch. The last one is padded, so that the model compiles once.
        fields: {name: (N, ...)}, what the model takes beside each of the N images.
        heat: from `vision.explain.heat_maps.heat_maps`, for the answers' heat maps.
    """

    def load(numbered):
        try:
            return classifier.prepare(read(numbered[1]))
        except UnreadableImage as error:
            return error

    def compute(images):
        probabilities, embeddings = classifier.probabilities_and_embeddings(images)
        if heat is None:
            return probabilities, embeddings
        return probabilities, embeddings, heat(images, np.argmax(probabilities, 1))

    run = batched(compute, batch_size)
    for batch in load_ahead(enumerate(images), load, batch_size):
        loaded = [(row, image, pixels) for (row, image), pixels in batch]
        outputs = _run(run, loaded, fields or {})
        for _, image, pixels in loaded:
            if isinstance(pixels, UnreadableImage):
                yield image, pixels
            else:
                probabilities, embedding, *heat_map = next(outputs)
                yield image, Answer(probabilities, embedding, pixels, *heat_map)


def _run(run, loaded, fields):
    """Returns an iterator over what `run` gives for each of the readable images of one batch."""
    readable = [item for item in loaded if not isinstance(item[2], UnreadableImage)]
    if not readable:
        return iter(())
    rows = [row for row, _, _ in readable]
    images = np.stack([pixels for _, _, pixels in readable])
    batch = pack(images, {name: values[rows] for name, values in fields.items()})
    return zip(*run(batch), strict=True)


def rank(
    classes: Sequence[str], probabilities: np.ndarray, top: int, name: str
) -> list[tuple[str, float]]:
    """Returns [(class, probability)] of the most probable classes, the most probable first.

    Args:
        classes: C names.
        probabilities: float (C,).
        top: number of classes.
        name: what the image is called in a message.

    Raises:
        RunError: the probabilities are not finite.
    """
    if not np.isfinite(probabilities).all():
        raise RunError(f"the model gives NaN or infinite probabilities for {name}: train it again")
    best = np.argsort(-probabilities, kind="stable")[:top]
    return [(classes[i], float(probabilities[i])) for i in best]


if __name__ == "__main__":
    cli.run(main)
