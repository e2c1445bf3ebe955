"""A checkout in which `scripts/setup` has nothing to install: its environment is these tests'."""

import pathlib
import shutil
import subprocess
import sys

from tests.conftest import REPOSITORY


def make_checkout(root: pathlib.Path, extras: str) -> pathlib.Path:
    """Links the code into a folder, whose .venv is the Python of these tests; returns the folder.

    Args:
        root: an empty folder.
        extras: what the environment's record says is installed, such as "cpu cuda12 basics".
    """
    root = root.resolve()
    for name in ("vision", "scripts", "configs"):
        (root / name).symlink_to(REPOSITORY / name)
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, root)
    python = root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    line = "cat pyproject.toml constraints.txt | cksum"
    key = subprocess.run(line, shell=True, cwd=root, capture_output=True, text=True).stdout.strip()
    (root / ".venv" / "vision-setup").write_text(f"{key} {root}\n{extras}\n")
    return root
