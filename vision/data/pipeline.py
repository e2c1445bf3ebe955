"""From a source's name to batches on the devices.

Data that fit (`config.data.resident_gib`) are decoded once and live on the devices as uint8; a
batch is then a list of indices. Larger data are decoded for each batch by Grain's workers. Both
give the same batches in the same order.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, cast

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vision.data.changes import change
from vision.data.decode import INTERPOLATIONS
from vision.data.division import Changes, Division, Task
from vision.data.fields import FieldEncoder, add_fields
from vision.data.findings import Finding
from vision.data.image_shape import image_shape
from vision.data.labeled import draw_labeled
from vision.data.loading.dataset import Dataset, Unreadable
from vision.data.loading.device_loader import DeviceLoader
from vision.data.loading.loader import Loader
from vision.data.loading.sampler import SAMPLINGS, Sampler, run_length
from vision.data.loading.worker_loader import WorkerLoader
from vision.data.recall import (
    MEMORY,
    Divided,
    Past,
    divide,
    leave_out_missing,
    match_past,
    without_missing,
)
from vision.data.sample import look
from vision.data.sources import Opened, Source, open_splits
from vision.data.splits import Joined, split_seed, unseen_classes
from vision.data.subset import Subset
from vision.data.synthetic import (
    SYNTHETIC,
    check_channels,
    check_fields,
    match_classes,
    open_synthetic,
)
from vision.data.tokenizer import TextShape
from vision.errors import UserError, check_choice

SAMPLE = 16  # images that are decoded to learn what they are like
UNLABELED = "unlabeled"  # the loader of `config.data.unlabeled`
BESIDE = (UNLABELED, MEMORY)  # the loaders whose images a step sees beside those of train


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run learns from: a loader per split, and what the splits have in common.

    Attributes:
        loaders: {"train", "val", "test"}, "unlabeled" if `config.data.unlabeled` names images, and
            "memory" if a training that goes on from a run has one; or the splits that `open_data`
            was given.
        classes: class names, in the labels' order.
        image_size: side of every image, pixels.
        channels: 1 or 3.
        class_counts: int (C,), images per class of train, or of the first given split.
        findings: what is odd about the source.
        division: the images of each split, as a training stores them; None if nothing is trained.
        changes: how the data differ from those that a run had.
        tasks: what this run and those that it goes on from have learned, in their order; () for
            any other training.
        synthetic: images of `config.data.synthetic` among those of train.
        encoder: of the fields that the loaders' batches have; None if nobody asked for any.
    """

    loaders: dict[str, Loader]
    classes: tuple[str, ...]
    image_size: int
    channels: int
    class_counts: np.ndarray
    findings: tuple[Finding, ...] = ()
    division: Division | None = None
    changes: Changes = dataclasses.field(default_factory=Changes)
    tasks: tuple[Task, ...] = ()
    synthetic: int = 0
    encoder: FieldEncoder | None = None

    @property
    def unreadable(self) -> dict[str, str]:
        """{name: reason} of every unreadable image so far, in any split."""
        return self._first.unreadable.reasons

    @property
    def text_shape(self) -> TextShape | None:
        """The shape of the captions' tokens; None if captions are not used."""
        return self.encoder.text_shape if self.encoder else None

    @property
    def _first(self) -> Loader:
        return next(iter(self.loaders.values()))

    def describe(self) -> str:
        """Returns the sizes, the shape and the place of the images, in words."""
        sizes = ", ".join(f"{len(loader):,} {name}" for name, loader in self.loaders.items())
        place = "on the device" if self._first.is_resident else "loaded for each batch"
        shape = f"{self.image_size}x{self.image_size}x{self.channels}"
        made = f", {self.synthetic:,} of train synthetic" if self.synthetic else ""
        return f"{sizes} images of {shape}{made}, {len(self.classes)} classes, {place}"


def named_splits(
    c: ConfigDict,
    seed: int,
    opened: Mapping[str, Source] | None = None,
    past: Past | None = None,
) -> tuple[dict[str, Source], tuple[Finding, ...]]:
    """Opens the source that `config.data` names and divides it.

    Args:
        c: config.data.
        seed: seed of the division into splits.
        opened: what `open_splits` returned for the source, if that is at hand.
        past: the division of a run, whose images the splits then have; None divides the source.

    Returns:
        ({"train": source, "val": source, "test": source}, findings).

    Raises:
        UserError: see `open_splits`, `make_splits` and `change`; none of a split's images is left.
    """
    divided = divide(c, seed, opened or _open(c, past), past)
    splits = change(divided.splits, c.source)
    splits.pop(MEMORY, None)  # only a training looks at it
    findings = (*divided.findings, *unseen_classes(splits))
    return leave_out_missing(splits), findings


def _open(c, past, opened=None):
    """Opens the source; a class of a run that is only looked at again may be gone by now."""
    return open_splits(c.source, c.bits, 1 if past and not past.joins else 2, opened)


def open_data(
    config: ConfigDict,
    mesh: Mesh,
    splits: dict[str, Source] | None = None,
    *,
    with_unlabeled: bool = False,
    past: Past | None = None,
    needed: Collection[str] | None = None,
    encoder: FieldEncoder | None = None,
    opened: Opened | None = None,
) -> Data:
    """Opens the splits of `config.data`, in the order that `config.imbalance` asks for.

    Args:
        config: the run's config.
        mesh: from `vision.parallel.make_mesh`.
        splits: {name: source} instead of the splits that `config.data` names.
        with_unlabeled: whether to open the images of `config.data.unlabeled` and `.synthetic` too,
            as only a training does, and to list them and the splits in `Data.division`.
        past: the division of a run, whose images the splits then have; None divides the source.
        needed: the splits that must have an image left of those of `past`; None for all.
        encoder: the run's, of texts and columns. A training that has none yet learns it; only a
            training, or a caller with an encoder, uses them.
        opened: sources of `config.data.source` that are open already; see `open_splits`.

    Raises:
        UserError: see `named_splits`; also if images differ in size and no size is configured, or
            if more images are unreadable, or were lost when the source was opened, than
            `max_unreadable` allows.
    """
    c = config.data
    if splits is None:
        divided = divide(c, split_seed(config), _open(c, past, opened), past, with_unlabeled)
        splits = change(divided.splits, c.source)
        if not with_unlabeled:
            splits.pop(MEMORY, None)
        if not divided.tasks:  # otherwise the model has learned the old classes already
            divided = divided._replace(findings=(*divided.findings, *unseen_classes(splits)))
    else:
        divided = Divided(splits, next(iter(splits.values())).findings, {}, Changes())
    available = sum(map(len, splits.values()))
    splits = _draw_splits(c, splits, split_seed(config))
    if with_unlabeled and c.unlabeled:
        splits, divided = _with_unlabeled(c, splits, split_seed(config), divided, past)
    splits = leave_out_missing(splits, needed)
    if with_unlabeled or encoder is not None:
        splits, encoder, divided = _encoded(config, splits, encoder, with_unlabeled, divided)
    first = next(iter(splits.values()))
    sample = look(first, SAMPLE)
    image_size, channels = image_shape(c, first, sample)
    real = len(first)
    if with_unlabeled and c.synthetic:
        first, divided = _with_synthetic(c, first, divided, past, {channels, *sample.channels})
        splits["train"] = first
    # "rest" may be the training split itself.
    total = sum(map(len, {id(split): split for split in splits.values()}.values()))
    lost = {f.name: f"{f.kind}: {f}" for f in divided.findings if f.lost}
    unreadable = Unreadable(total, c.max_unreadable, lost, available)
    datasets = {
        name: _dataset(config, name, split, image_size, channels) for name, split in splits.items()
    }
    loaders = _open_loaders(c, datasets, unreadable, mesh)
    return Data(
        loaders,
        first.classes,
        image_size,
        channels,
        np.bincount(first.labels, minlength=len(first.classes)),
        (*divided.findings, *sample.findings),
        divided.division if with_unlabeled else None,
        divided.changes,
        divided.tasks,
        len(first) - real,
        encoder,
    )


def _encoded(
    config: ConfigDict,
    splits: dict[str, Source],
    encoder: FieldEncoder | None,
    learns: bool,
    divided: Divided,
) -> tuple[dict[str, Source], FieldEncoder, Divided]:
    """Returns the splits with their fields, what encodes them, and further findings."""
    encoded = add_fields(config, splits, encoder, learns)
    divided = divided._replace(findings=(*divided.findings, *encoded.findings))
    return encoded.splits, encoded.encoder, divided


def _open_loaders(
    c: ConfigDict, datasets: Mapping[str, Dataset], unreadable: Unreadable, mesh: Mesh
) -> dict[str, Loader]:
    """Returns a loader for each split: on the devices, if all of them fit there."""
    sizes = {id(d.source): len(d) * d.image_size**2 * d.channels for d in datasets.values()}
    is_resident = sum(sizes.values()) <= c.resident_gib * 2**30 and not c.random_crop_area
    loaders: dict[str, Loader] = {}
    resident: dict[int, DeviceLoader] = {}  # {source: loader}: two loaders of one share its arrays
    for name, dataset in datasets.items():
        source = id(dataset.source)
        if is_resident and source in resident:
            loaders[name] = resident[source].with_sampler(dataset.sampler)
        elif is_resident:
            loaders[name] = resident[source] = DeviceLoader(dataset, unreadable, mesh)
        else:
            workers = c.workers if dataset.source.encoded else 0
            loaders[name] = WorkerLoader(dataset, unreadable, workers, mesh, c.worker_timeout)
    return loaders


def _draw_splits(c: ConfigDict, splits: dict[str, Source], seed: int) -> dict[str, Source]:
    """Returns the splits as `limit` and `labels` ask for."""
    drawn = {name: _draw(split, c.limit or len(split), seed) for name, split in splits.items()}
    if c.labels and "train" in drawn:
        train = drawn["train"]
        labeled = draw_labeled(c.labels, train.labels, train.classes, c.labels_seed)
        drawn["train"] = Subset(train, labeled)
    return drawn


def _with_unlabeled(
    c: ConfigDict, splits: dict[str, Source], seed: int, divided: Divided, past: Past | None
) -> tuple[dict[str, Source], Divided]:
    """Returns the splits and the unlabeled images, and the division with those of a source.

    "rest" is the training split before a draw.
    """
    if c.unlabeled != "rest":
        images = _unlabeled_source(c.unlabeled, c.bits)
        images, divided = _beside(UNLABELED, images, divided, past)
    else:
        images = splits["train"]
        if c.labels:
            images = cast(Subset, images).source
    if c.limit:
        images = _draw(images, c.limit, seed)
    return splits | {UNLABELED: images}, divided


def _with_synthetic(
    c: ConfigDict,
    train: Source,
    divided: Divided,
    past: Past | None,
    channels: Collection[int],
) -> tuple[Source, Divided]:
    """Returns the training split with the synthetic images, and the division with them.

    Args:
        c: config.data.
        train: the real images to train on.
        divided: the division of the real images.
        past: the division of a run.
        channels: the numbers of channels that the real images have.
    """
    images = open_synthetic(c.synthetic, c.source, c.bits)
    images, divided = _beside(SYNTHETIC, images, divided, past)
    images = without_missing(match_classes(c.synthetic, images, train.classes))
    check_channels(c.synthetic, images, channels)
    check_fields(c.synthetic, images, train)
    return Joined([train, images]), divided


def _beside(
    name: str, images: Source, divided: Divided, past: Past | None
) -> tuple[Source, Divided]:
    """Returns further images as a run had them, and the division with them under a name."""
    opened = {name: images}
    own_past = past if past and not past.divides_new and name in past.digests else None
    further = match_past(opened, (), opened, own_past, (name,))
    divided = divided._replace(
        division=divided.division | further.division,
        changes=divided.changes.joined(further.changes),
    )
    return further.splits[name], divided


def _unlabeled_source(spec: str, bits: int) -> Source:
    """Returns all images that a source has for training; their labels are never looked at."""
    opened = open_splits(spec, bits, 0)
    for name in ("all", "train"):
        if name in opened:
            return opened[name]
    raise UserError(
        f"data.unlabeled = '{spec}' has no images to train on, only {', '.join(opened)}"
    )


def _dataset(
    config: ConfigDict, name: str, split: Source, image_size: int, channels: int
) -> Dataset:
    """Returns a split's dataset; only images that are learned from are resampled and cropped."""
    c = config.data
    if name == "train":
        sampler = _train_sampler(config, split)
    else:
        # What lies beside the training images comes in an order of its own.
        order = BESIDE.index(name) + 1 if name in BESIDE else 0
        sampler = Sampler(config.seed + order, split.labels)
    return Dataset(
        split,
        image_size,
        channels,
        area=tuple(c.random_crop_area) if name in ("train", *BESIDE) else (),
        exact=not c.image_size,
        sampler=sampler,
        **resize_of(c),
    )


def _train_sampler(config: ConfigDict, source: Source) -> Sampler:
    c = config.imbalance
    check_choice("imbalance.sampling", c.sampling, (*SAMPLINGS, "smote"))
    if c.sampling == "smote":  # makes further embeddings, which are sampled like the others
        if not config.transfer.cache_embeddings:
            raise UserError(
                "imbalance.sampling = 'smote' works on embeddings: set transfer.mode=head and "
                "transfer.cache_embeddings=True"
            )
        return Sampler(config.seed, source.labels)
    if c.sampling_from >= c.sampling_until:
        raise UserError(
            f"imbalance.sampling_from = {c.sampling_from:g} must be less than sampling_until = "
            f"{c.sampling_until:g}"
        )
    steps = run_length(config.train, len(source))
    begin = round(c.sampling_from * steps)
    end = round(c.sampling_until * steps)
    return Sampler(config.seed, source.labels, c.sampling, begin, end)


def resize_of(c: ConfigDict) -> dict[str, Any]:
    """Returns {"crop_fraction", "interpolation"} of `resize_crop` that `config.data` asks for.

    Raises:
        UserError: the interpolation is unknown.
    """
    return {"crop_fraction": c.crop_fraction or 1.0, "interpolation": interpolation_of(c)}


def interpolation_of(c: ConfigDict) -> str:
    """Returns the `interpolation` of `resize_crop` that `config.data` asks for.

    Raises:
        UserError: it is unknown.
    """
    check_choice("data.interpolation", c.interpolation, ("auto", *INTERPOLATIONS))
    return "area" if c.interpolation == "auto" else c.interpolation


def _draw(split: Source, limit: int, seed: int) -> Source:
    """Returns a fixed random draw of at most `limit` images."""
    if limit >= len(split):
        return split
    chosen = np.random.RandomState(seed % 2**32).permutation(len(split))[:limit]
    return Subset(split, np.sort(chosen))
