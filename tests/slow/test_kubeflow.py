"""The Kubeflow pipelines are compiled, and their YAML is run by kfp on this machine."""

import os
import subprocess
import sys
import sysconfig

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.support.served import TRAINING_FLAGS, label, write_served

IMAGE = "registry.example.com/vision-python:1"
FOLDER = REPOSITORY / "scripts" / "kubeflow"


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An interpreter that has kfp, and what this one has."""
    folder = tmp_path_factory.mktemp("kfp_env")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    interpreter = folder / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    done = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=True)
    site = done.stdout.strip()
    with open(f"{site}/ours.pth", "w") as file:
        file.write(sysconfig.get_path("purelib") + "\n")
    pip = [interpreter, "-m", "pip", "install", "--quiet", "--retries=1", "--timeout=20"]
    pip += ["--constraint", REPOSITORY / "constraints.txt"]
    pip += ["--requirement", FOLDER / "requirements.txt"]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install kfp: {done.stderr.strip().splitlines()[-1]}")
    return interpreter


@pytest.fixture(scope="module")
def run(python, tmp_path_factory):
    """A function that runs a module of ours, and returns (exit code, output); its `root` has
    pipelines/, and what a server has kept."""
    root = tmp_path_factory.mktemp("kubeflow")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("XLA_")}

    def run(module, *words):
        done = subprocess.run(
            [python, "-m", module, *map(str, words)],
            cwd=root,
            env=environment | {"PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    run.root = root
    code, output = run("scripts.kubeflow.compile", f"--image={IMAGE}", "--out=pipelines")
    assert code == 0, output
    write_served(root)
    return run


def only(root, pattern):
    (path,) = root.glob(pattern)
    return path


def test_what_kubeflow_gets(run):
    for name, stages in (
        ("collect", {"collect-images"}),
        ("learn", {"take-back-labels", "retrain", "gate", "export"}),
    ):
        text = (run.root / "pipelines" / f"{name}.yaml").read_text()
        specification = yaml.safe_load(text)
        executors = specification["deploymentSpec"]["executors"]
        assert {key.removeprefix("exec-") for key in executors} == stages
        assert {each["container"]["image"] for each in executors.values()} == {IMAGE}
        assert "pip install" not in text  # the image has all


def test_the_way_back(run):
    root = run.root
    code, output = run(
        "scripts.kubeflow.local",
        *("pipelines/collect.yaml", "--root=collected", "bundle=models/pets/1", "log=log"),
        *("count=40", "flags=--window 60"),
    )
    assert code == 0, output[-3000:]
    collection = only(root, "collected/*/collect-images/collection")
    assert len(list((collection / "images").iterdir())) == 40
    label(root, collection, root / "labels.csv")
    arguments = [f"collection={collection}", "answers=labels.csv", "previous=run"]
    arguments += ["old=folder:photos", "new=folder:tests", f"flags={TRAINING_FLAGS}"]
    arguments.append(f"config={REPOSITORY}/configs/incremental.py")

    for root_name, rules, passes in (
        ("learned", "--max-loss old=1 --min-gain new=-1", True),
        ("refused", "--min-gain new=1", False),
    ):
        words = [f"--root={root_name}", *arguments, f"rules={rules}"]
        code, output = run("scripts.kubeflow.local", "pipelines/learn.yaml", *words)
        assert code == (0 if passes else 1), output[-3000:]
        written = root / root_name
        comparison = only(written, "*/gate/comparison").read_text()
        assert comparison.startswith("### ✅" if passes else "### ❌")
        assert "accuracy on new after" in output  # among the metrics
        assert ("the gate does not let this model pass" in output) != passes
        assert len(list(written.glob("*/export/bundle/bundle.json"))) == passes


def test_a_step_that_fails_ends_the_pipeline(run):
    words = ["--root=failed", "bundle=models/pets/9", "log=log"]
    code, output = run("scripts.kubeflow.local", "pipelines/collect.yaml", *words)
    last = output.strip().splitlines()[-1]
    assert code == 1 and last.startswith("error: pipelines/collect.yaml did not end: Pipeline ")
    assert last.endswith("Inner task failed: 'collect-images'.") and "x1b" not in last


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pipelines/none.yaml"], "there is no pipelines/none.yaml"),
        (["pipelines/collect.yaml"], "needs bundle=..., log=..."),
        (
            ["pipelines/collect.yaml", "model=x"],
            "arguments are NAME=VALUE of bundle, count, earlier, flags, log",
        ),
        (["pipelines/collect.yaml", "count=many"], "count must be an integer, got 'many'"),
    ],
)
def test_mistakes(words, message, run):
    code, output = run("scripts.kubeflow.local", *words)
    assert code == 2 and message in output and len(output.splitlines()) == 1, output
