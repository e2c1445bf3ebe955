"""Chooses when a run's model should answer "unsure", on its validation images.

    python -m vision.evaluation.unsure --workdir runs/pets                    # what can be promised
    python -m vision.evaluation.unsure --workdir runs/pets --precision 0.99
    python -m vision.evaluation.unsure --workdir runs/pets --coverage 0.95

Decide on the precision in advance: the confidence does not hold if you pick the highest precision
that turns out to be possible.

--precision: answer only above a threshold on the top probability, so that at least this share of
the answers is right; --confidence is how sure that is, whatever the number of images. --coverage:
answer with a set of classes that contains the true one for this share of all images. --threshold
uses a threshold as given, without a promise. The choice goes into RUN/evaluation/unsure.json and
from there into bundles; the server follows it, and so does `vision.predict --unsure rule`. Without
any of these flags, the command only shows what these images can promise. If they cannot promise
what you ask for, it says so and writes nothing. --clear removes the rule from the run.
"""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from vision import cli
from vision.config.flags import parse_stage
from vision.errors import UserError, check_range
from vision.reference.unsure import (
    COVERAGE,
    KINDS,
    PRECISION,
    Evidence,
    Requirement,
    parse_requirement,
)
from vision.run.calibration import EVALUATION
from vision.run.unsure import UNSURE, stored_evidence, write_evidence
from vision.support.extras import require_stage
from vision.support.lock import locked
from vision.support.memory import keep_freed_memory

if TYPE_CHECKING:
    from vision.inference import Classifier


def main(argv: Sequence[str]) -> None:
    config, values, words = parse_stage(argv, __doc__, _flags)
    if config is not None:
        raise UserError("--config has no effect on a trained run: give --workdir RUN")
    if words:
        raise UserError(f"unexpected argument '{words[0]}': flags start with --")
    if not values.workdir:
        raise UserError("which run? Give --workdir RUN")
    confidence = values.confidence
    check_range("--confidence", confidence, 0.5 <= confidence < 1, "at least 0.5 and below 1")
    requirement = _requirement(values)
    if values.clear:
        cli.show(clear(values.workdir))
        return
    require_stage("choosing a threshold", "unsure")
    keep_freed_memory()
    from vision import inference, parallel
    from vision.evaluation.measures import selective

    classifier = inference.from_run(values.workdir)
    parallel.keep_programs(classifier.config.compile_cache)
    logits, labels = validation(classifier)
    about = {"split": "val", "source": classifier.config.data.source, "step": classifier.step}
    evidence = selective.measure(logits, labels, classifier.temperature, confidence, **about)
    if requirement is None:
        cli.show(*overview(evidence))
        return
    evidence = selective.choose(evidence, requirement)
    out = pathlib.Path(values.workdir, EVALUATION)
    with locked(out):
        write_evidence(out, evidence.contents)
    cli.show(describe(evidence, requirement), f"wrote {out / UNSURE}")


def _flags(values):
    flags.DEFINE_string("workdir", "", "run directory", flag_values=values)
    text = "share of the answers that must be right, such as 0.99"
    flags.DEFINE_string(PRECISION, "", text, flag_values=values)
    text = "share of images whose true class must be in the set, such as 0.95"
    flags.DEFINE_string(COVERAGE, "", text, flag_values=values)
    text = "lowest top probability to answer at, without a promise"
    flags.DEFINE_string("threshold", "", text, flag_values=values)
    text = "remove the run's rule; its measurements stay"
    flags.DEFINE_bool("clear", False, text, flag_values=values)
    text = "how sure a promised precision is"
    flags.DEFINE_float("confidence", 0.95, text, flag_values=values)


def _requirement(values):
    """Returns the requirement of the flags; None without one."""
    given = [name for name in ("clear", *KINDS) if values[name].value]
    if len(given) > 1:
        raise UserError(f"give either --{given[0]} or --{given[1]}, not both")
    if not given or values.clear:
        return None
    return parse_requirement(f"{given[0]}={values[given[0]].value}", f"--{given[0]}")


def clear(workdir: pathlib.Path | str) -> str:
    """Takes its rule from a run; returns a sentence on what it was.

    Raises:
        UserError: the run has none, or its unsure.json is damaged.
    """
    out = pathlib.Path(workdir, EVALUATION)
    nothing = UserError(f"no rule was chosen for {workdir}: there is nothing to clear")
    if not out.is_dir():
        raise nothing
    with locked(out):
        evidence = stored_evidence(workdir)
        if evidence is None or evidence.rule is None:
            raise nothing
        write_evidence(out, dict(evidence.contents) | {"rule": None})
    return f"{evidence.rule} is no longer the rule of {workdir}: wrote {out / UNSURE}"


def validation(classifier: "Classifier") -> tuple[np.ndarray, np.ndarray]:
    """Returns (logits, labels) of the validation split of a run.

    Args:
        classifier: the run's `vision.inference.Classifier`.

    Raises:
        UserError: the run has no validation split besides its test split.
    """
    from vision import parallel
    from vision.evaluation.data import open_split
    from vision.evaluation.evaluator import Evaluator
    from vision.evaluation.outputs import Forward, batch_size

    config = classifier.config.copy_and_resolve_references()
    config.evaluation.unsure = True
    mesh = parallel.make_mesh(config.parallel.devices)
    split = open_split(classifier, config, mesh, name="test", partial=True)
    size = batch_size(config.train, mesh)
    outputs = Evaluator(Forward(classifier, mesh), split, size, config.evaluation).validation()
    if outputs is None:
        raise UserError(
            f"{config.data.source} has no validation split besides its test split: thresholds are "
            "chosen on images that neither train nor test the model. Set data.fractions and train "
            "again"
        )
    return outputs


def describe(evidence: Evidence, requirement: Requirement) -> str:
    """Returns a sentence on a requirement and what it costs on the validation images."""
    contents = evidence.contents
    rule = evidence.rule_of(requirement)
    if requirement.kind == COVERAGE:
        return (
            f"{requirement}: classes with a probability of at least {rule.least:.6f} are in the "
            "set, which holds the true class with a probability of at least "
            f"{100 * requirement.value:g} % ({evidence.images:,} validation images)"
        )
    if requirement.kind != PRECISION:
        return f"{requirement}: promises nothing; --precision chooses a threshold that does"
    row = evidence.row_of(requirement.value)
    assert row is not None  # or there would be no rule
    answered = contents[PRECISION]["answered"][row]
    right = contents[PRECISION]["right"][row]
    where = f"from a top probability of {rule.least:.6f} on" if rule.least else "always"
    share = 100 * answered / evidence.images
    return (
        f"{requirement}: answers {where}: {share:.1f} % of {evidence.images:,} validation images, "
        f"{right:,} of {answered:,} right. With a confidence of {100 * contents['confidence']:g} "
        f"%, at least {100 * requirement.value:g} % of the answers to new images are right"
    )


def overview(evidence: Evidence) -> list[str]:
    """Returns a line for each usual requirement, with its cost if it is possible, and a caution."""
    from vision.evaluation.measures.selective import PROMISES, SETS

    requirements = [Requirement(PRECISION, value) for value in PROMISES]
    requirements += [Requirement(COVERAGE, value) for value in SETS]
    lines = []
    for requirement in requirements:
        try:
            lines.append(describe(evidence, requirement))
        except UserError:
            lines.append(f"{requirement}: not possible with {evidence.images:,} validation images")
    confidence = f"{100 * evidence.contents['confidence']:g} %"
    lines.append(
        f"Decide on the precision first: the confidence of {confidence} holds for one requirement, "
        "not for the highest of these that turns out to be possible"
    )
    return lines


if __name__ == "__main__":
    cli.run(main, outlives_output=True)
