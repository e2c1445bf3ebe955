"""Groups stay in one split, of every kind of source that has columns or paths."""

import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from vision.config import default
from vision.data.identity import base_of
from vision.data.pack import open_parts, pack
from vision.data.pipeline import named_splits
from vision.data.sources import open_splits
from vision.errors import UserError


def divide(spec, **options):
    """Returns ({split: source}, findings)."""
    c = default().data
    c.source = spec
    c.update(options)
    return named_splits(c, 0)


def groups_of(splits):
    """Returns {split: set of groups}; checks that no group is in two."""
    groups = {}
    for name, split in splits.items():
        base, rows = base_of(split)
        groups[name] = set(base.group_names[rows])
    return groups


def assert_whole(splits, count):
    groups = groups_of(splits)
    assert all(groups.values()) and sum(map(len, groups.values())) == count
    assert len(set().union(*groups.values())) == count
    return groups


@pytest.fixture
def photos(tmp_path):
    """10 patients of each of two classes, of 6 photos each."""
    for patient in range(20):
        for i in range(6):
            folder = tmp_path / "photos" / ("sick" if patient % 2 else "well") / f"p{patient:02}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("L", (2, 2), 12 * patient + i).save(folder / f"v{patient % 10}_{i}.png")
    return tmp_path / "photos"


def test_folders_and_patterns(photos):
    assert_whole(divide(f"folder:{photos}?group=folder:1")[0], 20)
    assert_whole(divide(f"folder:{photos}?group=folder:-1")[0], 20)
    assert_whole(divide(f"folder:{photos}?group=regex:/v(\\d+)_")[0], 10)
    assert_whole(divide(f"folder:{photos}?group=regex:(p\\d+)/x?v")[0], 20)
    for patient in range(0, 20, 5):  # those of several classes
        folder = photos / ("well" if patient % 2 else "sick") / f"p{patient:02}"
        folder.mkdir()
        Image.new("L", (2, 2)).save(folder / "v1_9.png")
    assert_whole(divide(f"folder:{photos}?group=folder:1&level=1")[0], 20)
    by_position, _ = divide(f"folder:{photos}?group=folder:1&level=1", split_by="position")
    assert_whole(by_position, 20)


def test_one_more_photo_of_a_group_joins_it(photos):
    before = groups_of(divide(f"folder:{photos}?group=folder:1")[0])
    for name in ("sick/p03/new.png", "well/p20/new.png"):
        (photos / name).parent.mkdir(exist_ok=True)
        Image.new("L", (2, 2)).save(photos / name)
    after = groups_of(divide(f"folder:{photos}?group=folder:1")[0])
    assert {name: groups - {"p20"} for name, groups in after.items()} == before


def test_changes_and_draws_keep_groups(photos):
    for more in ("&imbalance=2", "&flip_labels=0.2&seed=1"):
        splits, _ = divide(f"folder:{photos}?group=folder:1{more}")
        groups = groups_of(splits)
        assert not groups["train"] & groups["test"] and not groups["train"] & groups["val"]


def test_columns_of_tables(photos, tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    files = sorted(photos.rglob("*.png"))
    patients = [path.parent.name for path in files]
    labels = [path.parts[-3] for path in files]
    lines = [
        f"{os.path.relpath(path, tmp_path)},{label},{patient}"
        for path, label, patient in zip(files, labels, patients, strict=True)
    ]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,patient", *lines]))
    csv_groups = assert_whole(divide(f"csv:{tmp_path}/table.csv?group=patient")[0], 20)
    columns = {"image": [p.read_bytes() for p in files], "label": labels, "patient": patients}
    pq.write_table(pa.table(columns), tmp_path / "table.parquet", row_group_size=50)
    assert assert_whole(divide(f"parquet:{tmp_path}/table.parquet?group=patient")[0], 20) == (
        csv_groups
    )
    numbers = np.array([int(patient[1:]) for patient in patients])
    images = np.zeros((len(files), 2, 2), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array(labels), fields_patient=numbers)
    assert_whole(divide(f"arrays:{tmp_path}/a.npz?group=patient")[0], 20)
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["sick", "well"]),
            "patient": datasets.Value("string"),
        }
    )
    table = datasets.Dataset.from_dict(columns | {"image": [str(p) for p in files]}, features)
    table.save_to_disk(str(tmp_path / "hub"))
    assert assert_whole(divide(f"hf:{tmp_path}/hub?group=patient")[0], 20) == csv_groups


def test_groups_that_a_source_divides_are_found(photos):
    for split in ("train", "test"):
        (photos.parent / "own" / split).mkdir(parents=True)
    os.symlink(photos / "sick", photos.parent / "own/train/sick")
    os.symlink(photos / "well", photos.parent / "own/train/well")
    for label in ("sick", "well"):
        folder = photos.parent / "own/test" / label / "p03"
        folder.mkdir(parents=True)
        Image.new("L", (2, 2)).save(folder / "again.png")
    Image.new("L", (2, 2)).save(photos / "sick/alone.png")
    splits, findings = divide(f"folder:{photos.parent}/own?group=folder:1")
    by_kind = {finding.kind: finding for finding in findings}
    divided = by_kind["groups are in several splits of the source, which inflates test results"]
    assert (divided.name, divided.detail) == ("p03", "test, train")
    alone = by_kind["images belong to no group and are split one by one"]
    assert alone.name.endswith("alone.png")
    groups = groups_of(splits)
    assert not (groups["train"] & groups["val"]) - {""}


def test_a_pack_divides_as_its_source(photos, tmp_path):
    for option in ("", "?group=folder:1"):
        c = default()
        c.data.source = f"folder:{photos}{option}"
        out = tmp_path / f"packed{len(option)}"
        pack(c.data.source, open_parts(c.data, 0), out)
        theirs, _ = divide(c.data.source)
        ours, _ = divide(f"packed:{out}")
        for name in theirs:
            assert [theirs[name].name(i) for i in range(len(theirs[name]))] == [
                ours[name].name(i) for i in range(len(ours[name]))
            ]
    assert_whole(divide(f"packed:{tmp_path}/packed0?group=folder:1")[0], 20)


def test_objects_of_one_photo_stay_together(tmp_path):
    for i in range(40):
        Image.new("L", (8, 8)).save(tmp_path / f"{i}.png")
        objects = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{x}</xmin><ymin>1</ymin><xmax>{x + 2}</xmax>"
            "<ymax>5</ymax></bndbox></object>"
            for x, name in ((1, "a"), (3, "b"), (5, "a"))
        )
        (tmp_path / f"{i}.xml").write_text(
            f"<annotation><filename>{i}.png</filename>{objects}</annotation>"
        )
    splits, _ = divide(f"voc:{tmp_path}?boxes=crop")
    photos = [
        {split.name(i).partition("#")[0] for i in range(len(split))} for split in splits.values()
    ]
    assert sum(map(len, photos)) == len(set().union(*photos)) == 40


@pytest.mark.parametrize(
    ("source", "value", "message"),
    [
        ("folder:{}", "patient", "is not a column of this source .it has no columns.: give"),
        ("folder:{}", "folder:0", "needs a number"),
        ("folder:{}", "folder:4", "finds no group for any image: a path is"),
        ("folder:{}", "regex:p(", "is not a regular expression"),
        ("folder:{}", "regex:p\\d+", "needs parentheses"),
        ("digits", "folder:1", "needs paths, but the images of this source have none"),
        ("csv:{}/../t.csv", "patients", "its columns are patient"),
    ],
)
def test_mistakes(photos, source, value, message):
    names = [str(path.relative_to(photos.parent)) for path in photos.rglob("*.png")]
    rows = [f"{name},{name.split('/')[1]},1" for name in names]
    pathlib.Path(photos.parent, "t.csv").write_text("\n".join(["path,label,patient", *rows]))
    with pytest.raises(UserError, match=message):
        open_splits(f"{source.format(photos)}?group={value}")
