"""Synthetic images join what a training learns from, and nothing else."""

import json

import cv2
import numpy as np
import pytest

from tests.objectives.runs import small
from vision import parallel
from vision.config import default
from vision.data.pipeline import open_data
from vision.data.sources import open_splits
from vision.errors import UserError
from vision.run.splits import past_of
from vision.training.run import run

pytestmark = pytest.mark.long

COUNTS = {"cat": 20, "dog": 6}


def write_image(path, value, channels=3, side=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((side, side, channels), value, np.uint8))


def write_table(folder, labels, channels=3, split="train"):
    """Writes what vision.synthesize does; returns the source's name."""
    rows = ["path,label,split,synthetic"]
    for number, label in enumerate(labels):
        write_image(folder / f"{number}.png", 200 + number, channels)
        rows.append(f"{number}.png,{label},{split},1")
    (folder / "synthetic.csv").write_text("\n".join(rows) + "\n")
    return f"csv:{folder / 'synthetic.csv'}"


@pytest.fixture
def folder(tmp_path):
    for label, (name, count) in enumerate(COUNTS.items()):
        for i in range(count):
            write_image(tmp_path / "photos" / name / f"{i}.png", 100 * label + i)
    return tmp_path


def config(folder, synthetic):
    c = default()
    c.data.source = f"folder:{folder / 'photos'}"
    c.data.synthetic = synthetic
    c.data.workers = 0
    return c


def open_training(c, training=True):
    return open_data(c, parallel.make_mesh(1), with_unlabeled=training)


def images_of(loader):
    return [loader.dataset.image(i)[0, 0, 0] for i in range(len(loader))]


def test_they_join_the_training_split_only(folder):
    real = open_training(config(folder, ""))
    spec = write_table(folder / "made", ["dog", "dog", "dog"])
    mixed = open_training(config(folder, spec))
    assert mixed.synthetic == 3 and real.synthetic == 0
    assert images_of(mixed.loaders["train"]) == [*images_of(real.loaders["train"]), 200, 201, 202]
    for split in ("val", "test"):
        assert images_of(mixed.loaders[split]) == images_of(real.loaders[split])
    # the class weights and the sampler see them
    np.testing.assert_array_equal(mixed.class_counts, real.class_counts + [0, 3])
    labels = mixed.loaders["train"].dataset.source.labels
    assert labels[-3:].tolist() == [1, 1, 1]  # dog: the table's only class is the second here
    assert "3 of train synthetic" in mixed.describe()


def test_only_a_training_sees_them(folder):
    c = config(folder, write_table(folder / "made", ["dog"]))
    assert open_training(c, training=False).synthetic == 0
    assert 200 not in images_of(open_training(c, training=False).loaders["train"])


def test_labels_are_drawn_from_the_real_images(folder):
    c = config(folder, write_table(folder / "made", ["dog", "cat"]))
    c.data.labels = "2/class"
    c.train.steps = 1
    data = open_training(c)
    assert data.class_counts.tolist() == [3, 3]


def test_the_sampler_balances_both_together(folder):
    c = config(folder, write_table(folder / "made", 9 * ["dog"]))
    c.imbalance.sampling = "balanced"
    loader = open_training(c).loaders["train"]
    drawn = loader.dataset.sampler.indices(0, 400)
    assert (loader.dataset.source.labels[drawn] == 1).mean() == pytest.approx(0.5, abs=0.1)
    assert drawn.max() == len(loader) - 1


@pytest.mark.parametrize("gib", [0.0, 2.0], ids=["loaded", "resident"])
def test_both_loaders_have_them(gib, folder):
    c = config(folder, write_table(folder / "made", ["dog", "cat"]))
    c.data.resident_gib = gib
    loader = open_training(c).loaders["train"]
    assert loader.is_resident == bool(gib)
    images = np.asarray(loader.sample(len(loader)))
    assert {200, 201} < set(images[:, 0, 0, 0].tolist()) and len(images) == len(loader)


def test_images_of_an_unknown_class(folder):
    c = config(folder, write_table(folder / "made", ["dog", "owl"]))
    with pytest.raises(UserError, match="data.synthetic = .* the class 'owl', which data.source"):
        open_training(c)


def test_gray_images_for_real_ones_with_colors(folder):
    for path in (folder / "photos").glob("*/*.png"):
        pixels = np.random.RandomState(0).randint(0, 256, (8, 8, 3)).astype(np.uint8)
        cv2.imwrite(str(path), pixels)
    c = config(folder, write_table(folder / "made", ["dog"], channels=1))
    with pytest.raises(UserError, match="has 1 channels, but the images of data.source have 3"):
        open_training(c)


def test_no_images(folder):
    c = config(folder, write_table(folder / "made", ["dog"], split="test"))
    with pytest.raises(UserError, match="has no images to train on, only test"):
        open_training(c)


def test_the_real_images_themselves(folder):
    c = config(folder, f"folder:{folder / 'photos'}/")
    with pytest.raises(UserError, match="is data.source or a part of it, so training would"):
        open_training(c)


def test_fields_that_would_be_lost(tmp_path):
    digits = open_splits("digits")["all"]
    arrays = {"images": digits.images[:60], "labels": digits.labels[:60]}
    np.savez(tmp_path / "real.npz", **arrays, fields_age=np.arange(60))
    np.savez(tmp_path / "made.npz", **arrays)
    c = default()
    c.data.source = f"arrays:{tmp_path / 'real.npz'}"
    c.data.synthetic = f"arrays:{tmp_path / 'made.npz'}"
    with pytest.raises(UserError, match="has no field 'age', which the images of data.source have"):
        open_training(c)


def test_a_run_records_them_and_goes_on_with_the_same(folder):
    c = small(f"folder:{folder / 'photos'}")
    c.data.synthetic = write_table(folder / "made", ["dog", "dog"])
    c.train.steps = 2
    c.train.eval_every = 2
    c.train.batch_size = 8
    c.data.workers = 0
    run(c, folder / "run")
    data = json.loads((folder / "run" / "data.json").read_text())
    assert data["splits"]["synthetic"]["images"] == 2
    assert data["split_sizes"]["train"] == data["splits"]["train"]["images"] + 2
    # an evaluation has the real splits
    past = past_of(folder / "run", c.data.source)
    data = open_data(c, parallel.make_mesh(1), past=past)
    assert data.synthetic == 0 and not data.changes
    (folder / "run" / "result.json").unlink()
    write_table(folder / "made", ["dog", "dog", "dog"])
    with pytest.raises(UserError, match="the data have changed since .* 1 of synthetic new"):
        run(c, folder / "run")
