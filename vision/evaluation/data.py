"""The images that a model is evaluated on, and their labels among the model's classes."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from vision.data.loading.loader import Loader
from vision.data.pipeline import Data, named_splits, open_data
from vision.data.recall import images_of_past, resembles
from vision.data.sources import CHANGES, Source, is_same, members, open_splits, parse
from vision.data.splits import Joined, same_images, split_seed
from vision.errors import UserError, check_choice, printable
from vision.evaluation.outputs import Outputs
from vision.inference import Predictor
from vision.models.weights.published import imagenet_classes

SPLITS = ("train", "val", "test", "all")
LONGEST_NAME = 100  # characters of a class's name in a message


@dataclasses.dataclass(frozen=True)
class Split:
    """The images that a model is evaluated on.

    Attributes:
        name: "train", "val", "test" or "all".
        source: the images.
        loaders: {name: loader} of the split's parts: one, or several for "all".
        data: all splits of the source; only "all" if it was not divided.
        own: whether the model was trained on this source.
        config: the config with `data` and `seed` as the source was opened.
        positions: int64, each of the source's classes' position among the model's classes; -1 if
            the model does not have it.
        is_copy: whether it is known from their names only that the model was trained on these
            images: a pack of them, or the folder in another place.
    """

    name: str
    source: Joined
    loaders: dict[str, Loader]
    data: Data
    own: bool
    config: ConfigDict
    positions: np.ndarray
    is_copy: bool = False

    @property
    def spec(self) -> str:
        """The source's name."""
        return self.config.data.source

    def labeled(self, outputs: Outputs) -> Outputs:
        """Returns outputs with labels among the model's classes.

        Images of classes that the model does not have are left out.

        Args:
            outputs: outputs on any split of the source.
        """
        labels = self.positions[outputs.labels]
        kept = labels >= 0
        if kept.all():
            return dataclasses.replace(outputs, labels=labels)
        new_index = np.cumsum(kept) - 1
        kept_embeddings = kept[outputs.embedded]
        return dataclasses.replace(
            outputs,
            logits=outputs.logits[kept],
            labels=labels[kept],
            rows=outputs.rows[kept],
            brightness=outputs.brightness[kept],
            contrast=outputs.contrast[kept],
            embeddings=outputs.embeddings[kept_embeddings],
            embedded=new_index[outputs.embedded[kept_embeddings]],
        )


def open_split(
    classifier: Predictor,
    config: ConfigDict,
    mesh: jax.sharding.Mesh,
    spec: str = "",
    name: str = "",
    partial: bool = False,
) -> Split:
    """Opens the images to evaluate a model on, prepared as the model takes them.

    Args:
        classifier: the model.
        config: the model's config, whose `data` is used.
        mesh: from `vision.parallel.make_mesh`.
        spec: name of a source, such as "folder:photos"; "" for the one in the config.
        name: "train", "val", "test" or "all"; "" for test, or for all if `spec` names a source
            without splits of its own, and not a copy of what the model was trained on.
        partial: whether the other splits may have lost all of their images, and are then absent.

    Raises:
        UserError: if the source cannot be opened, or has classes that the model does not have.
    """
    config = as_evaluated(classifier, config)
    c = config.data
    if name:
        check_choice("--split", name, SPLITS)
    own, is_copy, opened = _open(classifier, c, spec)
    undivided = is_undivided(opened, c.source)
    name = name or ("all" if undivided and not own else "test")
    # Few images may leave none for one of the splits, so they are divided only if necessary.
    past = None
    if is_copy or is_same(c.source, classifier.config.data.source):
        past = classifier.past
    open_prepared = functools.partial(open_data, config, mesh, encoder=classifier.encoder)
    if name == "all" and undivided:
        parts, changes = images_of_past(c, split_seed(config), opened, past)
        data = dataclasses.replace(open_prepared(parts), changes=changes)
    elif not own and name in opened and not can_train(opened):
        data = open_prepared({name: opened[name]})
    else:
        data = open_prepared(past=past, needed=(name,) if partial else None)
    loaders = {name: data.loaders[name]} if name in data.loaders else distinct(data.loaders)
    source = Joined([loader.dataset.source for loader in loaders.values()])
    positions = match_classes(classifier.classes, source)
    return Split(name, source, loaders, data, own, config, positions, is_copy)


def as_evaluated(classifier: Predictor, config: ConfigDict) -> ConfigDict:
    """Returns a copy of a model's config that opens images as the model takes them.

    Args:
        classifier: the model.
        config: its config.
    """
    config = config.copy_and_resolve_references()
    config.data.image_size = classifier.image_size
    config.data.channels = classifier.channels
    # A bundle's graph may crop and resize itself: its caller must not do it again.
    config.data.update(classifier.resize)
    config.data.random_crop_area = ()
    # Nothing is trained, however few images there are.
    config.imbalance.sampling = "none"
    config.train.steps = 1
    return config


def _open(classifier: Predictor, c: ConfigDict, spec: str) -> tuple[bool, bool, dict[str, Source]]:
    """Opens a source, and sets `c` to it.

    Args:
        classifier: the model.
        c: config.data.
        spec: name of a source; "" for the one in `c`.

    Returns:
        (own, is_copy, {part: source}): whether the model was trained on these images, and whether
        that follows from their names only.
    """
    if not (spec or c.source):
        raise UserError(
            "which images? Give --data SOURCE: the bundle does not record what it was trained on"
        )
    if not spec or is_same(spec, c.source):
        # A class of a run that is known may be gone.
        return True, False, open_splits(c.source, c.bits, 1 if classifier.past else 2)
    if any(is_same(spec, name) for name in members(c.source)):
        raise UserError(
            f"--data {spec} is part of what this run was trained on, {c.source}: leave it out to "
            "evaluate the run's own test images"
        )
    # New images may well be of a single class, such as a day's defects.
    opened = open_splits(spec, c.bits, 1)
    is_copy = bool(classifier.past and resembles(classifier.past, opened))
    c.source = spec
    if not is_copy:
        c.limit = 0
        c.labels = ""
    return is_copy, is_copy, opened


def can_train(opened: Mapping[str, Source]) -> bool:
    """Whether a source could be divided into splits for a training.

    Args:
        opened: {split: source}, from `vision.data.sources.open_splits`.
    """
    labels = np.concatenate([source.labels for source in opened.values()])
    return bool({"all", "train"} & set(opened)) and len(np.unique(labels)) > 1


def is_undivided(opened: Mapping[str, Source], spec: str) -> bool:
    """Whether a source has no splits, so that all of it can be evaluated without dividing it.

    Args:
        opened: {split: source}, from `vision.data.sources.open_splits`.
        spec: the source's name.
    """
    return set(opened) == {"all"} and not set(parse(spec)[2]) & set(CHANGES)


def reopen(c: ConfigDict, seed: int, name: str) -> Joined:
    """Returns the source of a split that was evaluated.

    Args:
        c: config.data.
        seed: seed of the division into splits.
        name: name of the split.

    Raises:
        UserError: if it cannot be opened.
    """
    opened = open_splits(c.source, c.bits, 1)
    if name in opened and not can_train(opened):
        return Joined([opened[name]])
    if name == "all" and is_undivided(opened, c.source):
        return Joined([opened["all"]])
    splits, _ = named_splits(c, seed, opened)
    if name != "all":
        return Joined([splits[name]])
    if same_images(splits["val"], splits["test"]):
        del splits["val"]
    return Joined(list(splits.values()))


def distinct(loaders: Mapping[str, Loader]) -> dict[str, Loader]:
    """Returns {name: loader} without the validation split if it repeats the test split."""
    repeated = {"val", "test"} <= set(loaders) and same_images(
        loaders["val"].dataset.source, loaders["test"].dataset.source
    )
    return {name: loader for name, loader in loaders.items() if not (repeated and name == "val")}


def match_classes(classes: Sequence[str], source: "Source | Joined") -> np.ndarray:
    """Returns each source class's position among a model's classes, int64; -1 if it has none.

    Classes match by name; ImageNet's also by synset, such as n01440764. A class without images is
    ignored.

    Args:
        classes: the model's class names, in the order of its logits.
        source: a source, with `classes` and `labels`.

    Raises:
        UserError: if the source has images of classes that the model does not have.
    """
    positions = positions_of(classes, source)
    counts = np.bincount(source.labels, minlength=len(source.classes))
    unknown = [source.classes[i] for i in np.flatnonzero((positions < 0) & (counts > 0))]
    if unknown:
        raise UserError(
            f"the data have classes that the model does not have: {some(unknown)}.\n"
            f"It has {some(classes)}. Rename them, or give --data with the model's classes"
        )
    return positions


def positions_of(classes: Sequence[str], source: "Source | Joined") -> np.ndarray:
    """Returns what `match_classes` does, whatever classes the model does not have."""
    place = {name: i for i, name in enumerate(classes)}
    if tuple(classes) == tuple(name for _, name in imagenet_classes()):
        place |= {synset: i for i, (synset, _) in enumerate(imagenet_classes())}
    return np.array([place.get(name, -1) for name in source.classes], np.int64)


def some(names: Sequence[str], count: int = 5) -> str:
    """Returns the first names as text, and the number of further ones."""
    text = ", ".join(printable(name, LONGEST_NAME) for name in names[:count])
    return f"{text} and {len(names) - count:,} more" if len(names) > count else text
