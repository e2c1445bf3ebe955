"""The samplers of Optuna on a space of networks."""

import functools
import json
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from vision.config.load import from_dict
from vision.errors import UserError, check_range, shown
from vision.models import mobile_space
from vision.models.layers.variants import Choice, Space, choice_of, spell

if TYPE_CHECKING:
    from vision.search.architecture.costs import Task


def suggest(trial: Any, variant: str) -> str:
    """Returns the name of the network that an Optuna trial chooses from a space's name."""
    return spell(_choose(trial, mobile_space.space(variant)))


def check_budget(config: ConfigDict, variant: str, budget: str) -> None:
    """Prunes an Optuna trial before it is trained if its network costs more than a budget.

    Args:
        config: the config of the space.
        variant: the network.
        budget: the highest number of multiply-adds for an image, as text.

    Raises:
        optuna.TrialPruned: the network costs more.
        UserError: every network does, the budget is invalid, or the data cannot be opened, whose
            images and classes decide what a network costs.
    """
    import optuna

    from vision.search.architecture.costs import count

    try:
        most = float(budget)
    except ValueError as error:
        raise UserError(f"the budget of --space must be a number, got {shown(budget)}") from error
    check_range("the budget of --space", most, most > 0, "above 0")
    task = _task(json.dumps(config.to_dict(), sort_keys=True))
    smallest = mobile_space.space(config.model.variant).smallest()
    least = count(smallest, task)
    if least > most:
        raise UserError(
            f"the budget of --space is {most:,.0f}: no network of the space fits; the smallest, "
            f"{spell(smallest)}, costs {least:,}"
        )
    cost = count(choice_of(variant), task)
    if cost > most:
        raise optuna.TrialPruned(f"{cost:,} multiply-adds, over {most:,.0f}")


@functools.lru_cache(1)
def _task(text: str) -> "Task":
    """Returns what the networks of a config, as JSON, are for; JAX's devices are not started."""
    from vision.data.image_shape import image_shape
    from vision.data.pipeline import SAMPLE, named_splits
    from vision.data.sample import look
    from vision.data.splits import split_seed
    from vision.search.architecture.costs import Task

    config = from_dict(json.loads(text))
    splits, _ = named_splits(config.data, split_seed(config))
    first = next(iter(splits.values()))
    shape = image_shape(config.data, first, look(first, SAMPLE))
    return Task(config, tuple(first.classes), *shape)


def _choose(trial: Any, space: Space) -> Choice:
    """Every axis is categorical: a number that is twice another is not twice as far."""
    free = space.free()
    drawn = {axis: trial.suggest_categorical(axis, space.axes[axis]) for axis in free}
    return space.smallest() | drawn


def sampler(name: str, seed: int, population: int) -> Any:
    """Returns an Optuna sampler.

    Args:
        name: "tpe", "nsga2" or "random".
        seed: its seed.
        population: networks in a generation of NSGA-II.
    """
    from optuna import samplers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # multivariate TPE is experimental there
        if name == "tpe":
            return samplers.TPESampler(seed=seed, multivariate=True)
        if name == "nsga2":
            return samplers.NSGAIISampler(seed=seed, population_size=population)
        return samplers.RandomSampler(seed=seed)


def search(
    sampler: Any,
    space: Space,
    values: Callable[[Choice], tuple[float, float] | None],
    is_done: Callable[[], bool],
    *,
    is_front: bool,
    most: int,
) -> None:
    """Asks for networks until enough were judged.

    The study is in memory: after an interruption the sampler asks for the same networks again, and
    those that were judged answer at once.

    Args:
        sampler: from `sampler`.
        space: the networks.
        values: returns (accuracy, cost) of a network; None if it is left out.
        is_done: whether enough were judged.
        is_front: whether both count, or the accuracy only.
        most: networks to ask for at most.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions: list[Any] = ["maximize", "minimize"] if is_front else ["maximize"]
    study = optuna.create_study(sampler=sampler, directions=directions)
    state = optuna.trial.TrialState
    for _ in range(most):
        if is_done():
            return
        trial = study.ask()
        result = values(_choose(trial, space))
        if result is not None:
            study.tell(trial, result if is_front else result[0])
        else:
            # Several objectives and pruning exclude each other.
            study.tell(trial, state=state.FAIL if is_front else state.PRUNED)
