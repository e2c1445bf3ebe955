"""The splits of a training that goes on from a run: old images to remember, and new ones to learn.

The run's val and test keep their images and get the new ones. The new training images are train; of
the old ones a memory stays: what it leaves out is never used again, by later trainings either.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping

import numpy as np

from vision.data.division import Changes, Division, Members, Task, without
from vision.data.recall import (
    FORGOTTEN,
    MEMORY,
    SPLITS,
    Past,
    Recalled,
    places_of,
    split_as_before,
    without_missing,
)
from vision.data.sources import Source
from vision.data.splits import Joined
from vision.errors import UserError


@dataclasses.dataclass(frozen=True)
class Continued(Past):
    """The division of a run, of which the splits of the training after it are made.

    Attributes:
        source: the name of the new images' source.
        classes: the run's classes.
        choose: returns which images to remember, int (M,), the most important first, of the source
            of all that the run has learned from; None remembers none.
        has_images: whether the run's images are there.
    """

    source: str = ""
    classes: tuple[str, ...] = ()
    choose: Callable[[Source], np.ndarray] | None = None
    has_images: bool = True

    def agrees(self, division: Division) -> bool:
        """Returns False: the division is that of another training."""
        return False

    def divide(
        self, fresh: Division, opened: Mapping[str, Source], names: Collection[str]
    ) -> tuple[dict[str, Source], Division, Changes, tuple[Task, ...]]:
        """Divides the images of the run and of the training after it; see `Past.divide`.

        Raises:
            UserError: there are no new images to learn from, or the classes are not the run's with
                new ones behind.
        """
        if not fresh:
            raise UserError(f"'{self.source}' has too few images to divide: add some")
        everything = Joined(list(opened.values()))
        new_classes = self._new_classes(everything.classes)
        past = self.read() if self.has_images else {}
        places = places_of(opened)
        new = without(fresh, past.values())
        if "train" not in new:
            raise UserError(
                f"'{self.source}' has no training image that {self.run} was not trained on: add "
                "images, of new classes or of old ones, or name another source in data.source"
            )
        division = {"train": new["train"]}
        learned = [past[name] for name in (MEMORY, "train") if name in past]
        if self.choose is not None:
            division[MEMORY] = self._remembered(_joined(learned), everything, places)
        for name in SPLITS[1:]:
            parts = [members[name] for members in (past, new) if name in members]
            if parts:
                division[name] = _joined(parts)
        forgotten = [*learned, *([past[FORGOTTEN]] if FORGOTTEN in past else [])]
        splits, division, changes = split_as_before(division, {}, opened, False)
        if forgotten:
            remembered = [division[MEMORY]] if MEMORY in division else []
            division |= without({FORGOTTEN: _joined(forgotten)}, remembered)
        added = len(new["test"].names) if "test" in new else 0
        return splits, division, changes, (*self.tasks, Task(self.source, new_classes, added))

    def _new_classes(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        count = len(self.classes)
        if tuple(classes[:count]) == self.classes:
            return tuple(classes[count:])
        missing = [name for name in self.classes if name not in classes]
        what = f"lack its class '{missing[0]}'" if missing else "have its classes in another order"
        raise UserError(
            f"continual.previous = {self.run}: the images {what}: the data of that run must come "
            "first, with the classes that it had"
        )

    def _remembered(self, pool: Members, everything: Joined, places: Mapping[str, int]) -> Members:
        """Returns the images to remember of those that the run has learned from."""
        assert self.choose is not None
        indices = np.array([places.get(name, -1) for name in pool.names], np.int64)
        numbers = {name: number for number, name in enumerate(everything.classes)}
        labels = np.array([numbers[label] for label in pool.labels], np.int32)
        present = np.flatnonzero(indices >= 0)
        if not len(present):
            raise UserError(
                f"continual.memory: none of the images of {self.run} is there any more: put them "
                'back, or set continual.memory=""'
            )
        chosen = present[self.choose(without_missing(Recalled(everything, indices, labels)))]
        return Members(pool.names[chosen], pool.labels[chosen])


def _joined(parts: list[Members]) -> Members:
    return Members(*map(np.concatenate, zip(*parts, strict=True)))
