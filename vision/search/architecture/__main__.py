"""Searches a space of mobile networks for the best by accuracy and cost.

    python -m vision.search.architecture --config configs/architecture_fashion_mnist.py:space \\
        --trials 40 --out searches/alone
    python -m vision.search.architecture --workdir runs/all --trials 300 --cost latency \\
        --budget mobilenet:small --out searches/all

With --config, each network is trained on its own, in OUT/runs; the config's model.variant names the
space, as `vision.models.layers.variants` describes it. With --workdir, a run of the objective
`supernet`, networks take its weights and are not trained, so thousands of them can be judged.

Without --budget, both accuracy and cost count, and the result is a Pareto front (NSGA-II). With
--budget, a number or an architecture with that cost, it looks for the most accurate network within
the budget, by regularized evolution or TPE. --score skips networks whose score before any
training (synflow, naswot, grad_norm) is below that of most random ones. Latency is for --batch
images in ONNX Runtime. It is measured on random networks, to predict that of others during the
search, and at the end on the networks of the front.

OUT gets search.json, candidates.csv and pareto.png. The plot also shows the architectures of
--beside: MODEL:VARIANT, trained in the same way, or run directories. After an interruption, repeat
the command to continue; with --retry it also retries networks that failed. The tracebacks of
unexpected errors are in OUT/failures.txt.
"""

import contextlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import flags, logging
from ml_collections import ConfigDict

from vision import cli
from vision.config.flags import parse_stage
from vision.config.packages import check_packages
from vision.errors import UserError, check_choice, check_count, check_range
from vision.support.extras import require, require_stage
from vision.support.lock import locked
from vision.support.memory import keep_freed_memory

COSTS = ("macs", "latency")
AGAIN = "again: "  # how the key of a second measurement begins
EXPORTING = ("jax2onnx", "onnx", "onnxruntime")


def main(argv: Sequence[str]) -> None:
    """Runs the command with its arguments, without the program's name."""
    config, values, words = parse_stage(argv, __doc__, _flags)
    _check(config, values, words)
    keep_freed_memory()
    from vision.search.architecture.scores import SCORES
    from vision.search.architecture.search import SAMPLERS

    check_choice("--sampler", values.sampler or SAMPLERS[0], SAMPLERS)
    check_choice("--score", values.score or "synflow", tuple(SCORES))
    sampler = values.sampler or ("evolution" if values.budget else "nsga2")
    if (sampler == "nsga2") == bool(values.budget) and sampler != "random":
        rule = "searches a front: leave --budget out" if values.budget else "needs a --budget"
        raise UserError(f"--sampler {sampler} {rule}")
    logging.set_verbosity(logging.ERROR)  # libraries' chatter
    out = pathlib.Path(values.out)
    with locked(out):
        try:
            _search(config, values, sampler, out)
        except KeyboardInterrupt:
            cli.show("interrupted: run the same command to continue")


def _search(
    config: ConfigDict | None, values: flags.FlagValues, sampler: str, out: pathlib.Path
) -> None:
    """Searches, and writes what was found."""
    from vision.search.architecture.candidates import RUNS, Candidates, best_front
    from vision.search.architecture.networks import Networks, Shared, Trained
    from vision.search.architecture.report import Beside, describe
    from vision.search.architecture.search import Plan, Search, best_within
    from vision.search.failures import forget_logged

    candidates = Candidates(out, _request(config, values, sampler))
    if values.retry:
        forget_logged(candidates.failures(), out)
        candidates.forget_failures()
    networks: Networks
    if config is not None:
        networks = Trained(config, out / RUNS)
    else:
        networks = Shared(values.workdir, limit=values.images)
    ruler = _Ruler(networks, candidates, values)
    budget = ruler.budget(values.budget)
    plan = Plan(
        trials=values.trials,
        sampler=sampler,
        budget=budget,
        score=values.score,
        keep=values.keep,
        scored=values.scored,
        population=values.population,
        seed=values.seed,
    )
    Search(networks, candidates, ruler.cost, plan, cli.show).run()
    best = best_within(candidates, values.cost, budget, ruler.measure_twice)
    if values.cost == "latency":
        predicted = candidates.judged()
        for name, row in predicted.items():
            row["latency"] = ruler.cost_of(name)
        for name in best_front(predicted, "latency"):
            ruler.measure(name)
    Beside(networks, candidates, ruler.measure_classifier).add(values.beside)
    summary = {
        "front": best_front(candidates.judged(), values.cost),
        "best": best,
        "cost": values.cost,
        "budget": budget,
        "batch": values.batch,
        "space": networks.space.size,
        "prediction_error": ruler.error,
    }
    candidates.write(summary, networks.title)
    cli.show(*describe(candidates, summary, values))


class _Ruler:
    """The costs of a search's networks, and its budget.

    Args:
        networks: the networks.
        candidates: keeps what was measured.
        values: the flags.

    Attributes:
        cost: returns the cost of a network, predicted if it is its latency.
        error: see `vision.search.architecture.costs.Prediction`; None for multiply-adds.
    """

    def __init__(self, networks: Any, candidates: Any, values: flags.FlagValues):
        from vision.search.architecture import costs

        self._costs = costs
        self._networks = networks
        self._candidates = candidates
        self._is_latency = values.cost == "latency"
        self._batch = values.batch
        self._latency: Any = None
        self.error: float | None = None
        self.cost: Callable[[dict[str, int]], float] = self._count
        self._reference = costs.architecture(values.reference, "--reference")
        if self._is_latency:
            prediction = self._predict(values.measured, values.seed)
            self.error = prediction.error
            self.cost = prediction
            cli.show(
                f"latency: {values.measured} random networks measured; predicting one from the "
                f"others has a median error of {100 * self.error:.0f} %"
            )

    def _count(self, choice: dict[str, int]) -> float:
        return self._costs.count(choice, self._networks.task)

    def cost_of(self, name: str) -> float:
        """Returns the cost of a network by its name: measured, if it was."""
        from vision.models.layers.variants import choice_of

        return self._candidates.latencies.get(name) or self.cost(choice_of(name))

    def measure(self, name: str, model: str = "mobile_space") -> float:
        """Returns the measured latency of an architecture, milliseconds."""
        key = name if model == "mobile_space" else f"{model}:{name}"
        return self.measure_classifier(key, lambda: self._networks.task.classifier(name, model))

    def measure_twice(self, name: str) -> float:
        """Returns the longer of two measured latencies of a network, milliseconds, and keeps it.

        After one measurement, the most accurate of many networks within a budget is often one that
        looked faster than it is.
        """
        measured = self._candidates.latencies
        first = self.measure(name)
        second = self.measure_classifier(
            f"{AGAIN}{name}", lambda: self._networks.task.classifier(name, "mobile_space")
        )
        measured[name] = max(first, second)
        self._candidates.save()
        return measured[name]

    def measure_classifier(self, key: str, create: Callable[[], Any]) -> float:
        """Returns the measured latency of a classifier, milliseconds.

        Args:
            key: the candidates keep it by this name.
            create: returns the classifier, if it was not measured before.
        """
        measured = self._candidates.latencies
        if key not in measured:
            if self._latency is None:
                self._latency = self._costs.Latency(
                    self._networks.task, self._reference, self._batch
                )
                measured.setdefault("reference", self._latency.reference)
            # A reference that is measured again is no slower: the load is another one.
            scale = measured["reference"] / self._latency.reference
            measured[key] = scale * self._latency(create())
            self._candidates.save()
        return measured[key]

    def budget(self, text: str) -> float | None:
        """Returns the highest cost: a number, or the cost of an architecture."""
        if not text:
            return None
        with contextlib.suppress(ValueError):
            number = float(text)
            check_range("--budget", number, 0 < number < np.inf, "above 0")
            return number
        model, variant = self._costs.architecture(text, "--budget")
        if self._is_latency:
            return self.measure(variant, model)
        return float(self._networks.task.macs(variant, model))

    def _predict(self, count: int, seed: int) -> Any:
        """Returns the prediction of the latency, from random networks and both ends."""
        from vision.models.layers.variants import spell

        space = self._networks.space
        generator = np.random.default_rng([seed, 2])
        drawn = [space.smallest(), space.largest()]
        drawn += [space.sample(generator) for _ in range(count - len(drawn))]
        choices = {spell(choice): choice for choice in drawn}
        measured = {name: self.measure(name) for name in choices}
        return self._costs.Prediction(measured, list(choices.values()), self._networks.task)


def _request(config: ConfigDict | None, values: flags.FlagValues, sampler: str) -> dict[str, Any]:
    """Returns what defines a search; more trials go on with one that has ended."""
    names = ("workdir", "cost", "budget", "reference", "batch", "measured", "images", "score")
    request = {
        name: values[name].value for name in (*names, "keep", "scored", "population", "seed")
    }
    if config is not None:
        request["config"] = config.to_dict()
    return request | {"sampler": sampler}


def _check(config: ConfigDict | None, values: flags.FlagValues, words: Sequence[str]) -> None:
    """Raises `UserError` for a missing or invalid flag."""
    if words:
        raise UserError(f"unexpected argument '{words[0]}': flags start with --")
    if (config is not None) == bool(values.workdir):
        raise UserError("which networks? Give --config FILE, or --workdir RUN of a supernet")
    if not values.out:
        raise UserError("where to? Give --out DIRECTORY")
    check_choice("--cost", values.cost, COSTS)
    check_count("--trials", values.trials, 1, 1_000_000)
    check_count("--batch", values.batch, 1, 65_536)
    check_count("--measured", values.measured, 3, 10_000)
    check_count("--population", values.population, 2, 100_000)
    check_count("--images", values.images, 0, 10**9)
    check_count("--scored", values.scored, 1, 100_000)
    check_count("--seed", values.seed, 0, 2**32 - 1)
    check_range("--keep", values.keep, 0 < values.keep < 1, "in (0, 1)")
    require_stage("the search", "nas")
    if values.cost == "latency":
        require("--cost latency", "export", only=EXPORTING)
        require("--cost latency", "audit", only=("scipy",))
    if config is not None:
        check_packages(config)


def _flags(values: flags.FlagValues) -> None:
    def text(name: str, default: str, meaning: str) -> None:
        flags.DEFINE_string(name, default, meaning, flag_values=values)

    def number(name: str, default: int, meaning: str) -> None:
        flags.DEFINE_integer(name, default, meaning, flag_values=values)

    text("workdir", "", "a run of the objective supernet, in place of --config")
    text("out", "", "directory of the search")
    number("trials", 40, "networks to judge, including repeats")
    text("cost", "macs", "macs, or latency")
    text("budget", "", "highest cost: multiply-adds, milliseconds, or MODEL:VARIANT; default: none")
    text("sampler", "", "evolution, tpe or random with a budget; nsga2 or random without")
    text("score", "", "synflow, naswot or grad_norm: skip networks with a low score")
    flags.DEFINE_float("keep", 0.5, "share of networks that --score keeps", flag_values=values)
    number("scored", 20, "random networks whose scores define which score is too low")
    number("population", 20, "networks alive in an evolution, or in a generation")
    text("reference", "mobilenet:small", "network that alternates with others in latency runs")
    number("batch", 1, "images per batch, for the latency")
    number("measured", 24, "random networks measured to predict the latency of others")
    number("images", 0, "with --workdir: validation images; default: all")
    flags.DEFINE_list("beside", "", "MODEL:VARIANT or runs to add to the plot", flag_values=values)
    number("seed", 0, "seed of the search")
    flags.DEFINE_bool("retry", False, "retry failed networks", flag_values=values)


if __name__ == "__main__":
    cli.run(main, outlives_output=True)
