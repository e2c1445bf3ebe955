"""Load, unload and roll back, over a real repository, and who may ask for it."""

import asyncio

import httpx
import pytest

from tests.support.tiny_bundle import write_bundle
from vision.serving.http import admin
from vision.serving.keys import ApiKeys
from vision.serving.models.repository import Repository
from vision.serving.settings import Settings

MODEL = "/v2/repository/models/tiny"


class Silent:
    def __getattr__(self, name):
        return lambda *arguments, **more: None


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    for version in ("1", "2"):
        write_bundle(models / "tiny" / version)
    return models


def ask(models, *requests, **changes):
    """Returns [(status, JSON)] for requests (method, path, body, headers) to a repository."""

    async def run():
        settings = Settings(models=str(models), threads=1, **changes)
        repository = Repository(settings, Silent())
        await repository.start()
        app = admin.build(repository, ApiKeys(settings), Silent(), settings)
        results = []
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:9"
        ) as client:
            for method, path, body, headers in requests:
                answer = await client.request(method, path, json=body, headers=headers)
                results.append((answer.status_code, answer.json()))
        await repository.close()
        return results

    return asyncio.run(run())


def version(name):
    return {"parameters": {"version": name}}


def test_versions_go_and_come(models):
    states = [
        ("POST", f"{MODEL}/unload", version("2"), {}),
        ("POST", "/v2/repository/index", None, {}),
        ("POST", f"{MODEL}/load", version("2"), {}),
        ("POST", f"{MODEL}/rollback", None, {}),
        ("GET", "/v2/repository", None, {}),
        ("POST", f"{MODEL}/rollback", None, {}),
    ]
    unloaded, index, loaded, back, states_after, further = ask(models, *states)
    assert unloaded == loaded == (200, {})
    assert [(entry["version"], entry["state"]) for entry in index[1]] == [
        ("1", "READY"),
        ("2", "UNLOADED"),
    ]
    assert back == (200, {"version": "1"}) and states_after[1]["tiny"]["rolled_back"] == ["2"]
    assert further[0] == 400 and "before 1" in further[1]["error"]


@pytest.mark.parametrize(
    "body", [None, {}, [], {"parameters": []}, version(2), version(""), version(None)]
)
def test_the_version_is_to_be_named(models, body):
    ((status, content),) = ask(models, ("POST", f"{MODEL}/unload", body, {}))
    assert status == 400 and content.keys() == {"error"}


@pytest.mark.parametrize("name", ["9", "../1", "..", "/", "1\0", "x" * 300, "1/../1"])
def test_no_name_leaves_the_models_directory(models, name):
    for path in (f"{MODEL}/load", f"{MODEL}/unload"):
        ((status, _),) = ask(models, ("POST", path, version(name), {}))
        assert status in (400, 404)


def test_pages_in_a_browser_are_not_answered(models):
    foreign = [
        {"Origin": "http://evil.example"},
        {"Host": "evil.example"},
        {"Sec-Fetch-Site": "same-origin"},
    ]
    foreign += [{"Host": "127.0.0.1.evil.example"}, {"Host": ""}]
    for headers in foreign:
        assert ask(models, ("POST", f"{MODEL}/unload", version("2"), headers))[0][0] == 403
    for host in ("127.0.0.1:8082", "localhost", "[::1]:80"):
        assert ask(models, ("GET", "/v2/repository", None, {"Host": host}))[0][0] == 200


def test_a_key_is_asked_for(models, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("operator secret\n")
    asked = [("GET", "/v2/repository", None, headers) for headers in ({}, {"X-Api-Key": "secret"})]
    assert [status for status, _ in ask(models, *asked, keys=str(keys))] == [401, 200]
