"""Requests go to versions by weight, the same key to the same version."""

import collections
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.errors import UserError
from vision.serving.models.traffic import MAX_BYTES, Traffic, order, parse

KEYS = 10_000
WEIGHTS = st.dictionaries(st.sampled_from(["1", "2", "3", "v4"]), st.integers(1, 100), min_size=2)
SLOW = {"max_examples": 10, "deadline": None}


def split(weights, prefix, versions=("v4", "1", "2", "3")):
    traffic = Traffic(weights)
    return {f"{prefix}{i}": traffic.choose(versions, f"{prefix}{i}") for i in range(KEYS)}


@settings(**SLOW)
@given(WEIGHTS, st.text(max_size=8))
def test_each_gets_its_share_of_the_keys(weights, prefix):
    counts = collections.Counter(split(weights, prefix).values())
    for name, weight in weights.items():
        assert abs(counts[name] / KEYS - weight / sum(weights.values())) < 0.02
    assert counts.keys() == weights.keys()


def test_requests_without_a_key_are_split_too():
    traffic = Traffic({"1": 90, "2": 10})
    counts = collections.Counter(traffic.choose(["1", "2"]) for _ in range(KEYS))
    assert abs(counts["2"] / KEYS - 0.1) < 0.02


@settings(**SLOW)
@given(WEIGHTS, st.sampled_from([0.5, 1.5, 10]))
def test_keys_move_only_to_or_from_the_version_whose_weight_changes(weights, factor):
    name = max(weights)
    before = split(weights, "key ")
    after = split(weights | {name: weights[name] * factor}, "key ")
    moved = {(before[key], after[key]) for key in before if before[key] != after[key]}
    assert moved and all((new if factor > 1 else old) == name for old, new in moved)


def test_a_key_stays_when_another_version_goes():
    before = split({"1": 50, "2": 30, "3": 20}, "user-")
    after = split({"1": 50, "2": 30, "3": 20}, "user-", ["1", "2"])
    assert all(after[key] == name for key, name in before.items() if name != "3")
    assert set(after.values()) == {"1", "2"}


@pytest.mark.parametrize(
    ("weights", "versions", "chosen"),
    [
        ({}, ["1", "2"], "2"),
        ({}, [], None),
        ({"1": 5}, ["1", "2"], "1"),
        ({"1": 0, "2": 1}, ["1", "2"], "2"),
        ({"3": 5}, ["1", "2"], "2"),  # which is not loaded
        ({"1": 5}, [], None),
    ],
)
@pytest.mark.parametrize("key", ["", "user"])
def test_there_is_a_choice_only_between_what_is_loaded(weights, versions, chosen, key):
    assert Traffic(weights).choose(versions, key) == chosen


def test_the_main_version_has_most_of_the_requests():
    assert Traffic({"1": 90, "2": 10}).main(["1", "2", "3"]) == "1"
    assert Traffic({"1": 50, "2": 50}).main(["1", "2", "3"]) == "2"
    assert Traffic().main(["1", "2", "3"]) == "3" and Traffic().main([]) is None
    assert Traffic({"1": 90, "2": 0}).serving(["1", "2", "3"]) == ["1"]


def test_numbers_are_higher_than_names_and_go_by_value():
    names = [
        "v1",
        "v10",
        "v9",
        "10",
        "9",
        "2",
        "2.10",
        "2.9",
        "2.9.1",
        "a-2",
        "a-10",
        "best",
        "2.x",
    ]
    numbers = ["2", "2.9", "2.9.1", "2.10", "9", "10"]
    assert sorted(names, key=order) == ["2.x", "a-2", "a-10", "best", "v1", "v9", "v10", *numbers]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[" * 5000, "not valid JSON"),
        ("\xff", "not valid JSON"),
        ("[1]", "JSON object"),
        ('{"weight": {}}', "'weight'"),
        ('{"weights": [1, 2]}', "a number for each version"),
        ('{"weights": {"../1": 1}}', "a number for each version"),
        ('{"weights": {"1": "9"}}', "numbers from 0"),
        ('{"weights": {"1": true}}', "numbers from 0"),
        ('{"weights": {"1": NaN}}', "numbers from 0"),
        ('{"weights": {"1": -1, "2": 2}}', "numbers from 0"),
        ('{"weights": {"1": 1e999}}', "numbers from 0"),
        ('{"weights": {"1": 0}}', "above 0"),
        ('{"shadow": 3}', "shadow"),
        ('{"shadow": "/etc"}', "shadow"),
        (" " * (MAX_BYTES + 1), "more than"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(text, message):
    with pytest.raises(UserError, match=message):
        parse(text.encode("latin-1"))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["weights", "shadow", "1", "2"]), inner)
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_make_a_choice_or_an_error(data):
    try:
        traffic = parse(data)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert traffic.choose(["1", "2"], "key") in ("1", "2") and traffic.choose(["1", "2"]) in (
            "1",
            "2",
        )


def test_a_good_file_is_read():
    assert parse(b'{"weights": {"1": 90, "2": 10.5}, "shadow": "v3"}') == Traffic(
        {"1": 90, "2": 10.5}, "v3"
    )
    assert parse(b"{}") == Traffic()


@pytest.mark.parametrize(
    ("versions", "name"), [(["1", "2", "3"], "2"), (["1", "2"], "2"), (["3"], "3"), ([], None)]
)
def test_a_shadow_does_not_serve_while_there_is_another(versions, name):
    traffic = Traffic(shadow="3")
    assert (
        traffic.choose(versions)
        == traffic.choose(versions, "key")
        == traffic.main(versions)
        == name
    )
    # it has a weight of its own
    assert Traffic({"1": 1, "3": 1}, "3").serving(["1", "2", "3"]) == ["1", "3"]
