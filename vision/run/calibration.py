"""The evaluation that a run directory keeps, and the temperature that it fitted to a checkpoint."""

import dataclasses
import pathlib

from vision.support.files import write_json
from vision.support.reading import read_json
from vision.support.schema import NATURAL, numbers_within

EVALUATION = "evaluation"  # a run directory for the evaluation of its own test split
CALIBRATION = "calibration.json"  # in an evaluation's directory
EVALUATE_AGAIN = "remove it, or run python -m vision.evaluation again"
SCHEMA = {
    "temperature": numbers_within(1e-6, 1e6),
    "step": (NATURAL, None),
    "source": str,
}


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A temperature and what it was fitted to.

    Attributes:
        temperature: divides the logits before the softmax.
        step: step of the run's checkpoint; None for a model that comes from no run.
        source: name of the data source whose validation split it fits.
    """

    temperature: float
    step: int | None
    source: str


def write_calibration(directory: pathlib.Path | str, calibration: Calibration) -> None:
    """Writes calibration.json into an evaluation's directory."""
    record = {
        "temperature": calibration.temperature,
        "step": calibration.step,
        "split": "val",
        "source": calibration.source,
    }
    write_json(pathlib.Path(directory, CALIBRATION), record)


def read_calibration(directory: pathlib.Path | str) -> Calibration | None:
    """Returns the calibration in an evaluation's directory; None if there is none.

    Raises:
        UserError: if the file is damaged.
    """
    file = pathlib.Path(directory, CALIBRATION)
    if not file.is_file():
        return None
    record = read_json(file, SCHEMA, EVALUATE_AGAIN)
    return Calibration(float(record["temperature"]), record["step"], record["source"])


def run_temperature(workdir: pathlib.Path | str, step: int, source: str) -> float:
    """Returns the temperature fitted to a run's checkpoint; 1 if no evaluation has fitted one.

    A run that was trained further has another best checkpoint, and a temperature fitted on other
    data says nothing about the run's own: neither counts.

    Args:
        workdir: the run directory.
        step: step of the checkpoint.
        source: the run's data source.

    Raises:
        UserError: if calibration.json is damaged.
    """
    calibration = read_calibration(pathlib.Path(workdir, EVALUATION))
    if calibration is None or (calibration.step, calibration.source) != (step, source):
        return 1.0
    return calibration.temperature
