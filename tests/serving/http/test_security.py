"""Keys, and what a request may cost: the middleware around an application of a few lines, by ASGI's
messages."""

import asyncio
import json
import os
import types

import pytest

from vision.errors import UserError
from vision.serving.errors import NotFound, TooMany, Unauthorized
from vision.serving.http import security
from vision.serving.settings import Settings


class Told:
    """Stands for `Telemetry`: keeps what it is told."""

    def __init__(self):
        self.entries = []
        self.refusals = []
        self.failures = []

    def access(self, entry):
        self.entries.append(entry)

    def refused(self, protocol, model, error):
        self.refusals.append(error)

    def failed(self, protocol, model, error):
        self.failures.append(error)


async def echo(scope, receive, send):
    """Answers with the body's length."""
    body = (await receive())["body"]
    if scope["path"] == "/missing":
        raise NotFound("there is no such model")
    if scope["path"] == "/broken":
        raise ZeroDivisionError("a secret of ours")
    if scope["path"] == "/slow":
        await asyncio.sleep(30)
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/plain")],
        }
    )
    await send({"type": "http.response.body", "body": str(len(body)).encode()})


def ask(*chunks, path="/", headers=(), gap=0.0, gone=None, shield=None, **known):
    """Sends a request in chunks, `gap` seconds apart, and closes the connection after `gone`
    seconds.

    Returns an object with status, headers, body, and what telemetry was told.
    """
    settings = Settings(**known)
    told = Told()
    length = sum(len(chunk) for chunk in chunks)
    fields = {"content-length": str(length)} if chunks else {}
    fields |= dict(headers)
    scope = {"type": "http", "path": path, "method": "POST", "client": ("192.0.2.1", 5)}
    scope["headers"] = [(name.encode(), value.encode("latin-1")) for name, value in fields.items()]
    sent = []
    waiting = list(chunks)

    async def receive():
        if not waiting:
            await asyncio.sleep(30 if gone is None else gone)
            return {"type": "http.disconnect"}
        await asyncio.sleep(gap)
        chunk = waiting.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(waiting)}

    async def send(message):
        sent.append(message)

    shield = shield or security.Shield(
        echo, security.Guard(settings), told, settings, public=["/open"]
    )
    shield._telemetry = told
    asyncio.run(asyncio.wait_for(shield(scope, receive, send), 5))
    found = types.SimpleNamespace(
        told=told, shield=shield, left=waiting, status=0, body=b"", headers={}
    )
    if sent:
        found.status = sent[0]["status"]
        found.body = sent[1]["body"]
        found.headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return found


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# for tests\nann abc\n\nbob def 2\n")
    return str(path)


def test_without_a_file_no_key_is_asked_for():
    assert security.Guard(Settings()).check(None) == ""


def test_keys_have_names(keys):
    guard = security.Guard(Settings(keys=keys))
    assert guard.check("abc") == "ann" and guard.check("def") == "bob"
    for wrong in (None, "", "ab", "abcd", "ABC", "abc ", "ann", "\udcff", "a" * 10_000):
        with pytest.raises(Unauthorized):
            guard.check(wrong)


def test_a_key_has_a_rate(keys, monkeypatch):
    now = 100.0
    monkeypatch.setattr(security.time, "monotonic", lambda: now)
    guard = security.Guard(Settings(keys=keys))
    for _ in range(3):
        guard.check("def"), guard.check("def")
        with pytest.raises(TooMany) as caught:
            guard.check("def")
        assert caught.value.retry_after == pytest.approx(0.5)
        assert [guard.check("abc") for _ in range(9)] == ["ann"] * 9
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
        security.Guard(Settings(keys=str(path)))
    with pytest.raises(UserError, match="cannot be read"):
        security.Guard(Settings(keys=str(tmp_path / "missing")))


def test_a_key_comes_in_either_header():
    assert (
        security.key_of({"authorization": "Bearer abc"})
        == security.key_of({"x-api-key": "abc"})
        == "abc"
    )
    assert security.key_of({"authorization": "bearer  abc "}) == "abc"
    assert security.key_of({"authorization": "Basic abc"}) is security.key_of({}) is None


def test_keys_may_be_in_the_environment(monkeypatch):
    monkeypatch.setenv("CLASSIFIER_KEYS", "anna abc\nbob def 2\n")
    guard = security.Guard(Settings(keys="env:CLASSIFIER_KEYS"))
    assert (guard.check("abc"), guard.check("def")) == ("anna", "bob")
    assert "CLASSIFIER_KEYS" not in os.environ
    with pytest.raises(
        UserError, match="--keys env:CLASSIFIER_KEYS: the environment has no variable"
    ):
        security.Guard(Settings(keys="env:CLASSIFIER_KEYS"))
    monkeypatch.setenv("CLASSIFIER_KEYS", "abc")
    with pytest.raises(UserError, match="line 1 is not"):
        security.Guard(Settings(keys="env:CLASSIFIER_KEYS"))


def test_only_who_has_a_key_is_let_in(keys):
    assert ask(b"x", keys=keys).status == 401
    refused = ask(b"x", headers={"x-api-key": "no"}, keys=keys)
    assert (
        refused.status == 401
        and refused.headers["www-authenticate"] == "Bearer"
        and refused.left == []
    )
    assert ask(b"x", path="/open", keys=keys).status == 200
    found = ask(b"x", headers={"authorization": "Bearer abc"}, keys=keys)
    assert found.status == 200 and found.told.entries[0]["key"] == "ann"
    assert "abc" not in json.dumps(found.told.entries)


def test_a_body_comes_whole():
    assert ask(b"one", b"", b"two").body == b"6"
    assert ask().body == b"0"


def test_a_body_that_is_too_large_is_refused():
    told = ask(b"x" * 11, max_body=10)
    assert told.status == 413 and json.loads(told.body) == {
        "error": "the body has 11 bytes: send at most 10"
    }
    chunked = ask(
        *[b"x" * 4] * 3, headers={"transfer-encoding": "chunked", "content-length": ""}, max_body=10
    )
    assert chunked.status == 413
    assert ask(b"x" * 10, max_body=10).status == 200


def test_a_refused_body_is_read_to_its_end_within_reason():
    """Or who sends before it reads sees a broken pipe, not the refusal."""
    kept = ask(*[b"x" * 5] * 3, max_body=10)
    assert kept.left == [] and "connection" not in kept.headers
    for closed in (
        ask(*[b"x" * 5] * 9, max_body=10),
        ask(b"x" * 15, headers={"expect": "100-continue"}, max_body=10),
    ):
        assert closed.status == 413 and closed.left and closed.headers["connection"] == "close"


def test_a_body_that_comes_too_slowly_is_refused():
    found = ask(*[b"x"] * 20, gap=0.02, body_timeout=0.1)
    assert found.status == 408 and found.headers["connection"] == "close"


def test_all_bodies_together_have_a_limit(monkeypatch):
    shield = ask(b"x", max_body=10).shield
    assert shield._held == 0
    shield._held = security.BODIES * 10
    # a small one is let in: few large ones must not lock all out
    assert ask(b"x" * 10, shield=shield).status == 200
    monkeypatch.setattr(security, "SMALL", 9)
    found = ask(b"x" * 10, shield=shield)
    assert found.status == 429 and found.headers["retry-after"] == "1"
    assert shield._held == security.BODIES * 10


def test_who_is_not_answered_before_the_stop_ends_is_told_so():
    """uvicorn cancels what is left; it would say 500 and show a traceback."""
    told = Told()
    sent = []
    shield = security.Shield(echo, security.Guard(Settings()), told, Settings())
    scope = {"type": "http", "path": "/slow", "method": "GET", "client": None, "headers": []}

    async def send(message):
        sent.append(message)

    async def main():
        task = asyncio.create_task(shield(scope, lambda: asyncio.sleep(30), send))
        await asyncio.sleep(0.02)
        task.cancel()
        await task

    asyncio.run(main())
    assert sent[0]["status"] == 503 and (b"retry-after", b"1") in sent[0]["headers"]
    assert b"the server stops" in sent[1]["body"] and [entry["code"] for entry in told.entries] == [
        503
    ]
    assert len(told.refusals) == 1 and told.failures == []


def test_an_answer_that_takes_too_long_ends():
    found = ask(b"x", path="/slow", timeout=0.05)
    assert found.status == 503 and found.headers["retry-after"] == "1"


def test_who_has_gone_costs_nothing_more():
    found = ask(b"x", path="/slow", gone=0.05)
    assert (
        found.status == 0
        and found.told.entries[0]["code"] == security.GONE
        and not found.told.failures
    )


def test_errors_are_one_line_and_tell_nothing_of_ours():
    missing = ask(b"x", path="/missing")
    assert (missing.status, json.loads(missing.body)) == (404, {"error": "there is no such model"})
    assert [type(error) for error in missing.told.refusals] == [NotFound]
    broken = ask(b"x", path="/broken")
    assert (broken.status, json.loads(broken.body)) == (500, {"error": "internal error"})
    assert [type(error) for error in broken.told.failures] == [ZeroDivisionError]


def test_compressed_bodies_are_not_taken():
    assert ask(b"x", headers={"content-encoding": "gzip"}).status == 415
    assert ask(b"x", headers={"content-encoding": "identity"}).status == 200


@pytest.mark.parametrize("path", ["/", "/missing", "/broken"])
def test_every_answer_has_the_headers(path):
    headers = ask(b"x", path=path).headers
    assert headers.items() >= security.HEADERS.items()
    assert "strict-transport-security" not in headers
    assert (
        ask(b"x", path=path, tls_certificate="c.pem").headers["strict-transport-security"]
        == security.HSTS
    )


def test_requests_have_an_id():
    assert ask(headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    made = [
        ask(headers={"x-request-id": given}).headers["x-request-id"]
        for given in ("", "a b", 'a"\\', "x" * 200)
    ]
    assert all(len(one) == 16 for one in made) and len(set(made)) == 4


def test_the_log_has_a_line_of_each_request():
    (entry,) = ask(b"xyz", path="/" + "p" * 500, headers={"x-request-id": "mine"}).told.entries
    known = {
        "id": "mine",
        "client": "192.0.2.1",
        "method": "POST",
        "code": 200,
        "bytes": 3,
        "sent": 1,
    }
    assert entry.items() >= known.items() and len(entry["path"]) == 200


def test_a_line_of_the_log_is_short():
    # which is no model's name, and was asked for
    trace = security.Trace("mine", {}, model="m" * 50_000)
    assert len(security._entry({"method": "GET", "path": "/"}, trace, 0.1)["model"]) == 200
