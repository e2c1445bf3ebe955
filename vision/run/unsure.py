"""What a run knows about unsure answers: evaluation/unsure.json, beside its temperature."""

import pathlib
from collections.abc import Mapping
from typing import Any

from vision.reference.unsure import Evidence, parse_evidence
from vision.run.calibration import EVALUATE_AGAIN, EVALUATION
from vision.support.files import write_json
from vision.support.reading import read_json

UNSURE = "unsure.json"  # in an evaluation's directory


def write_evidence(directory: pathlib.Path | str, contents: Mapping[str, Any]) -> None:
    """Writes unsure.json into an evaluation's directory; contents as `Evidence` has them."""
    write_json(pathlib.Path(directory, UNSURE), contents)


def stored_evidence(workdir: pathlib.Path | str) -> Evidence | None:
    """Returns what was last measured for a run, for whichever checkpoint; None if nothing was.

    Raises:
        UserError: unsure.json is damaged.
    """
    file = pathlib.Path(workdir, EVALUATION, UNSURE)
    if not file.is_file():
        return None
    return parse_evidence(read_json(file, dict, EVALUATE_AGAIN), file, EVALUATE_AGAIN)


def run_evidence(
    workdir: pathlib.Path | str, step: int, source: str, temperature: float
) -> Evidence | None:
    """Returns what was measured for a run's checkpoint; None if nothing was.

    As for a temperature, what was measured for another checkpoint or on other data says nothing
    about this one, and neither do thresholds on probabilities of another temperature.

    Args:
        workdir: the run directory.
        step: step of the checkpoint.
        source: the run's data source.
        temperature: divides the logits of the checkpoint.

    Raises:
        UserError: unsure.json is damaged.
    """
    evidence = stored_evidence(workdir)
    if evidence is None:
        return None
    measured = tuple(evidence.contents[key] for key in ("step", "source", "temperature"))
    return evidence if measured == (step, source, temperature) else None
