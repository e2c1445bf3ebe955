"""Images and answers that are only numbers, drawn at random, for tests of drift."""

import json

import numpy as np

from vision.reference import statistics
from vision.reference.features import outputs
from vision.reference.sketch import sketch
from vision.reference.window import Window

CLASSES = 4


def draw(count, random, shift=0.0, classes=(0.4, 0.3, 0.2, 0.1)):
    """Returns (looks, probabilities, embeddings) of images; `shift` moves all in standard
    deviations."""
    looks = random.normal(shift, 1, (count, 7)).astype(np.float32)
    looks[:, 5] = 1.5  # one camera
    best = random.choice(CLASSES, count, p=classes)
    probabilities = random.dirichlet(np.ones(CLASSES), count)
    probabilities[np.arange(count), best] += 2
    probabilities /= probabilities.sum(1, keepdims=True)
    embeddings = random.normal(size=(count, 20)) * np.linspace(1, 3, 20) + shift * 2
    return looks, probabilities.astype(np.float32), embeddings.astype(np.float32)


def reference_of(count, random):
    looks, _, _ = draw(count, random)
    contents = {"drift": statistics.describe(looks, *draw(count, random)[1:])}
    return statistics.parse(json.loads(json.dumps(contents)), CLASSES, "bundle.json")


def window_of(reference, drawn, seed=0):
    looks, probabilities, embeddings = drawn
    best, numbers = outputs(probabilities)
    window = Window(reference, seed)
    values = np.concatenate([looks, numbers], 1)
    window.add(values, best, sketch(embeddings), np.arange(len(best), dtype=float))
    return window
