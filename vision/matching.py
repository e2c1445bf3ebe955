"""A trained pair of an image network and a text tower as its users see it.

Classes are named instead of learned (zero-shot), and images and captions find each other.
"""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from vision import models, objectives
from vision.data.sources import open_splits
from vision.data.texts import fill, parse_templates, templates_of
from vision.data.tokenizer import Tokenizer
from vision.errors import UserError, printable
from vision.inference import Classifier, from_run
from vision.models.layers.heads import PromptHead
from vision.models.layers.streams import Streams
from vision.run.directory import read_run
from vision.run.vocabulary import FILE, run_tokenizer
from vision.run.weights import objective_weights, ready
from vision.support.reading import read_text
from vision.training.teachers import read_constant

CLASSES = "classes"  # the value of --zero-shot that means those of the data
PLAIN = ("{}",)  # the templates of a run that names none
TEXTS = 256  # texts that are encoded at a time


class Matcher:
    """Images and texts as vectors of one space, in which those that belong together are near.

    Args:
        classifier: the run's image network, which prepares images.
        objective: the run's, in evaluation mode, as `vision.objectives.contrastive.Contrastive`.
        tokenizer: the run's.
    """

    def __init__(self, classifier: Classifier, objective: Any, tokenizer: Tokenizer):
        self.classifier = classifier
        self.tokenizer = tokenizer
        self._objective = objective
        graph, state = nnx.split(objective)
        self._texts = jax.jit(lambda state, ids: nnx.merge(graph, state).texts(ids))
        self._state = state

    @property
    def templates(self) -> tuple[str, ...]:
        """The prompts of a class: those that the run's captions were made from, or its name."""
        return templates_of(self.classifier.config.text.templates) or PLAIN

    def text_vectors(self, texts: Iterable[str]) -> np.ndarray:
        """Returns vectors of length 1, float32 (N, D), of texts; long ones lose their end."""
        ids, _ = self.tokenizer.encode(texts)
        return self.vectors_of(ids)

    def vectors_of(self, ids: np.ndarray) -> np.ndarray:
        """Returns vectors of length 1, float32 (N, D), of token ids, int32 (N, L)."""
        parts = []
        for start in range(0, len(ids), TEXTS):
            part = ids[start : start + TEXTS]
            padded = np.concatenate([part, np.repeat(part[:1], TEXTS - len(part), 0)])
            parts.append(np.asarray(self._texts(self._state, padded))[: len(part)])
        return np.concatenate(parts)

    def projector(self, classes: Sequence[str]) -> Classifier:
        """Returns a classifier whose "logits" are the vectors (B, D) of images.

        Args:
            classes: those of the images, which do not matter.
        """
        width = self._objective.image_projection.out_features
        return self._with_head(np.eye(width, dtype=np.float32), 1.0, classes)

    def zero_shot(self, names: Sequence[str], templates: Sequence[str] = ()) -> Classifier:
        """Returns a classifier of classes that are only named.

        A class is the mean over the templates of its prompts' vectors, made one of length 1: the
        paper's code, and section 3.1.4.

        Args:
            names: of the classes.
            templates: texts with a {} for the name; () for the run's.
        """
        templates = templates or self.templates
        prompts = [fill(template, name) for name in names for template in templates]
        vectors = self.text_vectors(prompts).reshape(len(names), len(templates), -1).mean(1)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
        return self._with_head(vectors, float(self._objective.scale()), names)

    def _with_head(self, prompts: np.ndarray, scale: float, names: Sequence[str]) -> Classifier:
        base = self.classifier
        model: Any = nnx.clone(self._objective.model)
        model.head = PromptHead(self._objective.image_projection, jnp.asarray(prompts), scale)
        shape = (base.image_size, base.channels)
        return Classifier(base.config, model, names, *shape, step=base.step, past=base.past)


def open_matcher(workdir: pathlib.Path | str) -> Matcher:
    """Returns the `Matcher` of a run's best checkpoint.

    Raises:
        UserError: there is no run, it has no text tower, or no intact checkpoint.
    """
    config, _ = read_run(workdir)
    tokenizer = run_tokenizer(workdir, config.text)
    if tokenizer is None:
        raise UserError(
            f"{workdir} has no text tower (no {FILE}): train one on images with captions, such as "
            "with configs/clip_openclipart.py"
        )
    classifier = from_run(workdir)
    return Matcher(classifier, _open_objective(workdir, tokenizer), tokenizer)


def _open_objective(workdir: pathlib.Path | str, tokenizer: Tokenizer) -> Any:
    config, data, arrays = objective_weights(workdir)
    definition = objectives.define(config.objective)
    count = len(data["classes"])

    def create() -> Any:
        sizes = (count, data["image_size"], data["channels"])
        model = models.build(config.model, *sizes, Streams(0))
        return definition.build(
            model,
            class_counts=np.ones(count, np.int64),
            classes=tuple(data["classes"]),
            rngs=Streams(0),
            architectures={},
            text=tokenizer.shape,
        )

    objective: Any = nnx.eval_shape(create)
    if not hasattr(objective, "texts"):
        raise UserError(
            f"{workdir} has no text tower: its objective is '{config.objective.name}'; train one "
            "with the objective 'contrastive'"
        )
    for attribute in getattr(objective, "constant", ()):
        start = definition.starts[attribute]
        constant = read_constant(pathlib.Path(workdir), attribute, start)
        arrays |= {f"{attribute}.{name}": array for name, array in (constant or {}).items()}
    return ready(objective, arrays)


def parse_classes(text: str, own: Sequence[str]) -> tuple[str, ...]:
    """Returns the class names that --zero-shot gives.

    Args:
        text: its value: names separated by commas, or `CLASSES`.
        own: the names that `CLASSES` means.

    Raises:
        UserError: there are fewer than two, or one is given twice.
    """
    names = tuple(own) if text == CLASSES else tuple(map(str.strip, text.split(",")))
    names = tuple(name for name in names if name)
    if len(names) < 2:
        raise UserError(
            f"--zero-shot must name at least two classes, such as 'cat,dog', or be '{CLASSES}' for "
            f"those of the data; got {text!r}"
        )
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise UserError(f"--zero-shot names '{printable(repeated[0])}' twice")
    return names


def read_templates(file: str) -> tuple[str, ...]:
    """Returns the templates in a file, one a line; () for "", which means the run's."""
    return parse_templates(f"--templates {file}", read_text(file).splitlines()) if file else ()


def from_flags(
    config: ConfigDict | None,
    workdir: str,
    zero_shot: str,
    templates: str,
    other: str = "",
    data: str = "",
) -> Classifier:
    """Returns the classifier that a command's flags name.

    Args:
        config: the config of --config; None if the flag is not given.
        workdir: the value of --workdir.
        zero_shot: the value of --zero-shot.
        templates: the value of --templates.
        other: the value of --bundle.
        data: the source whose classes --zero-shot=classes means; "" for the run's.

    Raises:
        UserError: the flags do not fit each other, or there is no such run.
    """
    if not zero_shot:
        raise UserError("--templates are prompts for --zero-shot: give it too")
    if not workdir or other or config is not None:
        raise UserError("--zero-shot needs the text tower of a run: give --workdir RUN alone")
    prompts = read_templates(templates)
    if zero_shot != CLASSES:
        parse_classes(zero_shot, ())  # before the run is read
    matcher = open_matcher(workdir)
    own = matcher.classifier.classes
    if data:
        own = next(iter(open_splits(data, matcher.classifier.config.data.bits, 1).values())).classes
    return matcher.zero_shot(parse_classes(zero_shot, own), prompts)
