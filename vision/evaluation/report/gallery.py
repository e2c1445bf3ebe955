"""Pictures of single images for the report, with heat maps if the model can be explained."""

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from vision.data.decode import UnreadableImage
from vision.data.pictures import overlay, picture
from vision.errors import UserError
from vision.explain.explainer import area_under, deletion_curves, explainer

if TYPE_CHECKING:
    from vision.evaluation.evaluate import Evaluation

_BATCH = 16  # images per call of the explainer


class Gallery:
    """Makes the cards of images.

    Args:
        evaluation: the results.
        explain: whether to compute heat maps.

    Attributes:
        method: name of the method that explains; "" if there are no heat maps.
        grid: (height, width) of the heat maps; (0, 0) if there are none.
        trust: {"images", "hot", "random"}, mean areas under the deletion curves of some images;
            None if there are no heat maps.
    """

    def __init__(self, evaluation: "Evaluation", explain: bool):
        self._evaluation = evaluation
        self._heat: dict[int, np.ndarray] = {}
        classifier: Any = evaluation.classifier
        has_model = classifier.model is not None
        self._explainer = explainer(classifier) if explain and has_model else None
        self.method = self._explainer.method if self._explainer else ""
        self.grid = self._explainer.grid if self._explainer else (0, 0)
        self.trust: dict[str, float] | None = None

    def explain(self, positions: np.ndarray) -> None:
        """Computes the heat maps of the predicted classes of some images.

        Args:
            positions: int (M,), positions in the evaluation's outputs.
        """
        if self._explainer is None:
            return
        evaluation = self._evaluation
        positions = np.unique(positions)
        for start in range(0, len(positions), _BATCH):
            chosen = positions[start : start + _BATCH]
            images = [evaluation.classifier.prepare(self._image(int(i))) for i in chosen]
            # one shape, compiled once
            padded = np.resize(np.stack(images), (_BATCH, *images[0].shape))
            classes = np.resize(evaluation.predicted[chosen], _BATCH)
            heat = self._explainer(padded, classes)
            if self.trust is None:
                self.trust = self._deletion(padded, heat, classes, len(chosen))
            for i, image, image_heat in zip(chosen, images, heat, strict=False):
                self._heat[int(i)] = overlay(image, np.asarray(image_heat))

    def _deletion(self, images, heat, classes, count):
        """Returns how much of the probability is left as hot, and as random, pixels are deleted.

        Args:
            images: uint8 (B, H, W, channels).
            heat: float (B, H, W).
            classes: int (B,).
            count: images that count, from the first.
        """
        random = np.random.default_rng(0).random(heat.shape)

        def mean_area(order):
            curves = deletion_curves(self._evaluation.classifier, images, order, classes)
            return float(area_under(curves[:count]).mean())

        return {"images": count, "hot": mean_area(heat), "random": mean_area(random)}

    def card(self, i: int) -> dict[str, Any]:
        """Returns what the page shows of an image.

        Args:
            i: position in the evaluation's outputs.
        """
        evaluation = self._evaluation
        classes = evaluation.classifier.classes
        name = evaluation.split.source.name(int(evaluation.outputs.rows[i]))
        return {
            "picture": picture(self._image(i)),
            "heat": picture(self._heat[i]) if i in self._heat else "",
            "name": printable(name),
            "short": printable(os.path.basename(name) or name),
            "true": classes[evaluation.outputs.labels[i]],
            "predicted": classes[evaluation.predicted[i]],
            "confidence": float(evaluation.confidence[i]),
            "true_probability": float(evaluation.true_probability[i]),
            "correct": bool(evaluation.correct[i]),
        }

    def _image(self, i):
        source = self._evaluation.split.source
        row = int(self._evaluation.outputs.rows[i])
        try:
            return source[row]["image"]
        except UnreadableImage as error:  # it was readable a minute ago
            name = source.name(row)
            raise UserError(f"{name} can no longer be read: {error.reason}") from error


def printable(name: str) -> str:
    """Returns a file's name as valid text, which it need not be."""
    return name.encode("utf-8", "replace").decode()
