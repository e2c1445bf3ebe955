"""Splits drawn by name: no file moves another, groups stay whole, shares are kept on average."""

import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from vision.config import default
from vision.data.draw import draw
from vision.data.pipeline import named_splits
from vision.data.sources import open_splits
from vision.data.splits import make_splits
from vision.errors import UserError

FRACTIONS = (0.7, 0.2, 0.1)
FROZEN = [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 1, 0, 1, 0, 1, 0, 0, 0]


def names(count, start=0):
    return np.array([f"image a/{i}.jpg" for i in range(start, start + count)], object)


def split_of(units, labels, fractions=FRACTIONS, seed=0):
    """Returns {unit: split}."""
    parts = draw(units, np.asarray(labels), fractions, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(units)))
    return {units[i]: split for split, part in enumerate(parts) for i in part}


@pytest.mark.parametrize("seed", range(3))
def test_adding_removing_and_renaming_moves_no_other(seed):
    units = names(600)
    labels = np.arange(600) % 3
    before = split_of(units, labels, seed=seed)
    random = np.random.RandomState(seed)
    for _ in range(20):
        kept = np.sort(random.permutation(600)[: random.randint(500, 600)])
        units_now = np.concatenate([units[kept], names(random.randint(0, 50), 1000)])
        order = random.permutation(len(units_now))
        labels_now = np.concatenate([labels[kept], np.zeros(len(units_now) - len(kept), int)])
        now = split_of(units_now[order], labels_now[order], seed=seed)
        assert all(before[unit] == now[unit] for unit in now.keys() & before.keys())


def test_shares_are_kept_on_average_and_seeds_differ():
    counts = [
        np.bincount([*split_of(names(2000), np.zeros(2000, int), seed=seed).values()])
        for seed in range(20)
    ]
    expected = 2000 * np.array(FRACTIONS)
    spread = np.sqrt(expected * (1 - np.array(FRACTIONS)))
    assert (np.abs(np.array(counts) - expected) < 4.5 * spread).all()
    assert (np.abs(np.mean(counts, 0) - expected) < 4.5 * spread / np.sqrt(20)).all()
    first, second = (split_of(names(2000), np.zeros(2000, int), seed=seed) for seed in (1, 2))
    same = np.mean([first[unit] == second[unit] for unit in first])
    assert abs(same - np.square(FRACTIONS).sum()) < 0.06


def test_the_places_are_frozen():
    # Another machine or version must not move an image from test to train.
    splits = split_of(names(20), np.zeros(20, int), seed=1)
    assert [*map(splits.get, names(20))] == FROZEN


def test_tiny_classes_are_in_every_split_that_they_can_be_in():
    labels = np.repeat(np.arange(40), np.tile([1, 2, 3, 4, 10], 8))
    units = names(len(labels))
    for seed in range(10):
        parts = draw(units, labels, FRACTIONS, seed)
        counts = np.stack([np.bincount(labels[part], minlength=40) for part in parts], 1)
        totals = counts.sum(1)
        assert (counts[:, 0] >= 1).all() and (counts[totals >= 3] >= 1).all()


def test_groups_stay_whole_even_if_a_class_lends_one():
    random = np.random.RandomState(0)
    groups = np.array([f"group {i}" for i in random.randint(0, 30, 300)], object)
    labels = random.randint(0, 6, 300)
    for seed in range(10):
        parts = draw(groups, labels, FRACTIONS, seed)
        sets = [set(groups[part]) for part in parts]
        assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
        assert sum(map(len, parts)) == 300 and all(map(len, parts))


def photos(root, *folders, count=12):
    for folder in folders:
        for i in range(count):
            path = pathlib.Path(root, folder, f"{folder[0]}{i:02}_{i % 3}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (2, 2), 9 * i).save(path)
    return root


def members(spec, **options):
    """Returns {split: {path below the folder}}."""
    c = default().data
    c.source = spec
    c.update(options)
    root = spec.partition(":")[2].partition("?")[0]
    splits, findings = named_splits(c, 0)
    root = root if os.path.isdir(root) else os.path.dirname(root)
    relative = {
        name: {os.path.relpath(source.name(i), root) for i in range(len(source))}
        for name, source in splits.items()
    }
    return relative, findings


def test_a_folder_is_divided_alike_wherever_it_lies(tmp_path, monkeypatch):
    photos(tmp_path / "a", "cat", "dog")
    here, _ = members(f"folder:{tmp_path}/a")
    monkeypatch.chdir(tmp_path)
    assert members("folder:./a/")[0] == here == members("folder:a")[0]
    os.rename("a", "b")
    os.symlink("b", "c")
    assert members("folder:b")[0] == here == members("folder:c")[0]
    by_position, _ = members("folder:b", split_by="position")
    assert [len(by_position[name]) for name in ("train", "val", "test")] == [17, 5, 2]
    assert by_position != here


def test_a_table_of_the_folder_divides_alike(tmp_path):
    photos(tmp_path, "cat", "dog")
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in tmp_path.rglob("*.png")]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *rows]))
    assert members(f"csv:{tmp_path}/table.csv")[0] == members(f"folder:{tmp_path}")[0]


def test_images_without_names_are_divided_by_position():
    source = open_splits("digits")["all"]
    by_name, by_position = (
        make_splits({"all": source}, split_by=split_by) for split_by in ("name", "position")
    )
    for name, split in by_name.items():
        np.testing.assert_array_equal(split.indices, by_position[name].indices)
    with pytest.raises(UserError, match=r"data\.split_by = 'nam' is unknown"):
        make_splits({"all": source}, split_by="nam")
