"""The images that a model is evaluated on, and their labels among the model's classes."""

import dataclasses

import numpy as np

from vision.data.pipeline import Data, open_data
from vision.data.sources import CHANGES, open_splits, parse
from vision.errors import UserError, check_choice
from vision.models.weights import imagenet_classes

SPLITS = ("train", "val", "test", "all")


class Joined:
    """Several splits of one source in one row, as a source.

    Args:
        sources: of the same classes.
    """

    def __init__(self, sources):
        self.sources = sources
        self.classes = sources[0].classes
        self.encoded = any(source.encoded for source in sources)
        self.labels = np.concatenate([source.labels for source in sources])
        self._starts = np.cumsum([0, *map(len, sources)])

    def __len__(self):
        return len(self.labels)

    def locate(self, index):
        """Returns (source, index in it)."""
        part = int(np.searchsorted(self._starts, index, "right")) - 1
        return self.sources[part], int(index - self._starts[part])

    def __getitem__(self, index):
        source, index = self.locate(index)
        return source[index]

    def name(self, index):
        source, index = self.locate(index)
        return source.name(index)

    def file(self, index):
        source, index = self.locate(index)
        return source.file(index)


@dataclasses.dataclass(frozen=True)
class Split:
    """What a model is evaluated on.

    Attributes:
        name: "train", "val", "test" or "all".
        source: its images, a source.
        feeds: {name: feed} of the parts that it is made of: one, or several of "all".
        data: a `vision.data.pipeline.Data`: all of the source's splits, or "all" alone where it was not divided.
        spec: the source's name.
        positions: int64, for each of the source's classes its place among the model's; -1 where it has none.
    """

    name: str
    source: object
    feeds: dict
    data: Data
    spec: str
    positions: np.ndarray


def open_split(classifier, mesh, spec="", name=""):
    """Opens the images to evaluate a model on, prepared as the model takes them.

    Args:
        classifier: a `vision.inference.Classifier` or a `vision.bundle.Bundle`.
        mesh: from `vision.parallel.make_mesh`.
        spec: a source, such as "folder:photos"; "" = the one of the model's config.
        name: "train", "val", "test" or "all"; "" = test, or all where `spec` names a source without splits of its own.

    Raises:
        UserError: the source cannot be opened, or holds classes that the model does not know.
    """
    config = classifier.config.copy_and_resolve_references()
    c = config.data
    check_choice("--split", name, ("", *SPLITS))
    if spec and spec != c.source:
        c.source, c.limit, c.per_class = spec, 0, 0
    if not c.source:
        raise UserError("which images? Give --data SOURCE, for the bundle does not say what it was trained on")
    opened = open_splits(c.source)
    undivided = set(opened) == {"all"} and not set(parse(c.source)[2]) & set(CHANGES)
    name = name or ("all" if undivided and c.source != classifier.config.data.source else "test")
    c.image_size, c.channels, c.random_crop_area = classifier.image_size, classifier.channels, ()
    config.imbalance.sampling = "none"
    # Of few images none may be left for a split, and none is needed.
    data = open_data(config, mesh, opened if name == "all" and undivided else None)
    feeds = {name: data.feeds[name]} if name in data.feeds else distinct(data.feeds)
    source = Joined([feed.rows.source for feed in feeds.values()])
    positions = match_classes(classifier.classes, source)
    return Split(name, source, feeds, data, c.source, positions)


def distinct(feeds):
    """Returns {name: feed} without a validation split that is the test split over again."""
    same = "val" in feeds and feeds["val"].rows.source is feeds["test"].rows.source
    return {name: feed for name, feed in feeds.items() if not (same and name == "val")}


def match_classes(classes, source):
    """Returns the place among a model's classes of each of a source's classes, int64; -1 where it has none.

    Classes are the same where their names are; ImageNet's also where the data call them by synset, such as n01440764.
    A class without an image does not count.

    Args:
        classes: the model's, in the order of its logits.
        source: with `classes` and `labels`.

    Raises:
        UserError: the source has images of classes that the model does not know.
    """
    place = {name: i for i, name in enumerate(classes)}
    if tuple(classes) == tuple(name for _, name in imagenet_classes()):
        place |= {synset: i for i, (synset, _) in enumerate(imagenet_classes())}
    positions = np.array([place.get(name, -1) for name in source.classes], np.int64)
    counts = np.bincount(source.labels, minlength=len(source.classes))
    unknown = [source.classes[i] for i in np.flatnonzero((positions < 0) & (counts > 0))]
    if unknown:
        raise UserError(
            f"the data have classes that the model does not know: {some(unknown)}.\n"
            f"It knows {some(classes)}. Rename them, or give --data with the model's classes"
        )
    return positions


def some(names, count=5):
    """Returns the first names, and how many more there are."""
    return ", ".join(names[:count]) + (f" and {len(names) - count:,} more" if len(names) > count else "")
