"""The images of a source that models have not learned from: on others, the newer one wins."""

import itertools
import os
import re
from collections.abc import Mapping, Sequence

import numpy as np

from vision.data.division import division_of
from vision.data.identity import keys_of
from vision.data.recall import SPLITS, resembles
from vision.data.sources import CHANGES, Source, members, parse
from vision.data.splits import Joined
from vision.data.subset import Subset
from vision.errors import UserError
from vision.inference import Predictor

TEST = SPLITS[-1]
POSITION = re.compile(r"\w+\[\d+\]")  # what images without names of their own are called


class Learned:
    """The images of a source that a model has learned from.

    A source, or one of several that are joined, is recognized by its place, and if most of its
    images are there, by their names and labels: it may have been copied.

    Attributes:
        names: what they are called in the source.
        alike: names of images of the source that images have, too, that the model has learned
            from, if those are most of the names: a copy of a part, or chance.
        is_unknown: whether the model has learned from the source, but has no list of the images.
    """

    def __init__(self, classifier: Predictor, spec: str, opened: Mapping[str, Source]):
        self.names: set[str] = set()
        self.alike: set[str] = set()
        self.is_unknown = False
        past = classifier.past
        source = classifier.config.data.source
        learned = members(source) if source else []
        asked = members(spec)
        shared = {
            (number, other_number)
            for number, name in enumerate(asked)
            for other_number, other in enumerate(learned)
            if _is_same_place(name, other)
        }
        if past is None:
            self.is_unknown = bool(shared)
            return
        division = past.read()
        used = set().union(*(part.names for name, part in division.items() if name != TEST))
        used -= set(division[TEST].names if TEST in division else ())  # which may be val, too
        if len(asked) == 1 and not shared and resembles(past, opened):  # a pack of all, or a copy
            self.names = used
            return
        count = len(learned)
        self._compare(
            shared,
            _by_member(_labels_of(division_of(opened, opened)), len(asked)),
            _by_member(_labels_of(division), count),
            _by_member(dict.fromkeys(used, ""), count),
        )

    def _compare(self, shared, asked, stored, used):
        """Compares each of the sources that are joined with each that the model has learned from.

        Args:
            shared: {(number of the one, of the other)} of those in the same place.
            asked: [{name: label}] of the sources.
            stored: [{name: label}] of all images of those that the model knows.
            used: [{name: ""}] of the images of those that it has learned from.
        """
        for number, other in itertools.product(range(len(asked)), range(len(stored))):
            now = asked[number]
            if (number, other) in shared or _is_copy(now, stored[other]):
                self.names |= _renamed(used[other], number)
                continue
            named = {name for name in now if not POSITION.fullmatch(name)}
            alike = named & used[other].keys()
            if 2 * len(alike) > len(named):
                self.alike |= _renamed(alike, number)


def _labels_of(division):
    """Returns {name: label} of all images of a division."""
    return {name: label for part in division.values() for name, label in zip(*part, strict=True)}


def _by_member(labels, count):
    """Returns the images of each of several joined sources, [{name there: label}].

    Args:
        labels: {name: label}; see `vision.data.sources._several` for the names.
        count: how many sources are joined; 0 or 1 for a source alone.
    """
    parts: list[dict[str, str]] = [{} for _ in range(max(count, 1))]
    for name, label in labels.items():
        match = re.match(r"(\d+):", name)
        number = int(match[1]) - 1 if match else 0
        if 0 < number < count:
            parts[number][name[match.end() :]] = label
        else:
            parts[0][name] = label
    return parts


def _is_copy(now, stored):
    """Whether most of the images of a source that a model knows are among those of another.

    Args:
        now: {name: label} of the other's images.
        stored: {name: label} of the source's.
    """
    shared = sum(
        now.get(name) == label for name, label in stored.items() if not POSITION.fullmatch(name)
    )
    return 2 * shared > len(stored)


def _is_same_place(name, other):
    """Whether two names are of the same files, whatever their options."""
    kind, argument, _ = parse(name)
    other_kind, other_argument, _ = parse(other)
    if kind != other_kind:
        return False
    if argument == other_argument:
        return True
    is_path = bool(argument and other_argument)
    return is_path and os.path.realpath(argument) == os.path.realpath(other_argument)


def _renamed(names, number):
    """Returns the names of a source's images, as the sources call them that it is joined to.

    Args:
        names: of the images.
        number: the source's, from 0; see `vision.data.sources._several`.
    """
    prefix = f"{number + 1}:" if number else ""
    return {prefix + name for name in names}


def unseen(
    opened: Mapping[str, Source], learned: Sequence[Learned], spec: str
) -> tuple[Joined, int]:
    """Returns (the images that no model has learned from, the number of the others).

    Args:
        opened: {part: source}; of several parts, "test" if there is one, else all.
        learned: what the models have learned from.
        spec: the source's name.

    Raises:
        UserError: there are none.
    """
    changes = sorted({option for name in members(spec) for option in parse(name)[2]} & {*CHANGES})
    if changes:
        raise UserError(f"--data {spec}: {changes[0]}= is for training, leave it out")
    parts = {TEST: opened[TEST]} if TEST in opened else opened
    seen: set[str] = set().union(*(model.names for model in learned))
    subsets = []
    total = 0
    for part, source in parts.items():
        is_new = np.array([name not in seen for name in keys_of(source, part)], bool)
        total += len(source)
        if is_new.any():
            subsets.append(Subset(source, np.flatnonzero(is_new)))
    if not subsets:
        raise UserError(
            f"--data {spec}: the models were trained on all of its {total:,} images: give others"
        )
    images = Joined(subsets)
    return images, total - len(images)
