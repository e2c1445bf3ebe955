"""`tfds:NAME[/CONFIG][:VERSION]`: image classification datasets of TFDS, without TensorFlow.

Reads what TensorFlow Datasets has prepared as array_record in its own data folder: the environment
variable TFDS_DATA_DIR, or else ~/tensorflow_datasets. What is not prepared yet is prepared there,
once: four small datasets by `_tfds_builders`, all others by TFDS itself, which needs TensorFlow for
that.
"""

import difflib
import functools
import os
import re
from pathlib import Path

import numpy as np

from vision.data.decode import UnreadableImage, decode
from vision.data.findings import Finding
from vision.data.records import Records, bytes_of, count_records, parse_example
from vision.data.sources import Source
from vision.errors import UserError, brief, printable
from vision.support.arrays import read_npz
from vision.support.extras import require
from vision.support.reading import parsing

REMEDY = "remove its folder and run again"
_SPLITS = {"train": "train", "validation": "val", "test": "test"}  # TFDS's name: ours


class TfdsSource:
    """A source over one split.

    Args:
        records: random access to the serialized examples.
        keys: names of the image and the label in an example.
        classes: names of the labels.
        title: prefix of the images' names: "cifar10/train" gives "cifar10/train[17]".
        cache: file that keeps the labels between runs.
    """

    encoded = True
    bits = 0
    findings: tuple[Finding, ...] = ()

    def __init__(
        self,
        records: Records,
        keys: tuple[str, str],
        classes: tuple[str, ...],
        title: str,
        cache: str,
    ):
        self.records = records
        self.keys = keys
        self.classes = classes
        self.title = title
        self.cache = cache

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        image = decode(self.file(index), name=self.name(index), bits=self.bits)
        return {"image": image, "label": int(self.labels[index])}

    def name(self, index: int) -> str:
        return f"{self.title}[{index}]"

    def file(self, index: int) -> bytes:
        try:
            return bytes_of(parse_example(self.records[index]), self.keys[0])
        except IndexError:
            raise
        except Exception as error:  # of array_record, or of protobuf
            raise UnreadableImage(f"damaged record: {brief(error)}", self.name(index)) from error

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """(N,) int32. Read once and kept on disk.

        Reading them means reading the images' bytes too, which takes minutes for ImageNet.
        """
        stamp = [[stat.st_size, stat.st_mtime_ns] for stat in map(os.stat, self.records.paths)]
        labels = self._cached_labels(stamp)
        if labels is None:
            key = self.keys[1]
            with parsing(self.title, remedy=REMEDY):
                values = (parse_example(record)[key].int64_list.value[0] for record in self.records)
                labels = np.fromiter(values, np.int32, len(self))
                if len(labels) and not -1 <= labels.min() <= labels.max() < len(self.classes):
                    raise ValueError(f"labels must be -1 to {len(self.classes) - 1}")
            _save(self.cache, labels=labels, stamp=stamp)
        return labels

    def _cached_labels(self, stamp):
        """Returns the labels from the cache; None without it, or if the data were prepared anew."""
        try:
            cached = read_npz(self.cache)
        except UserError:  # missing or damaged
            return None
        labels = cached.get("labels")
        is_valid = labels is not None and labels.shape == (len(self),) and labels.dtype.kind == "i"
        if is_valid and np.array_equal(cached.get("stamp"), stamp):
            return labels
        return None


def open(argument: str) -> dict[str, Source]:
    """Opens a dataset of TFDS, and prepares it first if necessary.

    Returns:
        A dict with some of "train", "val" (called "validation" by TFDS), "test". Other splits are
        left out, and so are those without labels (-1, as in some test splits).

    Raises:
        UserError: no such dataset, it cannot be prepared, or it has no image with one label.
    """
    match = re.fullmatch(r"(\w+)(?:/([\w.+-]+))?(?::([\d.*]+))?", argument)
    if not match:
        raise UserError(
            f"'tfds:{argument}' is not of the form tfds:NAME, tfds:NAME/CONFIG or tfds:NAME:VERSION"
        )
    data_dir = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    builder = _prepared_builder(argument, data_dir)
    if builder is None:
        name, config, version = match.groups()
        _prepare(argument, name, config, version, data_dir)
        builder = _prepared_builder(argument, data_dir)
    if builder is None:
        raise UserError(
            f"the folder of tfds:{argument} in {data_dir} is incomplete: remove it and run again"
        )
    with parsing(f"tfds:{argument} in {data_dir}", remedy=REMEDY):
        return _sources(builder, argument)


def _sources(builder, argument):
    keys = _image_and_label(builder.info, argument)
    classes = tuple(builder.info.features[keys[1]].names)
    sources: dict[str, Source] = {}
    for tfds_split, split in _SPLITS.items():
        if tfds_split in builder.info.splits:
            records = _open_records(builder, tfds_split)
            title = f"{builder.info.name}/{tfds_split}"
            cache = str(builder.data_path / f"vision_labels_{tfds_split}.npz")
            source = TfdsSource(records, keys, classes, title, cache)
            if (source.labels >= 0).any():
                sources[split] = source
    return sources


def _prepared_builder(name, data_dir):
    """Returns TFDS's builder over complete files on disk, of the newest version there.

    Returns None if there are none.
    """
    from tensorflow_datasets.core import read_only_builder, registered

    with parsing(f"tfds:{name} in {data_dir}", remedy=REMEDY):
        try:
            return read_only_builder.builder_from_files(name, data_dir=str(data_dir))
        except registered.DatasetNotFoundError:
            return None
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"cannot open tfds:{name} in {data_dir}: {printable(reason)}"
            ) from error


def _prepare(argument, name, config, version, data_dir):
    """Downloads and prepares a dataset, if possible without TensorFlow."""
    from vision.data.sources import _tfds_builders
    from vision.data.sources._download import require_host

    own_builder = _tfds_builders.BUILDERS.get(name)
    if own_builder and not config and version in (None, str(own_builder.VERSION)):
        return _tfds_builders.build(name, data_dir)
    official = _official_class(name, config, data_dir)
    try:
        require(f"preparing tfds:{argument}", "tfds", only=("tensorflow",))
    except UserError as error:
        raise UserError(
            f"{error}.\nOr copy the prepared folder to {data_dir} from another machine: reading "
            "needs no TensorFlow"
        ) from error
    urls = list(official.url_infos or ())
    if urls and not official.MANUAL_DOWNLOAD_INSTRUCTIONS:
        remedy = f"Prepare it on a machine with a network and copy {data_dir / name} here"
        require_host(urls[0], f"prepare tfds:{argument}", remedy)
    return _tfds_builders.build_official(argument, data_dir)


def _official_class(name, config, data_dir):
    """Returns TFDS's builder class, or raises `UserError` with the nearest names."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    try:
        official = tfds.builder_cls(name)
    except registered.DatasetNotFoundError as error:
        local = [f.name for f in data_dir.iterdir() if f.is_dir()] if data_dir.is_dir() else []
        names = {*tfds.list_builders(with_community_datasets=False), *local}
        near = difflib.get_close_matches(name.lower(), names)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise UserError(
            f"neither TFDS nor {data_dir} has a dataset {name!r}. "
            f"{hint}The list: https://www.tensorflow.org/datasets/catalog"
        ) from error
    if config and config not in official.builder_configs:
        configs = sorted(official.builder_configs)
        near = difflib.get_close_matches(config, configs, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(
            f"{name} has no config {config!r}; it has {', '.join(configs) or 'none at all'}.{hint}"
        )
    return official


def _image_and_label(info, argument):
    """Returns the names of the image and the label.

    These are TFDS's supervised keys, or else the only two features of their types.
    """
    from tensorflow_datasets import features as tf

    features = info.features
    supervised = info.supervised_keys if isinstance(info.supervised_keys, tuple) else ()
    for keys in (supervised, tuple(features)):
        images = [k for k in keys if isinstance(k, str) and type(features[k]) is tf.Image]
        labels = [k for k in keys if isinstance(k, str) and type(features[k]) is tf.ClassLabel]
        if len(images) == len(labels) == 1 and features[images[0]].np_dtype != np.float32:
            return images[0], labels[0]
    raise UserError(
        f"tfds:{argument} has no image with one label; its features are "
        f"{', '.join(sorted(features))}"
    )


def _open_records(builder, split):
    file_format = builder.info.file_format.value
    if file_format != "array_record":
        raise UserError(
            f"{builder.data_path} contains {file_format} files, which only TensorFlow can read: "
            "move it away or set TFDS_DATA_DIR to another folder, to prepare the dataset again"
        )
    info = builder.info.splits[split]
    paths = [str(path) for path in info.filepaths]
    for path, length in zip(paths, info.shard_lengths, strict=True):
        count = count_records(path)
        if count != length:
            raise UserError(
                f"{path} has {count} examples of {length}: remove its folder and run again"
            )
    return Records(paths, list(info.shard_lengths))


def _save(path, **arrays):
    part = f"{path}.{os.getpid()}.npz"
    try:
        np.savez(part, **arrays)
        os.replace(part, path)
    except OSError:
        # a folder that belongs to others: read the labels again next time
        Path(part).unlink(missing_ok=True)
