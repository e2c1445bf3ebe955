"""What a model says of images, as a run that `vision.evaluation.compare` compares.

The classes are those of both models. A model is wrong on an image of a class that it does not have;
its cross-entropy there is that of the smallest normal float32, as for a probability of 0.
"""

import pathlib
from collections.abc import Sequence

import numpy as np

from vision import parallel
from vision.data.pipeline import open_data
from vision.data.splits import Joined
from vision.errors import printable
from vision.evaluation.compare.comparison import Run
from vision.evaluation.data import as_evaluated, positions_of
from vision.evaluation.measures import scores
from vision.evaluation.measures.blocks import best_classes, confidences
from vision.evaluation.outputs import Forward, batch_size, collect
from vision.inference import Predictor

WORST = -float(np.log(np.finfo(np.float32).tiny))  # cross-entropy of a class that is not there


def answer(
    classifier: Predictor, title: str, images: Joined, classes: Sequence[str], spec: str
) -> Run:
    """Returns a model's answers to images; its temperature is applied.

    Args:
        classifier: the model.
        title: its name.
        images: labeled images.
        classes: names, of which the model's are some.
        spec: name of the images' source.

    Raises:
        UserError: the images cannot be opened as the model takes them.
    """
    config = as_evaluated(classifier, classifier.config)
    config.data.source = spec
    config.data.limit = 0
    config.data.labels = ""
    mesh = parallel.make_mesh(config.parallel.devices)
    data = open_data(config, mesh, {"test": images}, encoder=classifier.encoder)
    size = batch_size(config.train, mesh)
    outputs = collect(
        Forward(classifier, mesh), data.loaders["test"], size, embedded=0, label=title
    )
    header = {
        "classes": list(classes),
        "source": spec,
        "split": "",
        "model": config.model.name,
        "data": config.data.to_dict(),
        "seed": config.seed,
    }
    columns = _columns(classifier, outputs, images, classes)
    return Run(title, pathlib.Path(), header, {}, columns)


def _columns(classifier, outputs, images, classes):
    """Returns {name: array (N,)} as `comparison.load` does."""
    place = {name: i for i, name in enumerate(classes)}
    own_places = np.array([place[name] for name in classifier.classes])
    labels = positions_of(classes, images)[outputs.labels]
    own = positions_of(classifier.classes, images)[outputs.labels]
    has_class = own >= 0
    logits = outputs.logits
    safe = np.maximum(own, 0)
    predicted = own_places[logits.argmax(1)]
    nll = scores.losses(logits, safe, classifier.temperature)[0]
    names = np.array(classes, object)
    return {
        "row": outputs.rows,
        "name": np.array([printable(images.name(int(row))) for row in outputs.rows], object),
        "label": names[labels],
        "predicted": names[predicted],
        "label_index": labels,
        "predicted_index": predicted,
        "correct": predicted == labels,
        "confidence": confidences(logits, safe, classifier.temperature)[0],
        "nll": np.where(has_class, nll, WORST),
        "in_top5": (best_classes(logits, 5) == own[:, None]).any(1),
    }
