"""The flag --seeds of experiments."""

import importlib

import pytest

from experiments import run
from tests.support.commands import refusal


@pytest.mark.parametrize("seeds", ["a", "0,", "-1", "1.5"])
def test_seeds_are_numbers(capsys, seeds):
    argv = ("fixmatch", "--rows", f"--seeds={seeds}")
    assert refusal(run.main, capsys, *argv).startswith("--seeds must be numbers such as 0,1,2, got")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("architecture_search", ()),
        ("compression_neu", ("neu_det.tar",)),
        ("label_noise", ()),
        ("long_tail", ()),
        ("transfer_neu", ("neu_det.tar",)),
    ],
)
def test_seeds_of_a_script_of_its_own(name, words, capsys):
    script = importlib.import_module(f"experiments.{name}.run")
    message = refusal(script.main, capsys, *words, "--seeds=0;1")
    assert message == "--seeds must be numbers such as 0,1,2, got '0;1'"
