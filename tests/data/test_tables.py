"""Arrays, parquet files and the hub's data sets: CIFAR-10 against pyarrow's own reading, layouts,
mistakes."""

import concurrent.futures
import io
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vision.data.decode import UnreadableImage
from vision.data.sources import open_splits, parquet
from vision.errors import UserError

CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture(scope="module")
def cifar(shared_data):
    """The first 300 images of CIFAR-10's test split, in three row groups to come: (bytes,
    labels)."""
    table = (
        pq.ParquetFile(shared_data / "cifar10-test.parquet")
        .read_row_group(0, ["image", "label"])
        .slice(0, 300)
    )
    return table.column("image").to_pylist(), table.column("label").to_pylist()


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_cifar10_as_pyarrow_reads_it(shared_data):
    splits = open_splits(f"parquet:{shared_data}/cifar10-*.parquet")
    assert {name: len(split) for name, split in splits.items()} == {"train": 50_000, "test": 10_000}
    for name, source in splits.items():
        table = pq.read_table(shared_data / f"cifar10-{name}.parquet")
        assert source.classes == tuple("0123456789") and source.encoded and not source.findings
        np.testing.assert_array_equal(source.labels, table.column("label"))
        for row in (0, 4999, 5000, len(source) - 1):
            data = table.column("image")[row].as_py()
            assert source.file(row) == data and source.name(row).endswith(
                f"cifar10-{name}.parquet[{row}]"
            )
            np.testing.assert_array_equal(source[row]["image"], pixels(data))
            assert source[row]["label"] == table.column("label")[row].as_py()
    with pytest.raises(IndexError):
        source.file(10_000)
    assert open_splits(f"parquet:{shared_data}/cifar10-test.parquet").keys() == {"all"}


def test_threads_share_a_small_cache(cifar, tmp_path, monkeypatch):
    """Row groups are dropped and read again all the time, and each thread still gets its own
    rows."""
    images, labels = cifar
    for name, part in {
        "train-00000-of-00002": slice(0, 170),
        "train-00001-of-00002": slice(170, 300),
    }.items():
        rows = {"image": images[part], "label": labels[part]}
        pq.write_table(pa.table(rows), tmp_path / f"{name}.parquet", row_group_size=50)
    source = pickle.loads(pickle.dumps(open_splits(f"parquet:{tmp_path}")["all"]))
    assert len(source.groups) == 7 and source.name(171).endswith("00001-of-00002.parquet[1]")
    monkeypatch.setattr(parquet, "CACHE_BYTES", 100_000)
    order = np.random.RandomState(0).permutation(300).tolist()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        read = list(pool.map(source.file, order))
    assert read == [images[i] for i in order]
    kept = sum(group.nbytes for group in parquet._cache._groups.values())
    assert kept <= 100_000


def test_a_damaged_row_group_is_unreadable_images(cifar, tmp_path):
    images, labels = cifar
    file = tmp_path / "all.parquet"
    pq.write_table(
        pa.table({"image": images, "label": labels}), file, row_group_size=100, use_dictionary=False
    )
    start = pq.ParquetFile(file).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(file.read_bytes())
    data[start : start + 3000] = b"\xff" * 3000
    file.write_bytes(data)
    source = open_splits(f"parquet:{file}")["all"]
    assert source.file(99) == images[99] and source.file(200) == images[200]
    with pytest.raises(UnreadableImage, match=r"all.parquet\[100\]: its row group: "):
        source[100]


def test_a_row_group_shorter_than_its_footer_says(cifar, tmp_path):
    images, labels = cifar
    file = tmp_path / "all.parquet"
    pq.write_table(pa.table({"image": images, "label": labels}), file, row_group_size=100)
    source = open_splits(f"parquet:{file}")["all"]
    source.starts = source.starts + np.array([0] + [3] * (len(source.starts) - 1))
    with pytest.raises(UnreadableImage, match=r"all.parquet\[102\]: its row group has only 100"):
        source[102]


def test_large_row_groups_are_named(cifar, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "LARGE_GROUP", 1000)
    images, labels = cifar
    file = tmp_path / "all.parquet"
    pq.write_table(pa.table({"image": images, "label": labels}), file, row_group_size=200)
    findings = open_splits(f"parquet:{file}")["all"].findings
    assert "row groups are large" in findings[0].kind and "group 0: 0.0 GiB" in str(findings[0])


@pytest.fixture(scope="module")
def hub(cifar, tmp_path_factory):
    """Two splits written by the hub's own library: as parquet, and by save_to_disk."""
    datasets = pytest.importorskip("datasets")
    images, labels = cifar
    features = datasets.Features(
        {"photo": datasets.Image(), "species": datasets.ClassLabel(names=CIFAR)}
    )
    rows = {"photo": [{"bytes": data, "path": None} for data in images], "species": labels}
    dataset = datasets.Dataset.from_dict(rows, features)
    splits = datasets.DatasetDict(
        train=dataset.shuffle(seed=0).select(range(200)), validation=dataset.select(range(90))
    )
    root = tmp_path_factory.mktemp("hub")
    splits.save_to_disk(root / "disk")
    for name, split in splits.items():
        (root / "parquet" / name).mkdir(parents=True)
        split.to_parquet(root / "parquet" / name / "0000.parquet")
    return root


def test_what_the_hub_writes_is_read_by_both(hub, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(hub / "cache"))
    truth = datasets.load_from_disk(hub / "disk")
    for spec in (f"parquet:{hub / 'parquet'}", f"hf:{hub / 'disk'}", f"hf:{hub / 'parquet'}"):
        splits = open_splits(spec)
        assert {name: len(split) for name, split in splits.items()} == {"train": 200, "val": 90}
        for name, theirs in {"train": "train", "val": "validation"}.items():
            source = pickle.loads(pickle.dumps(splits[name]))
            assert source.classes == CIFAR and source.encoded and not source.findings
            np.testing.assert_array_equal(source.labels, truth[theirs]["species"])
            for i in (0, 7, 89):
                np.testing.assert_array_equal(
                    source[i]["image"], np.asarray(truth[theirs][i]["photo"])
                )
                assert pixels(source.file(i)).shape == (32, 32, 3)
    assert splits["val"].name(7) == f"hf:{hub / 'parquet'}/val[7]"


def test_the_hub_out_of_reach_is_one_line(hub, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(hub / "none"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with pytest.raises(
        UserError, match="cannot reach 127.0.0.1:9 to get hf:ylecun/mnist: .*\nGet it on a machine"
    ):
        open_splits("hf:ylecun/mnist")
    cases = {
        "hf:./none": "is neither a folder nor of the form hf:OWNER/NAME",
        "hf:a/b/c/d": "nor of the form",
        "hf:": "nor of the form",
        f"hf:{hub / 'disk'}?label=photo": (
            "no column 'photo' that holds labels: set ?label= to species"
        ),
        f"hf:{hub / 'disk'}?image=x": "no column 'x' that holds images: set ?image= to photo",
        f"hf:{hub / 'parquet'}?config=x": "BuilderConfig 'x' not found",
    }
    for spec, message in cases.items():
        with pytest.raises(UserError) as error:
            open_splits(spec)
        assert message in str(error.value), error.value


def test_parquet_columns_and_labels(cifar, tmp_path):
    images, labels = cifar
    images = images[:6]
    numbers = [10, 9, None, 10, -1, 9]

    def write(name="all.parquet", **columns):
        pq.write_table(pa.table(columns), tmp_path / name)
        return f"parquet:{tmp_path / name}"

    source = open_splits(write(image=images, label=numbers))["all"]
    assert source.classes == ("9", "10") and source.labels.tolist() == [1, 0, 1, 0]
    assert [source.name(i)[-3:] for i in range(4)] == ["[0]", "[1]", "[3]", "[5]"] and source.file(
        2
    ) == images[3]
    assert [(f.kind, f.name[-3:], f.lost) for f in source.findings] == [
        ("images have no label", "[2]", True),
        ("images have no label", "[4]", True),
    ]
    texts = pa.array(["a", "b ", "B", None, "", "a"]).dictionary_encode()
    source = open_splits(write(img=images, kind=texts, size=list(range(6))) + "?label=kind")["all"]
    assert source.classes == ("B", "a", "b") and source.labels.tolist() == [1, 2, 0, 1]
    assert [f.kind[:6] for f in source.findings] == ["labels", "classe", "images", "images"]
    structs = [{"bytes": data if i else None, "path": "x.jpg"} for i, data in enumerate(images)]
    source = open_splits(write(image=structs, label=[0, 1] * 3))["all"]
    assert source.file(1) == images[1]
    with pytest.raises(UnreadableImage, match=r"all.parquet\[0\]: no bytes"):
        source[0]

    cases = {
        "has no column of images": {"label": [0, 1]},
        "has no column of labels": {"image": images},
        "several columns that may be its label: set ?label= to a or b": {
            "image": images,
            "a": numbers,
            "b": numbers,
        },
        "several columns that may be its image: set ?image= to x or y": {
            "x": images,
            "y": images,
            "label": numbers,
        },
    }
    for message, columns in cases.items():
        with pytest.raises(UserError) as error:
            open_splits(write(**{k: v[:2] for k, v in columns.items()}))
        assert message in str(error.value), error.value
    (tmp_path / "all.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"cannot read .*all.parquet"):
        open_splits(f"parquet:{tmp_path}")
    with pytest.raises(UserError, match="matches no file"):
        open_splits(f"parquet:{tmp_path}/*.parq")
    write("train.parquet", image=images, label=[0, 1] * 3)
    write("all.parquet", image=images, label=[0, 1] * 3)
    with pytest.raises(UserError, match=r"all.parquet: its name gives no split"):
        open_splits(f"parquet:{tmp_path}")
    write("all.parquet", image=images, other=[0, 1] * 3)
    (tmp_path / "all.parquet").rename(tmp_path / "test.parquet")
    with pytest.raises(UserError, match=r"test.parquet: its columns or their classes differ"):
        open_splits(f"parquet:{tmp_path}")


def test_arrays_of_all_layouts(tmp_path):
    numbers = open_splits("digits")["all"]
    images = numbers.images[:60]
    labels = numbers.labels[:60]
    parts = {"train": slice(0, 30), "val": slice(30, 40), "test": slice(40, 60)}
    medmnist = {f"{s}_images": images[part, ..., 0] for s, part in parts.items()}
    medmnist |= {f"{s}_labels": labels[part, None] for s, part in parts.items()}
    keras = {f"x_{s}": np.repeat(images[part], 3, -1) for s, part in parts.items() if s != "val"}
    keras |= {f"y_{s}": labels[part].astype(np.uint8) for s, part in parts.items() if s != "val"}
    names = np.array([f"digit {i}" for i in range(10)])
    ours = {
        "images": images,
        "labels": labels,
        "classes": names,
        "split": np.repeat(["train", "Valid", "test"], [30, 10, 20]),
    }
    for arrays, channels in ((medmnist, 1), (keras, 3), (ours, 1)):
        np.savez(tmp_path / "file.npz", **arrays)
        splits = open_splits(f"arrays:{tmp_path / 'file.npz'}")
        assert {s: len(v) for s, v in splits.items()} == {
            s: p.stop - p.start for s, p in parts.items() if s != "val" or arrays is not keras
        }
        for split, source in splits.items():
            np.testing.assert_array_equal(source.labels, labels[parts[split]])
            image = source[3]["image"]
            np.testing.assert_array_equal(image[..., :1], images[parts[split]][3])
            assert image.shape == (8, 8, channels) and not source.encoded and source.file(3) is None
    assert (
        splits["test"].classes == tuple(names)
        and splits["test"].name(0) == f"{tmp_path / 'file.npz'}[40]"
    )

    np.savez(
        tmp_path / "file.npz",
        images=images[:4],
        labels=np.array([0, -1, 7, 1]),
        classes=np.array(["a", "b"]),
    )
    source = open_splits(f"arrays:{tmp_path / 'file.npz'}")["all"]
    assert (
        source.labels.tolist() == [0, 1]
        and len(source.findings) == 2
        and all(f.lost for f in source.findings)
    )
    np.savez(tmp_path / "file.npz", images=images[:3], labels=np.array(["cat", "dog", ""]))
    source = open_splits(f"arrays:{tmp_path / 'file.npz'}")["all"]
    assert source.classes == ("cat", "dog") and source.labels.tolist() == [0, 1]
    np.savez(
        tmp_path / "file.npz",
        images=images[:2],
        labels=np.array([0, 1]),
        classes=np.array(["Cat", "cat"]),
    )
    (finding,) = open_splits(f"arrays:{tmp_path / 'file.npz'}")["all"].findings
    assert finding.kind.startswith("classes are spelled in several ways")
    np.savez(
        tmp_path / "file.npz",
        images=images[:2],
        labels=np.array([-1, -1]),
        split=np.array(["train"] * 2),
    )
    # none has a label: who divides it says so
    splits = open_splits(f"arrays:{tmp_path / 'file.npz'}")
    assert len(splits["all"]) == 0 and len(splits["all"].findings) == 2


def test_mistakes_in_arrays_are_named(tmp_path):
    images = np.zeros((4, 8, 8), np.uint8)
    labels = np.arange(4)
    cases = {
        "images is float32, but pixels must be uint8": {
            "images": images / np.float32(255),
            "labels": labels,
        },
        "images has the shape (4, 8), but must be": {"images": images[:, 0], "labels": labels},
        "images has the shape (4, 1, 3, 8, 8)": {
            "images": np.zeros((4, 1, 3, 8, 8), np.uint8),
            "labels": labels,
        },
        "labels is int64 (3,), but must be one integer or text for each of 4": {
            "images": images,
            "labels": labels[:3],
        },
        "for one-hot labels, use labels.argmax(1)": {"images": images, "labels": np.eye(4)},
        "contains x, y: expected images and labels": {"x": images, "y": labels},
        "contains Python objects": {"images": images, "labels": np.array([{}, 1, 2, 3], object)},
        "split contains 'week 3', but must be": {
            "images": images,
            "labels": labels,
            "split": np.array(["week 3"] * 4),
        },
        "split is <U5 (2,), but must be one text": {
            "images": images,
            "labels": labels,
            "split": np.array(["train"] * 2),
        },
        "split is <U5 (9,), but must be one text": {
            "images": images,
            "labels": labels,
            "split": np.array(["train"] * 9),
        },
        "classes has the shape (), but must be one name": {
            "images": images,
            "labels": labels,
            "classes": 4,
        },
    }
    for message, arrays in cases.items():
        np.savez(tmp_path / "file.npz", **arrays)
        with pytest.raises(UserError) as error:
            open_splits(f"arrays:{tmp_path / 'file.npz'}")
        assert message in str(error.value), error.value
    np.save(tmp_path / "one.npy", images)
    (tmp_path / "text.npz").write_text("no arrays")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "file.npz").read_bytes()[:200])
    for file, message in {
        "one.npy": "is a single array",
        "text.npz": "is not a complete .npz file",
        "cut.npz": "is not a complete .npz file",
        "none.npz": "No such file",
    }.items():
        with pytest.raises(UserError, match=message):
            open_splits(f"arrays:{tmp_path / file}")
