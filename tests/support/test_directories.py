"""The swap of a bundle's directory: killed at any moment, the old one or the new one is there."""

import subprocess
import sys

import pytest

from vision.errors import UserError
from vision.support.directories import replacing_directory

# Ends the process at the Nth rename, before or after it; without renameat2 if EXCHANGE is 0.
KILLED = """
import os, pathlib, sys
from vision.support import directories
number, after, can_exchange = map(int, sys.argv[1:4])
calls = 0
def killing(function):
    def call(*arguments):
        global calls
        calls += 1
        if calls == number and not after:
            os._exit(9)
        result = function(*arguments)
        if calls == number:
            os._exit(9)
        return result
    return call
pathlib.Path.rename = killing(pathlib.Path.rename)
directories.exchange = killing(directories.exchange) if can_exchange else lambda a, b: False
with directories.replacing_directory(pathlib.Path(sys.argv[4])) as directory:
    (directory / "bundle.json").write_text("new")
"""


def content(out):
    return (out / "bundle.json").read_text() if out.exists() else None


@pytest.mark.parametrize("can_exchange", [True, False])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("after", [False, True])
def test_killed_at_each_rename(number, after, can_exchange, tmp_path):
    out = tmp_path / "pets"
    out.mkdir()
    (out / "bundle.json").write_text("old")
    arguments = [str(number), str(int(after)), str(int(can_exchange)), str(out)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments])
    assert killed.returncode == (9 if number == 1 or not can_exchange else 0)
    if can_exchange:
        assert content(out) == ("new" if after or number == 2 else "old")
    # the next call begins with what there was, and leaves nothing else
    with pytest.raises(RuntimeError), replacing_directory(out):
        expected = "new" if (after if can_exchange else number == 2 and after) else "old"
        expected = "new" if can_exchange and number == 2 else expected
        assert content(out) == expected
        raise RuntimeError
    assert content(out) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["pets"]


def test_a_second_export_to_one_place_is_refused(tmp_path):
    with replacing_directory(tmp_path / "pets") as directory:
        (directory / "bundle.json").write_text("first")
        with replacing_directory(tmp_path / "pets.2"):  # another name with the same beginning
            pass
        message = "in use by another process"
        with pytest.raises(UserError, match=message), replacing_directory(tmp_path / "pets"):
            pass
    assert content(tmp_path / "pets") == "first"
