"""Files that are complete or absent, whoever is killed, and directories that one process writes."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from vision.errors import UserError
from vision.support import files
from vision.support.lock import locked, locked_beside

HOLDER = """
import pathlib, sys, time
from vision.support.lock import locked
with locked(sys.argv[1]):
    print("locked", flush=True)
    {then}
"""


@contextlib.contextmanager
def holder(directory, then="time.sleep(60)"):
    """A process that locks a directory; killed at the end."""
    command = [sys.executable, "-c", HOLDER.format(then=then), str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_locked_directory_is_refused_until_its_holder_is_killed(tmp_path):
    with holder(tmp_path / "run") as process:
        message = f"in use by another process .process {process.pid} on"
        with pytest.raises(UserError, match=message), locked(tmp_path / "run"):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with locked(tmp_path / "run") as directory:
        (directory / "result").touch()
    assert names(tmp_path / "run") == ["result"]  # the lock leaves nothing behind


def test_a_lock_is_waited_for_as_long_as_asked(tmp_path):
    with holder(tmp_path, "time.sleep(1)") as process:
        with pytest.raises(UserError, match="in use"), locked(tmp_path, patience=0.2):
            pass
        with locked(tmp_path, patience=60):
            assert process.wait(timeout=60) == 0  # it had ended, or was about to


def test_a_forked_worker_does_not_keep_the_lock(tmp_path):
    fork = "import os; os.fork() or time.sleep(5)"
    with holder(tmp_path, fork) as process:
        os.kill(process.pid, signal.SIGKILL)  # the worker lives on
        process.wait()
        deadline = time.monotonic() + 4
        while True:
            with contextlib.suppress(UserError), locked(tmp_path):
                return
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_directory_that_stays_empty_is_not_left_behind(tmp_path):
    with locked(tmp_path / "a" / "b"):
        pass
    assert names(tmp_path) == []


def test_two_writers_of_one_bundle_are_kept_apart(tmp_path):
    with locked_beside(tmp_path / "pets"):
        with locked_beside(tmp_path / "cars"):
            pass
        with pytest.raises(UserError, match="in use"), locked_beside(tmp_path / "pets"):
            pass
    assert names(tmp_path) == []


def test_what_cannot_be_locked_is_a_line(tmp_path):
    (tmp_path / "file").touch()
    message = "cannot write to .*: Not a directory"
    with pytest.raises(UserError, match=message), locked(tmp_path / "file" / "run"):
        pass


def test_a_failed_write_leaves_the_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError), files.replacing(path) as file:
        file.write("{")
        json.dump({1, 2}, file)
    assert json.loads(path.read_text()) == {"a": 1} and names(tmp_path) == ["result.json"]


def test_what_killed_writers_left_is_removed(tmp_path):
    kill = "import os, sys, vision.support.files as f\nwith f.replacing(sys.argv[1]) as file:\n"
    kill += "    file.write('half'); file.flush(); os._exit(9)"
    path = tmp_path / "table.csv"
    assert subprocess.run([sys.executable, "-c", kill, path]).returncode == 9
    (left,) = names(tmp_path)
    with files.replacing(tmp_path / "table") as file:  # of another file
        file.write("")
    assert left in names(tmp_path)
    with files.replacing(path) as outer:
        outer.write("outer")
        with files.replacing(path) as inner:  # another writer: neither removes the other's
            inner.write("inner")
    assert path.read_text() == "outer" and names(tmp_path) == ["table", "table.csv"]


def test_locking_a_directory_clears_it(tmp_path):
    (tmp_path / ".report.html.0a1b2c3d.tmp").touch()
    (tmp_path / "mine.tmp").touch()
    with locked(tmp_path):
        assert names(tmp_path) == [".lock", "mine.tmp"]


def test_locking_a_directory_keeps_one_that_is_being_written(tmp_path):
    with files.new_directory(tmp_path / "bundle") as new:
        with locked(tmp_path):  # by another command, which writes beside it
            assert new.is_dir()
        new.rename(tmp_path / "bundle")
    assert names(tmp_path) == ["bundle"]


def test_devices_and_links_are_written_through(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    with files.replacing(tmp_path / "link") as file:
        file.write("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "new"
    with files.replacing("/dev/null") as file:
        file.write("gone")
    assert pathlib.Path("/dev/null").is_char_device()


def test_a_full_disk_names_the_file():
    with pytest.raises(OSError) as caught, files.replacing("/dev/full") as file:
        file.write("x")
    assert caught.value.filename == "/dev/full"
