"""The passes of a model over the images of an evaluation: each method reads a split or a sample."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vision.data.augment.views import CHOICES, test_time_views
from vision.data.loading.device_loader import DeviceLoader
from vision.data.loading.loader import Loader
from vision.data.splits import same_images
from vision.evaluation.data import Split
from vision.evaluation.measures import statistics
from vision.evaluation.measures.calibration import FITTED
from vision.evaluation.measures.robustness import robustness
from vision.evaluation.outputs import Forward, Outputs, collect
from vision.evaluation.probe import linear_probe
from vision.metrics import NEIGHBORS, knn_accuracy
from vision.support.progress import waiting

PROBED = 1000  # classes up to which a linear probe is fitted, which takes too long for more


def gather(forward: Forward, split: Split, batch_size: int, embedded: int) -> Outputs:
    """Returns the outputs on all parts of a split, with labels among the model's classes.

    Args:
        forward: the model's forward pass.
        split: the images; `rows` of the outputs are positions in its source.
        batch_size: images at a time, over all devices.
        embedded: number of embeddings to keep of each part.
    """
    parts = []
    start = 0
    for name, loader in split.loaders.items():
        outputs = collect(forward, loader, batch_size, embedded=embedded, label=f"split {name}")
        part = split.labeled(outputs)
        parts.append(dataclasses.replace(part, rows=part.rows + start))
        start += len(loader)
    return parts[0] if len(parts) == 1 else _join(parts)


def _join(parts):
    starts = np.cumsum([0, *(len(part.rows) for part in parts)])
    arrays = {
        field.name: [getattr(part, field.name) for part in parts]
        for field in dataclasses.fields(Outputs)
    }
    arrays["embedded"] = [part.embedded + start for part, start in zip(parts, starts, strict=False)]
    return Outputs(**{name: np.concatenate(values) for name, values in arrays.items()})


def sample(loader: Loader, count: int) -> Loader:
    """Returns a loader of `count` images drawn at random, on the device.

    The loader itself is returned if count is 0, or if it has no more images.
    """
    if not count or count >= len(loader):
        return loader
    part = loader.part(np.sort(np.random.RandomState(0).permutation(len(loader))[:count]))
    return part if part.data else DeviceLoader(part.dataset, part.unreadable, part.mesh)


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """A model and the images that it is evaluated on.

    Attributes:
        forward: the model's forward pass.
        split: the images.
        batch_size: images at a time, over all devices.
        config: config.evaluation.
        report: called with a line of text before each longer step.
    """

    forward: Forward
    split: Split
    batch_size: int
    config: ConfigDict
    report: Callable[[str], Any] = print

    def outputs(self) -> Outputs:
        """Returns the outputs on the split, with enough embeddings for the map and the probe."""
        embedded = max(self.config.probe, self.config.map_images)
        return gather(self.forward, self.split, self.batch_size, embedded)

    def validation(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns (logits, labels) of the validation split, or of as many images as are needed.

        None if they are not needed, or the validation split is what is evaluated.
        """
        loaders = self.split.data.loaders
        needed = self.config.temperature or self.config.positive or self.config.unsure
        if self.split.name in ("val", "all") or not needed or not {"val", "test"} <= set(loaders):
            return None
        if same_images(loaders["val"].dataset.source, loaders["test"].dataset.source):
            return None
        loader = loaders["val"]
        if not self.config.positive:
            loader = sample(loader, max(1, FITTED // len(self.split.positions)))
        outputs = self._labeled(loader, title="split val")
        return (outputs.logits, outputs.labels) if len(outputs.labels) else None

    def robustness_and_views(self) -> dict[str, Any]:
        """Returns {"robustness", "views"}, measured on a sample.

        A value is None if it is not asked for, or cannot be measured on a bundle.
        """
        results: dict[str, Any] = {"robustness": None, "views": None}
        if not (self.config.corruptions or self.config.views):
            return results
        loader = sample(next(reversed(self.split.loaders.values())), self.config.sample)
        plain = self._labeled(loader, title="without corruption")
        if self.config.corruptions:
            self.report(f"15 corruptions of 5 severities, {len(plain.labels):,} images")
            results["robustness"] = robustness(
                self.forward, loader, self.batch_size, plain, collect
            )
        if self.config.views and self.forward.classifier.model is not None:
            self.report(f"test-time augmentation, {len(plain.labels):,} images")
            results["views"] = [self._view(name, loader, plain) for name in CHOICES]
        return results

    def _view(self, name, loader, plain):
        """Returns the accuracy of the mean over some views, and its change against `plain`."""
        outputs = plain
        if name != "none":
            forward = self.forward.averaging(functools.partial(test_time_views, name))
            title = f"views {name}"
            outputs = collect(forward, loader, self.batch_size, embedded=0, label=title)
        correct = outputs.logits.argmax(1) == plain.labels
        correct_plain = plain.logits.argmax(1) == plain.labels
        return {
            "views": name,
            "images": len(plain.labels),
            "accuracy": float(correct.mean()),
            "change": statistics.paired_shares(correct, correct_plain),
        }

    def probe(self, outputs: Outputs) -> dict[str, Any] | None:
        """Returns the accuracies of nearest neighbors and of a linear probe on the embeddings.

        None if they are not asked for, or the data do not allow them.

        Args:
            outputs: outputs on the split.
        """
        loaders = self.split.data.loaders
        count = self.config.probe
        if not count or self.split.name in ("train", "all") or not outputs.embeddings.size:
            return None
        if not {"train", "val"} <= set(loaders):  # images that cannot be divided for a training
            return None
        train_loader = sample(loaders["train"], count)
        val_loader = sample(loaders["val"], count)
        self.report(f"nearest neighbors and linear probe, {len(train_loader):,} training images")
        train = self._embeddings(train_loader)
        val = self._embeddings(val_loader)
        test = (outputs.embeddings, outputs.labels[outputs.embedded])
        train_images = len(train[1])
        if len(np.unique(train[1])) < 2 or not len(val[1]):
            return None
        linear = strength = None
        if len(self.split.positions) <= PROBED:
            with waiting("fitting the linear probe"):
                linear, strength = linear_probe(*train, *val, *test)
        k = min(NEIGHBORS, train_images)
        return {
            "linear_probe": None if linear is None else float(linear),
            "nearest_neighbors": knn_accuracy(*train, *test, k=k),
            "training_images": train_images,
            "images": len(test[1]),
            "C": strength,
            "k": k,
        }

    def _embeddings(self, loader: Loader) -> tuple[np.ndarray, np.ndarray]:
        """Returns (embeddings, labels) of all of a loader's readable images."""
        outputs = self._labeled(loader, len(loader), "embedding")
        return outputs.embeddings, outputs.labels[outputs.embedded]

    def _labeled(self, loader, embedded=0, title="evaluating"):
        outputs = collect(self.forward, loader, self.batch_size, embedded=embedded, label=title)
        return self.split.labeled(outputs)
