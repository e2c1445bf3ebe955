"""A bundle's list of its run's images is read back as it was, and refused if it was changed."""

import json
import shutil

import numpy as np
import pytest

from tests.support.tiny_bundle import write_bundle
from vision.bundle import directory as bundle
from vision.data.division import Members, describe, write_division
from vision.data.recall import Past
from vision.errors import UserError

DIVISION = {
    split: Members(*(np.array(column, object) for column in columns))
    for split, columns in {
        "train": (["a/1.png", "b/2.png", "b/\udce9.png"], ["a", "b", "b"]),
        "val": (["a/3.png"], ["a"]),
        "test": (["a/4.png"], ["a"]),
    }.items()
}


@pytest.fixture
def listed(tmp_path):
    """The directory of a bundle that lists the images of a run."""
    run = tmp_path / "run"
    run.mkdir()
    write_division(run / "splits.csv.gz", DIVISION)
    (tmp_path / "bundle").mkdir()
    splits = bundle.write_splits(tmp_path / "bundle", Past(run, describe(DIVISION)))
    shutil.rmtree(run)
    return write_bundle(tmp_path / "bundle", splits=splits)


def test_the_list_is_that_of_the_run(listed):
    past = bundle.open_bundle(listed).past
    assert past.agrees(DIVISION)
    assert past.agrees(past.read())
    assert bundle.open_bundle(write_bundle(listed.with_name("older"))).past is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda splits, digests: splits.update(test=3), "splits"),
        (lambda splits, digests: splits["test"].update(images=-1), "splits"),
        (lambda splits, digests: digests.pop("splits.csv.gz"), "must list splits.csv.gz"),
        (lambda splits, digests: digests.update({"splits.csv.gz": "0"}), "has changed since"),
    ],
)
def test_a_list_that_was_changed_is_refused(listed, change, message):
    contents = json.loads((listed / "bundle.json").read_text())
    change(contents["splits"], contents["sha256"])
    (listed / "bundle.json").write_text(json.dumps(contents))
    with pytest.raises(UserError, match=message):
        bundle.open_bundle(listed)
