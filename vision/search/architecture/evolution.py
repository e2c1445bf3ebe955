"""Regularized evolution: the oldest network of a population dies, not the worst.

Real et al. 2019 (arXiv:1802.01548), algorithm 1.
"""

import collections
from collections.abc import Callable

import numpy as np

from vision.models.layers.variants import Choice, Space

TRIES = 1000  # networks that are drawn until one is allowed


def evolve(
    space: Space,
    evaluate: Callable[[Choice], float | None],
    is_allowed: Callable[[Choice], bool],
    cycles: int,
    *,
    population: int = 50,
    sample: int = 25,
    generator: np.random.Generator,
) -> None:
    """Evaluates networks; each is a mutation of the best of a sample of the population.

    Args:
        space: the networks. Its smallest must be allowed.
        evaluate: returns how good a network is; None leaves it out of the population.
        is_allowed: whether a network fits the budget; others are drawn again.
        cycles: networks to evaluate in all, the first `population` of them drawn at random.
        population: number of networks that are alive.
        sample: number of networks, drawn with replacement, of which the best is the parent.
        generator: where everything is drawn from.
    """
    alive: collections.deque[tuple[float, Choice]] = collections.deque()
    for cycle in range(cycles):
        if cycle < population or not alive:
            choice = draw_allowed(space, is_allowed, generator)
        else:
            drawn = [alive[i] for i in generator.integers(0, len(alive), sample)]
            _, parent = max(drawn, key=lambda pair: pair[0])
            choice = _mutate(space, parent, is_allowed, generator)
        value = evaluate(choice)
        if value is None:
            continue
        alive.append((value, choice))
        if len(alive) > population:
            alive.popleft()


def draw_allowed(
    space: Space, is_allowed: Callable[[Choice], bool], generator: np.random.Generator
) -> Choice:
    """Returns an allowed network: drawn, or if none of many fits, mutated from the smallest."""
    for _ in range(TRIES):
        choice = space.sample(generator)
        if is_allowed(choice):
            return choice
    choice = space.smallest()
    for _ in range(len(space.free())):
        choice = _mutate(space, choice, is_allowed, generator)
    return choice


def _mutate(
    space: Space,
    parent: Choice,
    is_allowed: Callable[[Choice], bool],
    generator: np.random.Generator,
) -> Choice:
    """Returns an allowed mutation of a network, or the network itself if none is found."""
    for _ in range(TRIES):
        choice = space.mutate(parent, generator)
        if is_allowed(choice):
            return choice
    return parent
