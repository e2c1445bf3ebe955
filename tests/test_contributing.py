"""The recipes of CONTRIBUTING.md work: all of them are applied to a copy of the code and run."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.support.live_server import serve
from tests.support.tiny_bundle import write_bundle

pytestmark = pytest.mark.long

PAGE = (REPOSITORY / "CONTRIBUTING.md").read_text()
RECIPES = dict(
    re.findall(r"^### (?:An? )?(.*?)\n(.*?)(?=^### |\Z)", PAGE, re.DOTALL | re.MULTILINE)
)
TRAINING = ("source", "model", "objective", "augmentation", "metric")


def apply(recipe, root):
    """Applies a recipe's new files and changes below `root`."""
    for kind, block in re.findall(
        r"^```(python|diff)\n(.*?)^```", recipe, re.DOTALL | re.MULTILINE
    ):
        if kind == "python":
            add(block, root)
        else:
            change(block, root)


def add(block, root):
    """Writes the file that the block's first line names, or adds the block to its end."""
    first, text = block.split("\n", 1)
    name, at_end = re.fullmatch(r"# (\S+\.py)(, at the end)?", first).groups()
    path = root / name
    assert path.exists() == bool(at_end), f"{name}: is it a new file?"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(path.read_text() + "\n\n" + text if at_end else text)


def change(block, root):
    """Makes the changes of a diff without line numbers; each place must be there once."""
    for name, hunks in re.findall(r"^\+\+\+ b/(\S+)\n(.*?)(?=^--- |\Z)", block, re.DOTALL | re.M):
        path = root / name
        text = path.read_text()
        for hunk in hunks.split("@@\n")[1:]:
            lines = hunk.splitlines(keepends=True)
            old = "".join(line[1:] for line in lines if line[0] in " -")
            new = "".join(line[1:] for line in lines if line[0] in " +")
            assert text.count(old) == 1, f"CONTRIBUTING.md: {name} has not once\n{old}"
            text = text.replace(old, new)
        path.write_text(text)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the package with all recipes applied."""
    root = tmp_path_factory.mktemp("house")
    shutil.copytree(REPOSITORY / "vision", root / "vision")
    shutil.copytree(REPOSITORY / "configs", root / "configs")
    for recipe in RECIPES.values():
        apply(recipe, root)
    return root


def run(house, *words):
    """Runs `python` in the copy and returns what it prints."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=house,
        env=os.environ | {"PYTHONPATH": str(house), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def trained(house):
    """The directory of a run that uses all recipes for training."""
    config = {
        "data.source": "stripes:200?size=12",
        "model.name": "experiments.my_idea.model",
        "model.variant": "2",
        "model.options.width": 8,
        "objective.name": "experiments.my_idea.entropy",
        "objective.options.weight": 0.25,
        "data.unlabeled": "rest",
        "augment.gamma": 0.25,
        "checkpoint.metric": "val/worst_recall",
        "parallel.devices": 1,
        "log.progress": False,
        "log.tensorboard": False,
    }
    flags = [f"--config.{key}={value}" for key, value in config.items()]
    run(house, "-m", "vision.main", "--config=configs/digits.py:smoke", "--workdir=run", *flags)
    return house / "run"


def test_there_is_a_recipe_for_each_kind():
    assert set(RECIPES) == {*TRAINING, "export format", "route"}


def test_a_source(house, trained):
    assert json.loads((trained / "data.json").read_text())["classes"] == ["row", "column"]
    assert "200" in run(house, "-m", "vision.data", "info", "stripes:200")


def test_a_model(trained):
    config = json.loads((trained / "config.json").read_text())
    assert config["model"]["options"] == {"width": 8}
    assert 0 <= json.loads((trained / "result.json").read_text())["accuracy"] <= 1


def test_an_objective(trained):
    config = json.loads((trained / "config.json").read_text())
    assert config["objective"]["options"] == {"weight": 0.25}
    assert '"train/entropy"' in (trained / "metrics.jsonl").read_text()


def test_a_metric(house, trained):
    assert "worst_recall" in json.loads((trained / "result.json").read_text())
    assert '"val/worst_recall"' in (trained / "metrics.jsonl").read_text()
    logits = "np.eye(3)[[0, 1, 1, 2]], np.array([0, 1, 2, 2])"
    code = f"print(scores.score({logits})['worst_recall'], 'worst_recall' in words.METRICS)"
    imports = "import numpy as np\nfrom vision.evaluation.measures import scores\n"
    imports += "from vision.evaluation.report import words\n"
    assert run(house, "-c", imports + code).split() == ["0.5", "True"]


def test_an_augmentation(house, trained):
    config = json.loads((trained / "config.json").read_text())
    assert config["augment"]["gamma"] == 0.25 and config["strong"]["gamma"] == 0
    code = (
        "import jax, numpy as np\nfrom vision.config import default\n"
        "from vision.data.augment import augment\nc = default().augment\nc.gamma = 0.5\n"
        "images = np.tile(np.arange(256, dtype='uint8').reshape(1, 16, 16, 1), (8, 1, 1, 1))\n"
        "out, _ = augment(c, jax.random.key(0), images, np.zeros(8, int), 2)\n"
        "print(*np.asarray(out).reshape(8, -1)[:, [0, 64, 255]].ravel())"
    )
    values = np.array(run(house, "-c", code).split(), int).reshape(8, 3)
    assert (values[:, [0, 2]] == [0, 255]).all() and len(set(values[:, 1])) > 4


def test_an_export_format(house, trained):
    run(house, "-m", "vision.export", "--workdir=run", "--format=ort", "--out=bundle")
    manifest = json.loads((house / "bundle" / "bundle.json").read_text())
    assert manifest["quality"]["exported"]["model.ort"]["largest_difference"] <= 1e-4


def test_a_route(house):
    write_bundle(house / "models" / "tiny" / "1", classes=["cat", "dog"])
    with serve(house / "models", root=house) as live:
        with urllib.request.urlopen(f"{live.url}/classify/tiny/classes") as answer:
            assert answer.read().decode().split() == ["cat", "dog"]
        with urllib.request.urlopen(f"{live.url}/openapi.json") as answer:
            assert "/classify/{model}/classes" in json.load(answer)["paths"]
