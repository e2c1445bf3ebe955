"""What a rollout is to do: versions, steps, when a step ends, and what must not become worse."""

import dataclasses
import math

from vision.errors import UserError, check_choice
from vision.monitoring.windows import Span

# what may be guarded, in the order of reports
GUARDS = ("errors", "p99", "drift", "disagreement", "accuracy")
MOST_STEPS = 100


@dataclasses.dataclass(frozen=True)
class Limits:
    """By how much the new version may be worse than the old one.

    Attributes:
        errors: rise of the share of requests without an answer.
        p99: ratio of the 99th percentiles of the answers' times.
        disagreement: share of images that both answered with different classes or, without a
            shadow, change of a class's share of the answers.
        accuracy: fall of the share of right answers.
    """

    errors: float = 0.01
    p99: float = 2.0
    disagreement: float = 0.2
    accuracy: float = 0.02


@dataclasses.dataclass(frozen=True)
class Plan:
    """A rollout.

    Attributes:
        model: name of the model.
        old: version that has the traffic.
        new: version that gets it.
        steps: the new version's percentages, at least two, rising to 100.
        window: how long a step lasts at least: answers of the new version, or seconds.
        min_answers: requests that the new version must have got before anything is decided.
        min_labels: of its answers that must have a label before a step ends.
        guards: names of `GUARDS` that are watched.
        limits: of the guards.
        alpha: chance that a version within the limits is ever rolled back by a test; drift, which
            has an alarm instead, comes on top.
        mismatch: p-value of the traffic's split, and of labels that come as often for each version,
            below which versions are not compared; 0 does not check it.
    """

    model: str
    old: str
    new: str
    steps: tuple[float, ...] = (1.0, 5.0, 25.0, 100.0)
    window: Span = Span(1000, 0.0)
    min_answers: int = 200
    min_labels: int = 100
    guards: tuple[str, ...] = ("errors", "p99", "drift")
    limits: Limits = Limits()
    alpha: float = 0.05
    mismatch: float = 0.001

    @property
    def alpha_of_step(self) -> float:
        """Chance of a false rollback in a step: each has data of its own."""
        return self.alpha / len(self.steps)

    def weights(self, step: int) -> dict[str, float]:
        """Returns {version: weight} in a step; -1 is before the first one and after a rollback."""
        percent = self.steps[step] if step >= 0 else 0.0
        return {self.old: _short(100 - percent), self.new: _short(percent)}

    def share(self, step: int) -> float:
        """Returns the new version's share of the traffic in a step, in [0, 1]."""
        return self.steps[step] / 100 if step >= 0 else 0.0


def parse_steps(text: str) -> tuple[float, ...]:
    """Returns the percentages in "1,5,25,100".

    Raises:
        UserError: they are not numbers in (0, 100] that rise to 100.
    """
    try:
        steps = tuple(float(part) for part in text.split(","))
    except ValueError:
        steps = ()
    are_percentages = all(math.isfinite(step) and 0 < step <= 100 for step in steps)
    rises = all(first < second for first, second in zip(steps, steps[1:], strict=False))
    if not (steps and are_percentages and rises and steps[-1] == 100):
        raise UserError(
            f"--steps must be percentages that rise to 100, such as 1,5,25,100, got {text}"
        )
    if len(steps) == 1:
        raise UserError("--steps 100 compares nothing: begin with a part, such as 5,100")
    if len(steps) > MOST_STEPS:
        raise UserError(f"--steps has {len(steps)} percentages: give at most {MOST_STEPS}")
    return steps


def parse_guards(text: str) -> tuple[str, ...]:
    """Returns the names in "errors,p99", in the order of `GUARDS`.

    Raises:
        UserError: a name is unknown, or there is none.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        check_choice("--guards", name, GUARDS)
    return tuple(name for name in GUARDS if name in names)


def _short(number):
    """Returns a weight without rounding errors, as an integer if it is one."""
    number = round(number, 9)
    return int(number) if number == int(number) else number
