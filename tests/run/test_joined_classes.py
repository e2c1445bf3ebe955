"""Classes of a run that learned from several sources, one after the other."""

import numpy as np
import pytest

from tests.support.commands import outcome, refusal
from tests.support.mlp_config import mlp_config
from vision.data.division import read_division
from vision.evaluation import __main__ as evaluation
from vision.inference import from_run, softmax
from vision.run import classes
from vision.run.class_changes import read_changes
from vision.run.directory import read_run
from vision.support.reading import read_json
from vision.training.run import run

pytestmark = pytest.mark.long

IMAGES = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1), np.uint8)
QUICK = ("corruptions=false", "views=false", "probe=0", "map=none", "bootstrap=0", "slices=false")
MERGE = ("--merge=round=0,3", "--rename=4=four", "--rename=1=one")
MEMBERS = ([0, 3], [1], [2], [4])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Runs that learned 0 to 2 and then 3 and 4, with the old images and without."""
    root = tmp_path_factory.mktemp("joined")
    run(mlp_config("digits?classes=0,1,2", 40), root / "first")
    for name, old_data in (("second", True), ("alone", False)):
        c = mlp_config("digits?classes=3,4", 40)
        c.continual.previous = str(root / "first")
        c.continual.old_data = old_data
        c.continual.memory = "10/class" if old_data else ""
        c.objective.name = "continual"
        run(c, root / name)
    return root


@pytest.mark.parametrize(
    ("name", "source"),
    [
        (
            "second",
            "digits?classes=0,1,2&rename=0:round,1:one + digits?classes=3,4&rename=3:round,4:four",
        ),
        ("alone", "empty:round,one,2 + digits?classes=3,4&rename=3:round,4:four"),
    ],
)
def test_each_source_changes_the_classes_that_it_has(root, tmp_path, capsys, name, source):
    flags = ("--workdir", root / name, "--out", tmp_path / "run", *MERGE)
    assert outcome(classes.main, capsys, *flags)[0] == 0
    new_config, data = read_run(tmp_path / "run")
    assert new_config.data.source == source
    assert data["classes"] == ["round", "one", "2", "four"]
    before = softmax(from_run(root / name)(IMAGES)[0])
    after = softmax(from_run(tmp_path / "run")(IMAGES)[0])
    sums = np.stack([before[:, members].sum(1) for members in MEMBERS], 1)
    np.testing.assert_allclose(after, sums, atol=1e-6)
    ours = read_division(tmp_path / "run/splits.csv.gz")
    for split, members in read_division(root / name / "splits.csv.gz").items():
        assert ours[split].names.tolist() == members.names.tolist()


def test_the_result_is_evaluated_on_the_images_of_all(root, tmp_path, capsys):
    quick = [f"--config.evaluation.{flag}" for flag in (*QUICK, "explain=false")]
    out = tmp_path / "run"
    assert outcome(classes.main, capsys, f"--workdir={root}/second", f"--out={out}", *MERGE)[0] == 0
    reports = []
    for directory in (root / "second", out):
        code, _, err = outcome(evaluation.main, capsys, "--workdir", directory, *quick)
        assert code == 0, err
        reports.append(read_json(directory / "evaluation/metrics.json", dict))
    old, new = reports
    assert old["data"]["images"] == new["data"]["images"]
    assert new["metrics"]["accuracy"]["value"] >= old["metrics"]["accuracy"]["value"]
    support = {row["class"]: row["support"] for row in old["per_class"]}
    merged = {row["class"]: row["support"] for row in new["per_class"]}
    assert merged["round"] == support["0"] + support["3"] and merged["four"] == support["4"]


def test_a_class_that_is_split_keeps_its_name_in_the_source():
    """No file says which of its images are of which part."""
    changes = read_changes(tuple("01234"), {"split": ["3=a,b"], "rename": ["0=zero"]})
    source = changes.source("digits?classes=0,1 + digits?classes=2,3,4")
    assert source == "digits?classes=0,1&rename=0:zero + digits?classes=2,3,4"


def test_a_source_that_is_gone(root, tmp_path, capsys):
    """The classes of each of several sources have to be read."""
    changes = read_changes(tuple("01234"), {"rename": ["0=zero"]})
    c, _ = read_run(root / "second")
    gone = c.data.source.replace("digits?classes=3,4", "folder:gone")

    def change(argv):
        changes.source(gone)

    assert "gone" in refusal(change, capsys)
