"""What an operator does to versions while they serve: load, unload, roll back."""

import asyncio
import threading

import numpy as np
import pytest

from tests.support.repositories import scans, serve, state, until
from vision.serving.errors import NotFound, Refused, Unavailable
from vision.serving.models import loader as module


@pytest.fixture
def hold(monkeypatch):
    """`hold()` makes loads wait for the `threading.Event` that it returns."""

    def hold():
        go = threading.Event()
        open_warm = module.open_warm
        monkeypatch.setattr(
            module, "open_warm", lambda *arguments: go.wait(10) and open_warm(*arguments)
        )
        return go

    return hold


def test_unloading_answers_what_has_begun_and_lasts(put, tmp_path):
    put("digits/1")
    put("digits/2")

    async def scenario(repository):
        second = repository.pick("digits")[0]
        with second.in_use():
            leaving = asyncio.create_task(repository.unload("digits", "2"))
            await until(lambda: repository.models() == {"digits": ["1"]})
            assert repository.pick("digits")[0].name == "1" and not leaving.done()
            answer = await second.batcher.submit(np.zeros((3, 8, 8, 1), np.uint8))
            assert answer.probabilities.shape == (3, 10)
        await leaving
        await scans(repository)
        assert state(repository, "2")["state"] == "unloaded"
        with pytest.raises(NotFound):
            await repository.unload("digits", "2")
        await repository.load("digits", "2")
        assert repository.pick("digits")[0].name == "2"
        await repository.unload("digits", "1")
        await repository.unload("digits", "2")
        assert not repository.ready and repository.states()["digits"]["serving"] == ""
        with pytest.raises(Unavailable, match="has no loaded version"):
            repository.pick("digits")

    serve(tmp_path, scenario)


def test_rolling_back_gives_the_requests_to_the_version_before(put, tmp_path):
    for name in ("digits/1", "digits/2", "digits/3"):
        put(name)

    async def scenario(repository):
        assert await repository.roll_back("digits") == "2" == repository.pick("digits")[0].name
        assert repository.pick("digits", "3")[0].name == "3" and repository.states()["digits"][
            "rolled_back"
        ] == ["3"]
        assert await repository.roll_back("digits") == "1" == repository.pick("digits")[0].name
        with pytest.raises(Refused, match="no loaded version before 1"):
            await repository.roll_back("digits")
        put("digits/4")  # a newer one has not been rolled back
        await until(lambda: repository.pick("digits")[0].name == "4")
        assert await repository.roll_back("digits") == "1"
        await repository.load("digits", "3")
        assert repository.pick("digits")[0].name == "3"
        (tmp_path / "digits/traffic.json").write_text('{"weights": {"2": 90, "4": 10}}')
        await until(lambda: repository.states()["digits"]["rolled_back"] == [])
        assert {repository.pick("digits", key=str(i))[0].name for i in range(100)} == {"2", "4"}
        assert await repository.roll_back("digits") == "2"  # the canary is gone
        assert {repository.pick("digits", key=str(i))[0].name for i in range(100)} == {"2"}
        assert await repository.roll_back("digits") == "1"

    serve(tmp_path, scenario)


def test_a_load_whose_caller_went_away_is_done_all_the_same(put, tmp_path, hold):
    put("digits/1")

    async def scenario(repository):
        go = hold()
        put("digits/2")
        loading = asyncio.create_task(repository.load("digits", "2"))
        await until(
            lambda: repository.states()["digits"]["versions"].get("2", {}).get("state") == "loading"
        )
        loading.cancel()
        await asyncio.sleep(0)
        go.set()
        await until(lambda: repository.pick("digits")[0].name == "2")

    serve(tmp_path, scenario)


def test_an_unloaded_version_is_loaded_though_who_asked_for_it_went_away(put, tmp_path, hold):
    put("digits/1")
    put("digits/2")

    async def scenario(repository):
        await repository.unload("digits", "2")
        go = hold()
        loading = asyncio.create_task(repository.load("digits", "2"))
        await until(lambda: state(repository, "2")["state"] == "loading")
        loading.cancel()
        await asyncio.sleep(0)
        go.set()
        await until(lambda: repository.pick("digits")[0].name == "2")

    serve(tmp_path, scenario)


def test_loading_by_name_tries_again_what_was_refused_in_place_of_a_version(
    put, tmp_path, monkeypatch
):
    put("digits/1")
    open_warm = module.open_warm

    def fail(*arguments):
        raise MemoryError("there is no room")

    async def scenario(repository):
        monkeypatch.setattr(module, "open_warm", fail)
        put("digits/1")
        await until(lambda: state(repository, "1")["reason"] == "there is no room")
        with pytest.raises(Refused, match="there is no room"):
            await repository.load("digits", "1")
        monkeypatch.setattr(module, "open_warm", open_warm)
        await repository.load("digits", "1")
        assert state(repository, "1") == {"state": "ready", "reason": ""}

    serve(tmp_path, scenario)


def test_rolling_back_waits_for_no_load(put, tmp_path, hold):
    put("digits/1")
    put("digits/2")

    async def scenario(repository):
        go = hold()
        put("digits/3")
        await until(
            lambda: repository.states()["digits"]["versions"].get("3", {}).get("state") == "loading"
        )
        try:
            assert await asyncio.wait_for(repository.roll_back("digits"), 2) == "1"
        finally:
            go.set()

    serve(tmp_path, scenario)
