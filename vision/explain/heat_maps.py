"""The heat maps of any model: those that JAX computes, or those that a bundle was exported with."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from vision.data.inputs import require_images_alone
from vision.errors import UserError

if TYPE_CHECKING:
    from vision.inference import Predictor

OF_CLASS = "what speaks for the first class, in the image as the model sees it"
OF_ANY_CLASS = "where the model looks, whatever the class, in the image as it sees it"


@dataclasses.dataclass(frozen=True)
class HeatMaps:
    """Heat maps of one model's images.

    Attributes:
        compute: `compute(images, classes) -> (B, side, side)`, of images uint8
            (B, side, side, channels), as `Predictor.prepare` makes them, and classes int (B,); the
            maps are float32 in [0, 1].
        caption: what a map of the most probable class shows, in words.
    """

    compute: Callable[[np.ndarray, np.ndarray], np.ndarray]
    caption: str

    def __call__(self, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Returns the maps, float32 (B, side, side); see `compute`."""
        return self.compute(images, classes)


def heat_maps(predictor: "Predictor", name: str, asked_by: str, export_by: str) -> HeatMaps:
    """Returns the heat maps of a model.

    Those of a run are Grad-CAM or attention rollout, which is the same for every class, those of a
    bundle class activation maps, which it has only of the most probable class. Imports JAX for a
    run only.

    Args:
        predictor: the model.
        name: what a message calls it.
        asked_by: what asks for heat maps, in a message, such as "--heat-map".
        export_by: what exports a bundle with them, in a message.

    Raises:
        UserError: the model has none.
    """
    require_images_alone(predictor.fields, asked_by)
    model: Any = predictor
    if model.model is not None:
        from vision.explain.explainer import ROLLOUT, explainer

        maps = explainer(model)
        if maps is None:
            raise UserError(
                f"{asked_by}: this model has no heat maps: they need a ViT, or a model that pools "
                "features of a map with several positions"
            )
        return HeatMaps(maps, OF_ANY_CLASS if maps.method == ROLLOUT else OF_CLASS)
    if model.explain is None:
        raise UserError(
            f"{asked_by}: the bundle {name} has no heat maps: export it again with {export_by}"
        )
    size = (model.image_size, model.image_size)

    def from_bundle(images: np.ndarray, classes: np.ndarray) -> np.ndarray:
        maps = model.explain(images)[2]
        return np.stack([cv2.resize(m, size, interpolation=cv2.INTER_LINEAR) for m in maps])

    return HeatMaps(from_bundle, OF_CLASS)
