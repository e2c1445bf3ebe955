"""Distances against SciPy and formulas, and what holds for all of them."""

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vision.reference import distances, features, verdict

COUNTS = arrays.arrays(np.int64, 6, elements=st.integers(0, 500)).filter(lambda a: a.sum() > 0)


@settings(max_examples=50, deadline=None)
@given(COUNTS, COUNTS)
def test_divergences_are_scipys(first, second):
    p = distances.smoothed(first)
    q = distances.smoothed(second)
    assert distances.kl(p, q) == pytest.approx(scipy.stats.entropy(p, q), abs=1e-12)
    both = scipy.stats.entropy(p, q) + scipy.stats.entropy(q, p)
    assert distances.psi(p, q) == pytest.approx(both, abs=1e-12)
    theirs = scipy.spatial.distance.jensenshannon(p, q, base=2) ** 2
    assert distances.jensen_shannon(p, q) == pytest.approx(theirs, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(COUNTS, COUNTS)
def test_tests_on_counts_are_scipys(first, second):
    columns = first + second > 0
    if columns.sum() > 1:
        table = np.stack([first, second])[:, columns]
        theirs = scipy.stats.chi2_contingency(table, correction=False).statistic
        assert distances.chi_squared(first, second) == pytest.approx(theirs, abs=1e-9)
    values = [np.repeat(np.arange(6), counts) for counts in (first, second)]
    theirs = scipy.stats.ks_2samp(*values, method="asymp").statistic
    assert distances.kolmogorov_smirnov(first, second) == pytest.approx(theirs, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(COUNTS)
def test_nothing_is_far_from_itself(counts):
    p = distances.smoothed(counts)
    for measure in (distances.kl, distances.psi, distances.jensen_shannon):
        assert measure(p, p) == 0
    for measure in (
        distances.kolmogorov_smirnov,
        distances.total_variation,
        distances.chi_squared,
    ):
        assert measure(counts, counts) == 0


@settings(max_examples=50, deadline=None)
@given(COUNTS, COUNTS)
def test_ranges(first, second):
    p = distances.smoothed(first)
    q = distances.smoothed(second)
    assert distances.kl(p, q) >= -1e-12 and 0 <= distances.jensen_shannon(p, q) + 1e-12 <= 1
    ks = distances.kolmogorov_smirnov(first, second)
    assert 0 <= ks <= distances.total_variation(first, second) + 1e-12 <= 1 + 1e-12


def test_many_rows_are_measured_as_one_by_one():
    random = np.random.default_rng(0)
    counts = random.integers(1, 50, (2, 7, 5))
    for measure in (distances.kolmogorov_smirnov, distances.chi_squared):
        together = measure(counts[0], counts[1])
        np.testing.assert_allclose(together, [measure(*pair) for pair in counts.swapaxes(0, 1)])


def test_mmd_is_the_unbiased_formula():
    random = np.random.default_rng(0)
    x = random.normal(size=(9, 4))
    y = random.normal(1, 1, size=(6, 4))
    width = distances.bandwidth(y.astype(np.float32))
    assert width == pytest.approx(np.median(scipy.spatial.distance.pdist(y, "sqeuclidean")))

    def kernel(a, b):
        return np.exp(-scipy.spatial.distance.cdist(a, b, "sqeuclidean") / width)

    within = (kernel(x, x).sum() - 9) / (9 * 8) + (kernel(y, y).sum() - 6) / (6 * 5)
    expected = within - 2 * kernel(x, y).mean()
    joined = distances.gaussian_kernel(np.concatenate([x, y]), width)
    chosen = verdict.divisions(9, 6, 3)
    ours = distances.mmd(joined, chosen)
    assert ours.shape == (4,) and ours[0] == pytest.approx(expected, abs=1e-6)
    # the other divisions choose other rows, equally many
    assert (chosen.sum(1) == 9).all() and not np.array_equal(chosen[0], chosen[1])


def test_the_shift_of_means_is_mahalanobis_distance():
    random = np.random.default_rng(0)
    mixing = random.normal(size=(5, 5))
    rows = random.normal(size=(30, 5)) @ mixing
    rows[:10] += 1
    covariance = np.cov(rows[10:].T)
    difference = rows[:10].mean(0) - rows[10:].mean(0)
    expected = scipy.spatial.distance.mahalanobis(
        difference, np.zeros(5), np.linalg.inv(covariance)
    )
    whitened = rows @ distances.whitening(covariance)
    ours = distances.mean_shift(whitened.sum(0), verdict.divisions(10, 20, 1), whitened)
    assert ours[0] == pytest.approx(expected**2, rel=1e-5)


def test_directions_without_variance_are_left_out():
    """As those of the sketch of an embedding with fewer dimensions."""
    covariance = np.zeros((4, 4))
    covariance[:2, :2] = [[2, 1], [1, 2]]
    whitening = distances.whitening(covariance)
    assert whitening.shape == (4, 2)
    np.testing.assert_allclose(whitening.T @ covariance @ whitening, np.eye(2), atol=1e-12)
    assert distances.whitening(np.zeros((4, 4))).shape[1] <= 4


@pytest.mark.parametrize("draw", ["normal", "few", "constant"])
def test_bins_have_equal_shares_and_all_values(draw):
    random = np.random.default_rng(0)
    values = {
        "normal": random.normal(size=1000),
        "few": random.choice([1.0, 4 / 3, 1.5], 1000, p=[0.1, 0.6, 0.3]),
        "constant": np.ones(1000),
    }[draw].astype(np.float32)
    edges = features.bin_edges(values)
    counts = features.count(values, edges)
    assert edges.dtype == np.float32 and (np.diff(edges) > 0).all()
    assert counts.sum() == 1000 and counts[0] == counts[-1] == 0 and len(counts) == len(edges) + 1
    if draw == "normal":
        assert abs(counts[1:-1] - np.append(0, np.full(features.BINS, 1000 / 16))).max() <= 1.5
    elif draw == "few":
        assert sorted(counts[counts > 0]) == sorted(np.unique(values, return_counts=True)[1])
    outside = np.array([-1e9, np.nan, 1e9, np.nextafter(values.min(), -np.inf)], np.float32)
    assert features.count(outside, edges)[[0, -1]].tolist() == [2, 1]


def test_entropy_is_scipys():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(5) * 0.1, 50).astype(np.float32)
    probabilities[0] = [1, 0, 0, 0, 0]
    best, numbers = features.outputs(probabilities)
    np.testing.assert_array_equal(best, probabilities.argmax(1))
    np.testing.assert_array_equal(numbers[:, 0], probabilities.max(1))
    expected = scipy.special.entr(probabilities.astype(np.float64)).sum(1)
    np.testing.assert_allclose(numbers[:, 1], expected, atol=1e-6)
