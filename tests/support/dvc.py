"""DVC in an environment of its own, and Git repositories of this code in which it runs."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def dvc_bin(tmp_path_factory):
    """An environment with DVC in it."""
    folder = tmp_path_factory.mktemp("dvc_env")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [
        folder / "bin" / "pip",
        "install",
        "--quiet",
        "--retries=1",
        "--timeout=20",
        "dvc>=3.60,<4",
    ]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install dvc: {done.stderr.strip().splitlines()[-1]}")
    return folder / "bin"


def repository(root, dvc_bin):
    """Makes a folder a Git repository of this code with DVC.

    Returns:
        A function that runs a command there and returns its output, also if it is one that `fails`;
        its `root` is the folder.
    """
    for name in ("vision", "configs", "scripts"):
        shutil.copytree(
            REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("constraints.txt", ".gitignore"):
        shutil.copy(REPOSITORY / name, root)
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("XLA_", "GIT_"))
    }
    environment |= {
        "PATH": f"{dvc_bin}:{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "PYTHONPATH": "",
    }

    def run(*command, cwd=root, fails=False):
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
        output = f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert (done.returncode != 0) == fails, output
        return done.stdout + (done.stderr if fails else "")

    run.root = root
    run("git", "init", "-q")
    run("git", "config", "user.name", "Test")
    run("git", "config", "user.email", "test@example.org")
    run("dvc", "init", "-q")
    run("dvc", "remote", "add", "--default", "store", str(root.parent / "store"))
    return run


def stages(output):
    """Which stages ran."""
    return [
        line.rstrip("':").split(":")[-1]
        for line in output.splitlines()
        if line.startswith("Running stage")
    ]
