"""The splits of a training that goes on from a run: old images to remember, and new ones to learn.

The run's val and test keep their images and get the new ones. The new training images are train; of
the old ones a memory stays: what it leaves out is never used again, by later trainings either.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping

import numpy as np

from vision.data.division import Changes, Division, Members, Task, joined, without
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

USED = (*SPLITS, MEMORY, FORGOTTEN)  # the splits of a run that say which images it has used


@dataclasses.dataclass(frozen=True)
class Continued(Past):
    """The division of a run, of which the splits of the training after it are made.

    Attributes:
        source: the name of the new images' source.
        prefix: what the names of its images begin with; "" if it is the run's own source.
        choose: returns which images to remember, int (M,), the most important first, of the source
            of all that the run has learned from; None remembers none.
        has_images: whether the run's images are there.
    """

    source: str = ""
    prefix: str = ""
    choose: Callable[[Source], np.ndarray] | None = None
    has_images: bool = True
    divides_new = True

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
        everything = Joined(list(opened.values()))
        new_classes = self._new_classes(everything.classes)
        past = self.read() if self.has_images else {}
        past = {name: members for name, members in past.items() if name in USED}
        places = places_of(opened)
        new = self._new_images(past, fresh, places)
        if "train" not in new:
            raise UserError(
                f"'{self.source}' has no training image that {self.run} was not trained on: add "
                "images, of new classes or of old ones, or name another source in data.source"
            )
        division = {"train": new["train"]}
        learned = [past[name] for name in (MEMORY, "train") if name in past]
        if self.choose is not None:
            division[MEMORY] = self._remembered(joined(learned), everything, places)
        for name in SPLITS[1:]:
            parts = [members[name] for members in (past, new) if name in members]
            if parts:
                division[name] = joined(parts)
        forgotten = [*learned, *([past[FORGOTTEN]] if FORGOTTEN in past else [])]
        splits, division, changes = split_as_before(division, {}, opened, False)
        if forgotten:
            remembered = [division[MEMORY]] if MEMORY in division else []
            division |= without({FORGOTTEN: joined(forgotten)}, remembered)
        added = len(new["test"].names) if "test" in new else 0
        return splits, division, changes, (*self.tasks, Task(self.source, new_classes, added))

    def _new_classes(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        count = len(self.classes)
        if tuple(classes[:count]) == self.classes:
            return tuple(classes[count:])
        missing = next(name for name in self.classes if name not in classes)
        raise UserError(
            f"continual.previous = {self.run}: that run's class '{missing}' is no longer in "
            "its data: restore its images, or set continual.old_data=False"
        )

    def _new_images(
        self, past: Division, fresh: Division, places: Mapping[str, int]
    ) -> dict[str, Members]:
        """Returns the images that the run did not have, in their splits.

        If images that it has learned from are missing, a new one of its own source may be one of
        them under another name, so that all of those are train.
        """
        new = without(fresh, past.values())
        learned = [past[name].names for name in (FORGOTTEN, MEMORY, "train") if name in past]
        if all(name in places for names in learned for name in names):
            return new
        train = [new["train"]] if "train" in new else []
        for split in [name for name in new if name != "train"]:
            members = new.pop(split)
            is_added = [
                bool(self.prefix) and name.startswith(self.prefix) for name in members.names
            ]
            added = np.array(is_added, bool)
            if added.any():
                new[split] = Members(*(column[added] for column in members))
            train.append(Members(*(column[~added] for column in members)))
        renamed = joined(train) if train else Members(np.zeros(0, object), np.zeros(0, object))
        return new | ({"train": renamed} if len(renamed.names) else {})

    def _remembered(self, pool: Members, everything: Joined, places: Mapping[str, int]) -> Members:
        """Returns the images to remember of those that the run has learned from."""
        assert self.choose is not None
        indices = np.array([places.get(name, -1) for name in pool.names], np.int64)
        labels = np.where(indices >= 0, everything.labels[indices], 0).astype(np.int32)
        present = np.flatnonzero(indices >= 0)
        if not len(present):
            raise UserError(
                f"continual.memory: none of the images of {self.run} exist any more: restore "
                'them, or set continual.memory=""'
            )
        chosen = present[self.choose(without_missing(Recalled(everything, indices, labels)))]
        return Members(pool.names[chosen], pool.labels[chosen])
