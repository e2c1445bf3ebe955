"""Freed memory that stays, in a new process: mallopt holds until it ends; and rare collections."""

import gc
import pathlib
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


# The commands that train for a while, as `python -m` runs them; what they do once malloc is set is
# replaced by allocations in threads, as XLA's are.
COMMAND = """
import ctypes, importlib, resource, runpy, sys, threading
module, place, function, *words = sys.argv[1:]
def touch():
    block = ctypes.create_string_buffer(200 << 20)
    ctypes.memset(block, 1, len(block))
def in_a_thread():
    thread = threading.Thread(target=touch)
    thread.start()
    thread.join()
def measure(*arguments, **options):
    in_a_thread()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    in_a_thread()
    print("faults", resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, flush=True)
    sys.exit()
def do_nothing(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return lambda *arguments, **options: None
class Early:
    # The module is replaced as soon as the command imports it, since JAX comes with it.
    def find_spec(self, name, path, target=None):
        if name == place:
            import types
            sys.modules[name] = types.ModuleType(name)
            setattr(sys.modules[name], function, measure)
            sys.modules[name].__getattr__ = do_nothing
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec):
        return sys.modules[spec.name]
    def exec_module(self, module):
        pass
sys.meta_path.insert(0, Early())
sys.argv = [module, *words]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
COMMANDS = {
    "vision.main": ("vision.training.run", "run"),
    "vision.continual": ("vision.continual.sequence", "run_sequence"),
    "vision.search": ("vision.search.worker", "Worker"),
}
FLAGS = {
    "vision.main": ("--config", "configs/digits.py", "--workdir"),
    "vision.continual": ("--config", "configs/split_fashion_mnist.py", "--workdir"),
    "vision.search": (
        *("--config", "configs/digits.py", "--space", "configs/spaces/supervised.py"),
        *("--trials", "1", "--out"),
    ),
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
@pytest.mark.parametrize("module", COMMANDS)
def test_threads_of_a_command_use_freed_memory_again(module, tmp_path):
    words = [*COMMANDS[module], *FLAGS[module], str(tmp_path / "run")]
    command = [sys.executable, "-c", COMMAND, module, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if pathlib.Path("/proc/driver/nvidia").exists():
        pytest.skip("an NVIDIA GPU: temporaries live there")
    _, mark, faults = done.stdout.partition("faults ")
    assert mark, done.stdout + done.stderr
    assert int(faults) < 200


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
