"""What stands between a client and the routes, around an application of a few lines.

Requests and responses are ASGI's messages.
"""

import asyncio
import json
import types

import pytest

from vision.serving import limits
from vision.serving.errors import NotFound
from vision.serving.http.middleware import body as body_module
from vision.serving.http.middleware.body import TrackBody
from vision.serving.http.middleware.error_responses import GONE
from vision.serving.http.middleware.request_log import log_entry
from vision.serving.http.middleware.response_headers import HEADERS, HSTS
from vision.serving.http.middleware.stack import middleware_stack
from vision.serving.keys import ApiKeys
from vision.serving.request_trace import RequestTrace
from vision.serving.settings import Settings


class Recorder:
    """Stands for `Telemetry`: keeps what is reported to it."""

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


class Protected:
    """An application behind the middlewares.

    Attributes:
        telemetry: its `Recorder`.
        budget: its `vision.serving.limits.BodyBudget`.
    """

    def __init__(self, settings):
        self.telemetry = Recorder()
        app = echo
        stack = middleware_stack(ApiKeys(settings), self.telemetry, settings, public=["/open"])
        for cls, arguments, keywords in reversed(stack):
            app = cls(app, *arguments, **keywords)
            if cls is TrackBody:
                self.budget = app.budget
        self._app = app

    async def __call__(self, scope, receive, send):
        await self._app(scope, receive, send)


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


def ask(*chunks, path="/", headers=(), gap=0.0, gone=None, app=None, **changes):
    """Sends a request in chunks, `gap` seconds apart; disconnects after `gone` seconds.

    Returns an object with status, headers, body, and what telemetry recorded.
    """
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

    app = app or Protected(Settings(**changes))
    asyncio.run(asyncio.wait_for(app(scope, receive, send), 5))
    result = types.SimpleNamespace(
        telemetry=app.telemetry, app=app, left=waiting, status=0, body=b"", headers={}
    )
    if sent:
        result.status = sent[0]["status"]
        result.body = sent[1]["body"]
        result.headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return result


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# for tests\nann abc\n\nbob def 2\n")
    return str(path)


def test_only_who_has_a_key_is_let_in(keys):
    assert ask(b"x", keys=keys).status == 401
    refused = ask(b"x", headers={"x-api-key": "no"}, keys=keys)
    assert (
        refused.status == 401
        and refused.headers["www-authenticate"] == "Bearer"
        and refused.left == []
    )
    assert ask(b"x", path="/open", keys=keys).status == 200
    response = ask(b"x", headers={"authorization": "Bearer abc"}, keys=keys)
    assert response.status == 200 and response.telemetry.entries[0]["key"] == "ann"
    assert "abc" not in json.dumps(response.telemetry.entries)


def test_a_body_comes_whole():
    assert ask(b"one", b"", b"two").body == b"6"
    assert ask().body == b"0"


def test_a_body_that_is_too_large_is_refused():
    refused = ask(b"x" * 11, max_body=10)
    assert refused.status == 413
    assert json.loads(refused.body) == {"error": "the body has 11 bytes: send at most 10"}
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
    response = ask(*[b"x"] * 20, gap=0.02, body_timeout=0.1)
    assert response.status == 408 and response.headers["connection"] == "close"


def test_all_bodies_together_have_a_limit(monkeypatch):
    app = ask(b"x", max_body=10).app
    assert app.budget.used == 0
    app.budget.used = limits.BODIES * 10
    # a small one is let in: a few large ones must not lock out the others
    assert ask(b"x" * 10, app=app).status == 200
    monkeypatch.setattr(limits, "SMALL", 9)
    refused = ask(b"x" * 10, app=app)
    assert refused.status == 429 and refused.headers["retry-after"] == "1"
    assert app.budget.used == limits.BODIES * 10


def test_who_is_not_answered_before_the_stop_ends_is_told_so():
    """uvicorn cancels what is left; it would say 500 and show a traceback."""
    sent = []
    app = Protected(Settings())
    scope = {"type": "http", "path": "/slow", "method": "GET", "client": None, "headers": []}

    async def send(message):
        sent.append(message)

    async def main():
        task = asyncio.create_task(app(scope, lambda: asyncio.sleep(30), send))
        await asyncio.sleep(0.02)
        task.cancel()
        await task

    asyncio.run(main())
    assert sent[0]["status"] == 503 and (b"retry-after", b"1") in sent[0]["headers"]
    assert b"the server is stopping" in sent[1]["body"]
    assert [entry["code"] for entry in app.telemetry.entries] == [503]
    assert len(app.telemetry.refusals) == 1 and app.telemetry.failures == []


def test_an_answer_that_takes_too_long_ends():
    response = ask(b"x", path="/slow", timeout=0.05)
    assert response.status == 503 and response.headers["retry-after"] == "1"


def test_who_has_gone_costs_nothing_more():
    response = ask(b"x", path="/slow", gone=0.05)
    assert (
        response.status == 0
        and response.telemetry.entries[0]["code"] == GONE
        and not response.telemetry.failures
    )


def test_errors_are_one_line_and_tell_nothing_of_ours():
    missing = ask(b"x", path="/missing")
    assert (missing.status, json.loads(missing.body)) == (404, {"error": "there is no such model"})
    assert [type(error) for error in missing.telemetry.refusals] == [NotFound]
    broken = ask(b"x", path="/broken")
    assert (broken.status, json.loads(broken.body)) == (500, {"error": "internal error"})
    assert [type(error) for error in broken.telemetry.failures] == [ZeroDivisionError]


def test_compressed_bodies_are_not_taken():
    assert ask(b"x", headers={"content-encoding": "gzip"}).status == 415
    assert ask(b"x", headers={"content-encoding": "identity"}).status == 200


@pytest.mark.parametrize("path", ["/", "/missing", "/broken"])
def test_every_answer_has_the_headers(path):
    headers = ask(b"x", path=path).headers
    assert headers.items() >= HEADERS.items()
    assert "strict-transport-security" not in headers
    assert (
        ask(b"x", path=path, tls_certificate="c.pem").headers["strict-transport-security"] == HSTS
    )


def test_a_body_that_keeps_coming_may_take_longer(monkeypatch):
    monkeypatch.setattr(body_module, "RATE", 1_000)
    steady = ask(*[b"x" * 2_000] * 6, gap=0.1, body_timeout=0.3)
    assert steady.status == 200
    assert ask(*[b"x" * 5] * 6, gap=0.1, body_timeout=0.3).status == 408


def test_requests_have_an_id():
    assert ask(headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    made = [
        ask(headers={"x-request-id": given}).headers["x-request-id"]
        for given in ("", "a b", 'a"\\', "x" * 200)
    ]
    assert all(len(request_id) == 16 for request_id in made) and len(set(made)) == 4


def test_the_log_has_a_line_of_each_request():
    (entry,) = ask(b"xyz", path="/" + "p" * 500, headers={"x-request-id": "mine"}).telemetry.entries
    expected = {
        "id": "mine",
        "client": "192.0.2.1",
        "method": "POST",
        "code": 200,
        "bytes": 3,
        "sent": 1,
    }
    assert entry.items() >= expected.items() and len(entry["path"]) == 200


def test_the_log_has_the_address_that_a_trusted_proxy_tells():
    headers = {"x-forwarded-for": "6.6.6.6, 198.51.100.1"}
    for proxies, client in (("192.0.2.0/24", "198.51.100.1"), ("10.0.0.0/8", "192.0.2.1")):
        (entry,) = ask(b"x", headers=headers, trusted_proxies=proxies).telemetry.entries
        assert entry["client"] == client


def test_a_line_of_the_log_is_short():
    # which is no model's name, and was asked for
    trace = RequestTrace("mine", {}, model="m" * 50_000)
    assert len(log_entry({"method": "GET", "path": "/"}, trace, 0.1, "")["model"]) == 200
