"""Regularized evolution, Pareto fronts and Optuna's samplers, on functions that are known."""

import itertools

import numpy as np
import pytest

from vision.models.layers.variants import parse, spell
from vision.search.architecture import study
from vision.search.architecture.candidates import best_front
from vision.search.architecture.evolution import draw_allowed, evolve

SPACE = parse("c8-w8.16.24.32d1.2.3k3.5.7e2.3.4se0.1-w8.16.24.32d1.2.3k3.5.7e2.3.4se0.1-h8")


def total(choice):
    return sum(choice.values())


def run(budget=np.inf, cycles=300, seed=0, **options):
    history = []

    def evaluate(choice):
        SPACE.check(choice)
        history.append(choice)
        return total(choice)

    generator = np.random.default_rng(seed)
    options = {"population": 20, "sample": 5} | options
    evolve(SPACE, evaluate, lambda c: c["1.w"] <= budget, cycles, generator=generator, **options)
    return history


def test_evolution_finds_more_than_chance_does():
    history = run()
    assert len(history) == 300
    random = np.random.default_rng(1)
    chance = max(total(SPACE.sample(random)) for _ in range(300))
    assert max(map(total, history)) > chance
    assert max(map(total, history)) >= total(SPACE.largest()) - 4


def test_every_network_fits_the_budget():
    assert {choice["1.w"] for choice in run(budget=16)} == {8, 16}


def test_children_are_mutations_of_the_living():
    """After the first generation, each differs in one number from one of the last `population`."""
    history = run(population=6, sample=3, cycles=60)
    for place in range(6, 60):
        alive = history[place - 6 : place]
        differences = [sum(a[k] != history[place][k] for k in a) for a in alive]
        assert 1 in differences


def test_a_network_without_a_value_does_not_live():
    calls = itertools.count()
    values = []

    def evaluate(choice):
        values.append(None if next(calls) < 10 else total(choice))
        return values[-1]

    evolve(
        SPACE,
        evaluate,
        lambda c: True,
        40,
        population=5,
        sample=2,
        generator=np.random.default_rng(0),
    )
    assert len(values) == 40 and values[-1] is not None


def test_a_budget_that_few_networks_fit():
    smallest = SPACE.smallest()

    def is_allowed(choice):
        return total(choice) <= total(smallest) + 2

    for seed in range(3):
        assert is_allowed(draw_allowed(SPACE, is_allowed, np.random.default_rng(seed)))


def test_the_front_is_that_of_brute_force():
    random = np.random.default_rng(0)
    rows = {
        str(i): {"macs": int(cost), "accuracy": float(accuracy)}
        for i, (cost, accuracy) in enumerate(
            zip(random.integers(0, 30, 80), random.integers(0, 30, 80) / 30, strict=True)
        )
    }

    def beats(a, b):
        no_worse = a["macs"] <= b["macs"] and a["accuracy"] >= b["accuracy"]
        return no_worse and a != b

    expected = {
        (row["macs"], row["accuracy"])
        for row in rows.values()
        if not any(beats(other, row) for other in rows.values())
    }
    names = best_front(rows, "macs")
    assert {(rows[n]["macs"], rows[n]["accuracy"]) for n in names} == expected
    assert [rows[n]["macs"] for n in names] == sorted(rows[n]["macs"] for n in names)


@pytest.mark.parametrize("name", ["tpe", "random", "nsga2"])
def test_samplers_of_optuna(name):
    pytest.importorskip("optuna")
    met = {}

    def values(choice):
        if choice["0.w"] == 32:  # does not fit
            return None
        met[spell(choice)] = choice
        return float(total(choice)), float(choice["1.w"])

    def search():
        met.clear()
        study.search(
            study.sampler(name, 0, 10),
            SPACE,
            values,
            lambda: len(met) >= 40,
            is_front=name == "nsga2",
            most=1000,
        )
        return list(met)

    first = search()
    assert len(first) == 40
    for choice in met.values():
        SPACE.check(choice)
    assert search() == first  # it can be replayed
