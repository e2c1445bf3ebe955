"""The evaluation as a stage: which keys it may change, and its directory, which is locked."""

import contextlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from vision import parallel
from vision.config import load
from vision.errors import UserError
from vision.evaluation.evaluate import Evaluation, evaluate
from vision.evaluation.report import report as page
from vision.inference import Predictor
from vision.support.lock import locked
from vision.support.progress import waiting

# Keys that may be set for a model that has a config already.
FREE = (
    "compile_cache",
    "evaluation.",
    "parallel.",
    "train.eval_batch_size",
    "data.workers",
    "data.resident_gib",
    "data.max_unreadable",
)


def override(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """Returns a model's config with other values of keys that do not change the model.

    Args:
        config: the model's config.
        values: {key: value}.

    Raises:
        UserError: a key would change what the model is, or its value is wrong.
    """
    for key in values:
        if not key.startswith(FREE):
            raise UserError(
                f"{key} belongs to the model and cannot be changed here; set only {', '.join(FREE)}"
            )
    return load.override(config, values)


def evaluate_into(
    out: pathlib.Path,
    classifier: Predictor,
    config: ConfigDict,
    *,
    data: str = "",
    split: str = "",
    workdir: pathlib.Path | str = "",
    report: Callable[[str], Any] = print,
) -> Evaluation:
    """Evaluates a model, writes the report into a directory, and returns the results.

    Args:
        out: the directory, which is made if necessary.
        classifier: the model.
        config: its config; `config.evaluation` says what is measured.
        data: name of the source; "" for the config's.
        split: name of the split; "" for test, or all of new images.
        workdir: the run's directory, for the card; "" for none.
        report: called with a line of text before each longer step.

    Raises:
        UserError: the data cannot be opened or do not fit the model, or the directory is in use.
    """
    with contextlib.ExitStack() as stack:
        parallel.on_main_process(lambda: stack.enter_context(locked(out)))
        evaluation = evaluate(classifier, config, data, split, report)
        # The others wait, or JAX would end this process with them.
        with waiting("drawing the report"):
            parallel.on_main_process(
                lambda: page.write(out, evaluation, config.evaluation, workdir)
            )
    return evaluation
