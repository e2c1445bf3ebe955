"""scripts/docs: its help, and what it refuses before anything is installed."""

import subprocess

import pytest

from tests.conftest import REPOSITORY


def run(*words):
    command = [REPOSITORY / "scripts" / "docs", *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_help():
    done = run("--help")
    assert done.returncode == 0 and "./scripts/docs --serve" in done.stdout
    assert "set -euo" not in done.stdout and "#!" not in done.stdout


@pytest.mark.parametrize("words", [("--server",), ("site",), ("--serve", "port")])
def test_what_it_refuses(words):
    done = run(*words)
    assert done.returncode == 2 and not done.stdout
    assert words[-1] in done.stderr and "usage: ./scripts/docs" in done.stderr
