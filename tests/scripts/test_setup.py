"""scripts/setup says how far pip is; a program that prints what pip does stands in for it."""

import re
import shutil

import pytest

from experiments.first_hour.silence import observe
from tests.conftest import REPOSITORY

PIP = """#!/bin/bash
[[ $* == *"pip install"* ]] || exit 0
echo "Collecting jax"
echo "  Downloading jax-0.10.2-py3-none-any.whl (3.1 MB)"
[[ ! -e ends ]] || { sleep 1.2; kill -TERM $PPID; exit 143; }
sleep 4.6
[[ ! -e fails ]] || exit 1
"""


def make_checkout(tmp_path):
    """Makes a checkout with an environment whose pip is `PIP`."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(REPOSITORY / "scripts" / "setup", tmp_path / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(PIP)
    python.chmod(0o755)


def test_an_interruption_does_not_print_onto_the_row(tmp_path):
    make_checkout(tmp_path)
    (tmp_path / "ends").touch()
    seen = observe(["./scripts/setup", "cpu"], cwd=tmp_path, terminal=True)
    assert seen.exit_code == 130 and "\rsetup: " in seen.output
    assert seen.output.endswith(f"\r{' ' * 79}\rsetup: interrupted; the next call starts over\r\n")


@pytest.mark.parametrize("terminal", [False, True])
def test_what_pip_does_is_shown_meanwhile(tmp_path, terminal):
    make_checkout(tmp_path)
    if terminal:
        (tmp_path / "fails").touch()
    seen = observe(["./scripts/setup", "cpu"], cwd=tmp_path, terminal=terminal)
    assert seen.exit_code == terminal, seen.output
    line = "fetching packages, 1 so far, now jax-0.10.2-py3-none-any.whl (3.1 M"  # 79 columns
    assert re.search(rf"setup: \d s, {re.escape(line)}", seen.output), seen.output
    if terminal:  # the line is gone before the reason is printed
        assert f"\r{' ' * 79}\rCollecting jax" in seen.output
        assert "setup: pip failed" in seen.output.splitlines()[-1]
    else:
        assert "\r" not in seen.output
