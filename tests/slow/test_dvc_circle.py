"""The way back as DVC stages: collected, labeled by hand, learned from, judged, exported."""

import json
import sys

import pytest
import yaml

from tests.support.dvc import dvc_bin, repository, stages  # noqa: F401
from tests.support.served import TRAINING_FLAGS, label, write_served

PIPELINE = "scripts/dvc/circle/dvc.yaml"
PARAMS = "scripts/dvc/circle/params.yaml"


@pytest.fixture(scope="module")
def here(dvc_bin, tmp_path_factory):  # noqa: F811
    """A function that runs a command in a Git repository of this code, with a run, its bundle, and
    the log of a server that was asked about darker photos."""
    root = tmp_path_factory.mktemp("clone")
    run = repository(root, dvc_bin)
    write_served(root)
    write_params(root)
    return run


def write_params(root, flags="--max-loss old=1 --min-gain new=-1"):
    params = yaml.safe_load((root / PARAMS).read_text())
    params["python"] = sys.executable
    params["served"] = {"run": "run", "bundle": "models/pets/1"}
    params["collect"] |= {"log": "log", "count": 40, "flags": "--window 60"}
    params["retrain"]["flags"] = TRAINING_FLAGS
    params["gate"] = {"old": "folder:photos", "new": "folder:tests", "files": "tests"}
    params["gate"]["flags"] = flags
    (root / PARAMS).write_text(yaml.safe_dump(params))


def test_the_way_back(here):
    circle = here.root / "pipeline" / "circle"
    output = here("dvc", "repro", PIPELINE, fails=True)  # nobody has labeled
    assert stages(output) == ["collect"] and "labels/round-1.csv" in output
    assert stages(here("dvc", "repro", f"{PIPELINE}:collect")) == []
    assert len(list((circle / "to_label" / "images").iterdir())) == 40
    label(here.root, circle / "to_label", here.root / "labels" / "round-1.csv")

    write_params(here.root, "--min-gain new=1")  # which no model keeps
    output = here("dvc", "repro", PIPELINE, fails=True)
    assert stages(output) == ["label", "retrain", "gate"]
    assert "must not replace" in (circle / "gate" / "gate.md").read_text()
    assert not (circle / "bundle").exists()

    write_params(here.root)
    assert stages(here("dvc", "repro", PIPELINE)) == ["gate", "export"]
    assert json.loads((circle / "gate" / "gate.json").read_text())["passed"]
    assert (circle / "bundle" / "bundle.json").is_file()
    assert len((circle / "labeled" / "labeled.csv").read_text().splitlines()) == 41
    assert stages(here("dvc", "repro", PIPELINE)) == []
    here("dvc", "push")
    here("git", "add", ".")
    staged = here("git", "diff", "--cached", "--name-only").splitlines()
    assert {
        "labels/round-1.csv",
        "pipeline/circle/gate/gate.md",
        "scripts/dvc/circle/dvc.lock",
    } <= {*staged}
    of_dvc = ("to_label", "labeled", "run", "bundle")
    assert [
        name for name in staged if name.startswith(tuple(f"pipeline/circle/{d}/" for d in of_dvc))
    ] == []
