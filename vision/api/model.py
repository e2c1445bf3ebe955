"""A trained model in Python: predictions, evaluation, export."""

import functools
import os
import pathlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import cv2
import numpy as np
from PIL import Image

from vision.api.images import Given, list_images
from vision.api.prediction import Prediction
from vision.data.decode import UnreadableImage
from vision.errors import UserError, check_choice, check_count
from vision.predict import Answer, answers, rank

if TYPE_CHECKING:
    from vision.api.evaluation import EvaluationResult
    from vision.inference import Predictor

HeatMaps = Callable[[np.ndarray, np.ndarray], np.ndarray]
Path = str | os.PathLike[str]


class LoadedModel:
    """A trained model, from `vision.load`.

    Args:
        predictor: what computes: a `vision.inference.Classifier` or a
            `vision.bundle.directory.Bundle`.
        name: where it came from.
        workdir: its run directory; None if it has none here.

    Attributes:
        predictor: see above; what a program of one's own gives prepared batches to.
        name: see above.
        workdir: see above.
    """

    def __init__(self, predictor: "Predictor", name: str, workdir: pathlib.Path | None = None):
        self.predictor = predictor
        self.name = name
        self.workdir = workdir

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return tuple(self.predictor.classes)

    @property
    def is_bundle(self) -> bool:
        """Whether it runs without JAX."""
        return self.predictor.model is None

    def __repr__(self) -> str:
        runtime = "a bundle" if self.is_bundle else "computed by JAX"
        side = self.predictor.image_size
        shape = f"{side} x {side} x {self.predictor.channels}"
        return f"LoadedModel({self.name}: {len(self.classes)} classes, {shape}, {runtime})"

    @overload
    def predict(
        self,
        images: Image.Image,
        *,
        top: int = 5,
        embeddings: bool = False,
        heatmaps: bool = False,
        batch_size: int = 32,
        unreadable: str = "raise",
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        images: list[Any] | tuple[Any, ...],
        *,
        top: int = 5,
        embeddings: bool = False,
        heatmaps: bool = False,
        batch_size: int = 32,
        unreadable: str = "raise",
    ) -> list[Prediction]: ...

    @overload
    def predict(
        self,
        images: Path | np.ndarray | Iterable[Any],
        *,
        top: int = 5,
        embeddings: bool = False,
        heatmaps: bool = False,
        batch_size: int = 32,
        unreadable: str = "raise",
    ) -> Prediction | Any: ...

    def predict(
        self,
        images: Any,
        *,
        top: int = 5,
        embeddings: bool = False,
        heatmaps: bool = False,
        batch_size: int = 32,
        unreadable: str = "raise",
    ) -> Prediction | list[Prediction]:
        """Returns the `Prediction` of an image, or a list with one for each of several.

        Args:
            images: the path of a file; a folder, for all images below it, or a pattern such as
                `photos/*.jpg`; an array, uint8 (H, W, 1 or 3), or (B, H, W, 1 or 3) for several; a
                PIL image; or a list of these. They may have any size.
            top: classes in `Prediction.top`.
            embeddings: whether the predictions have an `embedding`.
            heatmaps: whether they have a `heatmap`: Grad-CAM or attention rollout of a run, class
                activation maps of a bundle that was exported with them.
            batch_size: images that are computed together.
            unreadable: "raise", or "skip" to leave broken files out with a warning.

        Raises:
            UserError: a file is missing or, unless skipped, broken; or heat maps are wanted of a
                model that has none.
            RunError: the model's probabilities are not finite.
        """
        check_choice("unreadable", unreadable, ("raise", "skip"))
        check_count("top", top, 1, 10**9)
        check_count("batch_size", batch_size, 1, 65_536)
        self._check_fields()
        heat = self._heat_maps if heatmaps else None
        given, is_single = list_images(images)
        readable = self._answers(given, batch_size, unreadable == "skip" and not is_single)
        maps = _mapped(heat, [answer for _, answer in readable], batch_size)
        predictions = [
            Prediction(
                image.path,
                tuple(rank(self.classes, answer.probabilities, top, image.name)),
                answer.probabilities,
                answer.image,
                answer.embedding if embeddings else None,
                heatmap,
            )
            for (image, answer), heatmap in zip(readable, maps, strict=True)
        ]
        return predictions[0] if is_single else predictions

    def evaluate(
        self,
        data: Path = "",
        out: Path | None = None,
        *,
        split: str = "",
        overrides: Mapping[str, Any] | None = None,
    ) -> "EvaluationResult":
        """Returns how good the model is on labeled images: see `vision.evaluate`."""
        from vision.api import evaluation

        return evaluation.evaluate(self.predictor, self.workdir, data, out, split, overrides)

    def export(
        self,
        out: Path,
        formats: str | Sequence[str] = "onnx",
        *,
        precision: str = "float32",
        batch: int = 0,
        heatmap: bool = False,
        data: str = "",
    ) -> pathlib.Path:
        """Writes the model as a bundle, verified against JAX, and returns its directory.

        `python -m vision.export --help` says what each format is for, and has more options.

        Args:
            out: the directory; a bundle that is there already is replaced.
            formats: "onnx", "tflite", "stablehlo", "saved_model", "coreml", "safetensors" or
                "web"; several in a list.
            precision: "float32", "float16" or "int8".
            batch: images in a batch; 0 for any number.
            heatmap: whether the bundle gives heat maps.
            data: source of the images to compare and calibrate on; "" for the run's own.

        Raises:
            UserError: a format cannot express the model, or a package is missing.
            RunError: what was exported differs from JAX. Nothing is written then.
        """
        from vision.export import stage
        from vision.export.options import ExportOptions
        from vision.inference import Classifier

        if not isinstance(self.predictor, Classifier):
            raise UserError(f"{self.name} is a bundle already: load its run, and export that")
        names = [formats] if isinstance(formats, str) else list(formats)
        stage.require_packages(names)
        options = ExportOptions(names, precision, batch, heatmap)
        stage.write(self.predictor, os.fspath(out), options, data, self.workdir or "")
        return pathlib.Path(out)

    def _check_fields(self) -> None:
        """Raises `UserError` if the model takes more than images."""
        if self.predictor.encoder is not None:
            names = ", ".join(self.predictor.encoder.names)
            raise UserError(
                f"this model takes {names} beside the image: use python -m vision.predict --table"
            )

    def _answers(
        self, given: list[Given], batch_size: int, skips: bool
    ) -> list[tuple[Given, Answer]]:
        """Returns (image, what the model says) of the readable images."""
        bits = self.predictor.config.data.bits
        # A power of two, so that a few programs serve calls with any number of images.
        size = min(batch_size, 1 << max(0, len(given) - 1).bit_length())
        readable = []
        broken = []
        for image, answer in answers(self.predictor, given, lambda image: image.read(bits), size):
            if not isinstance(answer, UnreadableImage):
                readable.append((image, answer))
                continue
            if not skips:
                remedy = "" if len(given) == 1 else ": remove it, or give unreadable='skip'"
                raise UserError(f"{answer}{remedy}") from answer
            broken.append(answer)
        if broken:
            text = f"{len(broken)} of {len(given)} images cannot be read, the first: {broken[0]}"
            warnings.warn(text, stacklevel=3)
        return readable

    @functools.cached_property
    def _heat_maps(self) -> HeatMaps:
        """`_heat_maps(images, classes) -> (B, side, side)`, of prepared images."""
        predictor: Any = self.predictor
        if not self.is_bundle:
            from vision.evaluation.report.explain import explainer

            maps = explainer(predictor)
            if maps is None:
                raise UserError(
                    "this model has no heat maps: they need features and pool of a map with "
                    "several positions, or a ViT"
                )
            return maps
        if predictor.explain is None:
            raise UserError(
                f"the bundle {self.name} has no heat maps: export it again with heatmap=True"
            )
        size = (predictor.image_size, predictor.image_size)

        def from_bundle(images: np.ndarray, classes: np.ndarray) -> np.ndarray:
            maps = predictor.explain(images)[2]
            return np.stack([cv2.resize(m, size, interpolation=cv2.INTER_LINEAR) for m in maps])

        return from_bundle


def _mapped(
    heat: HeatMaps | None, given: list[Answer], batch_size: int
) -> "list[np.ndarray] | list[None]":
    """Returns the heat map of each answer's most probable class; a list of None without `heat`."""
    if heat is None:
        return [None] * len(given)
    maps: list[np.ndarray] = []
    size = min(batch_size, 1 << max(0, len(given) - 1).bit_length())
    for start in range(0, len(given), size):
        part = given[start : start + size]
        padded = part + part[:1] * (size - len(part))
        classes = np.array([answer.probabilities.argmax() for answer in padded])
        maps += list(heat(np.stack([answer.image for answer in padded]), classes)[: len(part)])
    return maps
