"""The evaluation of a loaded model, and what it returns."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from vision import cli
from vision.errors import printable
from vision.run.calibration import EVALUATION
from vision.support.extras import require

if TYPE_CHECKING:
    from vision.inference import Predictor


class Metric(NamedTuple):
    """A number with its 95 % interval.

    Attributes:
        value: the number; None if it is not defined for these images.
        low, high: the interval; None if it has none.
    """

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class EvaluationResult:
    """How good a model is on some labeled images.

    Attributes:
        metrics: {name: `Metric`}, such as "accuracy", "macro_f1", "roc_auc", "nll", "brier".
        summary: the contents of metrics.json: these numbers, those of each class, the confusion
            matrix, calibration, slices and so on.
        report: the page, report.html; None if none was written.
    """

    metrics: Mapping[str, Metric]
    summary: Mapping[str, Any]
    report: pathlib.Path | None

    def __repr__(self) -> str:
        from vision.evaluation.report.words import amount, measured

        numbers = self.summary["metrics"]
        shown = [f"{title}: {amount(numbers[key], s)}" for key, title, s in measured(numbers)]
        data = self.summary["data"]
        images = f"{data['images']:,} images of {printable(data['source'])}, {data['split']}"
        place = [f"report: {self.report}"] if self.report else []
        return "\n  ".join([f"EvaluationResult({images}", *shown, *place]) + ")"


def evaluate(
    predictor: "Predictor",
    workdir: pathlib.Path | None,
    data: "str | os.PathLike[str]" = "",
    out: "str | os.PathLike[str] | None" = None,
    split: str = "",
    overrides: Mapping[str, Any] | None = None,
) -> EvaluationResult:
    """Evaluates a model as `vision.evaluate` describes.

    Args:
        predictor: what computes.
        workdir: its run directory; None if it has none.
        data, out, split, overrides: as `vision.evaluate` takes them.
    """
    require("evaluation", "evaluation", without=("onnxruntime",))
    from vision.evaluation import stage
    from vision.evaluation.evaluate import evaluate as compute

    config = stage.override(predictor.config, overrides or {})
    source = os.fspath(data)
    directory = pathlib.Path(out) if out is not None else None
    if out is None and workdir is not None and not source and split in ("", "test"):
        directory = workdir / EVALUATION
    if directory is None:
        evaluation = compute(predictor, config, source, split, cli.show)
    else:
        evaluation = stage.evaluate_into(
            directory,
            predictor,
            config,
            data=source,
            split=split,
            workdir=workdir or "",
            report=cli.show,
        )
    summary = evaluation.summary
    metrics = {name: Metric(**number) for name, number in summary["metrics"].items()}
    return EvaluationResult(metrics, summary, directory and directory / "report.html")
