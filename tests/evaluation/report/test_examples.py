"""Which images a report shows."""

import numpy as np

from vision.evaluation.report import examples


def test_hardest_and_easiest_leave_out_what_is_shown_elsewhere():
    probability = np.array([0.1, 0.9, 0.2, 0.8, 0.3, 0.7])
    labels = np.array([0, 0, 0, 0, 0, 1])
    hard, easy = examples.of_class(probability, labels, 0, 2)
    assert (hard.tolist(), easy.tolist()) == ([0, 2], [1, 3])
    hard, easy = examples.of_class(probability, labels, 0, 2, [0, 1, 5])
    assert (hard.tolist(), easy.tolist()) == ([2, 4], [3])
    hard, easy = examples.of_class(probability, labels, 1, 2, [5])
    assert len(hard) == len(easy) == 0
