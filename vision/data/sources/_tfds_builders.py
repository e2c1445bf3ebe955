"""Prepares CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST for TFDS without TensorFlow.

TFDS's builders for these four need TensorFlow to unpack archives and to encode PNG. The builders
here write the same name, version, splits, features and keys in TFDS's own layout, so that TFDS
itself, and any program that reads its folders, treats them as its own. All other datasets are
prepared by TFDS with TensorFlow.

CIFAR: Krizhevsky 2009, "Learning multiple layers of features from tiny images". MNIST: LeCun et al.
1998. Fashion-MNIST: Xiao, Rasul, Vollgraf 2017 (arXiv:1708.07747).
"""

import gzip
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from vision.data.sources._download import WebFile, fetch
from vision.errors import UserError
from vision.support import progress
from vision.support.processes import bound

_CIFAR = "https://www.cs.toronto.edu/~kriz/"
_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_GARMENTS = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """What the four share: images and labels in memory, written as PNG.

    Attributes:
        paths: the downloaded files.
    """

    FILES: tuple[WebFile, ...] = ()  # to download; sizes and SHA-256 are those that TFDS records
    FOLDER = "."  # below the folder for files placed by hand
    FEATURES: dict[str, Any] = {}
    HOMEPAGE = ""
    paths: list[Path]

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(self.FEATURES),
            supervised_keys=("image", "label"),
            homepage=self.HOMEPAGE,
        )

    def _split_generators(self, dl_manager):
        return {
            split: self._generate_examples(*arrays)
            for split, arrays in self._read(self.paths).items()
        }

    def _generate_examples(self, images, features):
        for index, image in enumerate(images):
            # cv2 stores blue first
            _, png = cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
            example = {"image": io.BytesIO(png.tobytes())}
            yield index, example | {key: values[index] for key, values in features.items()}

    def _read(self, paths):
        """Returns {split: (uint8 (N, H, W, C), {feature: N values})} from the downloaded files."""
        raise NotImplementedError


class Cifar10(_Builder, skip_registration=True):  # type: ignore[call-arg]
    VERSION = tfds.core.Version("3.0.2")
    HOMEPAGE = _CIFAR + "cifar.html"
    FILES = (
        WebFile(
            _CIFAR + "cifar-10-binary.tar.gz",
            170052171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
    )
    FEATURES = {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=(32, 32, 3)),
        "label": tfds.features.ClassLabel(num_classes=10),
    }
    ARCHIVE = "cifar-10-batches-bin"
    SPLITS = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
    LABELS = {"label": "batches.meta.txt"}  # in the order of the bytes before each image

    def _read(self, paths):
        with tarfile.open(paths[0]) as tar:  # read in place: nothing is extracted
            for key, file in self.LABELS.items():
                names = tar.extractfile(f"{self.ARCHIVE}/{file}").read().decode().split("\n")
                self.info.features[key].names = [name for name in names if name]
            arrays = {}
            for split, files in self.SPLITS.items():
                parts = [tar.extractfile(f"{self.ARCHIVE}/{file}").read() for file in files]
                arrays[split] = self._parse_split(split, b"".join(parts))
            return arrays

    def _parse_split(self, split, data):
        rows = np.frombuffer(data, np.uint8).reshape(-1, len(self.LABELS) + 3 * 32 * 32)
        images = rows[:, len(self.LABELS) :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        features = {key: rows[:, column] for column, key in enumerate(self.LABELS)}
        return images, features | {"id": [f"{split}_{i:05d}" for i in range(len(rows))]}


class Cifar100(Cifar10, skip_registration=True):  # type: ignore[call-arg]
    VERSION = tfds.core.Version("3.0.2")
    FILES = (
        WebFile(
            _CIFAR + "cifar-100-binary.tar.gz",
            168513733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        ),
    )
    FEATURES = {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=(32, 32, 3)),
        "label": tfds.features.ClassLabel(num_classes=100),
        "coarse_label": tfds.features.ClassLabel(num_classes=20),
    }
    ARCHIVE = "cifar-100-binary"
    SPLITS = {"train": ["train.bin"], "test": ["test.bin"]}
    LABELS = {"coarse_label": "coarse_label_names.txt", "label": "fine_label_names.txt"}


class MNIST(_Builder, skip_registration=True):  # type: ignore[call-arg]
    VERSION = tfds.core.Version("3.0.1")
    HOMEPAGE = "http://yann.lecun.com/exdb/mnist/"
    FOLDER = "mnist"  # Fashion-MNIST's files have the same names
    FILES = (
        WebFile(
            _MNIST + "train-images-idx3-ubyte.gz",
            9912422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        WebFile(
            _MNIST + "train-labels-idx1-ubyte.gz",
            28881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        WebFile(
            _MNIST + "t10k-images-idx3-ubyte.gz",
            1648877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        WebFile(
            _MNIST + "t10k-labels-idx1-ubyte.gz",
            4542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    )
    FEATURES = {
        "image": tfds.features.Image(shape=(28, 28, 1)),
        "label": tfds.features.ClassLabel(num_classes=10),
    }

    def _read(self, paths):
        train_images, train_labels, test_images, test_labels = map(_read_idx, paths)
        return {
            "train": (train_images[..., None], {"label": train_labels}),
            "test": (test_images[..., None], {"label": test_labels}),
        }


class FashionMNIST(MNIST, skip_registration=True):  # type: ignore[call-arg]
    VERSION = tfds.core.Version("3.0.1")
    HOMEPAGE = "https://github.com/zalandoresearch/fashion-mnist"
    FOLDER = "fashion_mnist"
    FILES = (
        WebFile(
            _FASHION + "train-images-idx3-ubyte.gz",
            26421880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        WebFile(
            _FASHION + "train-labels-idx1-ubyte.gz",
            29515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        WebFile(
            _FASHION + "t10k-images-idx3-ubyte.gz",
            4422102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        WebFile(
            _FASHION + "t10k-labels-idx1-ubyte.gz",
            5148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    )
    FEATURES = {
        "image": tfds.features.Image(shape=(28, 28, 1)),
        "label": tfds.features.ClassLabel(names=_GARMENTS),
    }


def _read_idx(path):
    """Returns the array of a gzipped IDX file.

    Its bytes: two zeros, type 8 (uint8), the rank, the shape, the data.
    """
    with gzip.open(path) as f:
        data = f.read()
    shape = np.frombuffer(data, ">u4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


BUILDERS = {b.name: b for b in (Cifar10, Cifar100, MNIST, FashionMNIST)}


def build(name: str, data_dir: Path | str) -> None:
    """Prepares one of `BUILDERS` below `data_dir`.

    All of it is written or, if interrupted, nothing that any reader would find.

    Raises:
        UserError: the files cannot be downloaded, or the folder cannot be written.
    """
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    builder = BUILDERS[name](data_dir=data_dir, file_format="array_record")
    builder.paths = fetch(builder.FILES, Path(data_dir, "downloads", "manual", builder.FOLDER))
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        with progress.library(f"preparing {name}"):
            builder.download_and_prepare(download_config=config)
    except OSError as error:
        if not builder.is_prepared():  # another process may have been faster
            raise UserError(f"cannot prepare tfds:{name} in {data_dir}: {error}") from error


def build_official(name: str, data_dir: Path | str) -> None:
    """Prepares any dataset with TFDS's own builder, in a separate process.

    So TensorFlow neither takes the accelerator's memory nor stays in the training process.

    Raises:
        UserError: TFDS could not prepare it; with its reason.
    """
    command = (
        "import sys; from vision.data.sources._tfds_builders import _official; "
        "_official(*sys.argv[1:])"
    )
    with progress.library(f"preparing {name}"):
        child = subprocess.run(
            bound([sys.executable, "-c", command, name, str(data_dir)]),
            stdout=subprocess.PIPE,  # the reason; progress goes to stderr
            text=True,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"},
        )
    if child.returncode:
        lines = child.stdout.strip().splitlines()
        reason = lines[-1] if lines else f"the process exited with code {child.returncode}"
        raise UserError(f"TFDS cannot prepare tfds:{name} in {data_dir}:\n{reason}")


def _official(name, data_dir):
    try:
        tfds.builder(name, data_dir=data_dir, file_format="array_record").download_and_prepare()
    except Exception as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
        sys.exit(1)
