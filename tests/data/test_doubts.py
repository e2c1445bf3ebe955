"""Folders that may not be the classes that are meant: a finding says so, or an error."""

import io
import os

import pytest
from PIL import Image

from vision.data.__main__ import main
from vision.data.sources import open_splits
from vision.data.splits import make_splits
from vision.errors import UserError


def write(root, *folders):
    """Writes two images into each folder."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(2):
            (root / folder / f"{number}.png").write_bytes(file.getvalue())
    return f"folder:{root}"


def findings(spec):
    return {(f.kind, f.name, f.detail) for f in next(iter(open_splits(spec).values())).findings}


def test_classes_that_consist_of_folders(tmp_path):
    kind = "classes contain subfolders, which do not become classes"
    spec = write(tmp_path / "sides", "left/a", "left/b", "right/c")
    assert findings(spec) == {(kind, "left", "a, b"), (kind, "right", "c")}
    assert findings(f"{spec}?level=1") == set()
    assert findings(write(tmp_path / "mixed", "cat", "dog", "dog/young")) == set()


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("unlabeled", ""),
        ("New Folder (2)", ""),
        ("_thumbs", ""),
        ("cat - Copy", "a copy of 'cat'?"),
        ("cat (1)", "a copy of 'cat'?"),
    ],
)
def test_names_that_are_no_classes(tmp_path, name, detail):
    spec = write(tmp_path, "cat", "dog", name)
    kind = "folders are used as classes, although their names do not look like classes"
    assert findings(spec) == {(kind, name, detail)}


def test_links_to_other_folders(tmp_path):
    spec = write(tmp_path, "cat", "dog")
    os.symlink("cat", tmp_path / "kitty")
    os.symlink("..", tmp_path / "dog" / "up")
    assert findings(spec) == {
        ("folders appear twice, because of a link", f"{tmp_path}/kitty", f"as {tmp_path}/cat"),
        ("links to their own parent folders are left out", f"{tmp_path}/dog/up", ""),
    }


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ([""], "has no images in class folders"),
        (["trainA", "trainB", "testA", "testB"], "move testA to test/a"),
        (["train_cat", "train_dog", "test_cat"], "move test_cat to test/cat"),
        (["cat", "dog", "backup/cat", "backup/dog", "backup/owl"], "'cat', 'dog' both in 'backup'"),
        (["cat", "cat/thumbs", "dog", "dog/thumbs"], "if the folders 'thumbs' are not wanted"),
        (["tr/cat", "tr/dog", "te/cat", "te/dog"], "call them train, val and test"),
        (["train/cat", "train/dog", "essai/cat"], "If 'essai' is a split too, call it train"),
    ],
)
def test_layouts_that_are_refused(tmp_path, folders, message):
    with pytest.raises(UserError, match=message):
        open_splits(write(tmp_path, *folders))


def test_splits_that_share_no_class(tmp_path, capsys):
    spec = write(tmp_path, "train/0_cat", "train/1_dog", "test/cat", "test/dog")
    with pytest.raises(UserError, match=r"test split .* has none of the classes of train"):
        make_splits(open_splits(spec))
    write(tmp_path, "test/0_cat")
    main(["info", spec])
    assert "note: 2 classes are in test but not in train: cat: 2 images" in capsys.readouterr().out


def test_the_terminal_obeys_no_name(tmp_path, capsys):
    main(["info", write(tmp_path, "cat", "\x1b[31mred", "line\nfeed")])
    page = capsys.readouterr().out
    assert "\x1b" not in page and "\\x1b[31mred" in page and "line\\nfeed" in page


def test_tables_of_other_programs(tmp_path):
    write(tmp_path, "cat", "dog")
    table = tmp_path / "t.csv"
    table.write_text("path|label\ncat/0.png|cat\ndog/0.png|dog\n")
    assert open_splits(f"csv:{table}")["all"].classes == ("cat", "dog")
    table.write_bytes(b"PK\x03\x04" + bytes(50))
    with pytest.raises(UserError, match="a workbook or an archive: save the table as 'CSV UTF-8'"):
        open_splits(f"csv:{table}")
