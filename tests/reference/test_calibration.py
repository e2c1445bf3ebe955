"""The calibration error against its definition."""

import numpy as np
import pytest

from vision.reference import calibration


def naive(confidence, correct, bins):
    gaps = []
    for i in range(bins):
        inside = (confidence > i / bins) & (confidence <= (i + 1) / bins)
        if inside.any():
            gaps.append(
                (
                    inside.sum() / len(confidence),
                    abs(correct[inside].mean() - confidence[inside].mean()),
                )
            )
    return sum(n * gap for n, gap in gaps), max(gap for _, gap in gaps)


@pytest.mark.parametrize("bins", [2, 10, 15])
def test_the_error_is_its_definition(bins):
    random = np.random.default_rng(0)
    confidence = random.random(4000)
    correct = random.random(4000) < confidence**2
    np.testing.assert_allclose(
        calibration.calibration_error(confidence, correct, bins), naive(confidence, correct, bins)
    )
    curve = calibration.reliability(confidence, correct, bins)
    assert sum(curve["count"]) == len(correct)
    assert all(
        (n == 0) == (a is None) for n, a in zip(curve["count"], curve["accuracy"], strict=True)
    )


def test_weights_are_repetitions():
    random = np.random.default_rng(1)
    confidence = random.random(300)
    correct = random.random(300) < 0.5
    times = random.integers(0, 4, 300)
    repeated = calibration.calibration_error(
        np.repeat(confidence, times), np.repeat(correct, times)
    )
    np.testing.assert_allclose(
        calibration.calibration_error(confidence, correct, weights=times), repeated, atol=1e-12
    )


def test_edges_of_the_bins():
    assert calibration.bin_of([0.0, 0.1, 0.1000001, 0.5, 1.0], 10).tolist() == [0, 0, 1, 4, 9]
