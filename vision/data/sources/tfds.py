"""`tfds:NAME[/CONFIG][:VERSION]`: any image classification data set of TensorFlow Datasets, without
TensorFlow.

Reads what TFDS has prepared as array_record in its own data folder: the environment variable
TFDS_DATA_DIR, else ~/tensorflow_datasets. What is not prepared yet is prepared there, once: four
small data sets by `_tfds_builders`, all others by TFDS itself, which needs TensorFlow to do that.
"""

import difflib
import functools
import importlib.util
import os
import re
import zipfile
from pathlib import Path

import numpy as np

from vision.data.decode import decode
from vision.data.sources._records import Records, count_records, parse_example
from vision.errors import UserError

_SPLITS = {"train": "train", "validation": "val", "test": "test"}


class TfdsSource:
    """A source over one split.

    Args:
        records: random access to the serialized examples.
        keys: names of the image and the label in an example.
        classes: names of the labels.
        title: what the images are called in messages: "cifar10/train" gives "cifar10/train[17]".
        cache: file that keeps the labels between runs.
    """

    encoded = True
    findings = ()

    def __init__(self, records, keys, classes, title, cache):
        self.records = records
        self.keys = keys
        self.classes = classes
        self.title = title
        self.cache = cache

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        return {
            "image": decode(self.file(index), name=self.name(index)),
            "label": int(self.labels[index]),
        }

    def name(self, index):
        return f"{self.title}[{index}]"

    def file(self, index):
        return parse_example(self.records[index])[self.keys[0]].bytes_list.value[0]

    @functools.cached_property
    def labels(self):
        """(N,) int32. Read once, and kept on disk: it means reading the images' bytes too, minutes
        for ImageNet."""
        stamp = [[stat.st_size, stat.st_mtime_ns] for stat in map(os.stat, self.records.paths)]
        try:
            with np.load(self.cache) as cached:
                if np.array_equal(cached["stamp"], stamp):  # else the data were prepared anew
                    return cached["labels"]
        # Not there, or broken: np.load gives a plain array for an .npy file, which is no context
        # manager.
        except (
            OSError,
            ValueError,
            EOFError,
            KeyError,
            TypeError,
            AttributeError,
            zipfile.BadZipFile,
        ):
            pass
        label = self.keys[1]
        labels = np.fromiter(
            (parse_example(r)[label].int64_list.value[0] for r in self.records), np.int32, len(self)
        )
        _save(self.cache, labels=labels, stamp=stamp)
        return labels


def open(argument):
    """Opens a data set of TFDS, and prepares it first if need be.

    Returns:
        A dict with some of "train", "val" (TFDS calls it "validation"), "test". Other splits, and
        such as have no labels (-1, as some tests), are left out.

    Raises:
        UserError: no such data set, it cannot be prepared, or it has no image with one label.
    """
    match = re.fullmatch(r"(\w+)(?:/([\w.+-]+))?(?::([\d.*]+))?", argument)
    if not match:
        raise UserError(
            f"'tfds:{argument}' is not of the form tfds:NAME, tfds:NAME/CONFIG or tfds:NAME:VERSION"
        )
    data_dir = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    builder = _prepared(argument, data_dir)
    if builder is None:
        _prepare(argument, *match.groups(), data_dir)
        builder = _prepared(argument, data_dir)
    if builder is None:
        raise UserError(
            f"the folder of tfds:{argument} in {data_dir} is incomplete: remove it and run again"
        )
    keys = _image_and_label(builder.info, argument)
    classes = tuple(builder.info.features[keys[1]].names)
    sources = {}
    for split, ours in _SPLITS.items():
        if split in builder.info.splits:
            cache = builder.data_path / f"vision_labels_{split}.npz"
            source = TfdsSource(
                _records(builder, split), keys, classes, f"{builder.info.name}/{split}", str(cache)
            )
            if (source.labels >= 0).any():
                sources[ours] = source
    return sources


def _prepared(name, data_dir):
    """Returns TFDS's builder over complete files on disk, of the newest version there; None if
    there are none."""
    from tensorflow_datasets.core import read_only_builder, registered

    try:
        return read_only_builder.builder_from_files(name, data_dir=str(data_dir))
    except registered.DatasetNotFoundError:
        return None
    except ValueError as error:
        raise UserError(
            f"cannot open tfds:{name} in {data_dir}: {' '.join(str(error).split())}"
        ) from error


def _prepare(argument, name, config, version, data_dir):
    from vision.data.sources import _tfds_builders
    from vision.data.sources._download import require_host

    own = _tfds_builders.BUILDERS.get(name)
    if own and not config and version in (None, str(own.VERSION)):
        return _tfds_builders.build(name, data_dir)
    official = _official_class(argument, name, config, data_dir)
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"tfds:{argument} is not prepared in {data_dir}, and TFDS needs TensorFlow to prepare it: "
            "pip install 'vision[tfds]'.\nOr copy the prepared folder there from another machine: reading needs none"
        )
    urls = list(official.url_infos or ())
    if urls and not official.MANUAL_DOWNLOAD_INSTRUCTIONS:
        otherwise = f"Prepare it on a machine with a network and copy {data_dir / name} here"
        require_host(urls[0], f"prepare tfds:{argument}", otherwise)
    return _tfds_builders.build_official(argument, data_dir)


def _official_class(argument, name, config, data_dir):
    """Returns TFDS's builder class, or raises UserError with the names that come nearest."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    try:
        official = tfds.builder_cls(name)
    except registered.DatasetNotFoundError as error:
        here = [f.name for f in data_dir.iterdir() if f.is_dir()] if data_dir.is_dir() else []
        near = difflib.get_close_matches(
            name.lower(), {*tfds.list_builders(with_community_datasets=False), *here}
        )
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise UserError(
            f"TFDS has no data set {name!r}, and {data_dir} neither. "
            f"{hint}The list: https://www.tensorflow.org/datasets/catalog"
        ) from error
    if config and config not in official.builder_configs:
        configs = sorted(official.builder_configs)
        near = difflib.get_close_matches(config, configs, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(
            f"{name} has no config {config!r}, but {', '.join(configs) or 'none at all'}.{hint}"
        )
    return official


def _image_and_label(info, argument):
    """Returns the names of the image and the label: what TFDS calls supervised, else the only two
    of their types."""
    from tensorflow_datasets import features as tf

    features = info.features
    supervised = info.supervised_keys if isinstance(info.supervised_keys, tuple) else ()
    for keys in (supervised, tuple(features)):
        images = [k for k in keys if isinstance(k, str) and type(features[k]) is tf.Image]
        labels = [k for k in keys if isinstance(k, str) and type(features[k]) is tf.ClassLabel]
        if len(images) == len(labels) == 1 and features[images[0]].np_dtype != np.float32:
            return images[0], labels[0]
    raise UserError(
        f"tfds:{argument} has no image with one label; its features are {', '.join(sorted(features))}"
    )


def _records(builder, split):
    form = builder.info.file_format.value
    if form != "array_record":
        raise UserError(
            f"{builder.data_path} holds {form} files, which need TensorFlow to be read: move it away "
            "or set TFDS_DATA_DIR to another folder, and the data set is prepared anew"
        )
    info = builder.info.splits[split]
    paths = [str(path) for path in info.filepaths]
    for path, length in zip(paths, info.shard_lengths, strict=True):
        found = count_records(path)
        if found != length:
            raise UserError(
                f"{path} has {found} examples of {length}: remove its folder and run again"
            )
    return Records(paths, list(info.shard_lengths))


def _save(path, **arrays):
    part = f"{path}.{os.getpid()}.npz"
    try:
        np.savez(part, **arrays)
        os.replace(part, path)
    except OSError:
        # a folder that others own: read the labels again next time
        Path(part).unlink(missing_ok=True)
