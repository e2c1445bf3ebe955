"""From a source's name to batches on the device.

Data that fit (`config.data.resident_gib`) are decoded once and live on the device as uint8; a batch
is then a list of indices. Larger data are decoded for each batch by Grain's workers. Both give the
same batches in the same order.
"""

import dataclasses

import numpy as np

from vision.data.changes import change
from vision.data.decode import INTERPOLATIONS, UnreadableImage
from vision.data.findings import Finding
from vision.data.loading.dataset import SIZES, Dataset, Unreadable
from vision.data.loading.device_loader import DeviceLoader
from vision.data.loading.sampler import SAMPLINGS, Sampler, run_length
from vision.data.loading.worker_loader import WorkerLoader
from vision.data.sources import open_splits
from vision.data.splits import Subset, make_splits
from vision.errors import UserError, check_choice


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run learns from: three loaders, and what they have in common.

    Attributes:
        loaders: {"train", "val", "test"}, or what `open_data` was given; each a `DeviceLoader` or a
            `WorkerLoader`.
        classes: names, in the labels' order.
        image_size, channels: of every image that a loader gives.
        class_counts: int (C,), images of each class in train, or the first of what was given.
        findings: what is odd about the source.
    """

    loaders: dict
    classes: tuple
    image_size: int
    channels: int
    class_counts: np.ndarray
    findings: tuple = ()

    @property
    def unreadable(self):
        """{name: reason} of every image found unreadable so far, in any split."""
        return self._first.unreadable.found

    @property
    def _first(self):
        return next(iter(self.loaders.values()))

    def describe(self):
        sizes = ", ".join(f"{len(f):,} {name}" for name, f in self.loaders.items())
        kind = "on the device" if isinstance(self._first, DeviceLoader) else "loaded for each batch"
        side = self.image_size
        return (
            f"{sizes} images of {side}x{side}x{self.channels}, {len(self.classes)} classes, {kind}"
        )


def named_splits(c, seed, opened=None):
    """Returns ({"train": source, "val": source, "test": source}, findings) of the source that
    `config.data` names.

    Args:
        c: config.data.
        seed: of the division into splits.
        opened: what `open_splits` has returned for the source, where that is known already.

    Raises:
        UserError: see `open_splits`, `make_splits` and `change`.
    """
    opened = opened or open_splits(c.source)
    splits = change(make_splits(opened, c.fractions, c.val_fraction, seed), c.source)
    findings = dict.fromkeys(finding for source in opened.values() for finding in source.findings)
    return splits, (*findings, *unseen_classes(splits))


def unseen_classes(splits):
    """Returns a finding for each class that val or test has and train has not."""
    seen = set(np.unique(splits["train"].labels))
    classes = splits["train"].classes
    found = []
    for name in ("val", "test"):
        labels, counts = np.unique(splits[name].labels, return_counts=True)
        unseen = [
            (classes[label], n)
            for label, n in zip(labels, counts, strict=True)
            if label not in seen
        ]
        found += [
            Finding(f"classes in {name} that train has not", c, f"{n:,} images") for c, n in unseen
        ]
    return found


def open_data(config, mesh, splits=None):
    """Opens the splits of `config.data`, in the order that `config.imbalance` asks for.

    Args:
        config: the run's config.
        mesh: from `vision.parallel.make_mesh`.
        splits: {name: source} in place of those that `config.data` names; None = those.

    Raises:
        UserError: see `named_splits`; also where images differ in size and none is configured, and
            where more images are unreadable, or lost when the source was opened, than
            `max_unreadable` allows.
    """
    c = config.data
    seed = config.seed
    splits, findings = (
        named_splits(c, seed) if splits is None else (splits, next(iter(splits.values())).findings)
    )
    first = next(iter(splits))
    whole = sum(map(len, splits.values()))
    if c.limit:
        splits = {name: _draw(split, c.limit, seed) for name, split in splits.items()}
    if c.per_class and "train" in splits:
        splits["train"] = _draw_each(splits["train"], c.per_class, seed)
    image_size, channels = _image_shape(c, splits[first])
    size = sum(map(len, splits.values())) * image_size**2 * channels
    resident = size <= c.resident_gib * 2**30 and not c.random_crop_area
    lost = {finding.name: f"{finding.kind}: {finding}" for finding in findings if finding.lost}
    unreadable = Unreadable(sum(map(len, splits.values())), c.max_unreadable, lost, whole)
    loaders = {}
    resize = interpolation_of(c)
    order = _order(config, splits["train"]) if "train" in splits else None
    for name, split in splits.items():
        area = tuple(c.random_crop_area) if name == "train" else ()
        own = order if name == "train" else Sampler(seed, split.labels)
        rows = Dataset(
            split, image_size, channels, c.crop_fraction or 1.0, area, not c.image_size, own, resize
        )
        loaders[name] = (
            DeviceLoader(rows, unreadable, mesh)
            if resident
            else WorkerLoader(rows, unreadable, c.workers if split.encoded else 0, mesh)
        )
    classes = splits[first].classes
    counts = np.bincount(splits[first].labels, minlength=len(classes))
    return Data(loaders, classes, image_size, channels, counts, findings)


def _order(config, source):
    c = config.imbalance
    check_choice("imbalance.sampling", c.sampling, (*SAMPLINGS, "smote"))
    if c.sampling == "smote":  # it makes further images, whose order is as usual
        if not config.transfer.cache_embeddings:
            raise UserError(
                "imbalance.sampling = 'smote' makes embeddings: set transfer.mode=head and cache_embeddings"
            )
        return Sampler(config.seed, source.labels)
    if c.sampling_from >= c.sampling_until:
        raise UserError(
            f"imbalance.sampling_from = {c.sampling_from:g} must lie below sampling_until = {c.sampling_until:g}"
        )
    steps = run_length(config.train, len(source))
    begin = round(c.sampling_from * steps)
    end = round(c.sampling_until * steps)
    return Sampler(config.seed, source.labels, c.sampling, begin, end)


def interpolation_of(c):
    """Returns the `interpolation` of `resize_crop` that `config.data` asks for; raises UserError
    for an unknown one."""
    check_choice("data.interpolation", c.interpolation, ("auto", *INTERPOLATIONS))
    return "area" if c.interpolation == "auto" else c.interpolation


def _draw(split, limit, seed):
    """A fixed random draw of at most `limit` images."""
    chosen = np.random.RandomState(seed % 2**32).permutation(len(split))[:limit]
    return split if limit >= len(split) else Subset(split, np.sort(chosen))


def _draw_each(split, count, seed):
    """A fixed random draw of at most `count` images of each class."""
    order = np.random.RandomState(seed % 2**32).permutation(len(split))
    of_class = [order[split.labels[order] == label][:count] for label in range(len(split.classes))]
    return Subset(split, np.sort(np.concatenate(of_class)))


def _image_shape(c, source):
    """Returns (image_size, channels): what the config says, else what the images themselves are."""
    if c.image_size < 0 or c.channels not in (0, 1, 3):
        raise UserError(
            f"data.image_size = {c.image_size}, data.channels = {c.channels}: a size, and 1, 3 or 0"
        )
    if c.image_size and c.channels:
        return c.image_size, c.channels
    shapes = {}
    for index in np.linspace(0, len(source) - 1, min(len(source), 16)).astype(int):
        try:
            shapes.setdefault(source[int(index)]["image"].shape, source.name(int(index)))
        except UnreadableImage:
            continue
    if not shapes:
        raise UserError(f"cannot read {source.name(0)} nor any other image of {c.source}")
    channels = c.channels or max(shape[2] for shape in shapes)
    sides = {shape[:2]: name for shape, name in shapes.items()}
    if not c.image_size and (len(sides) > 1 or len(set(next(iter(sides)))) > 1):
        raise UserError(
            SIZES.format(
                ", ".join(f"{name} is {w}x{h}" for (h, w), name in list(sides.items())[:2])
            )
        )
    return c.image_size or next(iter(sides))[0], channels
