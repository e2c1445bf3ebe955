"""A request to classify images and the answer to it, whatever the protocol."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vision.reference.unsure import Rule
from vision.tiles.decision import TiledPrediction
from vision.tiles.grid import Tiling


@dataclasses.dataclass
class Request:
    """A request.

    Attributes:
        model: the model's name.
        images: uint8 (N, H, W, C) as the model takes them, or a list of encoded images as bytes.
        version: the version that is asked for; "" lets traffic.json decide.
        key: requests with the same key get the same version of a canary; "" draws anew for each.
        id: the request's identifier, for the log.
        protocol: the protocol that it came by, "rest" or "grpc", for the metrics.
        cells: {name: N texts or numbers}, what a model takes beside images; None is missing.
        tiling: how the image is cut into tiles, if it is: then it is the only one, and pixels may
            be of any size.
        unsure: when answers are to be called unsure, see `vision.serving.protocol.unsure`; "" for
            the bundle's rule.
    """

    model: str
    images: np.ndarray | list[bytes]
    version: str = ""
    key: str = ""
    id: str = ""
    protocol: str = "rest"
    cells: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    tiling: Tiling | None = None
    unsure: str = ""


class Description(NamedTuple):
    """What the prediction log says of an answer besides.

    Attributes:
        looks: float32 (N, 7), `vision.reference.appearance.measure` of the images; None if the log
            has yet to measure them.
        fingerprint: of the bundle.
        reference: the bundle's `reference`.
        pixels: uint8 (N, S, S, C), the images that it has yet to measure; None if there are none.
    """

    looks: np.ndarray | None
    fingerprint: str
    reference: Mapping[str, Any] | None
    pixels: np.ndarray | None = None


@dataclasses.dataclass
class Answer:
    """The model's answer to a request. If its image was cut, the N images are the tiles.

    Attributes:
        model, version: the model and version that answered.
        classes: names, in the order of the probabilities.
        probabilities: float32 (N, C).
        embedding: float32 (N, D).
        seconds: {"decode", "queue", "compute"}.
        heat: for each image, where its most probable class is visible, float32 (N, h, w) in [0, 1];
            None if the model has no heat maps.
        description: for the prediction log; None if there is none.
        tiled: the prediction for an image that was cut; None for others.
        tiles: for the prediction log, that image's tiles as the model takes them, uint8
            (N, H, W, C); None if there are none.
        rule: says which answers are unsure; None if none is to be called so.
    """

    model: str
    version: str
    classes: tuple[str, ...]
    probabilities: np.ndarray
    embedding: np.ndarray
    seconds: dict[str, float]
    heat: np.ndarray | None = None
    description: Description | None = None
    tiled: TiledPrediction | None = None
    tiles: np.ndarray | None = None
    rule: Rule | None = None

    @functools.cached_property
    def unsure(self) -> np.ndarray | None:
        """Whether the answer to each image is unsure, bool (N,); None without a rule."""
        return None if self.rule is None else self.rule.unsure(self.probabilities)

    @functools.cached_property
    def in_set(self) -> np.ndarray | None:
        """Which classes each answer may be, bool (N, C); None unless the rule gives sets."""
        if self.rule is None or not self.rule.gives_sets:
            return None
        return self.rule.sets(self.probabilities)

    def set_of(self, image: int) -> list[str]:
        """Returns the set of an image, the most probable class first; [] if there are no sets."""
        if self.in_set is None:
            return []
        count = int(self.in_set[image].sum())
        order = np.argsort(-self.probabilities[image], kind="stable")[:count]
        return [self.classes[i] for i in order]

    def top(self, count: int) -> list[list[tuple[str, float]]]:
        """Returns [(class, probability)] for each image, at most `count`, the most probable
        first."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :count]
        return [
            [(self.classes[i], float(row[i])) for i in best]
            for row, best in zip(self.probabilities, order, strict=True)
        ]
