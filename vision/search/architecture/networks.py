"""How good a network is: after a training of its own, or with the weights of a supernet."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from vision import cpu, parallel
from vision.config.load import LIST_KEYS
from vision.data.augment import normalize
from vision.data.loading.loader import Loader
from vision.data.pipeline import Data, open_data
from vision.errors import UserError
from vision.models import mobile_space
from vision.models.layers import elastic
from vision.models.layers.norms import BatchNorm
from vision.models.layers.variants import Choice, Space, spell
from vision.models.weights import pretrained
from vision.run.directory import read_run
from vision.run.readings import curve, metric_lines
from vision.run.splits import past_of
from vision.run.weights import abstract_model, ready, run_weights
from vision.search.architecture.costs import Task
from vision.training.run import run

METRIC = "val/accuracy"
JUDGED = 64  # images in a batch; a CPU's caches hold what small maps take


class Networks(Protocol):
    """Networks of a space, and how good each of them is.

    Attributes:
        task: what they are for.
        space: the networks.
        title: where the accuracy comes from, for a plot.
    """

    task: Task
    space: Space
    title: str

    def accuracy(self, choice: Choice) -> float:
        """Returns the accuracy of a network on the validation split, in [0, 1]."""

    def sample(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns `count` training images, normalized float32, and their labels, int."""


class Trained:
    """Trains each network on its own, in a run directory named like it.

    Args:
        config: their config; its model.variant is a space.
        out: directory of the runs. A finished one is not repeated, an interrupted one goes on.

    Raises:
        UserError: the model is none of a space, or the data cannot be opened.
    """

    title = "each network trained on its own"

    def __init__(self, config: ConfigDict, out: pathlib.Path):
        self.space = space_of(config)
        self._out = out
        data = open_data(config, parallel.make_mesh(1))
        self._loader = data.loaders["train"]
        self.task = Task(config, tuple(data.classes), data.image_size, data.channels)

    def accuracy(self, choice: Choice) -> float:
        """Trains a network; see `Networks.accuracy`.

        Raises:
            UserError: the config does not fit the network.
            RunError: the loss is no longer finite.
            KeyboardInterrupt: the training was interrupted.
        """
        return self.train(spell(choice))

    def train(self, variant: str, model: str = "mobile_space") -> float:
        """Trains any architecture, and returns its accuracy."""
        folder = self._out / (variant if model == "mobile_space" else f"{model}-{variant}")
        try:
            if run(self.task.config_of(variant, model), folder) is None:
                raise KeyboardInterrupt
        finally:
            jax.clear_caches()  # the next network is another program
        return best_accuracy(folder)

    def sample(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Networks.sample`."""
        return training_images(self.task.config, self._loader, count)


class Shared:
    """Judges each network by its part of a supernet's weights.

    BatchNorm's averages are taken again for each network, over training images without augmentation
    (Yu and Huang 2019, arXiv:1903.05134, section 3.2). All networks share two compiled programs.

    Args:
        workdir: directory of a run of the objective `supernet`.
        calibration: training images for the averages.
        batch: images in a batch of the averages.
        limit: validation images, evenly spaced; 0 for all.

    Raises:
        UserError: it is not such a run, or the data cannot be opened.
    """

    title = "networks of the space with the supernet's weights"

    def __init__(
        self,
        workdir: pathlib.Path | str,
        calibration: int = 2048,
        batch: int = 256,
        limit: int = 0,
    ):
        config, description = read_run(workdir)
        if config.objective.name != "supernet":
            raise UserError(
                f"{workdir} is a run of the objective '{config.objective.name}', not of supernet: "
                "train one, such as configs/architecture_fashion_mnist.py:supernet"
            )
        _, _, self.arrays = run_weights(workdir)
        self.space = space_of(config)
        size = (description["image_size"], description["channels"])
        self.task = Task(config, tuple(description["classes"]), *size)
        model = ready(abstract_model(config.model, len(self.task.classes), *size), self.arrays)
        data = _open(config, workdir, *size)
        self._train = data.loaders["train"]
        images = np.asarray(self._train.sample(calibration))
        batch = min(batch, len(images))
        self._calibration = [
            images[i : i + batch] for i in range(0, len(images) // batch * batch, batch)
        ]
        self._batches = _validation(data.loaders["val"], JUDGED, limit)
        self._programs = _Programs(model, config)

    def statistics(self, choice: Choice) -> dict[str, np.ndarray]:
        """Returns {name: array}: BatchNorm's averages, of the largest network's channels.

        Those of channels and blocks that the network lacks mean nothing.
        """
        return self._programs.averages(choice, self._calibration)

    def accuracy(self, choice: Choice) -> float:
        """See `Networks.accuracy`."""
        self.space.check(choice)
        return self._programs.accuracy(choice, self.statistics(choice), self._batches)

    def cut(self, choice: Choice) -> dict[str, np.ndarray]:
        """Returns {name: array} of a network as a model of its own, with its own averages.

        Raises:
            UserError: it is not a network of this space.
        """
        self.space.check(choice)
        shapes = pretrained.shapes(self.task.abstract(spell(choice)))
        return elastic.cut(self.arrays | self.statistics(choice), shapes)

    def sample(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Networks.sample`."""
        return training_images(self.task.config, self._train, count)


class _Programs:
    """The forward passes of any network of a space.

    Args:
        model: the largest network.
        config: the run's config.
    """

    def __init__(self, model: nnx.Module, config: ConfigDict):
        d = config.data
        dtype = jnp.promote_types(config.model.dtype, "float32")
        for _, module in nnx.iter_modules(model):
            if isinstance(module, BatchNorm):
                module.momentum = 0.0  # a pass leaves the statistics of its batch
        graphs: dict[str, Any] = {}
        for mode in ("train", "eval"):
            getattr(model, mode)()
            parts: Any = nnx.split(model, nnx.BatchStat, ...)
            graphs[mode], self._statistics, self._rest = parts

        def logits(mode: str, statistics: Any, rest: Any, images: Any, choice: Any) -> Any:
            network = nnx.merge(graphs[mode], statistics, rest, copy=True)
            normalized = normalize(images, d.normalize, d.mean, d.std, dtype)
            return network, elastic.logits(network, normalized, choice)

        @jax.jit
        def observe(statistics: Any, rest: Any, images: Any, choice: Any) -> Any:
            network, _ = logits("train", statistics, rest, images, choice)
            return nnx.state(network, nnx.BatchStat)

        @jax.jit
        @cpu.fused
        def right(statistics: Any, rest: Any, batch: Any, choice: Any) -> Any:
            images, labels, mask = batch
            _, outputs = logits("eval", statistics, rest, images, choice)
            return ((outputs.argmax(-1) == labels) & mask).sum()

        self._observe = observe
        self._right = right

    def averages(self, choice: Choice, batches: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Returns {name: mean over batches of the statistics} of a network."""
        totals: dict[str, np.ndarray] = {}
        traced = elastic.as_arrays(choice)
        for images in batches:
            state = self._observe(self._statistics, self._rest, images, traced)
            for path, variable in nnx.to_flat_state(state):
                name = ".".join(map(str, path))
                value = np.asarray(variable.get_value(), np.float64) / len(batches)
                totals[name] = totals.get(name, 0) + value
        return {name: total.astype(np.float32) for name, total in totals.items()}

    def accuracy(
        self, choice: Choice, averages: Mapping[str, np.ndarray], batches: list[Any]
    ) -> float:
        """Returns the share of images that a network classifies as labeled."""
        pairs = nnx.to_flat_state(self._statistics)
        filled = [(p, v.replace(jnp.asarray(averages[".".join(map(str, p))]))) for p, v in pairs]
        statistics = nnx.from_flat_state(filled)
        traced = elastic.as_arrays(choice)
        right = [self._right(statistics, self._rest, batch, traced) for batch in batches]
        return sum(map(int, right)) / sum(int(mask.sum()) for _, _, mask in batches)


def space_of(config: ConfigDict) -> Space:
    """Returns the space that a config's model names.

    Raises:
        UserError: it is another model, or one network only.
    """
    if config.model.name != "mobile_space":
        raise UserError(
            f"model.name = '{config.model.name}' is not a space: the search needs mobile_space, "
            f"and a space as model.variant; {LIST_KEYS}"
        )
    space = mobile_space.space(config.model.variant)
    if space.size == 1:
        raise UserError(
            f"model.variant = '{config.model.variant}' is one network: give a space, as in k3.5.7"
        )
    return space


def best_accuracy(workdir: pathlib.Path | str) -> float:
    """Returns the accuracy on the validation split at the step whose checkpoint is the best.

    Raises:
        UserError: the run is not finished.
    """
    workdir = pathlib.Path(workdir)
    try:
        best = json.loads((workdir / "result.json").read_text())["best_step"]
    except OSError as error:
        raise UserError(f"{workdir} is not a finished run: train it first") from error
    accuracies = dict(curve(metric_lines(workdir), METRIC))
    if best not in accuracies:
        raise UserError(f"{workdir} has no {METRIC} at its best step, {best}")
    return accuracies[best]


def training_images(
    config: ConfigDict, loader: Loader, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images of a first batch without augmentation, normalized, and their labels."""
    (batch,) = loader.train_batches(iter([(0, 1)]), min(count, len(loader)))
    source = {name: values[batch["index"]] for name, values in loader.data.items()} or batch
    d = config.data
    images = normalize(jnp.asarray(source["image"]), d.normalize, d.mean, d.std)
    return np.asarray(images), np.asarray(source["label"])


def _open(config: ConfigDict, workdir: pathlib.Path | str, image_size: int, channels: int) -> Data:
    """Opens a run's images, as it saw them."""
    config = config.copy_and_resolve_references()
    config.data.image_size = image_size
    config.data.channels = channels
    config.data.random_crop_area = ()
    config.imbalance.sampling = "none"
    return open_data(config, parallel.make_mesh(1), past=past_of(workdir, config.data.source))


def _validation(loader: Loader, batch: int, limit: int) -> list[Any]:
    """Returns batches (images, labels, mask) of the validation split."""
    if 0 < limit < len(loader):
        loader = loader.part(np.linspace(0, len(loader) - 1, limit).round().astype(int))
    batches = []
    for step in loader.eval_batches(batch):
        source = {k: values[step["index"]] for k, values in loader.data.items()} or step
        batches.append((source["image"], source["label"], step["mask"]))
    return batches
