"""The images that an exported model is compared and calibrated with, and their statistics."""

import contextlib
import dataclasses
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
from vision.support.progress import Progress

COMPARISON_IMAGES = 64  # at most
REFERENCE_IMAGES = 1000  # at most; their statistics are the reference for drift
EMBEDDING_BATCH = 50  # images whose embeddings are computed at a time


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Images from all over a source, each prepared whenever it is asked for: they may be large.

    Iterating over it yields (element of the model's batch, what its image is like, as
    `vision.reference.appearance.measure` says, place of its class among the model's, -1 for a class
    that it lacks). Unreadable images are left out.

    Attributes:
        classifier: the model.
        program: what is exported of it, which prepares images.
        source: the images.
        indices: of those that are taken.
    """

    classifier: Classifier
    program: Program
    source: Any
    indices: np.ndarray

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        source = self.source
        places = {name: place for place, name in enumerate(self.classifier.classes)}
        for index in self.indices:
            with contextlib.suppress(UnreadableImage):
                image = source[int(index)]["image"]
                prepared = self.program.prepare(image)
                fields = {name: source.fields[name][[index]] for name in self.classifier.fields}
                (element,) = pack(prepared[None], fields)
                label = source.classes[source.labels[index]]
                yield element, appearance.measure(prepared, image.shape), places.get(label, -1)

    def spread(self, count: int) -> "Prepared":
        """Returns at most `count` of them, from all over."""
        return dataclasses.replace(self, indices=self.indices[spread(count, len(self.indices))])

    def first(self) -> np.ndarray:
        """Returns the first of them.

        Raises:
            UserError: none of them can be read.
        """
        for image, _, _ in self:
            return image
        source = self.source
        raise UserError(
            f"none of {len(source)} images can be read, beginning with {source.name(0)}"
        )

    def read(self) -> np.ndarray:
        """Returns all of them as a batch.

        Raises:
            UserError: none of them can be read.
        """
        first = self.first()
        images = np.empty((len(self.indices), *first.shape), first.dtype)
        count = 0
        with Progress("decoding", len(images), "images") as work:
            for image, _, _ in work.over(self):
                images[count] = image
                count += 1
        return images[:count]


class Samples(NamedTuple):
    """Images to compare and calibrate with.

    Attributes:
        comparison: images to compare an exported model with JAX on, uint8 (N, S, S, C).
        train: at most `REFERENCE_IMAGES` training images; None if there are none.
        origin: where `comparison` is from, to be put in parentheses.
        unseen: at most `REFERENCE_IMAGES` images of the validation split; None if there is no such
            split.
    """

    comparison: np.ndarray
    train: Prepared | None
    origin: str
    unseen: Prepared | None = None


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
            comparison = _prepared(classifier, program, joined, COMPARISON_IMAGES).read()
            train = _prepared(classifier, program, joined, REFERENCE_IMAGES)
            return Samples(comparison, train, f"of {spec}")
        if c.source:
            splits, _ = named_splits(c, split_seed(config), past=classifier.past)
            splits = _with_fields(classifier, splits)
            comparison = _prepared(classifier, program, splits["val"], COMPARISON_IMAGES).read()
            train = _prepared(classifier, program, splits["train"], REFERENCE_IMAGES)
            train.first()  # raises if none of them can be read
            unseen = _prepared(classifier, program, splits["val"], REFERENCE_IMAGES)
            return Samples(comparison, train, "of the validation split", unseen)
    except UserError as error:
        if spec:
            raise
        report(f"the run's images cannot be opened: {error}")
    report(
        "comparing on random images, without statistics of the training data: "
        "give real images with --data SOURCE"
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


def _prepared(classifier, program, source, count):
    """Returns at most `count` images from all over a source."""
    return Prepared(classifier, program, source, spread(count, len(source)))


def describe(program: Program, train: Prepared) -> tuple[dict[str, Any], np.ndarray]:
    """Returns the statistics of training images that drift is measured from, and their looks.

    Args:
        program: the served model.
        train: the images.

    Returns:
        ({"images": N, "pixel_mean" and "pixel_std": by channel, pixels in [0, 1], "embedding_mean"
        and "embedding_std": by dimension}; what each image is like, float32 (N, 7)).
    """
    run = batched(program, EMBEDDING_BATCH)
    counts = np.zeros((program.channels, 256), np.int64)
    looks = []
    parts = []
    for batch in _batches(train, "describing training images"):
        images = np.stack([image for image, _, _ in batch])
        parts.append(run(images)[1].astype(np.float64))
        looks += [look for _, look, _ in batch]
        for image in image_of(images):
            for channel, count in enumerate(counts):
                count += np.bincount(image[..., channel].ravel(), minlength=256)
    embeddings = np.concatenate(parts)
    mean, std = _moments(counts)
    contents = {
        "images": len(looks),
        "pixel_mean": mean,
        "pixel_std": std,
        "embedding_mean": embeddings.mean(0),
        "embedding_std": embeddings.std(0),
    }
    return contents, np.stack(looks)


def _moments(counts):
    """Returns (mean, standard deviation) by channel, in [0, 1], of counts of levels (C, 256)."""
    levels = np.arange(256) / 255
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ levels
    return mean, np.sqrt((share * (levels - mean[:, None]) ** 2).sum(1))


def reference(program: Program, run: Callable, samples: Samples) -> dict[str, Any] | None:
    """Returns the statistics of the run's images that drift is measured from, for a bundle.

    Args:
        program: the served model.
        run: `run(images) -> (probabilities, embeddings)`, the model as the server runs it.
        samples: images of the run.

    Returns:
        `describe` and, under their keys, what is read by `vision.monitoring.drift`
        (`vision.reference.statistics`) and by `vision.monitoring.quality`
        (`vision.reference.quality`); None if there are no images.
    """
    if samples.train is None or samples.unseen is None:
        return None
    probabilities = []
    embeddings = []
    truth: list[int] = []
    for batch in _batches(samples.unseen, "describing unseen images"):
        results = batched(run, EMBEDDING_BATCH)(np.stack([image for image, _, _ in batch]))
        probabilities.append(results[0])
        embeddings.append(results[1])
        truth += [place for _, _, place in batch]
    outputs = np.concatenate(probabilities), np.concatenate(embeddings)
    contents, looks = describe(program, samples.train)
    contents[statistics.KEY] = statistics.describe(looks, *outputs)
    places = np.array(truth)
    has_class = places >= 0
    if has_class.any():
        contents[quality.KEY] = quality.describe(outputs[0][has_class], places[has_class])
    return contents


def _batches(prepared, title):
    """Yields lists of at most `EMBEDDING_BATCH` of what `Prepared` yields; shows how far it is."""
    with Progress(title, len(prepared.indices), "images") as work:
        elements = work.over(prepared)
        while batch := list(itertools.islice(elements, EMBEDDING_BATCH)):
            yield batch
