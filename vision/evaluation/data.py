"""The images that a model is evaluated on, and their labels among the model's classes."""

import dataclasses
import os

import numpy as np
from ml_collections import ConfigDict

from vision.data.pipeline import Data, named_splits, open_data
from vision.data.sources import CHANGES, open_splits, parse
from vision.data.splits import same_images
from vision.errors import UserError, check_choice
from vision.models.weights.published import imagenet_classes

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
        loaders: {name: loader} of the parts that it is made of: one, or several of "all".
        data: a `vision.data.pipeline.Data`: all of the source's splits, or "all" alone where it was
            not divided.
        own: whether it is the source that the model was trained on.
        config: with `data` and `seed` as it was opened.
        positions: int64, for each of the source's classes its place among the model's; -1 where it
            has none.
    """

    name: str
    source: object
    loaders: dict
    data: Data
    own: bool
    config: ConfigDict
    positions: np.ndarray

    @property
    def spec(self):
        """The source's name."""
        return self.config.data.source

    def labeled(self, outputs):
        """Returns `Outputs` of any of the source's splits with labels among the model's classes.

        Images of a class that the model does not know are left out.
        """
        labels = self.positions[outputs.labels]
        kept = labels >= 0
        if kept.all():
            return dataclasses.replace(outputs, labels=labels)
        rest = np.cumsum(kept) - 1
        chosen = kept[outputs.embedded]
        return dataclasses.replace(
            outputs,
            **{
                name: getattr(outputs, name)[kept]
                for name in ("logits", "rows", "brightness", "contrast")
            },
            labels=labels[kept],
            embeddings=outputs.embeddings[chosen],
            embedded=rest[outputs.embedded[chosen]],
        )


def open_split(classifier, config, mesh, spec="", name=""):
    """Opens the images to evaluate a model on, prepared as the model takes them.

    Args:
        classifier: a `vision.inference.Classifier` or a `vision.bundle.directory.Bundle`.
        config: the model's, of which `data` counts.
        mesh: from `vision.parallel.make_mesh`.
        spec: a source, such as "folder:photos"; "" = the one of the model's config.
        name: "train", "val", "test" or "all"; "" = test, or all where `spec` names a source without
            splits of its own.

    Raises:
        UserError: the source cannot be opened, or holds classes that the model does not know.
    """
    config = config.copy_and_resolve_references()
    c = config.data
    if name:
        check_choice("--split", name, SPLITS)
    own = not spec or is_same(spec, c.source)
    if not own:
        c.source = spec
        c.limit = 0
        c.per_class = 0
    if not c.source:
        raise UserError(
            "which images? Give --data SOURCE, for the bundle does not say what it was trained on"
        )
    opened = open_splits(c.source)
    undivided = is_undivided(opened, c.source)
    name = name or ("all" if undivided and not own else "test")
    c.image_size = classifier.image_size
    c.channels = classifier.channels
    c.random_crop_area = ()
    # nothing is trained, however few the images
    config.imbalance.sampling = "none"
    config.train.steps = 1
    # Of few images none may be left for a split, and none is needed.
    data = open_data(config, mesh, opened if name == "all" and undivided else None)
    loaders = {name: data.loaders[name]} if name in data.loaders else distinct(data.loaders)
    source = Joined([loader.dataset.source for loader in loaders.values()])
    positions = match_classes(classifier.classes, source)
    return Split(name, source, loaders, data, own, config, positions)


def is_same(spec, other):
    """Whether two names are of the same source: a folder's name may end with a slash, or not begin
    at the root."""
    if spec == other:
        return True
    (kind, argument, options) = parse(spec)
    (other_kind, other_argument, other_options) = parse(other)
    same = kind == other_kind and options == other_options and argument and other_argument
    return bool(same) and os.path.realpath(argument) == os.path.realpath(other_argument)


def is_undivided(opened, spec):
    """Whether a source has no splits of its own, so that all of it can be evaluated without being
    divided."""
    return set(opened) == {"all"} and not set(parse(spec)[2]) & set(CHANGES)


def reopen(c, seed, name):
    """Returns the source of a split that was evaluated.

    Args:
        c: config.data.
        seed: of the division.
        name: of the split.

    Raises:
        UserError: it cannot be opened.
    """
    opened = open_splits(c.source)
    if name == "all" and is_undivided(opened, c.source):
        return Joined([opened["all"]])
    splits, _ = named_splits(c, seed, opened)
    if name != "all":
        return Joined([splits[name]])
    if same_images(splits["val"], splits["test"]):
        del splits["val"]
    return Joined(list(splits.values()))


def distinct(loaders):
    """Returns {name: loader} without a validation split that is the test split over again."""
    same = "val" in loaders and same_images(
        loaders["val"].dataset.source, loaders["test"].dataset.source
    )
    return {name: loader for name, loader in loaders.items() if not (same and name == "val")}


def match_classes(classes, source):
    """Returns the place among a model's classes of each of a source's classes, int64; -1 where it
    has none.

    Classes are the same where their names are; ImageNet's also where the data call them by synset,
    such as n01440764. A class without an image does not count.

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
    return ", ".join(names[:count]) + (
        f" and {len(names) - count:,} more" if len(names) > count else ""
    )
