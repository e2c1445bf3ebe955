"""The samplers of Optuna on a space of networks."""

import warnings
from collections.abc import Callable
from typing import Any

from vision.models import mobile_space
from vision.models.layers.variants import Choice, Space, spell


def suggest(trial: Any, variant: str) -> str:
    """Returns the name of the network that an Optuna trial chooses from a space's name."""
    return spell(_choose(trial, mobile_space.space(variant)))


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
