"""The code base keeps its shape: imports run downward, files and functions stay short, training
needs no TensorFlow."""

import ast
import graphlib
import os
import pathlib
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parent.parent
PACKAGE = REPOSITORY / "vision"
FILES = sorted(PACKAGE.rglob("*.py"))
BASE = {"errors", "cli", "config", "support", "metrics", "parallel", "distributed"}
# Each room may use those before it.
ROOMS = (
    "data",
    "models",
    "bundle",
    "run",
    "objectives",
    "training",
    "inference",
    "evaluation",
    "export",
    "compression",
)
BESIDE = {"audit", "predict"}  # above inference, and side by side
# of data the pixels alone: see WITHOUT_JAX
BUNDLE = {"errors", "cli", "config", "support", "bundle", "data"}
ABOVE = {"serving": BUNDLE, "monitoring": BUNDLE}  # know only the bundle


def module_name(path):
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


WITHOUT_JAX = (
    *(
        "vision.data.sources",
        "vision.data.decode",
        "vision.data.splits",
        "vision.data.loading.sampler",
    ),
    *("vision.cli", "vision.bundle.directory"),
    *map(module_name, sorted((PACKAGE / "config").rglob("*.py"))),
    *map(module_name, sorted((PACKAGE / "serving").rglob("*.py"))),
)
NAMES = {module_name(path) for path in FILES}


def imports(path):
    """Every module that a file names in an import, wherever it stands; `from a import b` is a.b
    where that is one."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in NAMES else node.module for name in inside}
    return found


def room(name):
    return name.split(".")[1] if "." in name else ""


def allowed(of):
    """The rooms that a room may import."""
    if of in ABOVE:
        return {of, *ABOVE[of]}
    if of in BASE:
        return BASE
    if of in ROOMS:
        return {*BASE, *ROOMS[: ROOMS.index(of) + 1]}
    if of in BESIDE:
        return {of, *BASE, *ROOMS[: ROOMS.index("inference") + 1]}
    return {path.stem for path in PACKAGE.iterdir()} - {"main"}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_run_downward(path):
    name = module_name(path)
    used = {
        room(other) for other in imports(path) if other.split(".")[0] == "vision" and "." in other
    }
    assert used <= allowed(room(name)), f"{name} imports {used - allowed(room(name))}"


def test_nobody_imports_main():
    assert [path.name for path in FILES if "vision.main" in imports(path)] == []


def test_no_circles():
    graph = {
        module_name(path): {n for n in imports(path) if n in NAMES} - {module_name(path)}
        for path in FILES
    }
    graphlib.TopologicalSorter(graph).prepare()


def test_files_and_functions_are_short():
    long = []
    for path in FILES:
        text = path.read_text()
        if len(text.splitlines()) > 400:
            long.append(f"{path.name}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if ast.get_docstring(node):
                    lines -= node.body[0].end_lineno - node.body[0].lineno + 1
                if lines > 60:
                    long.append(f"{path.name}: {node.name} has {lines} lines besides its docstring")
    assert long == []


def test_every_file_says_what_it_is():
    assert [path.name for path in FILES if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_tensorflow_is_imported_nowhere_but_in_export():
    using = {
        module_name(p)
        for p in FILES
        if {n.split(".")[0] for n in imports(p)} & {"tensorflow", "keras"}
    }
    assert {name for name in using if room(name) != "export"} == set()


def run(code, path=""):
    """Runs Python in a process of its own and returns the words that it prints."""
    environment = os.environ | {"PYTHONPATH": str(path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_what_data_workers_and_the_command_line_need_is_free_of_jax():
    unwanted = ("jax", "flax", "torch", "tensorflow")
    code = f"import sys, {', '.join(WITHOUT_JAX)}\nprint(*(name for name in {unwanted} if name in sys.modules))"
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
