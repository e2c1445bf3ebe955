"""The search itself: judges networks of a space by accuracy and cost, each of them once."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from vision import models
from vision.errors import RunError, UserError
from vision.models.layers.streams import Streams
from vision.models.layers.variants import Choice, spell
from vision.search.architecture import study
from vision.search.architecture.candidates import FAILED, Candidates, Row, cost_text
from vision.search.architecture.costs import Task, count
from vision.search.architecture.evolution import draw_allowed, evolve
from vision.search.architecture.networks import Networks
from vision.search.architecture.scores import BATCH, SCORES
from vision.search.failures import AGAIN, check_hope, forget_logged, log_unexpected, reason_of
from vision.support.progress import Progress

SAMPLERS = ("evolution", "tpe", "nsga2", "random")
# Networks that have failed before any was judged: the search itself is wrong. Many, since most of a
# space may not fit in memory.
HOPELESS = 20


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to search.

    Attributes:
        trials: networks to judge.
        sampler: one of `SAMPLERS`.
        budget: highest cost; None searches for a front.
        score: one of `SCORES`, by which networks are skipped; "" for none.
        keep: share of random networks whose score is good enough.
        scored: number of those random networks.
        population: networks that are alive in an evolution, or in a generation of NSGA-II.
        seed: of everything that is drawn.
    """

    trials: int
    sampler: str
    budget: float | None
    score: str = ""
    keep: float = 0.5
    scored: int = 20
    population: int = 20
    seed: int = 0


class Search:
    """Judges networks, each of them once; what was judged before is not judged again.

    Args:
        networks: how good they are.
        candidates: what is known of them.
        cost: returns a network's cost.
        plan: how to search.
        report: called with a line of text for each network.

    Raises:
        UserError: not even the smallest network fits the budget.
    """

    def __init__(
        self,
        networks: Networks,
        candidates: Candidates,
        cost: Callable[[Choice], float],
        plan: Plan,
        report: Callable[[str], object] = print,
    ):
        self._networks = networks
        self._candidates = candidates
        self._cost = cost
        self._plan = plan
        self._report = report
        self._met: set[str] = set()
        self._work = Progress("judging", min(plan.trials, networks.space.size), "networks")
        smallest = networks.space.smallest()
        least = cost(smallest)
        if plan.budget is not None and least > plan.budget:
            kind = candidates.request["cost"]
            raise UserError(
                f"--budget = {cost_text(plan.budget, kind)}: no network of the space fits; the "
                f"smallest, {spell(smallest)}, costs {cost_text(least, kind)}"
            )
        self._batch = networks.sample(BATCH) if plan.score else None
        self._threshold = self._choose_threshold() if plan.score else -np.inf

    def run(self) -> None:
        """Judges as many networks as the plan says.

        Raises:
            RunError: the first networks have all failed, or no network could be judged.
        """
        with self._work:
            self._run()
        self._check_judged()

    def _run(self) -> None:
        plan = self._plan
        space = self._networks.space
        if plan.sampler == "evolution":
            evolve(
                space,
                self.judge,
                self.is_allowed,
                plan.trials,
                population=plan.population,
                sample=max(2, plan.population // 4),
                generator=np.random.default_rng(plan.seed),
            )
            return
        study.search(
            study.sampler(plan.sampler, plan.seed, plan.population),
            space,
            self._values,
            lambda: len(self._met) >= min(plan.trials, space.size),
            is_front=plan.budget is None,
            most=50 * plan.trials,
        )

    def is_allowed(self, choice: Choice) -> bool:
        """Returns whether a network fits the budget."""
        return self._plan.budget is None or self._cost(choice) <= self._plan.budget

    def judge(self, choice: Choice) -> float | None:
        """Returns the accuracy of a network; None if its score is too low or it cannot be judged.

        Raises:
            RunError: the first networks have all failed.
        """
        name = spell(choice)
        if name not in self._candidates.rows:
            row = self._judge(choice)
            self._candidates.add(name, row)
            number = len(self._met) + 1
            result = f"{100 * row['accuracy']:.2f} %" if "accuracy" in row else row["skipped"]
            self._report(f"{number}: {name}: {row['macs']:,} multiply-adds, {result}")
            self._check_hope()
        self._met.add(name)
        self._work.reach(len(self._met))
        return self._candidates.rows[name].get("accuracy")

    def _judge(self, choice: Choice) -> Row:
        row: Row = {"macs": count(choice, self._networks.task)}
        if self._candidates.request["cost"] == "latency":
            row["predicted"] = self._cost(choice)
        try:
            row |= self._evaluate(choice)
            forget_logged([spell(choice)], self._candidates.out)
            return row
        except Exception as error:
            reason = reason_of(error)
            if not reason:
                raise
            log_unexpected(error, spell(choice), self._candidates.out)
            return row | {"skipped": f"{FAILED}{reason}"}

    def _evaluate(self, choice: Choice) -> Row:
        """Returns the score of a network, if the plan asks for it, and its accuracy."""
        row: Row = {}
        if self._plan.score:
            score = self._score(choice)
            row["score"] = score if np.isfinite(score) else None
            if score < self._threshold:
                reason = f"{self._plan.score} {score:.4g} is below {self._threshold:.4g}"
                return row | {"skipped": reason}
        return row | {"accuracy": self._networks.accuracy(choice)}

    def _check_hope(self) -> None:
        """Raises `RunError` if many networks have failed, and none was judged.

        They are forgotten, so that the search tries them again once the cause is fixed.
        """
        reasons = list(self._candidates.failures().values())
        ended = len(reasons) + len(self._candidates.judged())  # not those that --score skips
        try:
            check_hope("networks", reasons, ended, AGAIN, HOPELESS)
        except RunError:
            self._candidates.forget_failures()
            raise

    def _check_judged(self) -> None:
        """Raises `RunError` if networks have failed, and none was judged; they are forgotten."""
        reasons = list(self._candidates.failures().values())
        if not reasons or self._candidates.judged():
            return
        skipped = len(self._candidates.rows) - len(reasons)
        self._candidates.forget_failures()
        raise RunError(
            f"no network could be judged: {len(reasons)} failed, the last with: {reasons[-1]}"
            + (f"; {skipped} skipped by --score" if skipped else "")
            + f"\n{AGAIN}"
        )

    def _values(self, choice: Choice) -> tuple[float, float] | None:
        """Returns (accuracy, cost) of a network; None if it does not fit or has no accuracy."""
        if not self.is_allowed(choice):
            return None
        accuracy = self.judge(choice)
        return None if accuracy is None else (accuracy, self._cost(choice))

    def _score(self, choice: Choice) -> float:
        assert self._batch is not None
        model = initialized(self._networks.task, spell(choice), self._plan.seed)
        return SCORES[self._plan.score](model, *self._batch)

    def _choose_threshold(self) -> float:
        """Returns the score that a share of random networks reaches; one that fails has none."""
        generator = np.random.default_rng([self._plan.seed, 1])
        space = self._networks.space
        scores = []
        reason = ""
        for _ in range(self._plan.scored):
            choice = draw_allowed(space, self.is_allowed, generator)
            try:
                scores.append(self._score(choice))
            except Exception as error:
                reason = reason_of(error)
                if not reason:
                    raise
                log_unexpected(error, spell(choice), self._candidates.out)
                self._report(f"--score {self._plan.score}: {spell(choice)} {FAILED}{reason}")
        if not scores:
            raise RunError(
                f"--score {self._plan.score}: all of {self._plan.scored} networks failed, the last "
                f"with: {reason}\n{AGAIN}"
            )
        return float(np.quantile(scores, 1 - self._plan.keep, method="lower"))


def initialized(task: Task, variant: str, seed: int) -> nnx.Module:
    """Returns a network as a training of its own begins with it."""
    c = task.config_of(variant).model
    shape = (len(task.classes), task.image_size, task.channels)
    graph = nnx.graphdef(nnx.eval_shape(lambda: models.build(c, *shape, Streams(seed))))
    create = jax.jit(lambda: nnx.state(models.build(c, *shape, Streams(seed))))
    return nnx.merge(graph, create())


def best_within(
    candidates: Candidates,
    cost: str,
    budget: float | None,
    measure: Callable[[str], Any],
) -> str | None:
    """Returns the most accurate network within a budget, None without one.

    Args:
        candidates: the networks.
        cost: "macs" or "latency".
        budget: highest cost.
        measure: returns the measured latency of a network, milliseconds, and keeps it among the
            candidates'. Predictions err, so networks are measured, the best first, until one is
            within the budget.
    """
    if budget is None:
        return None
    rows = candidates.judged()
    for name in sorted(rows, key=lambda n: (-rows[n]["accuracy"], rows[n]["macs"])):
        value = measure(name) if cost == "latency" else rows[name]["macs"]
        if value <= budget:
            return name
    return None
