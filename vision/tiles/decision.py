"""One decision for an image, from the probabilities of its tiles.

An image shows a defect if one of its tiles does, so a class's score is the maximum of its
probability over the tiles. This is the max operator of multiple-instance learning (Ilse, Tomczak
and Welling 2018, arXiv:1802.04712, section 2.1); inspection by patches also calls an image
anomalous as soon as one patch is (PatchCore, Roth et al. 2022, arXiv:2106.08265, section 3).

Noisy-or, 1 - prod(1 - p), takes tiles for independent. They overlap, and of 1,000 tiles without a
defect, each with a probability of 0.01, it makes 0.99996.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np

from vision.errors import RunError
from vision.tiles.grid import DefectMap, Grid, Tiling


class Decision(NamedTuple):
    """What an image shows.

    Attributes:
        label: the class, by its place among the classes.
        score: its score.
        tile: number of the tile that decided.
        scores: float64 (C,), of every class: its maximum over the tiles. That of a normal class is
            1 minus the greatest of the others.
    """

    label: int
    score: float
    tile: int
    scores: np.ndarray


def decide(probabilities: np.ndarray, normal: int | None, threshold: float) -> Decision:
    """Returns the `Decision` on an image.

    Without a normal class it is the class of the greatest score. With one, it is the other class
    with the greatest score if that exceeds the threshold, else the normal class. The tile that
    decided is where that greatest score comes from, also if it is too small for a defect.

    Args:
        probabilities: (tiles, classes).
        normal: place of the normal class among the classes; None if there is none.
        threshold: in [0, 1).

    Raises:
        RunError: a probability is not finite.
    """
    values = np.asarray(probabilities, np.float64)
    if not np.isfinite(values).all():
        raise RunError("the model gives NaN or infinite probabilities for a tile: train it again")
    scores = values.max(0)
    candidates = scores.copy()
    if normal is not None:
        candidates[normal] = -1
    best = int(candidates.argmax())
    label = best
    if normal is not None:
        scores[normal] = 1 - scores[best]
        if scores[best] <= threshold:
            label = normal
    return Decision(label, float(scores[label]), int(values[:, best].argmax()), scores)


@dataclasses.dataclass(frozen=True)
class TiledPrediction:
    """What a model says of an image's tiles.

    Attributes:
        classes: names, in the order of the probabilities.
        grid: the tiles.
        tiling: how the image was cut.
        probabilities: float (tiles, classes).
    """

    classes: tuple[str, ...]
    grid: Grid
    tiling: Tiling
    probabilities: np.ndarray

    @functools.cached_property
    def normal(self) -> int | None:
        """The normal class, by its place among the classes; None if there is none."""
        return None if self.tiling.normal is None else self.classes.index(self.tiling.normal)

    @functools.cached_property
    def decision(self) -> Decision:
        """The decision on the image."""
        return decide(self.probabilities, self.normal, self.tiling.defect_threshold)

    @functools.cached_property
    def defect_map(self) -> DefectMap:
        """The mean probabilities at each place of the image."""
        return self.grid.average(self.probabilities)

    def top(self, count: int) -> list[tuple[str, float]]:
        """Returns at most `count` (class, score) of the image: its decision, then the others by
        their scores."""
        decision = self.decision
        others = [i for i in np.argsort(-decision.scores, kind="stable") if i != decision.label]
        order = [decision.label, *others]
        return [(self.classes[i], float(decision.scores[i])) for i in order[:count]]

    def summary(self, count: int) -> dict[str, Any]:
        """Returns the decision as JSON has it, with the scores of at most `count` classes."""
        top = self.top(count)
        return {
            "class": top[0][0],
            "score": top[0][1],
            "width": self.grid.width,
            "height": self.grid.height,
            "tile": self.grid[self.decision.tile]._asdict(),
            "top": [{"class": name, "score": score} for name, score in top],
        }

    def tile(self, number: int, count: int) -> dict[str, Any]:
        """Returns a tile as JSON has it, with the probabilities of at most `count` classes."""
        row = self.probabilities[number]
        best = np.argsort(-row, kind="stable")[:count]
        top = [{"class": self.classes[i], "probability": float(row[i])} for i in best]
        return self.grid[number]._asdict() | {"top": top}
