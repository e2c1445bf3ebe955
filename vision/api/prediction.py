"""What a model says about one image."""

import dataclasses

import numpy as np
from PIL import Image

from vision.data.pictures import overlay
from vision.errors import UserError, printable
from vision.support.extras import require

SHOWN = 3  # classes in the text of a prediction
SIDE = 224  # of a picture, pixels


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """What a model says about one image.

    Attributes:
        path: the image's file; None if an array or a PIL image was given.
        top: (class, probability) of the most probable classes, the most probable first.
        probabilities: float (C,), of all classes in the order of the model's `classes`.
        embedding: float32 (D,); None if embeddings were not asked for.
        heatmap: float32 (side, side) in [0, 1], where in `image` the most probable class is seen;
            None if heat maps were not asked for.
        image: uint8 (side, side, 1 or 3), the image as the model has seen it: resized, and
            cropped to a square.
        unsure: whether the answer is "unsure" and the most probable class only a guess; None if
            `predict` was given no rule.
        members: the classes of the set, the most probable first, if the rule is a coverage; else
            ().
    """

    path: str | None
    top: tuple[tuple[str, float], ...]
    probabilities: np.ndarray
    image: np.ndarray
    embedding: np.ndarray | None = None
    heatmap: np.ndarray | None = None
    unsure: bool | None = None
    members: tuple[str, ...] = ()

    @property
    def class_name(self) -> str:
        """The most probable class, even if `unsure`."""
        return self.top[0][0]

    @property
    def probability(self) -> float:
        """The probability of the most probable class."""
        return self.top[0][1]

    @property
    def index(self) -> int:
        """The position of the most probable class among the model's `classes`."""
        return int(self.probabilities.argmax())

    def overlay(self, side: int = SIDE) -> Image.Image:
        """Returns the image in gray under its heat map in color, which a notebook shows.

        Args:
            side: side of the picture, pixels.

        Raises:
            UserError: there is no heat map, or matplotlib is missing.
        """
        if self.heatmap is None:
            raise UserError("this prediction has no heat map: predict(..., heatmaps=True)")
        require("an overlay", "evaluation", only=("matplotlib",))
        return Image.fromarray(overlay(self.image, self.heatmap)).resize((side, side))

    def __repr__(self) -> str:
        shown = ", ".join(f"{printable(name)} {100 * p:.1f} %" for name, p in self.top[:SHOWN])
        place = f"; {printable(self.path)}" if self.path else ""
        doubt = "unsure; " if self.unsure else ""
        return f"Prediction({doubt}{shown}{place})"
