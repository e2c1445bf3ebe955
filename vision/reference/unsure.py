"""When a model should say that it is unsure, and what is known about that from validation images.

A user asks for a precision, a coverage or a threshold, as text:

precision=0.99   a class only if of the images that get one at least 99 % are right, else "unsure"
coverage=0.95    a set of classes that holds the true one for 95 % of all images; more than one
                 class is "unsure"
threshold=0.9    a class only if its probability is at least 0.9

`Evidence` is what was measured on validation images: it turns a requirement into a `Rule`, which
needs only probabilities. A run has it in evaluation/unsure.json, a bundle in bundle.json. How it is
measured, and with which guarantee: `vision.evaluation.measures.selective`.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vision.errors import UserError, shown
from vision.support.schema import NATURAL, check, damaged, is_number, numbers_within
from vision.support.schema import Rule as Allowed

FORMAT = 1
PRECISION = "precision"
COVERAGE = "coverage"
THRESHOLD = "threshold"
KINDS = (PRECISION, COVERAGE, THRESHOLD)
UNSURE = "unsure"  # an answer in place of a class
OWN = "rule"  # asks for the rule that was chosen for the run or the bundle
STEP = 1e-6  # thresholds are multiples of it: runtimes differ by less, and people can copy them
STARTS = 2  # sequences of tests, see `Evidence`
# tried in turn for a message that says what can be promised
ROUND_PRECISIONS = (0.999, 0.995, 0.99, 0.98, 0.97, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
FORMS = "precision=0.99, coverage=0.95 or threshold=0.9"
_SHARE = numbers_within(0, 1)
SCHEMA: dict[str, Any] = {
    "format": int,
    "images": NATURAL,
    "split": str,
    "source": str,
    "step": (NATURAL, None),
    "temperature": numbers_within(1e-6, 1e6),
    "confidence": Allowed(
        "a number of at least 0.5 and below 1", lambda value: is_number(value) and 0.5 <= value < 1
    ),
    "precision": {
        "threshold": [_SHARE],
        "answered": [NATURAL],
        "right": [NATURAL],
        "at_least": [_SHARE],
    },
    "coverage": {"level": [_SHARE], "probability": [_SHARE]},
    "rule": (str, None),
}


@dataclasses.dataclass(frozen=True)
class Requirement:
    """What a user asks for.

    Attributes:
        kind: one of `KINDS`.
        value: in (0, 1).
    """

    kind: str
    value: float

    def __str__(self) -> str:
        return f"{self.kind}={self.value!r}"


class Judged(NamedTuple):
    """The answer to one image.

    Attributes:
        unsure: whether it is unsure.
        members: the classes of the set, the most probable first; () if the rule gives no sets.
    """

    unsure: bool
    members: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Rule:
    """Decides from the probabilities of an image whether the answer is "unsure".

    Attributes:
        requirement: what it serves.
        least: the top probability of an answer must be at least this; for a coverage, classes of
            at least this probability are in the set.
    """

    requirement: Requirement
    least: float

    @property
    def gives_sets(self) -> bool:
        """Whether it answers with sets of classes."""
        return self.requirement.kind == COVERAGE

    def unsure(self, probabilities: np.ndarray) -> np.ndarray:
        """Returns whether each answer is unsure, bool (N,).

        Args:
            probabilities: float (N, C).
        """
        if self.gives_sets:
            return self.sets(probabilities).sum(1) > 1
        return probabilities.max(1) < self.least

    def sets(self, probabilities: np.ndarray) -> np.ndarray:
        """Returns which classes are in the set of each image, bool (N, C).

        The most probable class is always in it.

        Args:
            probabilities: float (N, C).
        """
        members = probabilities >= self.least
        members[np.arange(len(members)), probabilities.argmax(1)] = True
        return members

    def listed(self, top: int, classes: int) -> int:
        """Returns how many of the classes `judge` needs: all for a set, otherwise `top`."""
        return classes if self.gives_sets else top

    def judge(self, ranked: Sequence[tuple[str, float]]) -> Judged:
        """Returns the answer to one image.

        Args:
            ranked: [(class, probability)], the most probable first; all classes for a set.
        """
        best, top = ranked[0]
        if not self.gives_sets:
            return Judged(top < self.least, ())
        likely = tuple(name for name, probability in ranked[1:] if probability >= self.least)
        members = (best, *likely)
        return Judged(len(members) > 1, members)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What validation images say about thresholds.

    Attributes:
        contents: as it is stored; see `SCHEMA`. Row i of "precision" says that of "images"
            validation images "answered"[i] have a top probability of at least "threshold"[i],
            "right"[i] of them rightly; "at_least"[i] is the lower end of the one-sided interval of
            their precision. Answered images increase from row to row. "coverage" has for each
            "level" the "probability" that makes a class a member of the set.
        rule: the requirement that was chosen for this model; None if none was.

    A precision is promised by a sequence of tests: from the first row that could pass, each row
    must pass, and the last one that does has the threshold. The order is fixed before the data are
    seen, so no test after the first costs confidence (fixed sequence testing with several starts,
    as in Angelopoulos et al. 2021, arXiv:2110.01052). A mistake among the surest images would end
    the sequence early, so a second one starts at twice as many images, and each has half of the
    error rate.
    """

    contents: Mapping[str, Any]
    rule: Requirement | None = None

    @property
    def images(self) -> int:
        return int(self.contents["images"])

    @functools.cached_property
    def own_rule(self) -> Rule | None:
        """The rule that serves the chosen requirement; None if none was chosen."""
        return None if self.rule is None else self.rule_of(self.rule)

    def rule_of(self, requirement: Requirement) -> Rule:
        """Returns the rule that serves a requirement.

        Raises:
            UserError: the validation images cannot promise it.
        """
        if requirement.kind == THRESHOLD:
            return Rule(requirement, requirement.value)
        if requirement.kind == COVERAGE:
            return Rule(requirement, self._member_probability(requirement))
        row = self.row_of(requirement.value)
        if row is None:
            raise UserError(self._why_no_precision(requirement))
        return Rule(requirement, self.contents[PRECISION]["threshold"][row])

    def row_of(self, precision: float) -> int | None:
        """Returns the row of "precision" with the most answers that promises it; None if none."""
        table = self.contents[PRECISION]
        answered = np.asarray(table["answered"])
        passes = np.asarray(table["at_least"]) >= precision
        best = None
        for start in range(1, STARTS + 1):
            row = int(np.searchsorted(answered, start * self.fewest(precision)))
            while row < len(passes) and passes[row]:
                best = row if best is None else max(best, row)
                row += 1
        return best

    def fewest(self, precision: float) -> int:
        """Returns how many answers promise a precision if all of them are right."""
        error_rate = (1 - self.contents["confidence"]) / STARTS
        return math.ceil(math.log(error_rate) / math.log(precision))

    def _why_no_precision(self, requirement):
        confidence = f"{100 * self.contents['confidence']:g} %"
        possible = [p for p in ROUND_PRECISIONS if self.row_of(p) is not None]
        best = "No precision is possible"
        if possible:
            best = (
                f"{PRECISION}={possible[0]} is possible, with less confidence if you choose it "
                "because of this message"
            )
        return (
            f"no threshold promises {requirement} with a confidence of {confidence}: that takes at "
            f"least {self.fewest(requirement.value):,} answers without a mistake, and there are "
            f"{self.images:,} validation images.\n{best}; more validation images allow more"
        )

    def _member_probability(self, requirement):
        table = self.contents[COVERAGE]
        for level, probability in zip(table["level"], table["probability"], strict=True):
            if level >= requirement.value - 1e-9:
                return probability
        highest = f"at most {table['level'][-1]}" if table["level"] else "none"
        raise UserError(
            f"{self.images:,} validation images cannot promise {requirement}, but {highest}: give "
            "a lower coverage or more validation images"
        )


def no_thresholds(precision: str) -> str:
    """Returns why a bundle that computes in a precision other than float32 has no thresholds."""
    return (
        "the bundle has no thresholds for unsure answers: they hold for probabilities in float32, "
        f"and {precision} changes them"
    )


def parse_requirement(text: str, name: str) -> Requirement:
    """Returns what a text asks for; a number alone is a precision.

    Args:
        text: such as "precision=0.99".
        name: of the flag or the parameter, for messages.

    Raises:
        UserError: it is none of the forms, or the number is not between 0 and 1.
    """
    kind, _, number = text.rpartition("=")
    kind = kind or PRECISION
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if kind not in KINDS or math.isnan(value):
        raise UserError(f"{name} must be {FORMS}, got {shown(text)}")
    if not 0 < value < 1:
        raise UserError(f"{name}: {kind} must be above 0 and below 1, got {shown(number)}")
    return Requirement(kind, value)


def rule_for(text: str, evidence: Evidence | None, name: str, remedy: str) -> Rule:
    """Returns the rule that a text asks for.

    Args:
        text: as `parse_requirement` takes it, or `OWN`.
        evidence: the model's; None if it has none.
        name: see `parse_requirement`.
        remedy: what to do without evidence, for messages.

    Raises:
        UserError: the text is wrong, or the model cannot promise that.
    """
    requirement = None if text == OWN else parse_requirement(text, name)
    if requirement is not None and requirement.kind == THRESHOLD:
        return Rule(requirement, requirement.value)
    if evidence is None:
        raise UserError(f"{name}={text}: nothing was measured on validation images: {remedy}")
    requirement = requirement or evidence.rule
    if requirement is None:
        raise UserError(
            f"{name}={text}: no rule was chosen for this model: ask for {FORMS},\nor choose one "
            "with python -m vision.evaluation.unsure on its run, and export a bundle again"
        )
    return evidence.rule_of(requirement)


def parse_evidence(contents: Mapping[str, Any], file: Any, remedy: str, key: str = "") -> Evidence:
    """Returns the `Evidence` in a file.

    Args:
        contents: what was read.
        file: where, for messages.
        remedy: what to do if it is damaged.
        key: of the contents in the file; "" for all of it.

    Raises:
        UserError: it is damaged or of another format, or its rule does not follow from it.
    """
    check(contents, {"format": int}, file, remedy, key)
    if contents["format"] != FORMAT:
        raise UserError(
            f"{file} has thresholds of format {contents['format']}, this version reads {FORMAT}: "
            f"{remedy}, or update"
        )
    check(contents, SCHEMA, file, remedy, key)
    prefix = f"{key}." if key else ""
    reason = _contradiction(contents, prefix)
    if reason is not None:
        raise damaged(file, reason, remedy)
    evidence = Evidence(contents)
    if contents["rule"] is None:
        return evidence
    try:
        requirement = parse_requirement(contents["rule"], f"{prefix}rule")
        evidence.rule_of(requirement)
    except UserError as error:
        raise damaged(file, f"its {prefix}rule is not possible ({error})", remedy) from error
    return dataclasses.replace(evidence, rule=requirement)


def _contradiction(contents, prefix):
    """Returns what no images can have given, "KEY must ..."; None if nothing contradicts itself."""
    for name, order in ((PRECISION, "answered"), (COVERAGE, "level")):
        columns = contents[name]
        if len({len(column) for column in columns.values()}) != 1:
            return f"{prefix}{name} must have columns of one length"
        if not _increases(columns[order]):
            return f"{prefix}{name}.{order} must increase"
    precision = contents[PRECISION]
    answered = precision["answered"]
    if not _increases(precision["threshold"][::-1]):
        return f"{prefix}{PRECISION}.threshold must decrease"
    if answered and answered[-1] > contents["images"]:
        return f"{prefix}{PRECISION}.answered must be at most {prefix}images"
    if any(right > count for right, count in zip(precision["right"], answered, strict=True)):
        return f"{prefix}{PRECISION}.right must be at most {prefix}{PRECISION}.answered"
    probabilities = contents[COVERAGE]["probability"]
    if sorted(probabilities, reverse=True) != probabilities:
        return f"{prefix}{COVERAGE}.probability must not increase"
    return None


def _increases(values: Sequence[float]) -> bool:
    return all(a < b for a, b in zip(values, values[1:], strict=False))
