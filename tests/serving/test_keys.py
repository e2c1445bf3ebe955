"""API keys: their names, their rates, and the files that list them."""

import os

import pytest

from vision.errors import UserError
from vision.serving import keys as module
from vision.serving.errors import TooMany, Unauthorized
from vision.serving.keys import ApiKeys, key_of
from vision.serving.settings import Settings


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# for tests\nann abc\n\nbob def 2\n")
    return str(path)


def test_without_a_file_no_key_is_asked_for():
    assert ApiKeys(Settings()).check(None) == ""


def test_keys_have_names(keys):
    api_keys = ApiKeys(Settings(keys=keys))
    assert api_keys.check("abc") == "ann" and api_keys.check("def") == "bob"
    for wrong in (None, "", "ab", "abcd", "ABC", "abc ", "ann", "\udcff", "a" * 10_000):
        with pytest.raises(Unauthorized):
            api_keys.check(wrong)


def test_a_key_has_a_rate(keys, monkeypatch):
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    api_keys = ApiKeys(Settings(keys=keys))
    for _ in range(3):
        api_keys.check("def"), api_keys.check("def")
        with pytest.raises(TooMany) as caught:
            api_keys.check("def")
        assert caught.value.retry_after == pytest.approx(0.5)
        assert [api_keys.check("abc") for _ in range(9)] == ["ann"] * 9
        now += 60


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# none\n",
        "ann\n",
        "ann a fast\n",
        "ann a -1\n",
        "a k\na l\n",
        "a k\nb k\n",
        "a b 1 2",
        "a déf\n",
    ],
)
def test_a_wrong_file_of_keys_is_refused(tmp_path, text):
    path = tmp_path / "keys"
    path.write_text(text, "utf-8")
    with pytest.raises(UserError, match="--keys"):
        ApiKeys(Settings(keys=str(path)))
    with pytest.raises(UserError, match="cannot be read"):
        ApiKeys(Settings(keys=str(tmp_path / "missing")))


def test_a_key_comes_in_either_header():
    assert key_of({"authorization": "Bearer abc"}) == key_of({"x-api-key": "abc"}) == "abc"
    assert key_of({"authorization": "bearer  abc "}) == "abc"
    assert key_of({"authorization": "Basic abc"}) is key_of({}) is None


def test_keys_may_be_in_the_environment(monkeypatch):
    monkeypatch.setenv("CLASSIFIER_KEYS", "anna abc\nbob def 2\n")
    api_keys = ApiKeys(Settings(keys="env:CLASSIFIER_KEYS"))
    assert (api_keys.check("abc"), api_keys.check("def")) == ("anna", "bob")
    assert "CLASSIFIER_KEYS" not in os.environ
    with pytest.raises(
        UserError, match="--keys env:CLASSIFIER_KEYS: the environment has no variable"
    ):
        ApiKeys(Settings(keys="env:CLASSIFIER_KEYS"))
    monkeypatch.setenv("CLASSIFIER_KEYS", "abc")
    with pytest.raises(UserError, match="line 1 must be"):
        ApiKeys(Settings(keys="env:CLASSIFIER_KEYS"))
