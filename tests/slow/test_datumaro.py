"""The newest datumaro, in an environment of its own, writes what the committed files hold."""

import json
import subprocess
import sys

import pytest

from tests.data.test_datumaro import FOLDER, check


def test_a_fresh_export_reads_the_same(tmp_path):
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    installed = subprocess.run(
        [python, "-m", "pip", "install", "datumaro"], capture_output=True, text=True
    )
    if installed.returncode:
        pytest.skip(f"pip cannot install datumaro: {installed.stderr.strip().splitlines()[-1]}")
    subprocess.run([python, FOLDER.parent / "make_datumaro.py", tmp_path], check=True)
    assert json.loads((tmp_path / "expected.json").read_text()) == json.loads(
        (FOLDER / "expected.json").read_text()
    )
    check(tmp_path)
