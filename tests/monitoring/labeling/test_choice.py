"""The choice of images: against brute force, and what holds for any scores."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from vision.monitoring.labeling.choice import SHORTLIST, Pool, Quota, choose, pool, quota
from vision.monitoring.labeling.reasons import NONE, REASONS, nearest


def images_of(random, count=60, classes=4, **scores):
    points = random.normal(size=(count, 3))
    values = {reason: np.full(count, NONE) for reason in REASONS} | scores
    return Pool(values, random.integers(0, classes, count), points, {}, np.full(count, 9.0))


def test_distances_are_scipys():
    random = np.random.default_rng(0)
    points = random.normal(size=(50, 16)).astype(np.float16)
    others = random.normal(size=(30, 16)).astype(np.float16)
    expected = cdist(points.astype(float), others.astype(float))
    np.testing.assert_allclose(nearest(points, others), expected.min(1), atol=1e-6)
    within = cdist(points.astype(float), points.astype(float))
    np.fill_diagonal(within, np.inf)
    np.testing.assert_allclose(nearest(points, points, True), within.min(1), atol=1e-6)


def test_what_is_far_is_covered_by_k_center_greedy():
    random = np.random.default_rng(1)
    images = images_of(random, far=np.ones(60))
    reference = random.normal(size=(20, 3))
    images.distances = cdist(images.sketches, reference).min(1)
    chosen = choose(images, Quota(12, 60, True))
    centers = reference
    for place in chosen:  # each one is the farthest from the reference and all before it
        distance = cdist(images.sketches, centers).min(1)
        assert distance[place] == pytest.approx(distance.max())
        centers = np.concatenate([centers, images.sketches[place : place + 1]])


@pytest.mark.parametrize("reason", ["far", "uncertain"])
def test_images_that_were_chosen_earlier_are_centers_too(reason):
    random = np.random.default_rng(6)
    images = images_of(random, **{reason: np.ones(SHORTLIST)}, count=SHORTLIST)
    images.taken = images.sketches[3:5] + 0.01
    chosen = choose(images, Quota(SHORTLIST, SHORTLIST, True))
    farthest = cdist(images.sketches, images.taken).min(1).argmax()
    assert chosen[0] == farthest and {*chosen[-2:]} == {3, 4}


def test_the_most_uncertain_come_first_and_differ():
    random = np.random.default_rng(2)
    entropy = random.random(60)
    images = images_of(random, uncertain=entropy)
    chosen = choose(images, Quota(10, 60, True))
    assert chosen[0] == entropy.argmax()
    assert set(chosen) <= set(np.argsort(-entropy)[:20])
    ten = np.argsort(-entropy)[1:11]
    farthest = ten[cdist(images.sketches[ten], images.sketches[chosen[:1]])[:, 0].argmax()]
    assert chosen[1] == farthest


def test_reasons_take_turns():
    random = np.random.default_rng(3)
    certain = np.full(60, NONE)
    certain[:50] = random.random(50)
    strange = np.full(60, NONE)
    strange[50:] = random.random(10)
    images = images_of(random, uncertain=certain, drifted=strange)
    chosen = choose(images, Quota(8, 60, True))
    assert sum(place >= 50 for place in chosen) == 4
    assert len(choose(images, Quota(100, 60, True))) == 60  # all of them, and not one twice


@pytest.mark.parametrize("seed", range(3))
def test_no_class_exceeds_its_quota_and_no_copy_is_chosen(seed):
    random = np.random.default_rng(seed)
    images = images_of(random, uncertain=random.random(60), far=random.random(60))
    pairs = random.choice(60, (15, 2), replace=False)
    images.copies = {int(a): {int(b)} for pair in pairs for a, b in (pair, pair[::-1])}
    chosen = choose(images, Quota(40, 5, True), seed)
    assert len(set(chosen)) == len(chosen) == 20  # 4 classes of 5
    assert np.bincount(images.classes[chosen]).max() == 5
    assert not any(images.copies.get(place, set()) & set(chosen) for place in chosen)
    assert choose(images, Quota(40, 5, True), seed) == chosen
    more = choose(images, Quota(30, 5, False), seed)  # a class gets more once nothing else is left
    assert more[:20] == chosen and len(more) == 30


def test_the_pool_has_the_best_of_each_class():
    random = np.random.default_rng(4)
    classes = np.repeat([0, 1], [500, 20])
    entropy = np.where(classes == 0, 2.0, 1.0) + random.random(520)
    places = pool({"uncertain": entropy}, classes, Quota(20, 10, True))
    assert np.bincount(classes[places]).tolist() == [20, 20]
    assert set(np.argsort(-entropy)[:20]) <= set(places)
    assert len(pool({"uncertain": np.full(520, NONE)}, classes, Quota(20, 10, True))) == 0
    places = pool({"uncertain": entropy}, classes, Quota(40, 10, False))
    assert np.bincount(classes[places]).tolist() == [60, 20]  # 80, of whatever class, in the end


def by_definition(images, limits, seed):
    """Returns what `choose` must, sorting and measuring all images for each one it takes."""
    order = np.random.default_rng(seed).permutation(len(images.classes)).tolist()
    chosen = []
    is_bound = True
    turn = misses = 0
    while len(chosen) < limits.count:
        if misses == len(REASONS):
            if limits.strict or not is_bound:
                break
            is_bound = False
            misses = 0
        reason = REASONS[turn % len(REASONS)]
        turn += 1
        taken = [images.classes[place] for place in chosen]
        blocked = set(chosen).union(*(images.copies.get(place, ()) for place in chosen))
        rows = [
            row
            for row in order
            if row not in blocked
            and images.scores[reason][row] > NONE
            and not (is_bound and taken.count(images.classes[row]) >= limits.per_class)
        ]
        if not rows:
            misses += 1
            continue
        misses = 0
        to_chosen = np.full(len(order), np.inf)
        for place in chosen:
            own = nearest(images.sketches, images.sketches[place : place + 1])
            to_chosen = np.minimum(to_chosen, own)
        if reason == "far":
            to_chosen = np.minimum(to_chosen, images.distances)
        else:
            rows = sorted(rows, key=lambda row: -images.scores[reason][row])[:SHORTLIST]
        chosen.append(max(rows, key=lambda row: to_chosen[row]))
    return chosen


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_sorting_once_chooses_what_sorting_each_time_does(seed, strict):
    random = np.random.default_rng(seed)
    scores = {}
    for reason in REASONS:  # rounded, so that many are equal
        values = random.normal(size=80).round(1)
        scores[reason] = np.where(random.random(80) < 0.5, values, NONE)
    points = random.integers(0, 6, (80, 3)).astype(np.float16)
    images = Pool(scores, random.integers(0, 5, 80), points, {}, random.random(80) * 4)
    pairs = random.choice(80, (10, 2), replace=False)
    images.copies = {int(a): {int(b)} for pair in pairs for a, b in (pair, pair[::-1])}
    for count, per_class in ((20, 3), (70, 6), (100, 100)):
        limits = Quota(count, per_class, strict)
        assert choose(images, limits, seed) == by_definition(images, limits, seed)


def test_what_is_drawn_is_chosen_whatever_its_class():
    random = np.random.default_rng(5)
    images = images_of(random, uncertain=random.random(60))
    values = np.full(60, NONE)
    values[random.permutation(60)[:20]] = 0
    images.scores = images.scores | {"random": values}
    places = np.flatnonzero(values > NONE)
    chosen = choose(images, Quota(30, 1, False))
    assert set(places) == set(chosen[:20]) and len(chosen) == 30
    first, second = places[:2].tolist()
    images.copies = {first: {second}, second: {first}}
    assert len(set(places) & set(choose(images, Quota(30, 1, True)))) == 19
    assert set(places) <= set(pool(images.scores, images.classes, Quota(30, 1, True)))


def test_the_quota_is_twice_an_equal_share():
    assert quota(200, np.arange(10).repeat(3)) == Quota(200, 40, False)
    assert quota(5, np.arange(100)) == Quota(5, 1, False)
    assert quota(200, np.arange(10), 7) == Quota(200, 7, True)
