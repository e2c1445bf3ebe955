"""`./scripts/vision` and `./scripts/train` start the stages of the checkout, from any folder."""

import subprocess

import pytest

from tests.support.checkouts import make_checkout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout whose environment is there, as a state of scripts/setup says, with one extra."""
    return make_checkout(tmp_path_factory.mktemp("checkout"), "cpu cuda12 basics audit")


def start(*command, cwd):
    return subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("stage", ["audit", "evaluate"])
def test_a_stage_starts_under_the_name_of_the_script(checkout, stage):
    done = start("./scripts/vision", stage, "--help", cwd=checkout)
    assert done.returncode == 0, done.stderr
    assert f"    ./scripts/vision {stage} --" in done.stdout


def test_train_is_the_stage_with_a_config_to_begin_with(checkout, tmp_path):
    done = start("./scripts/train", "--help", cwd=checkout)
    assert "    ./scripts/vision train --config configs/vit_cifar10.py" in done.stdout
    done = start(checkout / "scripts/train", "configs/nosuch.py:smoke", cwd=tmp_path)
    assert done.returncode == 2 and "no config file 'configs/nosuch.py'" in done.stderr
    for words in (["photos/"], ["--workdir", "run", "photos/"], ["--workdir=run", "photos/"]):
        done = start(checkout / "scripts/train", *words, cwd=tmp_path)
        assert done.returncode == 2 and "there is no folder 'photos/'" in done.stderr
    done = start(checkout / "scripts/train", "--workdir=run", cwd=tmp_path)
    assert done.returncode == 2 and "train on what?" in done.stderr


def test_a_name_that_is_no_stage_installs_nothing(checkout):
    done = start("./scripts/vision", "audti", cwd=checkout)
    assert done.returncode == 2
    assert done.stderr.endswith("did you mean: ./scripts/vision audit?\n")
    assert "installing" not in done.stderr
