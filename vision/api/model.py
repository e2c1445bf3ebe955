"""A trained model in Python: predictions, evaluation, export."""

import functools
import os
import pathlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image

from vision.api.images import Given, list_images
from vision.api.prediction import Prediction
from vision.data.decode import UnreadableImage
from vision.errors import UserError, check_choice, check_count
from vision.explain.heat_maps import HeatMaps, heat_maps
from vision.predict import Answer, answers, rank
from vision.reference.unsure import FORMS, Rule, rule_for

if TYPE_CHECKING:
    from vision.api.evaluation import EvaluationResult
    from vision.inference import Predictor

Path = str | os.PathLike[str]
MEASURE = "evaluate its run, then load it again or export it again"


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
        unsure: str = "",
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
        unsure: str = "",
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
        unsure: str = "",
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
        unsure: str = "",
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
            unsure: when the answer is "unsure": "precision=0.99", "coverage=0.95" or
                "threshold=0.9", as `python -m vision.predict --unsure` takes them, or "rule" for
                the one that was chosen for the model. "" for no rule.

        Raises:
            UserError: a file is missing or, unless skipped, broken; heat maps are wanted of a
                model that has none; or its validation images cannot promise what `unsure` asks for.
            RunError: the model's probabilities are not finite.
        """
        check_choice("unreadable", unreadable, ("raise", "skip"))
        check_count("top", top, 1, 10**9)
        check_count("batch_size", batch_size, 1, 65_536)
        self._check_fields()
        if not isinstance(unsure, str):
            raise UserError(f"unsure must be {FORMS} as text, got {unsure!r}")
        rule = rule_for(unsure, self.predictor.evidence, "unsure", MEASURE) if unsure else None
        heat = self._heat_maps if heatmaps else None
        given, is_single = list_images(images)
        skips = unreadable == "skip" and not is_single
        readable = self._answers(given, batch_size, skips, heat)
        predictions = [
            self._prediction(image, answer, top, embeddings, rule) for image, answer in readable
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
        """Writes the model as a bundle and returns its directory: see `vision.export`."""
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

    def _prediction(
        self, image: Given, answer: Answer, top: int, has_embedding: bool, rule: Rule | None
    ) -> Prediction:
        """Returns what the model says about an image; `rule` says whether it is unsure."""
        count = top if rule is None else rule.listed(top, len(self.classes))
        ranked = rank(self.classes, answer.probabilities, count, image.name)
        judged = None if rule is None else rule.judge(ranked)
        return Prediction(
            image.path,
            tuple(ranked[:top]),
            answer.probabilities,
            answer.image,
            answer.embedding if has_embedding else None,
            answer.heat_map,
            judged.unsure if judged else None,
            judged.members if judged else (),
        )

    def _check_fields(self) -> None:
        """Raises `UserError` if the model takes more than images."""
        if self.predictor.encoder is not None:
            names = ", ".join(self.predictor.encoder.names)
            raise UserError(
                f"this model takes {names} in addition to the image: use python -m vision.predict "
                "--table"
            )

    def _answers(
        self, given: list[Given], batch_size: int, skips: bool, heat: HeatMaps | None
    ) -> list[tuple[Given, Answer]]:
        """Returns (image, what the model says) of the readable images."""
        bits = self.predictor.config.data.bits
        # A power of two, so that a few programs serve calls with any number of images.
        size = min(batch_size, 1 << max(0, len(given) - 1).bit_length())
        readable = []
        broken = []

        def read(image: Given) -> np.ndarray:
            return image.read(bits)

        for image, answer in answers(self.predictor, given, read, size, heat=heat):
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
        return heat_maps(self.predictor, self.name, "heatmaps=True", "heatmap=True")
