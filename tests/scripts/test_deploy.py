"""What scripts/deploy says before TensorRT is needed, and what its page promises of the files."""

import re
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.support.tiny_bundle import write_bundle

FOLDER = REPOSITORY / "scripts" / "deploy"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--bundle", "BUNDLE"], "this needs TensorRT: pip install tensorrt"),
        (["--bundle", "nowhere"], "nowhere is not a bundle"),
        (["--bundle", "BUNDLE", "--batch=8"], "give three numbers, such as 1,8,32"),
        (["--bundle", "BUNDLE", "--batch=8,1,9"], "must not decrease and be at least 1"),
    ],
)
def test_mistakes(argv, message, tmp_path):
    write_bundle(tmp_path / "BUNDLE")
    script = str(FOLDER / "tensorrt_build.py")  # as where TensorRT is not installed:
    code = (
        "import runpy, sys\n"
        "sys.modules['tensorrt'] = None\n"
        f"runpy.run_path({script!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", code, *argv, "--out=a.engine"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "a.engine").exists()


def test_the_page_names_files_and_flags_that_are_there():
    page = (FOLDER / "README.md").read_text()
    for name in re.findall(r"(?:scripts|vision)/[\w/]+\.py", page):
        assert (REPOSITORY / name).is_file(), name
    flags = subprocess.run(
        [sys.executable, "-m", "vision.export", "--help"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    ).stdout
    used = {
        flag
        for line in page.splitlines()
        if "-m vision.export" in line
        for flag in re.findall(r"--(\w+)", line)
    }
    assert "workdir" in used and all(f"--{flag}" in flags for flag in used)
