"""The images of a source that models have not learned from: on others, the newer one wins."""

import os
import re
from collections.abc import Mapping, Sequence

import numpy as np

from vision.data.identity import keys_of
from vision.data.recall import SPLITS, resembles
from vision.data.sources import CHANGES, Source, members, parse
from vision.data.splits import Joined
from vision.data.subset import Subset
from vision.errors import UserError
from vision.inference import Predictor

TEST = SPLITS[-1]


class Learned:
    """The images of a source that a model has learned from.

    Attributes:
        names: what they are called in the source.
        is_unknown: whether the model has learned from the source, but has no list of the images.
    """

    def __init__(self, classifier: Predictor, spec: str, opened: Mapping[str, Source]):
        self.names: set[str] = set()
        self.is_unknown = False
        past = classifier.past
        learned = members(classifier.config.data.source) if classifier.config.data.source else []
        shared = [
            (number, other_number)
            for number, name in enumerate(members(spec))
            for other_number, other in enumerate(learned)
            if _is_same_place(name, other)
        ]
        if past is None:
            self.is_unknown = bool(shared)
            return
        if not shared and resembles(past, opened):
            shared = [(0, 0)]
        if not shared:
            return
        division = past.read()
        used = set().union(*(part.names for name, part in division.items() if name != TEST))
        used -= set(division[TEST].names if TEST in division else ())  # which may be val, too
        for number, other_number in shared:
            own = used
            if other_number == 0 and len(learned) > 1:  # names of the other parts have a prefix
                own = {name for name in used if not re.match(r"\d+:", name)}
            self.names |= _renamed(own, other_number, number)


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


def _renamed(names, number, other_number):
    """Returns the names of a joined source's images of one part, as another source calls them.

    Args:
        names: of all images.
        number: the part's, from 0; see `vision.data.sources._several`.
        other_number: its number in the other source.
    """
    prefix = f"{number + 1}:" if number else ""
    new = f"{other_number + 1}:" if other_number else ""
    return {new + name.removeprefix(prefix) for name in names if name.startswith(prefix)}


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
            f"--data {spec}: the models have learned from all of its {total:,} images: give others"
        )
    images = Joined(subsets)
    return images, total - len(images)
