"""Freed memory that stays, in a new process: mallopt holds until it ends; and rare collections."""

import gc
import subprocess
import sys

import pytest

from vision import main
from vision.errors import UserError
from vision.support import memory

CODE = """
import ctypes, resource, sys
from vision.support.memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else False
def touch():
    block = ctypes.create_string_buffer(200 << 20)
    ctypes.memset(block, 1, len(block))
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
touch()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_used_again_without_page_faults():
    faults = {}
    for how in ("keep", "give back"):
        done = subprocess.run(
            [sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True
        )
        kept, faults[how] = done.stdout.split()
        if how == "keep" and kept == "False":
            pytest.skip("no glibc, or an NVIDIA GPU")
    assert int(faults["keep"]) < 100 < int(faults["give back"])


def test_too_late_once_jax_is_imported():
    import jax  # noqa: F401

    from vision.support.memory import keep_freed_memory

    assert not keep_freed_memory()


def test_garbage_is_collected_seldom_for_a_while():
    usual = gc.get_threshold()
    memory.collect_seldom()
    assert gc.get_threshold() == (memory.SELDOM, *usual[1:])
    memory.collect_seldom()
    memory.collect_as_usual()
    assert gc.get_threshold() == usual


def test_a_command_that_fails_leaves_the_collection_as_usual():
    usual = gc.get_threshold()
    with pytest.raises(UserError, match="nowhere.py"):
        main.main(["--config", "nowhere.py"])
    assert gc.get_threshold() == usual
