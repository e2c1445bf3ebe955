"""TFDS without TensorFlow: small files in the layouts of the real ones, prepared here and read back
by TFDS itself."""

import dataclasses
import functools
import gzip
import hashlib
import http.server
import importlib.util
import io
import os
import pickle
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request

import numpy as np
import pytest

from vision.data.decode import UnreadableImage
from vision.data.sources import _download, open_splits
from vision.data.splits import make_splits
from vision.errors import UserError

tfds = pytest.importorskip("tensorflow_datasets")
from vision.data.sources import _tfds_builders  # noqa: E402  (needs tensorflow_datasets)

RNG = np.random.RandomState(0)
CIFAR10 = {
    "train": RNG.randint(0, 256, (50, 32, 32, 3)),
    "test": RNG.randint(0, 256, (10, 32, 32, 3)),
}
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """An empty data folder, and a network that refuses every connection."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    # which keeps the proxies of the first call in a process
    monkeypatch.setattr(urllib.request, "_opener", None)
    return tmp_path


def _tar(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def _cifar10():
    """Returns a cifar-10-binary.tar.gz of CIFAR10's images; the label is the index modulo 10."""

    def rows(images):
        return b"".join(
            bytes([i % 10]) + x.astype(np.uint8).transpose(2, 0, 1).tobytes() for i, x in images
        )

    numbered = list(enumerate(CIFAR10["train"]))
    members = {f"data_batch_{i + 1}.bin": rows(numbered[10 * i : 10 * i + 10]) for i in range(5)}
    members["test_batch.bin"] = rows(enumerate(CIFAR10["test"]))
    members["batches.meta.txt"] = "\n".join([*NAMES, ""]).encode()
    return _tar({f"cifar-10-batches-bin/{name}": data for name, data in members.items()})


def _expect(monkeypatch, builder, contents, base=None):
    """Lets a builder expect these contents where it expects the real files; returns the files."""
    files = tuple(
        dataclasses.replace(
            file,
            url=f"{base}/{file.name}" if base else file.url,
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        )
        for file, data in zip(builder.FILES, contents, strict=True)
    )
    monkeypatch.setattr(builder, "FILES", files)
    return files


def _place(folder, files, contents):
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in zip(files, contents, strict=True):
        (folder / file.name).write_bytes(data)


@pytest.fixture
def cifar10(data_dir, monkeypatch):
    """A small cifar-10-binary.tar.gz, placed by hand."""
    data = [_cifar10()]
    _place(
        data_dir / "downloads" / "manual", _expect(monkeypatch, _tfds_builders.Cifar10, data), data
    )
    return data_dir


def test_cifar10_is_prepared_and_read(cifar10):
    splits = open_splits("tfds:cifar10")
    assert {name: len(split) for name, split in splits.items()} == {"train": 50, "test": 10}
    official = tfds.builder("cifar10", data_dir=str(cifar10))
    assert (
        type(official).__module__ == "tensorflow_datasets.image_classification.cifar"
        and official.is_prepared()
    )
    for name, split in splits.items():
        assert split.classes == tuple(NAMES) and split.encoded and split.labels.dtype == np.int32
        theirs = official.as_data_source(name)
        for index, example in enumerate(theirs):
            number = int(example["id"].decode().removeprefix(f"{name}_"))
            ours = split[index]
            np.testing.assert_array_equal(ours["image"], CIFAR10[name][number])
            np.testing.assert_array_equal(ours["image"], example["image"])
            assert ours["label"] == split.labels[index] == example["label"] == number % 10
    assert splits["train"].name(17) == "cifar10/train[17]"
    again = pickle.loads(pickle.dumps(splits["train"]))
    np.testing.assert_array_equal(again[3]["image"], splits["train"][3]["image"])
    with pytest.raises(IndexError):
        again[50]
    assert len(make_splits(splits)["val"]) == 5 + 5  # of 45 in 10 classes, at least one each


def test_features_are_those_of_the_official_builders(cifar10):
    for name in ("cifar10", "cifar100", "mnist", "fashion_mnist"):
        ours = _tfds_builders.BUILDERS[name](data_dir=str(cifar10))
        official = tfds.builder_cls(name)(data_dir=str(cifar10))
        assert (
            str(ours.info.features) == str(official.info.features)
            and ours.data_dir == official.data_dir
        )
        assert ours.info.supervised_keys == official.info.supervised_keys
        for file in ours.FILES:
            if name != "cifar10":  # that one is the small file of this test
                recorded = official.url_infos[file.url]
                assert (file.size, file.sha256) == (int(recorded.size), recorded.checksum)


def test_reading_imports_neither_tensorflow_nor_jax(cifar10):
    open_splits("tfds:cifar10")
    code = (
        "import sys; from vision.data.sources import open_splits;"
        "s = open_splits('tfds:cifar10')['train'];"
        "print(s[0]['image'].shape, s.labels.sum(),"
        " 'tensorflow' in sys.modules, 'jax' in sys.modules)"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.strip() == "(32, 32, 3) 225 False False"


def test_cifar100_reads_both_labels(data_dir, monkeypatch):
    image = RNG.randint(0, 256, (3, 32, 32)).astype(np.uint8)
    rows = b"".join(bytes([i % 20, i]) + image.tobytes() for i in range(100))
    members = {"train.bin": rows, "test.bin": rows[: 3074 * 7]}
    members["coarse_label_names.txt"] = "\n".join(f"coarse{i}" for i in range(20)).encode()
    members["fine_label_names.txt"] = "\n".join(f"fine{i}" for i in range(100)).encode() + b"\n"
    data = [_tar({f"cifar-100-binary/{name}": d for name, d in members.items()})]
    files = _expect(monkeypatch, _tfds_builders.Cifar100, data)
    _place(data_dir / "downloads" / "manual", files, data)
    train = open_splits("tfds:cifar100")["train"]
    assert sorted(train.labels) == list(range(100)) and train.classes[42] == "fine42"
    np.testing.assert_array_equal(train[5]["image"], image.transpose(1, 2, 0))
    for example in tfds.builder("cifar100", data_dir=str(data_dir)).as_data_source("test"):
        assert example["coarse_label"] == example["label"] % 20


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist_and_fashion_mnist(name, data_dir, monkeypatch):
    def idx(array):
        sides = b"".join(side.to_bytes(4, "big") for side in array.shape)
        return gzip.compress(bytes([0, 0, 8, array.ndim]) + sides + array.tobytes())

    images = RNG.randint(0, 256, (40, 28, 28)).astype(np.uint8)
    labels = (np.arange(40) % 10).astype(np.uint8)
    data = [idx(images[:30]), idx(labels[:30]), idx(images[30:]), idx(labels[30:])]
    files = _expect(monkeypatch, _tfds_builders.BUILDERS[name], data)
    _place(data_dir / "downloads" / "manual" / name, files, data)
    splits = open_splits(f"tfds:{name}")
    for split, expected in (("train", images[:30]), ("test", images[30:])):
        labels_by_image = {
            splits[split][i]["image"].tobytes(): splits[split][i]["label"]
            for i in range(len(expected))
        }
        assert labels_by_image == {image.tobytes(): i % 10 for i, image in enumerate(expected)}
        assert splits[split][0]["image"].shape == (28, 28, 1)
    assert splits["train"].classes[1] == {"mnist": "1", "fashion_mnist": "Trouser"}[name]


def test_labels_are_kept_and_follow_the_data(cifar10):
    labels = open_splits("tfds:cifar10")["train"].labels
    cache = cifar10 / "cifar10" / "3.0.2" / "vision_labels_train.npz"
    np.testing.assert_array_equal(np.load(cache)["labels"], labels)
    cache.write_bytes(b"broken")
    np.testing.assert_array_equal(open_splits("tfds:cifar10")["train"].labels, labels)
    # of other files, prepared before in the same folder
    np.savez(cache, labels=labels[::-1], stamp=[[1, 2]])
    np.testing.assert_array_equal(open_splits("tfds:cifar10")["train"].labels, labels)
    np.testing.assert_array_equal(np.load(cache)["labels"], labels)


def test_files_that_need_tensorflow_are_named(cifar10):
    open_splits("tfds:cifar10")
    info = cifar10 / "cifar10" / "3.0.2" / "dataset_info.json"
    info.write_text(
        info.read_text().replace('"fileFormat": "array_record"', '"fileFormat": "tfrecord"')
    )
    with pytest.raises(UserError, match="contains tfrecord files, which only TensorFlow can read"):
        open_splits("tfds:cifar10")


def test_wrong_file_is_refused(cifar10):
    path = cifar10 / "downloads" / "manual" / "cifar-10-binary.tar.gz"
    data = path.read_bytes()
    for wrong, reason in ((data[:-1], "bytes, not"), (data[:-1] + b"!", "SHA-256")):
        path.write_bytes(wrong)
        with pytest.raises(UserError, match=reason) as error:
            open_splits("tfds:cifar10")
        assert str(path) in str(error.value)
        assert not (cifar10 / "cifar10").exists()


def test_interrupted_preparation_leaves_nothing_that_is_read(cifar10):
    """Kills a process in the middle of writing, as a scheduler does."""
    code = """
import sys, time
from vision.data.sources import _tfds_builders as b
original = b.Cifar10._generate_examples
def slow(self, images, others):
    for n, example in enumerate(original(self, images, others)):
        yield example
        if n == 20:
            print("half", flush=True)
            time.sleep(60)
b.Cifar10._generate_examples = slow
b.Cifar10.FILES = (b.WebFile(b.Cifar10.FILES[0].url, *eval(sys.argv[2])),)
b.build("cifar10", sys.argv[1])
"""
    file = _tfds_builders.Cifar10.FILES[0]
    command = [sys.executable, "-c", code, str(cifar10), repr((file.size, file.sha256))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert any(line.startswith("half") for line in child.stdout)
        child.send_signal(signal.SIGKILL)
    assert [f.name for f in (cifar10 / "cifar10").iterdir()][0].startswith("incomplete.")
    assert len(open_splits("tfds:cifar10")["train"]) == 50


def test_files_that_are_cut_short_are_noticed(cifar10):
    open_splits("tfds:cifar10")
    path = next((cifar10 / "cifar10" / "3.0.2").glob("cifar10-train.array_record*"))
    data = path.read_bytes()
    for broken in (data[: len(data) // 2], b""):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="has 0 examples of 50: remove its folder"):
            open_splits("tfds:cifar10")


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])
def test_without_a_network_the_error_is_quick_and_says_where_to_put_the_file(name, data_dir):
    started = time.monotonic()
    with pytest.raises(UserError) as error:
        open_splits(f"tfds:{name}")
    message = str(error.value)
    assert time.monotonic() - started < 15 and len(message.splitlines()) == 2
    assert (
        str(data_dir / "downloads" / "manual") in message
        and _tfds_builders.BUILDERS[name].FILES[0].name in message
    )
    assert list(data_dir.iterdir()) == []


def test_a_host_that_never_answers_is_given_up(data_dir, monkeypatch):
    monkeypatch.setattr(_download, "_CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(UserError, match="cannot reach www.cs.toronto.edu"):
            open_splits("tfds:cifar10")


@pytest.fixture
def web(tmp_path_factory, monkeypatch):
    """A web server on this machine, and the folder it serves."""
    folder = tmp_path_factory.mktemp("web")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_download(data_dir, web, monkeypatch):
    folder, base = web
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    data = [_cifar10()]
    (file,) = _expect(monkeypatch, _tfds_builders.Cifar10, data, base)
    manual = data_dir / "downloads" / "manual"
    (folder / file.name).write_bytes(data[0][:-9])
    with pytest.raises(UserError, match="received a different file"):
        open_splits("tfds:cifar10")
    assert list(manual.iterdir()) == []
    os.remove(folder / file.name)
    with pytest.raises(UserError, match="404"):
        open_splits("tfds:cifar10")
    (folder / file.name).write_bytes(data[0])
    assert len(open_splits("tfds:cifar10")["test"]) == 10
    assert [f.name for f in manual.iterdir()] == [file.name]


def test_names(data_dir):
    with pytest.raises(UserError, match="Did you mean cifar10"):
        open_splits("tfds:cifr10")
    with pytest.raises(UserError, match="Did you mean letters"):
        open_splits("tfds:emnist/leters")
    with pytest.raises(UserError, match="is not of the form"):
        open_splits("tfds:")


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed"
)
@pytest.mark.parametrize("name", ["oxford_flowers102", "emnist/letters", "cifar10:3.0.1"])
def test_others_need_tensorflow_to_be_prepared(name, data_dir):
    with pytest.raises(UserError, match=r"pip install -e '\.\[tfds\]'"):
        open_splits(f"tfds:{name}")


def test_official_builders_run_apart_and_give_their_reason(data_dir):
    with pytest.raises(UserError, match="Manual directory .* does not exist or is empty"):
        _tfds_builders.build_official("imagenet2012", str(data_dir))


def _prepare(data_dir, features, examples, file_format="array_record"):
    class Photos(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(rows) for split, rows in examples.items()}

        def _generate_examples(self, rows):
            yield from enumerate(rows)

    Photos(data_dir=str(data_dir), file_format=file_format).download_and_prepare()


def _png(value=7):
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (5, 4), (value, 0, 0)).save(file, "PNG")
    file.seek(0)
    return file


def test_a_data_set_of_ones_own(data_dir):
    """A name that TFDS has no code for, a validation split, a test split without labels, and a
    broken image."""
    features = {"photo": tfds.features.Image(), "kind": tfds.features.ClassLabel(names=["a", "b"])}
    examples = {
        "train": [{"photo": _png(), "kind": "b"}, {"photo": io.BytesIO(b"broken"), "kind": "a"}],
        "validation": [{"photo": _png(9), "kind": "a"}],
        "test": [{"photo": _png(), "kind": -1}],
        "extra": [{"photo": _png(), "kind": "a"}],
    }
    _prepare(data_dir, features, examples)
    splits = open_splits("tfds:photos")
    assert {name: len(split) for name, split in splits.items()} == {"train": 2, "val": 1}
    assert splits["val"][0]["image"].tolist() == [[[9, 0, 0]] * 5] * 4 and splits[
        "val"
    ].classes == ("a", "b")
    broken = int(np.flatnonzero(splits["train"].labels == 0)[0])
    with pytest.raises(UnreadableImage) as error:
        splits["train"][broken]
    assert (
        error.value.name == f"photos/train[{broken}]"
        and error.value.reason == "not in an image format that PIL reads"
    )
    assert len(open_splits("tfds:photos:1.0.0")) == 2


def test_a_data_set_without_image_and_label_is_refused(data_dir):
    features = {"photo": tfds.features.Image(), "text": tfds.features.Text()}
    _prepare(data_dir, features, {"train": [{"photo": _png(), "text": "x"}]})
    with pytest.raises(UserError, match="no image with one label; its features are photo, text"):
        open_splits("tfds:photos")
