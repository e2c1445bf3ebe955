"""`hf:OWNER/NAME[/CONFIG]` or `hf:FOLDER`: datasets of the Hugging Face hub, by its library.

A folder is one that `save_to_disk` wrote, or contains files that `load_dataset` knows. The library
`datasets` downloads and stores the data in its own way (~/.cache/huggingface).
"""

import os
from typing import Any

import numpy as np

from vision.data.decode import UnreadableImage, decode, read_file
from vision.data.files import SPLITS
from vision.data.findings import Finding
from vision.data.sources import Source
from vision.data.sources._columns import (
    IMAGES,
    LABELS,
    choose,
    index_labels,
    keep,
    plain_labels,
    scatter,
)
from vision.data.sources._download import require_host
from vision.errors import UserError, brief
from vision.support import progress
from vision.support.extras import require
from vision.support.reading import parsing


class HubSource:
    """A source over one split.

    Args:
        images: a `datasets.Dataset` with one column, of encoded images.
        labels: (N,) integers, indices into `classes`.
        classes: names of the labels.
        title: prefix of the images' names: "hf:cifar10/train" gives "hf:cifar10/train[17]".
        findings: see `Source`.
        table: the same `datasets.Dataset` with all of its columns.
    """

    encoded = True
    bits = 0

    def __init__(
        self,
        images: Any,
        labels: np.ndarray,
        classes: tuple[str, ...],
        title: str,
        findings: tuple[Finding, ...],
        table: Any,
    ):
        self.table = table
        self.images = images
        self.labels = np.asarray(labels, np.int32)
        self.classes = classes
        self.title = title
        self.findings = findings

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        image = decode(self.file(index), name=self.name(index), bits=self.bits)
        return {"image": image, "label": int(self.labels[index])}

    def name(self, index: int) -> str:
        return f"{self.title}[{index}]"

    def column_names(self) -> list[str]:
        """Returns the names of the columns that `column_values` reads."""
        return list(self.table.column_names)

    def column_values(self, name: str) -> list:
        """Returns the values of a column, one for each image."""
        table = self.table.select_columns([name]).with_format("arrow")
        return table[:].column(name).to_pylist()

    def file(self, index: int) -> bytes:
        try:
            (image,) = self.images[int(index)].values()
        except IndexError:
            raise
        except Exception as error:  # a damaged file makes the library raise all sorts
            raise UnreadableImage(brief(error), self.name(index)) from error
        image = image or {"bytes": b"", "path": None}  # an empty row, which decoding reports
        return image["bytes"] if image["bytes"] is not None else read_file(image["path"])


def open(
    argument: str, *, image: str = "", label: str = "", config: str = "", revision: str = ""
) -> dict[str, Source]:
    """Opens a dataset, and downloads it first if necessary.

    Args:
        argument: OWNER/NAME, OWNER/NAME/CONFIG, or a folder.
        image: name of the images' column; "" finds it by type and name.
        label: name of the labels' column; "" finds it by type and name.
        config: the dataset's configuration, for a NAME without owner.
        revision: a tag, a branch or a commit of the hub's repository.

    Returns:
        A dict with some of "train", "val" (called "validation" there), "test"; {"all": source} if
        there is one split of another name.

    Raises:
        UserError: the library is missing, there is no such dataset, it cannot be downloaded, or it
            has no image with one label.
    """
    require("the source hf:", "hf", only=("datasets",))
    title = f"hf:{argument}"
    with parsing(title):
        return _open(argument, title, image, label, config, revision)


def _open(argument, title, image, label, config, revision):
    loaded, findings = _known_splits(_load(argument, config, revision), title)
    for dataset in loaded.values():
        # the library maps its files into memory: an offset beyond them would end the process
        dataset.data.table.validate(full=True)
    features = next(iter(loaded.values())).features
    image, label = _choose_columns(features, image, label, title)
    kept, classes, label_findings = index_labels(
        {split: _label_values(dataset, label) for split, dataset in loaded.items()},
        getattr(features[label], "names", None),
        lambda split, row: f"{title}/{split}[{row}]",
    )
    findings = (*findings, *label_findings)
    sources = {}
    for split, (rows, labels) in kept.items():
        images = _encoded_images(loaded[split], image)
        labels = scatter(rows, labels, len(images))
        source = HubSource(images, labels, classes, f"{title}/{split}", findings, loaded[split])
        sources[split] = keep(source, rows)
    return sources


def _choose_columns(features, image, label, title):
    """Returns the names of the columns of images and labels, given or found."""
    import datasets

    images = []
    class_labels = []
    values = []
    for name, feature in features.items():
        if isinstance(feature, datasets.Image):
            images.append(name)
        elif isinstance(feature, datasets.ClassLabel):
            class_labels.append(name)
        elif isinstance(feature, datasets.Value) and feature.dtype.startswith(
            ("int", "uint", "string", "bool")
        ):
            values.append(name)
    common = (*LABELS, *class_labels) if len(class_labels) == 1 else LABELS
    return (
        choose("image", image, images, IMAGES, title),
        choose("label", label, class_labels + values, common, title),
    )


def _encoded_images(dataset, image):
    """Returns the dataset with only its images, as the bytes or paths of their files."""
    import datasets

    return dataset.select_columns([image]).cast_column(image, datasets.Image(decode=False))


def _label_values(dataset, label):
    return plain_labels(dataset.select_columns([label]).with_format("arrow")[:].column(label))


def _load(argument, config, revision):
    """Returns a `datasets.DatasetDict`, or a `Dataset`."""
    import datasets

    folder = os.path.expanduser(argument)
    try:
        if os.path.isdir(folder):
            saved = (os.path.join(folder, f) for f in ("state.json", "dataset_dict.json"))
            if any(map(os.path.isfile, saved)):
                return datasets.load_from_disk(folder)
            return datasets.load_dataset(folder, config or None)
        name, config = _hub_name(argument, config)
        _require_hub(argument, name)
        with progress.library(f"fetching {name}"):
            return datasets.load_dataset(name, config or None, revision=revision or None)
    except UserError:
        raise
    # the library raises all kinds of errors, from OSError to its own and pyarrow's
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot open hf:{argument}: {reason}") from error


def _hub_name(argument, config):
    """Returns (the repository's name, the configuration)."""
    parts = argument.split("/")
    if not all(parts) or len(parts) > 3 or argument[0] in "./~":
        raise UserError(
            f"'hf:{argument}' is neither a folder nor of the form hf:OWNER/NAME or "
            "hf:OWNER/NAME/CONFIG"
        )
    return "/".join(parts[:2]), parts[2] if len(parts) == 3 else config


def _require_hub(argument, name):
    """Raises `UserError` if the hub does not answer and the library has no copy of the dataset.

    The library itself notices only after 20 s. A copy is used by the library's offline mode, whose
    variable it reads at each call.
    """
    import datasets
    from datasets.naming import camelcase_to_snakecase

    if datasets.config.HF_HUB_OFFLINE:
        return
    remedy = (
        "Get it on a machine with a network, save it with save_to_disk of the datasets library, "
        "and give hf:FOLDER"
    )
    try:
        require_host(datasets.config.HF_ENDPOINT, f"get hf:{argument}", remedy)
    except UserError:
        *owner, dataset = name.split("/")
        copy = "___".join([*owner, camelcase_to_snakecase(dataset)])
        if not os.path.isdir(os.path.join(datasets.config.HF_DATASETS_CACHE, copy)):
            raise
        datasets.config.HF_HUB_OFFLINE = True


def _known_splits(loaded, title):
    """Returns ({split: dataset}, a finding for each split with an unknown name)."""
    if not isinstance(loaded, dict):
        return {"all": loaded}, []
    splits = {
        SPLITS[name.lower()]: dataset for name, dataset in loaded.items() if name.lower() in SPLITS
    }
    if not splits and len(loaded) == 1:
        return {"all": next(iter(loaded.values()))}, []
    if not splits:
        raise UserError(
            f"{title} has the splits {', '.join(loaded)}, but none called train, validation or test"
        )
    left_out = [
        Finding("splits are left out because their names are unknown", name)
        for name in loaded
        if name.lower() not in SPLITS
    ]
    return {name: splits[name] for name in ("train", "val", "test") if name in splits}, left_out
