"""Texts, fields and columns of joined sources, of which some lack what others have."""

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

from vision.config import default
from vision.data.beside import NO_FIELD, NO_TEXT, without_column
from vision.data.captions import captions_of, tokenize
from vision.data.columns import parse, read
from vision.data.fields import LACKING, add_fields
from vision.data.sources import open_splits
from vision.data.splits import Joined, make_splits
from vision.data.subset import Subset
from vision.errors import UserError
from vision.evaluation.measures import slices

SITES = ("north", "south", "")


def write_images(folder, count):
    """Writes images of cats and dogs, and returns their files."""
    files = [folder / ("cat", "dog")[i % 2] / f"{i}.png" for i in range(count)]
    for i, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), np.full((8, 8, 3), i, np.uint8))
    return files


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """A table of 12 images with sites, ages and titles, joined to a folder of 8."""
    root = tmp_path_factory.mktemp("beside")
    write_images(root / "folder", 8)
    lines = ["path,label,site,age,title"]
    for i, file in enumerate(write_images(root / "table", 12)):
        path = file.relative_to(root)
        lines.append(f"{path},{file.parent.name},{SITES[i % 3]},{i},title {i}")
    (root / "table.csv").write_text("\n".join(lines))
    return f"csv:{root}/table.csv?text=title + folder:{root}/folder"


def test_slices_have_the_columns_of_either_source(joined):
    source = open_splits(joined)["all"]
    columns = slices.columns_of(source, np.arange(20))
    assert list(columns) == ["site", "age", "title"]
    assert columns["site"] == [*(4 * SITES), *([""] * 8)]
    rows = [19, 1, 12, 0]
    assert slices.columns_of(Subset(source, rows), np.arange(4))["age"] == ["", "1", "", "0"]
    names, place = slices.category(columns["site"])
    assert dict(zip(names, np.bincount(place), strict=True)) == {
        "(empty)": 12,
        "north": 4,
        "south": 4,
    }
    for split in make_splits({"all": source}).values():
        sites = slices.columns_of(split, np.arange(len(split)))["site"]
        in_folder = ["/folder/" in split.name(i) for i in range(len(split))]
        assert not any(site for site, lacks in zip(sites, in_folder, strict=True) if lacks)


def test_columns_of_a_model_are_missing_where_the_source_has_none(joined):
    source = open_splits(joined)["all"]
    cells = read(source, parse("site,age"), joined)
    assert cells["age"] == [*map(str, range(12)), *([""] * 8)]
    assert without_column(Subset(source, [3, 15, 4, 12]), "age").tolist() == [1, 3]
    config = default()
    config.data.columns = "site,age"
    encoded = add_fields(config, {"train": source}, None, learns=True)
    fields = encoded.splits["train"].fields
    assert np.isnan(fields["numbers"][:, 0]).tolist() == 12 * [False] + 8 * [True]
    assert fields["categories"][:, 0].tolist() == 4 * [1, 2, 0] + 8 * [0]
    lacking = [finding for finding in encoded.findings if finding.kind == LACKING]
    assert [finding.detail for finding in lacking] == 8 * ["age"] + 8 * ["site"]
    with pytest.raises(UserError, match=r"has no column 'ward'.*its columns are site, age, title"):
        read(source, ["ward"], joined)


def test_captions_stay_where_there_are_some(joined):
    source = open_splits(joined)["all"]
    assert source.texts.tolist() == [*(f"title {i}" for i in range(12)), *([None] * 8)]
    assert [f.name for f in source.findings if f.kind == NO_TEXT] == ["source 2"]
    text = ConfigDict({"templates": "", "tokenizer": "bpe", "vocabulary": 300, "context": 8})
    assert captions_of(text, "train", source, 0).tolist()[11:] == ["title 11", *([""] * 8)]
    captioned = tokenize(text, {"train": source, "memory": Subset(source, [12, 13])}, 0, None)
    ids = captioned.splits["train"].fields["text"]
    assert (ids != 0).any(1).tolist() == 12 * [True] + 8 * [False]
    assert "text" not in captioned.splits["memory"].fields
    text.templates = "a {}"
    texts = captions_of(text, "train", source, 0).tolist()
    assert texts[11:] == ["title 11", *(f"a {source.classes[i]}" for i in source.labels[12:])]


def test_fields_of_arrays_are_nan_or_zero_where_there_are_none(tmp_path):
    arrays = {"images": np.zeros((6, 8, 8), np.uint8), "labels": np.arange(6) % 2}
    numbers = {"fields_age": np.linspace(1, 2, 6), "fields_ids": np.ones((6, 2), np.int64)}
    np.savez(tmp_path / "with.npz", **arrays, **numbers)
    np.savez(tmp_path / "without.npz", **arrays)
    names = [f"arrays:{tmp_path}/{name}.npz" for name in ("with", "without")]
    source = open_splits(" + ".join(names))["all"]
    assert np.isnan(source.fields["age"]).tolist() == 6 * [False] + 6 * [True]
    assert source.fields["ids"].dtype == np.int64
    assert source.fields["ids"].tolist() == 6 * [[1, 1]] + 6 * [[0, 0]]
    missing = [(f.name, f.detail) for f in source.findings if f.kind == NO_FIELD]
    assert missing == [("age", "not in source 2"), ("ids", "not in source 2")]
    assert source.column_names() == ["age"] and source.column_values("age")[5:7] == [2.0, ""]
    parts = [open_splits(name)["all"] for name in names]
    assert set(Joined(parts[::-1]).fields) == {"age", "ids"}
    np.savez(tmp_path / "wide.npz", **arrays, fields_ids=np.ones((6, 3), np.int64))
    with pytest.raises(UserError, match=r"'ids' has the shape \(2,\) for some images and \(3,\)"):
        open_splits(f"{names[0]} + arrays:{tmp_path}/wide.npz")
