"""What a network costs: multiply-adds, counted from its name, and its latency in ONNX Runtime.

A search asks for the cost of thousands of networks. Multiply-adds follow from the name; the tests
compare them with the count of the traced model (`vision.models.surgery.costs`) and of the exported
file. Latency is measured for some networks, and for the others predicted from these by a sum over
the layers, as by the tables of Cai et al. 2019 (arXiv:1812.00332), section 3.2.1; what a search
reports in the end is measured.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from vision import models
from vision.compression.latency import compare, exported
from vision.errors import UserError
from vision.inference import Classifier
from vision.models import surgery
from vision.models.layers.inverted_residual import round_width
from vision.models.layers.streams import Streams
from vision.models.layers.variants import Choice, stages_of
from vision.models.surgery.costs import multiply_adds

KINDS = ("stem", "pointwise", "depthwise", "squeeze")
SECONDS = 1.0  # of a latency's measurement, at least


@dataclasses.dataclass(frozen=True)
class Task:
    """What networks are for.

    Attributes:
        config: the config of their training.
        classes: class names.
        image_size: side of the images, pixels.
        channels: 1 or 3.
    """

    config: ConfigDict
    classes: tuple[str, ...]
    image_size: int
    channels: int

    def config_of(self, variant: str, model: str = "mobile_space") -> ConfigDict:
        """Returns the config of a network's own training, from labels alone."""
        config = self.config.copy_and_resolve_references()
        if config.model.name != model:  # whose options are others
            config.model.options = ConfigDict()
        config.model.name = model
        config.model.variant = variant
        config.model.pretrained = ""
        if config.objective.name == "supernet":
            config.objective.name = "supervised"
            config.objective.options = ConfigDict()
        return config

    def abstract(self, variant: str, model: str = "mobile_space") -> nnx.Module:
        """Returns a network with shapes in place of numbers."""
        c = self.config_of(variant, model).model
        shape = (len(self.classes), self.image_size, self.channels)
        return nnx.eval_shape(lambda: models.build(c, *shape, Streams(0)))

    def classifier(self, variant: str, model: str = "mobile_space") -> Classifier:
        """Returns a classifier with random numbers, for its latency."""
        random = np.random.default_rng(0)
        network = self.abstract(variant, model)
        for name, variable in surgery.variables(network).items():
            value = random.uniform(0.5, 1, variable.shape)
            if name.endswith("kernel"):
                value = random.normal(0, np.prod(variable.shape[:-1]) ** -0.5, variable.shape)
            variable.set_value(jnp.asarray(value, variable.dtype))
        for _, variable in nnx.to_flat_state(nnx.state(network, nnx.RngState)):
            is_key = isinstance(variable, nnx.RngKey)
            zero = np.zeros(variable.shape, np.uint32)
            variable.set_value(nnx.Rngs(0).params() if is_key else zero)
        network.eval()
        config = self.config_of(variant, model)
        return Classifier(config, network, self.classes, self.image_size, self.channels)

    def macs(self, variant: str, model: str = "mobile_space") -> int:
        """Returns the multiply-adds of an architecture, counted in its trace."""
        return multiply_adds(self.abstract(variant, model), self.image_size, self.channels)


def layers(choice: Choice, image_size: int, channels: int) -> list[tuple[str, int, int]]:
    """Returns (kind, multiply-adds, numbers written) of each layer of a network but its head.

    Args:
        choice: the network.
        image_size: side of the images, pixels.
        channels: of the images.
    """
    side = choice.get("r") or image_size
    rows = []
    if side != image_size:
        written = (image_size * side, side * side)
        rows += [("stem", image_size * n * channels, n * channels) for n in written]
    side = -(-side // choice["c.s"])
    features = choice["c"]
    rows.append(("stem", side**2 * features * 9 * channels, side**2 * features))
    for stage in stages_of(choice):
        for place in range(stage["d"]):
            expanded = stage["e"] * features
            if stage["e"] > 1:
                rows.append(("pointwise", side**2 * features * expanded, side**2 * expanded))
            side = side if place else -(-side // stage["s"])
            area = side**2
            rows.append(("depthwise", area * expanded * stage["k"] ** 2, area * expanded))
            if stage["se"]:
                squeezed = round_width(expanded / 4)
                rows.append(("squeeze", 2 * expanded * squeezed, area * expanded))
            rows.append(("pointwise", area * expanded * stage["w"], area * stage["w"]))
            features = stage["w"]
    rows.append(("pointwise", side**2 * features * choice["h"], side**2 * choice["h"]))
    return rows


def count(choice: Choice, task: Task) -> int:
    """Returns a network's multiply-adds for one image."""
    rows = layers(choice, task.image_size, task.channels)
    return sum(macs for _, macs, _ in rows) + choice["h"] * len(task.classes)


class Latency:
    """Measures networks in ONNX Runtime, each in turn with one reference.

    Args:
        task: what they are for.
        reference: (model, variant) of the network that takes turns with each.
        batch: images in a batch.

    Attributes:
        reference: milliseconds of the reference, when it was first measured. Those of others are
            this times the ratio to the reference in the same turns, so that other load on the
            machine, which slows both, does not count.

    Raises:
        UserError: packages for exporting are not installed.
    """

    def __init__(self, task: Task, reference: tuple[str, str], batch: int):
        shape = (batch, task.image_size, task.image_size, task.channels)
        self._images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        model, variant = reference
        self._run = exported(task.classifier(variant, model))
        self.reference = self._measure(self._run)["reference"]

    def __call__(self, classifier: Classifier) -> float:
        """Returns the milliseconds of a classifier for one batch."""
        times = self._measure(exported(classifier))
        return self.reference * times["other"] / times["reference"]

    def _measure(self, run: Callable[[np.ndarray], Any]) -> dict[str, float]:
        result = compare({"reference": self._run, "other": run}, self._images, SECONDS)
        # Lower quartiles: other load can only make a call longer.
        return {name: times["p25"] for name, times in result["models"].items()}


class Prediction:
    """Predicts the latency of networks as a sum over their layers, fitted to measured ones.

    Each kind of layer costs some time a layer, a multiply-add and a number that it writes; none of
    them is below 0 (`scipy.optimize.nnls`).

    Args:
        measured: {name of a network: milliseconds}.
        task: what they are for.
        choices: those networks, in the same order.

    Attributes:
        error: the median over the networks of the relative error, each predicted from the others.

    Raises:
        UserError: there are fewer than two networks.
    """

    def __init__(self, measured: Mapping[str, float], choices: Sequence[Choice], task: Task):
        if len(measured) < 2:
            raise UserError("a prediction of the latency needs at least 2 measured networks")
        self._task = task
        features = np.array([self._features(choice) for choice in choices])
        times = np.array(list(measured.values()))
        self._weights = _fit(features, times)
        left_out = [
            features[i] @ _fit(np.delete(features, i, 0), np.delete(times, i)) / times[i] - 1
            for i in range(len(times))
        ]
        self.error = float(np.median(np.abs(left_out)))

    def __call__(self, choice: Choice) -> float:
        """Returns the milliseconds of a network."""
        return float(self._features(choice) @ self._weights)

    def _features(self, choice: Choice) -> np.ndarray:
        totals = {kind: np.zeros(3) for kind in KINDS}
        for kind, macs, written in layers(choice, self._task.image_size, self._task.channels):
            totals[kind] += (1, macs, written)
        return np.concatenate([[1.0], *totals.values()])


def _fit(features: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Returns the weights, none below 0, whose sums are nearest to the times, relative to them."""
    from scipy.optimize import nnls

    scale = np.maximum(features.max(0), 1e-12)
    weights, _ = nnls(features / scale / times[:, None], np.ones(len(times)))
    return weights / scale


def architecture(text: str, flag: str) -> tuple[str, str]:
    """Returns (model, variant) of "mobilenet:small"; raises `UserError` for another form."""
    model, colon, variant = text.partition(":")
    if not (colon and model and variant):
        raise UserError(f"{flag} = '{text}' must be MODEL:VARIANT, such as mobilenet:small")
    return model, variant
