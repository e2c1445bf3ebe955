"""The code base keeps its shape: imports run downward, files and functions stay short and say what
they hold, training needs no TensorFlow."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

from scripts import style

REPOSITORY = pathlib.Path(__file__).parent.parent
PACKAGE = REPOSITORY / "vision"
SOURCES = style.read(REPOSITORY)
MODULES = {source.module for source in SOURCES}
WITHOUT_JAX = (
    "vision.data.sources",
    "vision.data.decode",
    "vision.data.splits",
    "vision.data.loading.sampler",
    "vision.cli",
    "vision.config",
    "vision.bundle.directory",
    *(source.module for source in SOURCES if source.room in style.BESIDE_BUNDLE),
)
MOST_LINES = 400
MOST_LOCALS = 15
MOST_PARAMETERS = 8
MOST_COMPLEXITY = 12


def imports(source):
    return style.imports(source, MODULES)


def test_imports_run_downward():
    assert style.upward_imports(SOURCES) == []


def test_every_room_has_a_floor():
    rooms = {source.room for source in SOURCES} - {""}
    placed = {room for floor in style.FLOORS for room in floor} | set(style.BESIDE_BUNDLE)
    assert rooms <= placed


def test_nobody_imports_main():
    assert [source.module for source in SOURCES if "vision.main" in imports(source)] == []


def test_no_circles():
    assert not style.has_cycle(SOURCES)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.module)
def test_no_room_imports_what_another_keeps_private(source):
    private = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vision."):
            room = node.module.split(".")[1]
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            if room != source.room and any(name.startswith("_") for name in names):
                private += [name for name in names if name.startswith("_")]
    assert [name for name in private if name != "__version__"] == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.module)
def test_a_file_reads_well(source):
    """Short, with functions that one keeps in mind, and names that say what they hold."""
    faults = []
    if len(source.text.splitlines()) > MOST_LINES:
        faults.append(f"{len(source.text.splitlines())} lines")
    if not ast.get_docstring(source.tree):
        faults.append("no docstring")
    for function in source.functions():
        # The keyword arguments of a constructor are a list of options, declared nowhere else.
        keywords = function.name != "__init__"
        limits = {
            "local variables": (style.local_variables(function), MOST_LOCALS),
            "parameters": (style.parameters(function, keywords), MOST_PARAMETERS),
            "complexity": (style.complexity(function), MOST_COMPLEXITY),
        }
        for name, (value, most) in limits.items():
            if value > most:
                faults.append(f"{function.name} has {value} {name}: at most {most}")
    faults += [f"line {line}: {name}" for line, name in style.vague_names(source)]
    assert faults == []


def test_files_of_tests_are_short():
    lengths = {
        path.relative_to(REPOSITORY).as_posix(): len(path.read_text().splitlines())
        for path in (REPOSITORY / "tests").rglob("*.py")
    }
    assert [name for name, lines in lengths.items() if lines > MOST_LINES] == []


def test_one_assignment_a_line():
    lines = sum(len(source.text.splitlines()) for source in SOURCES)
    assert sum(len(style.packed_assignments(source)) for source in SOURCES) <= lines / 1000


def test_lines_are_narrow():
    lines = sum(len(source.text.splitlines()) for source in SOURCES)
    assert sum(len(style.wide_lines(source)) for source in SOURCES) <= lines / 100


def test_tensorflow_is_imported_nowhere_but_in_export():
    using = {
        source.module
        for source in SOURCES
        if {name.split(".")[0] for name in imports(source)} & {"tensorflow", "keras"}
    }
    assert {name for name in using if name.split(".")[1] != "export"} == set()


def run(code, path=""):
    """Runs Python in a process of its own and returns the words that it prints."""
    environment = os.environ | {"PYTHONPATH": str(path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_what_data_workers_and_the_command_line_need_is_free_of_jax():
    unwanted = ("jax", "flax", "torch", "tensorflow")
    modules = ", ".join(WITHOUT_JAX)
    code = f"import sys, {modules}\nprint(*(n for n in {unwanted} if n in sys.modules))"
    assert run(code) == []


def test_training_imports_no_tensorflow(tmp_path):
    """Even where it is installed: a stand-in leaves a mark when it is imported."""
    mark = tmp_path / "mark"
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text(
        f"open({str(mark)!r}, 'w')\nraise ImportError\n"
    )
    argv = [
        *("--config", "configs/vit_mnist5k.py:mu/7:smoke", f"--workdir={tmp_path / 'run'}"),
        *("--config.augment.affine=False", "--config.parallel.devices=1"),
    ]
    words = run(f"from vision import main\nmain.main({argv!r})", tmp_path)
    assert "test:" in words and (tmp_path / "run" / "tensorboard").is_dir()
    assert not mark.exists()
