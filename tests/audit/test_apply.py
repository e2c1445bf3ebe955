"""What --apply writes is what the trainer reads, and what a person decided is what is done."""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest

from tests.audit.planting import digests
from tests.audit.test_scan import open_images
from vision import cli
from vision.audit import apply
from vision.audit.__main__ import main
from vision.audit.images import Images
from vision.audit.issues import Issue, write_issues
from vision.config import default
from vision.data.pipeline import named_splits
from vision.data.sources import open_splits
from vision.errors import UserError

pytestmark = pytest.mark.long


def read(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def test_the_cleaned_table_is_what_is_left(planted, audited):
    splits = open_splits(f"csv:{audited}/cleaned.csv")
    names = [
        Path(source.name(i)).resolve() for source in splits.values() for i in range(len(source))
    ]
    dropped = {
        Path(row["file"]).resolve()
        for row in read(audited / "issues.csv")
        if row["action"] == "drop"
    }
    everything = {Path(name).resolve() for name in planted.digests}
    assert len(dropped) == len(planted.exact) + len(planted.near) + 3
    assert set(names) == everything - dropped and len(set(names)) == len(names)
    for split, source in splits.items():
        assert "Scratches" not in source.classes
        for i in range(len(source)):
            label = Path(source.name(i)).parent.name
            assert (
                source.classes[source.labels[i]] == label.lower()
                and Path(source.name(i)).parents[1].name == split
            )
            source[i]  # can be read
    assert digests(planted.root) == planted.digests  # the originals are as they were


def decided(tmp_path, images, changes, **options):
    """Writes an issues.csv with actions, {row: action}; returns its name."""
    write_issues(
        tmp_path / "edited.csv",
        [Issue(row, "wrong_label", 1, "", a) for row, a in changes.items()],
        images,
    )
    return str(tmp_path / "edited.csv")


def test_a_class_that_vanishes_is_named(tmp_path, capsys):
    images = open_images("digits")
    threes = [i for i in range(len(images)) if images.class_of(i) == "3"]
    changes = {i: "drop" for i in threes if images.split_of(i) == "train"}
    file = decided(tmp_path, images, changes)
    cli.run(main, ["--data=digits", f"--out={tmp_path}", "--apply", f"--decisions={file}"])
    assert "classes left without images in train: 3" in capsys.readouterr().out


def test_decisions_mend_flipped_labels_of_arrays(tmp_path):
    spec = "digits?flip_labels=0.1"
    noisy = open_images(spec)
    clean = open_images("digits")
    wrong = np.flatnonzero(noisy.labels != clean.labels)
    assert len(wrong) > 100
    file = decided(
        tmp_path, noisy, {int(row): f"relabel:{clean.class_of(row)}" for row in wrong} | {3: "drop"}
    )
    cli.run(main, [f"--data={spec}", f"--out={tmp_path}", "--apply", f"--decisions={file}"])
    again = open_images(f"csv:{tmp_path}/cleaned.csv")
    assert again.classes == clean.classes and len(again) == len(clean) - 1
    assert again.labels.tolist() == np.delete(clean.labels, 3).tolist()
    assert again.split.tolist() == np.delete(clean.split, 3).tolist()
    for row in range(0, len(again), 97):
        np.testing.assert_array_equal(again.image(row), clean.image(row + (row >= 3)))


def test_a_cleaned_table_can_be_cleaned_in_its_place(tmp_path):
    images = open_images("digits")
    for n, row in enumerate((5, 8)):
        spec = f"csv:{tmp_path}/cleaned.csv" if n else "digits"
        file = decided(tmp_path, open_images(spec), {row: "drop"})
        cli.run(main, [f"--data={spec}", f"--out={tmp_path}", "--apply", f"--decisions={file}"])
    again = open_images(f"csv:{tmp_path}/cleaned.csv")
    assert again.labels.tolist() == np.delete(images.labels, [5, 9]).tolist()
    assert {row["source"] for row in read(tmp_path / "cleaned.csv")} == {"digits"}  # not itself


def test_a_val_that_test_stands_in_for_is_left_out(planted):

    opened = open_splits(f"folder:{planted.root}")
    del opened["val"]
    c = default().data
    c.source = f"folder:{planted.root}?flip_labels=0.1"
    c.val_fraction = 0.0
    images = Images(named_splits(c, 0, opened)[0], opened, c.source)
    assert images.names == ("train", "test") and len(images) == len(opened["train"]) + len(
        opened["test"]
    )


def test_actions_follow_the_config_and_spare_tests_labels():
    images = open_images("digits")
    test = int(np.flatnonzero(images.split == 2)[0])
    issues = [
        Issue(row, kind, 1, "", "drop")
        for row, kind in itertools.product((0, test), ("blank", "wrong_label"))
    ]
    settled = apply.settle(images, issues, "blank, wrong_label")
    assert [issue.action for issue in settled] == ["drop", "drop", "drop", ""]
    assert [issue.action for issue in apply.settle(images, issues, "")] == [""] * 4
    with pytest.raises(UserError, match="audit.apply = 'blanc' is unknown .did you mean 'blank'"):
        apply.settle(images, issues, "blanc")


def test_dropping_comes_first_and_right_labels_are_spelled_right(tmp_path):
    images = open_images("digits")
    ones = np.flatnonzero(images.labels == 1).tolist()
    decisions = [apply.Decision(row, "spelling", "relabel:7") for row in ones]
    decisions += [
        apply.Decision(0, "wrong_label", "relabel:1"),
        apply.Decision(ones[0], "wrong_label", "relabel:3"),
    ]
    decisions += [apply.Decision(ones[1], "duplicate", "drop")]
    said = apply.apply(images, decisions, tmp_path / "cleaned.csv")
    left = len(ones) - 2
    assert said[1:] == [
        "dropped: 1 (1 duplicate)",
        f"relabeled: {left + 2} ({left} spelling, 2 wrong_label)",
    ]
    rows = read(tmp_path / "cleaned.csv")
    assert rows[0]["label"] == "7" and "1" not in {row["label"] for row in rows}


@pytest.mark.parametrize(
    "line, message",
    [
        (
            "digits[0],train,0,blank,1,,,delete",
            "line 2: action is 'delete', which must be empty, drop",
        ),
        ("digits[0],train,0,blank,1,,,relabel:", "line 2: action is 'relabel:'"),
        ("digits[0],train,0,blank,1,,,relabel:ten", "line 2: the class = 'ten' is unknown"),
        ("digits[9999],train,0,blank,1,,,drop", "line 2: digits[9999] is not an image of train"),
    ],
)
def test_wrong_decisions_are_named_and_lose_nothing(tmp_path, line, message):
    (tmp_path / "edited.csv").write_text(
        f"file,split,label,kind,score,other,suggestion,action\n{line}\n"
    )
    (tmp_path / "cleaned.csv").write_text("before")
    images = open_images("digits")
    with pytest.raises(UserError) as error:
        apply.apply(
            images, apply.read_decisions(tmp_path / "edited.csv", images), tmp_path / "cleaned.csv"
        )
    assert message in str(error.value) and (tmp_path / "cleaned.csv").read_text() == "before"


def test_a_split_is_never_emptied(tmp_path):
    images = open_images("digits")
    test = [apply.Decision(int(row), "blank", "drop") for row in np.flatnonzero(images.split == 2)]
    with pytest.raises(UserError, match="no image in test"):
        apply.apply(images, test, tmp_path / "cleaned.csv")
    assert not list(tmp_path.iterdir())
