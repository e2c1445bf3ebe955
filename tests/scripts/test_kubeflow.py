"""Kubeflow's pipelines, as far as they can be looked at without kfp."""

import pathlib
import re
import runpy
import subprocess
import sys
import types
import unittest.mock

import pytest

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "scripts" / "kubeflow"


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("compile", ["--image=registry.example.com/vision:1"]),
        ("local", ["here.yaml"]),
    ],
)
def test_without_kfp_it_is_named(module, words, tmp_path):
    (tmp_path / "here.yaml").touch()
    words = [*words, "--out=pipelines"] if module == "compile" else words
    code = (
        "import runpy, sys\n"
        "sys.modules['kfp'] = None\n"
        f"runpy.run_module('scripts.kubeflow.{module}', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and not (tmp_path / "pipelines").exists()
    message = "this needs kfp: pip install --requirement scripts/kubeflow/requirements.txt"
    assert done.stderr == f"error: {message}\n"


def test_the_steps_are_commands_that_exist():
    modules = re.findall(r'"(vision\.[\w.]+)"', (FOLDER / "pipeline.py").read_text())
    assert len(modules) == 5
    for module in modules:
        path = pathlib.Path(REPOSITORY, *module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_kfp_is_pinned_exactly():
    lines = (FOLDER / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == ["kfp==2.16.1"]


@pytest.mark.parametrize("earlier", ["", "first,second"])
def test_a_collection_leaves_out_those_of_earlier_runs(earlier, monkeypatch):
    dsl = unittest.mock.MagicMock()
    monkeypatch.setitem(sys.modules, "kfp", unittest.mock.MagicMock(dsl=dsl))
    functions = runpy.run_path(str(FOLDER / "pipeline.py"))
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    out = types.SimpleNamespace(path="out")
    functions["collect_images"]("bundle", "log", 40, earlier, "--window 60", out)
    assert f"--earlier={earlier}" in commands[0] and commands[0][-2:] == ["--window", "60"]
