"""Runs that are made from a run have its splits: pruned, fine-tuned, and of several trainings."""

from tests.support.photo_run import here, original, train
from vision import cli
from vision.compression import prune
from vision.data.division import read_division

__all__ = ["here", "original"]  # fixtures


def test_runs_made_from_a_run_have_its_splits(here):
    flags = [f"--workdir={name}" for name in ("run",)]
    cli.run(prune.main, [*flags, "--out=pruned", "--ratio=0.3", "--config.seed=5"])
    expected = {split: list(members.names) for split, members in here.items()}
    train("tuned", "photos", "model.pretrained=run", "seed=5")
    for made in ("pruned", "tuned"):
        stored = read_division(f"{made}/splits.csv.gz")
        assert {split: list(members.names) for split, members in stored.items()} == expected
    train("other", "photos", "seed=5")
    assert list(read_division("other/splits.csv.gz")["test"].names) != expected["test"]


def test_a_head_that_is_trained_anew_has_the_splits_of_the_first_training(here):
    train("two", "photos", "imbalance.retrain_head=1", "data.labels=10/class")
    first = read_division("two/representation/splits.csv.gz")
    assert first["train"].digest() == read_division("two/splits.csv.gz")["train"].digest()
    assert len(first["train"].names) > 20  # before the draw
