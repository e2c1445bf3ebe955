"""Feeds, resident and loaded: the same batches, whatever the workers, whatever is unreadable."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from vision import parallel
from vision.config import default
from vision.data.pipeline import DeviceLoader, WorkerLoader, open_data
from vision.data.sources import open_splits
from vision.errors import UserError

pytestmark = pytest.mark.long

IMAGES = {"train": 21, "val": 11, "test": 5}  # of each of two classes
REPOSITORY = Path(__file__).parents[2]


def write_images(root, height=8, width=8):
    """Every image has one color, which tells its split, class and number."""
    for s, (split, count) in enumerate(IMAGES.items()):
        for label in range(2):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                # cv2's order: blue, green, red
                image = np.full((height, width, 3), (s, label, i), np.uint8)
                cv2.imwrite(str(folder / f"{i:02}.png"), image)


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "images")
    return tmp_path / "images"


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory):
    """For tests that change nothing in it."""
    root = tmp_path_factory.mktemp("whole")
    write_images(root)
    return root


def open_folder(folder, devices=1, **changes):
    c = default()
    c.data.source = f"folder:{folder}"
    c.data.workers = 0
    c.data.update(changes)
    return open_data(c, parallel.make_mesh(devices))


def pixels(loader, batch):
    """Returns (images, labels, mask) of a batch of either kind of loader, as NumPy arrays."""
    mask = np.asarray(batch["mask"]) if "mask" in batch else None
    if "image" not in batch:
        index = np.asarray(batch["index"])
        return (
            np.asarray(loader.data["image"])[index],
            np.asarray(loader.data["label"])[index],
            mask,
        )
    return np.asarray(batch["image"]), np.asarray(batch["label"]), mask


def train(loader, start, count, batch_size=8):
    plan = [(step, 1) for step in range(start, start + count)]
    return [pixels(loader, b) for b in loader.train_batches(plan, batch_size)]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for (images, labels, _), (other_images, other_labels, _) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels, other_labels)


def identify(images):
    """Returns the number and the class that an image's color tells."""
    return [tuple(map(int, image[0, 0, :2])) for image in images]


@pytest.mark.parametrize("workers", [0, 2])
def test_both_feeds_give_the_same(whole_folder, workers):
    """Grain's workers start here although pytest has parsed no absl flags."""
    resident = open_folder(whole_folder)
    loaded = open_folder(whole_folder, resident_gib=0.0, workers=workers)
    assert isinstance(resident.loaders["train"], DeviceLoader) and isinstance(
        loaded.loaders["train"], WorkerLoader
    )
    assert (
        resident.classes == loaded.classes and (resident.class_counts == loaded.class_counts).all()
    )
    assert (
        (resident.image_size, resident.channels) == (loaded.image_size, loaded.channels) == (8, 3)
    )
    steps = 2 if workers else 12  # 12 steps of 8 are more than two epochs of 42
    batches = train(resident.loaders["train"], 0, 12)
    assert_same(batches[:steps], train(loaded.loaders["train"], 0, steps))
    for loader in (resident.loaders["train"], loaded.loaders["train"]):
        assert_same(batches[5:7], train(loader, 5, 2))  # as after a resume
        assert loader.names(5, 8) == resident.loaders["train"].names(5, 8)
    for _ in range(2):  # a second evaluation is as the first
        ours, theirs = (
            [pixels(d.loaders["val"], b) for b in d.loaders["val"].eval_batches(8)]
            for d in (resident, loaded)
        )
        for (images, labels, mask), (other_images, other_labels, other_mask) in zip(
            ours, theirs, strict=True
        ):
            np.testing.assert_array_equal(mask, other_mask)
            np.testing.assert_array_equal(images[mask], other_images[mask])
            np.testing.assert_array_equal(labels[mask], other_labels[mask])


@pytest.mark.parametrize("resident_gib", [0.0, 2.0])
def test_an_epoch_has_every_image_once_with_its_label(whole_folder, resident_gib):
    loader = open_folder(whole_folder, resident_gib=resident_gib).loaders["train"]
    batches = train(loader, 0, 21, batch_size=4)  # two epochs of 42
    seen = [i for images, _, _ in batches for i in identify(images)]
    labels = np.concatenate([labels for _, labels, _ in batches])
    assert [label for _, label in seen] == labels.tolist()
    expected = sorted((i, label) for i in range(21) for label in range(2))
    assert sorted(seen[:42]) == sorted(seen[42:]) == expected
    assert seen[:42] != seen[42:]
    names = [name for step in range(21) for name in loader.names(step, 4)]
    assert [f"class{label}/{i:02}.png" for i, label in seen] == [
        name[-len("class0/00.png") :] for name in names
    ]


@pytest.mark.parametrize("resident_gib", [0.0, 2.0])
@pytest.mark.parametrize("batch_size", [1, 4, 22, 50])
def test_evaluation_has_every_image_once(whole_folder, resident_gib, batch_size):
    loader = open_folder(whole_folder, resident_gib=resident_gib).loaders["val"]
    seen = []
    for batch in loader.eval_batches(batch_size):
        images, labels, mask = pixels(loader, batch)
        assert (
            images.shape == (batch_size, 8, 8, 3)
            and mask.dtype == bool
            and labels.dtype == np.int32
        )
        seen += identify(images[mask])
        assert [label for _, label in identify(images[mask])] == labels[mask].tolist()
    assert seen == [(i, label) for label in range(2) for i in range(11)]


def test_evaluations_do_not_disturb_one_another(whole_folder):
    """One that is broken off, and one of another batch size."""
    loader = open_folder(whole_folder, resident_gib=0.0).loaders["val"]
    first = [pixels(loader, b) for b in loader.eval_batches(4)]
    next(loader.eval_batches(4))
    assert len(list(loader.eval_batches(8))) == 3
    assert_same(first, [pixels(loader, b) for b in loader.eval_batches(4)])


def test_sharded_over_devices(whole_folder):
    single, sharded = (
        open_folder(whole_folder, devices, resident_gib=0.0).loaders["train"] for devices in (1, 8)
    )
    assert_same(train(single, 0, 2, 16), train(sharded, 0, 2, 16))
    batch = next(sharded.train_batches([(0, 1)], 16))
    assert {k: (v.shape, v.dtype, v.sharding) for k, v in batch.items()} == {
        k: (v.shape, v.dtype, v.sharding) for k, v in sharded.abstract_batch(16).items()
    }
    assert {s.data.shape for s in batch["image"].addressable_shards} == {(2, 8, 8, 3)}


def break_some(folder):
    """Three unreadable images: two neighbors and the last of train. Returns their names."""
    names = [folder / "train" / "class0" / f for f in ("03.png", "04.png")] + [
        folder / "train" / "class1" / "20.png"
    ]
    names[0].write_bytes(b"")
    names[1].write_bytes(names[1].read_bytes()[:30])
    names[2].write_text("no image")
    return [str(n) for n in names]


def test_few_unreadable_images_are_skipped_and_named(folder):
    """In both loaders alike: another image stands in for it in training, and evaluation leaves it
    out."""
    names = break_some(folder)
    broken = folder / "val" / "class1" / "10.png"
    broken.write_bytes(b"")
    loaders = {}
    for resident_gib in (0.0, 2.0):
        data = open_folder(folder, resident_gib=resident_gib, max_unreadable=0.1)
        loaders[resident_gib] = data.loaders["train"]
        batches = train(data.loaders["train"], 0, 12)
        for images, labels, _ in batches:
            assert [label for _, label in identify(images)] == labels.tolist()
        batches = [pixels(data.loaders["val"], b) for b in data.loaders["val"].eval_batches(4)]
        seen = [i for images, _, mask in batches for i in identify(images[mask])]
        assert seen == [(i, label) for label in range(2) for i in range(11)][:-1]
        assert data.unreadable.keys() == {*names, str(broken)}
        assert data.unreadable[names[0]] == "empty file"
    assert_same(train(loaders[0.0], 0, 12), train(loaders[2.0], 0, 12))
    assert len(loaders[0.0]) == len(loaders[2.0]) == 42


@pytest.mark.parametrize("resident_gib", [0.0, 2.0])
def test_many_unreadable_images_are_an_error_that_lists_them(folder, resident_gib):
    names = break_some(folder)
    with pytest.raises(
        UserError, match="3 of 74 images are unreadable, more than data.max_unreadable = 0.03"
    ) as error:
        list(
            train(
                open_folder(folder, resident_gib=resident_gib, max_unreadable=0.03).loaders[
                    "train"
                ],
                0,
                6,
            )
        )
    assert all(name in str(error.value) for name in names)


def test_share_is_of_all_splits(folder):
    """One broken image in a test split of ten is one in 74."""
    (folder / "test" / "class0" / "00.png").write_bytes(b"")
    assert len(open_folder(folder, max_unreadable=0.02).unreadable) == 1


def test_what_is_lost_is_a_share_of_the_whole_source(folder, tmp_path):
    """However few of its images are drawn; and the message says what is wrong with each."""
    files = sorted((folder / "train").rglob("*.png"))
    rows = [f"{file},{file.parent.name}\n" for file in files] + ["gone.png,class0\n"]
    (tmp_path / "table.csv").write_text("path,label\n" + "".join(rows))
    source = {"source": f"csv:{tmp_path / 'table.csv'}", "limit": 10}
    data = open_folder(folder, max_unreadable=0.03, **source)  # 1 of 43, where some 20 are drawn
    assert [reason.partition(":")[0] for reason in data.unreadable.values()] == [
        "files named in the table do not exist"
    ]
    with pytest.raises(
        UserError,
        match=r"1 of 43 images are lost, more than .* = 0.02 allows:\nfiles named .*gone.png",
    ):
        open_folder(folder, max_unreadable=0.02, **source)


@pytest.mark.parametrize("resident_gib", [0.0, 2.0])
def test_a_split_with_no_readable_image(folder, resident_gib):
    for file in folder.glob("train/*/*.png"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match="none of the 42 images"):
        c = {"resident_gib": resident_gib, "max_unreadable": 1.0, "image_size": 8, "channels": 3}
        train(open_folder(folder, **c).loaders["train"], 0, 1)


@pytest.mark.parametrize(("resident_gib", "workers"), [(2.0, 0), (0.0, 0), (0.0, 1)])
@pytest.mark.parametrize("odd", ["00.png", "07.png"])
def test_images_of_different_sizes(folder, resident_gib, workers, odd):
    """Found at the start where it is among the few that are looked at, else when its turn comes;
    also in a worker."""
    name = folder / "train" / "class0" / odd
    cv2.imwrite(str(name), np.zeros((6, 10, 3), np.uint8))
    with pytest.raises(UserError, match=f"{odd} is 10x6.*set data.image_size"):
        train(
            open_folder(folder, resident_gib=resident_gib, workers=workers).loaders["train"], 0, 6
        )
    if not workers:
        assert open_folder(folder, resident_gib=resident_gib, image_size=12).image_size == 12


def test_images_that_are_not_square(tmp_path):
    write_images(tmp_path, height=6, width=9)
    with pytest.raises(UserError, match="is 9x6: set data.image_size"):
        open_folder(tmp_path)


@pytest.fixture(scope="module")
def textured(tmp_path_factory):
    """Images on which crops can be told apart."""
    root = tmp_path_factory.mktemp("textured")
    rng = np.random.RandomState(0)
    for label in range(2):
        (root / f"class{label}").mkdir()
        for i in range(12):
            cv2.imwrite(
                str(root / f"class{label}" / f"{i}.png"),
                rng.randint(0, 256, (20, 24, 3)).astype(np.uint8),
            )
    return root


def test_random_crops_follow_from_seed_and_step_alone(textured):
    def crops(start=0, count=5, seed=0, **changes):
        c = default()
        c.data.source = f"folder:{textured}"
        c.data.image_size = 8
        c.data.random_crop_area = (0.2, 0.9)
        c.data.update({"workers": 0} | changes)
        c.seed = seed
        data = open_data(c, parallel.make_mesh(1))
        assert isinstance(data.loaders["train"], WorkerLoader)  # each epoch has crops of its own
        return train(data.loaders["train"], start, count)

    first = crops()
    assert_same(first, crops())
    assert_same(first[3:], crops(start=3, count=2))
    assert_same(first, crops(workers=2))
    assert not np.array_equal(first[0][0], crops(seed=1, count=1)[0][0])
    # 16 of the 24 images are train: two batches an epoch.
    epochs = [np.concatenate([images for images, _, _ in first[i : i + 2]]) for i in (0, 2)]
    assert not np.array_equal(np.sort(epochs[0].ravel()), np.sort(epochs[1].ravel()))
    assert len(crops(seed=-1, count=1)) == 1


def test_limit_takes_a_fixed_draw(whole_folder):
    once, again = (open_folder(whole_folder, limit=10) for _ in range(2))
    assert [len(f) for f in once.loaders.values()] == [10, 10, 10]
    assert_same(train(once.loaders["train"], 0, 3), train(again.loaders["train"], 0, 3))


@pytest.mark.parametrize("source", ["folder", "digits"])
def test_a_fixed_division_does_not_follow_the_seed(whole_folder, source):
    """Also the draw of `limit`; without it, another seed divides the images otherwise."""

    def members(seed, split_seed):
        c = default()
        c.seed = seed
        c.data.source = f"folder:{whole_folder}" if source == "folder" else source
        c.data.limit = 10
        c.data.split_seed = split_seed
        loaders = open_data(c, parallel.make_mesh(1)).loaders
        return {
            name: [loader.dataset.source.name(i) for i in range(len(loader))]
            for name, loader in loaders.items()
        }

    assert members(seed=0, split_seed=3) == members(seed=1, split_seed=3)
    assert members(seed=3, split_seed=-1) == members(seed=1, split_seed=3)
    assert members(seed=0, split_seed=-1) != members(seed=1, split_seed=-1)


def test_real_photographs_through_both_feeds(shared_data, tmp_path):
    """Gray steel surfaces of 200 x 200, as JPEG."""
    import tarfile

    with tarfile.open(shared_data / "neu_det.tar") as tar:
        for member in [
            m for m in tar.getmembers() if m.name.lower().endswith((".jpg", ".png", ".bmp"))
        ][::60]:
            place = tmp_path / Path(member.name).name.rsplit("_", 1)[0] / Path(member.name).name
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(tar.extractfile(member).read())
    resident, loaded = (
        open_folder(tmp_path, image_size=32, resident_gib=gib) for gib in (2.0, 0.0)
    )
    assert_same(train(resident.loaders["train"], 0, 4), train(loaded.loaders["train"], 0, 4))
    assert not resident.unreadable and not loaded.unreadable


def test_workers_start_from_a_one_line_program(whole_folder):
    """As in a notebook, there is no main module that a worker could import, and no flags are
    parsed."""
    code = (
        "import json; from vision import parallel; from vision.config import default\n"
        "from vision.data.pipeline import open_data\n"
        "c = default()\n"
        f"c.data.source = 'folder:{whole_folder}'\n"
        "c.data.resident_gib = 0.0\n"
        "loader = open_data(c, parallel.make_mesh(1)).loaders['train']\n"
        "batches = loader.train_batches([(0, 1), (1, 1)], 8)\n"
        "print(json.dumps([batch['label'].tolist() for batch in batches]))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    expected = train(open_folder(whole_folder).loaders["train"], 0, 2)
    assert json.loads(done.stdout.splitlines()[-1]) == [
        labels.tolist() for _, labels, _ in expected
    ]


def test_sources_of_arrays_load_in_this_process():
    """Images in memory need no decoding: copying them to workers would cost more."""
    c = default()
    c.data.source = "digits"
    c.data.resident_gib = 0.0
    c.data.workers = 2
    c.data.limit = 40
    data = open_data(c, parallel.make_mesh(1))
    c.data.resident_gib = 2.0
    assert_same(
        train(data.loaders["train"], 0, 6),
        train(open_data(c, parallel.make_mesh(1)).loaders["train"], 0, 6),
    )
    assert len(open_splits("digits")["all"]) == 1797
