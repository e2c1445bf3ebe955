"""`hf:OWNER/NAME[/CONFIG]` or `hf:FOLDER`: data sets of the Hugging Face hub, by its library
`datasets`.

A folder is one that `save_to_disk` wrote, or holds files that `load_dataset` knows. What is
downloaded, and in what form it is kept (~/.cache/huggingface), is the library's own affair.
"""

import importlib.util
import os

import numpy as np

from vision.data.decode import decode, read_file
from vision.data.files import SPLITS
from vision.data.findings import Finding
from vision.data.sources._columns import IMAGES, LABELS, choose, index_labels, plain_labels
from vision.data.sources._download import require_host
from vision.data.splits import Subset
from vision.errors import UserError


class HubSource:
    """A source over one split.

    Args:
        images: a `datasets.Dataset` with one column, of encoded images.
        labels: (N,) integers, indices into `classes`.
        classes: names of the labels.
        title: what the images are called in messages: "hf:cifar10/train" gives
            "hf:cifar10/train[17]".
        findings: see `Source`.
    """

    encoded = True

    def __init__(self, images, labels, classes, title, findings):
        self.images = images
        self.labels = np.asarray(labels, np.int32)
        self.classes = classes
        self.title = title
        self.findings = findings

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {
            "image": decode(self.file(index), name=self.name(index)),
            "label": int(self.labels[index]),
        }

    def name(self, index):
        return f"{self.title}[{index}]"

    def file(self, index):
        (image,) = self.images[int(index)].values()
        image = image or {"bytes": b"", "path": None}  # an empty row: decoding says so
        return image["bytes"] if image["bytes"] is not None else read_file(image["path"])


def open(argument, *, image="", label="", config="", revision=""):
    """Opens a data set, and downloads it first if need be.

    Args:
        argument: OWNER/NAME, OWNER/NAME/CONFIG, or a folder.
        image, label: names of the columns; "" = found by their type and name.
        config: the data set's configuration, for a NAME without owner.
        revision: of the hub's repository: a tag, a branch or a commit.

    Returns:
        A dict with some of "train", "val" (called "validation" there), "test"; {"all": source}
        where there is one split of another name.

    Raises:
        UserError: the library is missing, there is no such data set, no network to get it, or it
            has no image with one label.
    """
    if importlib.util.find_spec("datasets") is None:
        raise UserError("hf: needs the Hugging Face library: pip install 'vision[hf]'")
    import datasets

    title = f"hf:{argument}"
    loaded, left_out = _known_splits(_load(argument, config, revision), title)
    features = next(iter(loaded.values())).features
    fitting = {"image": [], "label": [], "class": []}
    for name, feature in features.items():
        if isinstance(feature, datasets.Image):
            fitting["image"].append(name)
        elif isinstance(feature, datasets.ClassLabel):
            fitting["class"].append(name)
        elif isinstance(feature, datasets.Value) and feature.dtype.startswith(
            ("int", "uint", "string", "bool")
        ):
            fitting["label"].append(name)
    image = choose("image", image, fitting["image"], IMAGES, title)
    usual = (*LABELS, *(fitting["class"] if len(fitting["class"]) == 1 else ()))
    label = choose("label", label, fitting["class"] + fitting["label"], usual, title)
    columns = {
        s: d.select_columns([label]).with_format("arrow")[:].column(label)
        for s, d in loaded.items()
    }
    values = {split: plain_labels(column) for split, column in columns.items()}
    names = getattr(features[label], "names", None)
    kept, classes, findings = index_labels(
        values, names, lambda split, row: f"{title}/{split}[{row}]"
    )
    findings = (*left_out, *findings)
    sources = {}
    for split, (rows, labels) in kept.items():
        whole = np.zeros(len(loaded[split]), np.int32)
        whole[rows] = labels
        images = (
            loaded[split].select_columns([image]).cast_column(image, datasets.Image(decode=False))
        )
        source = HubSource(images, whole, classes, f"{title}/{split}", findings)
        sources[split] = source if len(rows) == len(source) else Subset(source, rows)
    return sources


def _load(argument, config, revision):
    """Returns a `datasets.DatasetDict`, or a `Dataset`."""
    import datasets

    folder = os.path.expanduser(argument)
    try:
        if os.path.isdir(folder):
            if any(
                os.path.isfile(os.path.join(folder, f)) for f in ("state.json", "dataset_dict.json")
            ):
                return datasets.load_from_disk(folder)
            return datasets.load_dataset(folder, config or None)
        name, config = _hub_name(argument, config)
        _require_hub(argument, name)
        return datasets.load_dataset(name, config or None, revision=revision or None)
    except UserError:
        raise
    # the library raises all sorts, from OSError to its own and pyarrow's
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot open hf:{argument}: {reason}") from error


def _hub_name(argument, config):
    """Returns (the repository's name, the configuration)."""
    parts = argument.split("/")
    if not all(parts) or len(parts) > 3 or argument[0] in "./~":
        raise UserError(
            f"'hf:{argument}' is no folder, nor of the form hf:OWNER/NAME or hf:OWNER/NAME/CONFIG"
        )
    return "/".join(parts[:2]), parts[2] if len(parts) == 3 else config


def _require_hub(argument, name):
    """Raises UserError if the hub does not answer, which the library itself finds out after 20 s,
    unless it has a copy.

    The copy is then used by the library's offline mode, which it reads from this variable at each
    call.
    """
    import datasets
    from datasets.naming import camelcase_to_snakecase

    if datasets.config.HF_HUB_OFFLINE:
        return
    otherwise = "Get it on a machine with a network, by save_to_disk of the library datasets, and give hf:FOLDER"
    try:
        require_host(datasets.config.HF_ENDPOINT, f"get hf:{argument}", otherwise)
    except UserError:
        *owner, last = name.split("/")
        copy = os.path.join(
            datasets.config.HF_DATASETS_CACHE, "___".join([*owner, camelcase_to_snakecase(last)])
        )
        if not os.path.isdir(copy):
            raise
        datasets.config.HF_HUB_OFFLINE = True


def _known_splits(loaded, title):
    """Returns ({split: dataset}, a finding for each split of an unknown name)."""
    if not isinstance(loaded, dict):
        return {"all": loaded}, []
    known = {
        SPLITS[name.lower()]: split for name, split in loaded.items() if name.lower() in SPLITS
    }
    if not known and len(loaded) == 1:
        return {"all": next(iter(loaded.values()))}, []
    if not known:
        raise UserError(
            f"{title} has the splits {', '.join(loaded)}, but none called train, validation or test"
        )
    others = [
        Finding("splits are left out, for their names", name)
        for name in loaded
        if name.lower() not in SPLITS
    ]
    return {split: known[split] for split in ("train", "val", "test") if split in known}, others
