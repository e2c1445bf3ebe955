"""The DVC pipeline as its guide has it: from digits to weights, a changed parameter, the store, and
an old version."""

import csv
import json
import sys

import pytest

from tests.support.dvc import dvc_bin, repository, stages  # noqa: F401

PIPELINE = "scripts/dvc/dvc.yaml"
PARAMS = "scripts/dvc/params.yaml"
TINY = (
    "--config.model.name=vit --config.model.variant=mu/4 --config.augment.affine=false "
    "--config.parallel.devices=1 --config.train.eval_every=5 --config.log.every=1"
)


@pytest.fixture(scope="module")
def here(dvc_bin, tmp_path_factory):  # noqa: F811
    """A function that runs a command in a Git repository of this code, with small settings, and
    returns its output."""
    root = tmp_path_factory.mktemp("clone")
    run = repository(root, dvc_bin)
    text = (root / PARAMS).read_text()
    changes = {
        ".venv/bin/python": sys.executable,
        "mnist5k  #": "digits  #",
        "configs/vit_mnist5k.py": "configs/digits.py",
    }
    changes |= {
        "epochs: 40.0": "epochs: 0.5",
        '  flags: ""  # further': f'  flags: "{TINY}"  # further',
    }
    changes['evaluate:\n  flags: ""'] = (
        'evaluate:\n  flags: "--config.evaluation.corruptions=false"'
    )
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (root / PARAMS).write_text(text)
    return run


def commit(here, message):
    here("git", "add", ".")
    here("git", "commit", "-q", "-m", message)
    here("git", "tag", message)


def test_the_pipeline_and_its_versions(here):
    pipeline = here.root / "pipeline"
    first = here("dvc", "repro", PIPELINE)
    assert stages(first) == ["pack", "audit", "train", "evaluate", "export"]
    assert (pipeline / "weights" / "model.safetensors").is_file() and (
        pipeline / "audit" / "report.html"
    ).is_file()
    here("dvc", "push")
    commit(here, "v1")
    old = (
        (pipeline / "plots" / "test.json").read_text(),
        (pipeline / "run" / "result.json").read_text(),
    )
    with open(pipeline / "plots" / "confusion.csv") as file:
        rows = list(csv.DictReader(file))
    right = sum(row["actual"] == row["predicted"] for row in rows) / len(rows)
    assert right == pytest.approx(json.loads(old[0])["accuracy"])

    assert stages(here("dvc", "repro", PIPELINE)) == []
    text = (here.root / PARAMS).read_text()
    (here.root / PARAMS).write_text(text.replace("learning_rate: 0.002", "learning_rate: 0.02"))
    assert stages(here("dvc", "repro", PIPELINE)) == ["train", "evaluate", "export"]
    changed = json.loads(here("dvc", "metrics", "diff", "--json"))
    assert changed["pipeline/plots/test.json"]["loss"]["diff"] != 0
    here("dvc", "plots", "diff")
    page = (here.root / "dvc_plots" / "index.html").read_text()
    assert page.count("var spec = ") == 3 and "val.csv" in page
    here("dvc", "push")
    commit(here, "v2")

    other = here.root.parent / "other"  # another machine, and the old version
    here("git", "clone", "-q", "--branch", "v1", str(here.root), str(other))
    here("dvc", "pull", cwd=other)
    pulled = other / "pipeline"
    assert old == (
        (pulled / "plots" / "test.json").read_text(),
        (pulled / "run" / "result.json").read_text(),
    )
    assert stages(here("dvc", "repro", PIPELINE, cwd=other)) == []


def test_images_of_ones_own_come_and_go(here):
    """`dvc add`, as the guide says; the pipeline itself is above."""
    photos = here.root / "photos"
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(name.encode())
    here("dvc", "add", "photos")
    commit(here, "data-1")
    (photos / "a" / "2.png").unlink()
    here("dvc", "add", "photos")
    commit(here, "data-2")
    here("git", "checkout", "data-1", "photos.dvc")
    here("dvc", "checkout", "photos.dvc")
    assert sorted(file.name for file in photos.rglob("*.png")) == ["1.png", "1.png", "2.png"]
