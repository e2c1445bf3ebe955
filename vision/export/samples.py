"""The images that an exported model is compared and calibrated with, and their statistics."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from vision.bundle.runtimes import batched
from vision.data.decode import UnreadableImage
from vision.data.fields import add_fields
from vision.data.inputs import image_of, pack
from vision.data.loading.sampler import spread
from vision.data.pipeline import named_splits
from vision.data.sources import is_same, open_splits
from vision.data.splits import Joined, split_seed
from vision.errors import UserError
from vision.export.program import Program
from vision.inference import Classifier
from vision.reference import appearance, quality, statistics

COMPARISON_IMAGES = 64  # at most
REFERENCE_IMAGES = 1000  # at most; their statistics are the reference for drift
EMBEDDING_BATCH = 50  # images whose embeddings are computed at a time


class Samples(NamedTuple):
    """Images to compare and calibrate with, uint8 (N, S, S, C).

    Attributes:
        comparison: images to compare an exported model with JAX on.
        train: training images; None if there are none.
        origin: where `comparison` is from, to be put in parentheses.
        looks: float32 (N, 7), what the training images are like, as
            `vision.reference.appearance.measure` says; None if there are none.
        unseen: at most `REFERENCE_IMAGES` images of the validation split and the places of their
            classes among the model's, -1 for a class that it lacks, each prepared only when it is
            asked for; None if there is no such split.
    """

    comparison: np.ndarray
    train: np.ndarray | None
    origin: str
    looks: np.ndarray | None = None
    unseen: Iterator[tuple[np.ndarray, int]] | None = None


def open_samples(
    classifier: Classifier,
    program: Program,
    spec: str,
    report: Callable[[str], object] = print,
) -> Samples:
    """Returns the `Samples` of a source.

    Args:
        classifier: the model, whose run had the images.
        program: what is exported of it, which prepares them.
        spec: the source; "" for the run's own data, or random images if they cannot be opened.
        report: called with a line of text if they cannot be.

    Raises:
        UserError: the source `spec` cannot be opened.
    """
    config = classifier.config.copy_and_resolve_references()
    c = config.data
    try:
        if spec and not is_same(spec, c.source):
            opened = _with_fields(classifier, open_splits(spec, c.bits))
            joined = Joined(list(opened.values()))
            comparison, _ = _read(classifier, program, joined, COMPARISON_IMAGES)
            train, looks = _read(classifier, program, joined, REFERENCE_IMAGES)
            return Samples(comparison, train, f"of {spec}", looks)
        if c.source:
            splits, _ = named_splits(c, split_seed(config), past=classifier.past)
            splits = _with_fields(classifier, splits)
            comparison, _ = _read(classifier, program, splits["val"], COMPARISON_IMAGES)
            train, looks = _read(classifier, program, splits["train"], REFERENCE_IMAGES)
            prepared = _prepared(classifier, program, splits["val"], REFERENCE_IMAGES)
            unseen = ((image, place) for image, _, place in prepared)
            return Samples(comparison, train, "of the validation split", looks, unseen)
    except UserError as error:
        if spec:
            raise
        report(f"the run's images cannot be opened: {error}")
    report(
        "comparing on random images, and without statistics of the training data: "
        "give real ones with --data SOURCE"
    )
    shape = (COMPARISON_IMAGES, program.image_size, program.image_size, program.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    fields = classifier.encoder.missing(len(images)) if classifier.encoder else {}
    return Samples(pack(images, fields), None, "random")


def _with_fields(classifier, splits):
    """Returns {split: source} with the fields that the model takes."""
    if classifier.encoder is None:
        return splits
    return add_fields(classifier.config, splits, classifier.encoder).splits


def _read(classifier, program, source, count):
    """Returns at most `count` images from all over a source, as the model takes them, and what they
    are like.

    Unreadable images are left out.
    """
    pairs = list(_prepared(classifier, program, source, count))
    if not pairs:
        raise UserError(
            f"none of {len(source)} images can be read, beginning with {source.name(0)}"
        )
    images, looks, _ = zip(*pairs, strict=True)
    return np.stack(images), np.stack(looks)


def _prepared(classifier, program, source, count):
    """Yields (element of the model's batch, what its image is like, place of its class) of at most
    `count` images."""
    places = {name: place for place, name in enumerate(classifier.classes)}
    for index in spread(count, len(source)):
        with contextlib.suppress(UnreadableImage):
            image = source[int(index)]["image"]
            prepared = program.prepare(image)
            fields = {name: source.fields[name][[index]] for name in classifier.fields}
            (element,) = pack(prepared[None], fields)
            label = source.classes[source.labels[index]]
            yield element, appearance.measure(prepared, image.shape), places.get(label, -1)


def describe(program: Program, images: np.ndarray) -> dict[str, Any]:
    """Returns the statistics of training images that drift is measured from.

    Args:
        program: the served model.
        images: uint8 (N, image_size, image_size, channels).

    Returns:
        {"images": N, "pixel_mean" and "pixel_std": by channel, pixels in [0, 1], "embedding_mean"
        and "embedding_std": by dimension}.
    """
    _, embeddings = batched(program, min(EMBEDDING_BATCH, len(images)))(images)
    images = image_of(images)
    embeddings = embeddings.astype(np.float64)
    levels = np.arange(256) / 255
    counts = np.stack(
        [np.bincount(images[..., i].ravel(), minlength=256) for i in range(images.shape[-1])]
    )
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ levels
    return {
        "images": len(images),
        "pixel_mean": mean,
        "pixel_std": np.sqrt((share * (levels - mean[:, None]) ** 2).sum(1)),
        "embedding_mean": embeddings.mean(0),
        "embedding_std": embeddings.std(0),
    }


def reference(program: Program, run: Callable, samples: Samples) -> dict[str, Any] | None:
    """Returns the statistics of the run's images that drift is measured from, for a bundle.

    Args:
        program: the served model.
        run: `run(images) -> (probabilities, embeddings)`, the model as the server runs it.
        samples: images of the run.

    Returns:
        `describe` and, under their keys, what `vision.monitoring.drift` reads
        (`vision.reference.statistics`) and `vision.monitoring.quality` (`vision.reference.quality`;
        only of validation images); None if there are no training images.
    """
    if samples.train is None or samples.looks is None:
        return None
    probabilities = []
    embeddings = []
    truth: list[int] = []
    seen = ((image, -1) for image in samples.train)
    unseen = iter(seen if samples.unseen is None else samples.unseen)
    while batch := list(itertools.islice(unseen, EMBEDDING_BATCH)):
        results = batched(run, EMBEDDING_BATCH)(np.stack([image for image, _ in batch]))
        probabilities.append(results[0])
        embeddings.append(results[1])
        truth += [place for _, place in batch]
    outputs = np.concatenate(probabilities), np.concatenate(embeddings)
    contents = describe(program, samples.train)
    contents[statistics.KEY] = statistics.describe(samples.looks, *outputs)
    places = np.array(truth)
    has_class = places >= 0  # of training images a model knows too much to be measured by them
    if has_class.any():
        contents[quality.KEY] = quality.describe(outputs[0][has_class], places[has_class])
    return contents
