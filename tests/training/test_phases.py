"""The representation first, then a head of its own."""

import json

import numpy as np
import pytest

from vision import cli, main
from vision.config import default
from vision.config.load import load
from vision.errors import UserError
from vision.run.weights import run_weights
from vision.training.embeddings import check
from vision.training.phases import phases

pytestmark = pytest.mark.long


def test_an_ordinary_run_has_one_phase(tmp_path):
    config = default()
    assert phases(config, tmp_path) == [(config, tmp_path)]


def test_what_the_two_phases_are():
    config = default()
    config.imbalance.retrain_head = 7.0
    config.train.steps = 500
    config.train.epochs = 0.0
    (first, first_place), (second, final_place) = phases(config, "runs/x")
    assert (str(first_place), str(final_place)) == ("runs/x/representation", "runs/x")
    assert (
        first.train.steps == 500
        and first.imbalance.sampling == "none"
        and first.transfer.mode == "full"
    )
    assert (second.train.steps, second.train.epochs) == (
        0,
        7.0,
    ) and second.imbalance.sampling == "balanced"
    assert (
        second.transfer.mode == "head"
        and second.transfer.new_head
        and second.model.pretrained == str(first_place)
    )
    assert config.imbalance.sampling == "none" and not config.model.pretrained  # untouched
    config.imbalance.sampling = "smote"
    config.augment.mixup = 0.2
    first, second = (config for config, _ in phases(config, "runs/x"))
    assert first.augment.mixup == 0.2 and first.imbalance.sampling == "none"
    assert (
        second.augment.mixup == 0
        and second.transfer.cache_embeddings
        and second.imbalance.sampling == "smote"
    )


def test_the_second_training_finds_nothing_wrong_that_the_first_did_not():
    """Or it would be after hours."""
    config = default()
    config.imbalance.retrain_head = 2.0
    config.imbalance.sampling = "balance"
    with pytest.raises(UserError, match="did you mean 'balanced'"):
        phases(config, "runs/x")
    config.imbalance.sampling = "smote"
    config.model.dropout = 0.1
    config.augment.cutmix = 0.5
    config.transfer.mode = "partial"
    config.transfer.depth = 1
    config.train.test_time_augmentation = "flip"
    (first, _), (second, _) = phases(config, "runs/x")
    assert first.transfer.depth == 1 and first.model.dropout == 0.1
    assert second.transfer.depth == 0 and second.model.dropout == 0.0
    check(second)


def test_smote_needs_embeddings(tmp_path):
    config = load("configs/digits.py:smoke")
    config.imbalance.sampling = "smote"
    config.parallel.devices = 1
    with pytest.raises(
        UserError, match="works on embeddings: set transfer.mode=head and transfer.cache_emb"
    ):
        main.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_new_head_on_synthetic_embeddings(tmp_path, capsys):
    """Both phases, by the command; then the same command again, and one that names only the
    directory: they find all done."""
    flags = {
        "model.name": "vit",
        "model.variant": "mu/4",
        "parallel.devices": 1,
        "log.progress": False,
    }
    flags |= {
        "data.source": "digits?imbalance=10",
        "imbalance.retrain_head": 2,
        "imbalance.sampling": "smote",
    }
    flags |= {
        "augment.affine": False,
        "data.limit": 120,
        "optimizer.name": "sgd",
        "optimizer.learning_rate": 0.05,
    }
    argv = ["--config", "configs/digits.py:smoke", f"--workdir={tmp_path / 'run'}"]
    argv += [f"--config.{key}={value}" for key, value in flags.items()]
    for command in (argv, argv, [argv[2]]):
        cli.run(main.main, command)
        result = json.loads((tmp_path / "run" / "result.json").read_text())
        assert result["parameters"]["learning"] < result["parameters"]["all"]
        # the images', not the synthetic ones'
        assert result["steps"] == 30 and result["split_sizes"]["train"] == 120
    first, second = (run_weights(tmp_path / "run" / name)[2] for name in ("representation", "."))
    for name, array in first.items():
        assert np.array_equal(array, second[name]) != name.startswith("head."), name
    assert (tmp_path / "run" / "representation" / "result.json").is_file()
    assert capsys.readouterr().out.count("test: ") == 6
