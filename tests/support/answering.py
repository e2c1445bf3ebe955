"""A model's answers with their true classes, drawn at random, for tests of quality."""

import numpy as np

CLASSES = 4


def answer(count, random, hardness=1.0, wrong=0.0):
    """Returns (probabilities float32 (N, 4), truth (N,)) of a model whose confidence is too high
    in the same way for all images.

    Args:
        count: of images.
        random: generator.
        hardness: of the images: how near their classes are to each other.
        wrong: share of the images whose true class has changed, which no confidence shows.
    """
    logits = random.normal(size=(count, CLASSES)) * 3 / hardness
    exact = np.exp(logits - logits.max(1, keepdims=True))
    exact /= exact.sum(1, keepdims=True)
    truth = (exact.cumsum(1) > random.random((count, 1))).argmax(1)
    sharp = exact**1.5
    probabilities = (sharp / sharp.sum(1, keepdims=True)).astype(np.float32)
    changed = random.random(count) < wrong
    truth[changed] = (truth[changed] + 1) % CLASSES
    return probabilities, truth
