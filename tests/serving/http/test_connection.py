"""A connection: what may be sent ahead, left unfinished or unread, and its last answer."""

import asyncio
import contextlib
import dataclasses
import functools
import socket
import ssl
import subprocess
import time

import pytest

from vision.serving.http.connection import MAX_BEHIND, Shutdown
from vision.serving.server import Http
from vision.serving.settings import Settings

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
LARGE = 16_000_000  # bytes of an answer, more than the system keeps for a reader


async def answer_ok(scope, receive, send):
    """An application that reads a body and says ok."""
    while (await receive()).get("more_body"):
        pass
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    )
    await send({"type": "http.response.body", "body": b"ok"})


async def answer_large(scope, receive, send):
    """An application that says more than the system takes at once."""
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", b"%d" % LARGE)],
        }
    )
    await send({"type": "http.response.body", "body": bytes(LARGE)})


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request):
    """The factory of an event loop: the server runs on uvloop's where there is one."""
    return (
        asyncio.new_event_loop
        if request.param == "asyncio"
        else pytest.importorskip("uvloop").new_event_loop
    )


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """The settings of a server that speaks TLS."""
    directory = tmp_path_factory.mktemp("tls")
    files = {
        "tls_certificate": str(directory / "certificate.pem"),
        "tls_key": str(directory / "key.pem"),
    }
    new = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=a"
    out = [
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-out",
        files["tls_certificate"],
        "-keyout",
        files["tls_key"],
    ]
    subprocess.run([*new.split(), *out], check=True, capture_output=True)
    return files


def connections(test, app=answer_ok, loop=None, **changes):
    """Runs `await test(connect, shutdown)` against an application's server.

    `connect()` returns (reader, writer); `connect.state` is what uvicorn counts.
    """

    async def serve_it():
        settings = dataclasses.replace(Settings(body_timeout=0.3, drain=1.0), **changes)
        shutdown = Shutdown()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            server = Http(app, shutdown, settings, listener)
            task = asyncio.create_task(server.serve_until_exit())
            connect = functools.partial(asyncio.open_connection, "127.0.0.1", port)
            connect.state = server.server_state
            await test(connect, shutdown)
            server.should_exit = True
            await task

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(serve_it())


async def until(condition):
    """Waits, for 10 s at most: how soon a loop runs its timers depends on the machine."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def test_headers_that_never_end_are_not_waited_for():
    async def test(connect, shutdown):
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n")
        begun = time.monotonic()
        for i in range(5):  # a line now and then does not help
            await asyncio.sleep(0.04)
            writer.write(b"x-%d: y\r\n" % i)
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ") and time.monotonic() - begun < 2
        writer.close()

    connections(test)


def test_a_connection_that_says_nothing_is_closed():
    async def test(connect, shutdown):
        reader, writer = await connect()
        assert await asyncio.wait_for(reader.read(), 2) == b""
        writer.close()

    connections(test)


def test_a_second_request_has_as_long_and_an_idle_connection_stays():
    async def test(connect, shutdown):
        reader, writer = await connect()
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.5)  # longer than headers may take
        writer.write(b"GET / HTT")
        assert (await asyncio.wait_for(reader.read(), 2)).startswith(b"HTTP/1.1 408 ")
        writer.close()

    connections(test)


def test_headers_without_end_are_refused_by_their_size():
    async def test(connect, shutdown):
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nx: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                writer.write(b"y" * 4096)
                await writer.drain()
        with contextlib.suppress(ConnectionError):  # which may come before the answer is read
            assert (await reader.read()).startswith(b"HTTP/1.1 431 ")
        assert writer.transport.is_closing() or reader.at_eof()

    connections(test, body_timeout=30.0)


def test_a_large_body_and_requests_behind_it_are_no_headers():
    async def test(connect, shutdown):
        reader, writer = await connect()
        request = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 300000\r\n\r\n" + bytes(300_000)
        writer.write(request * 3 + b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        for _ in range(4):
            assert (await asyncio.wait_for(reader.readuntil(b"ok"), 5)).startswith(b"HTTP/1.1 200")
        writer.close()

    connections(test)


def test_half_a_request_behind_one_that_takes_long_does_not_end_it():
    async def slow(scope, receive, send):
        await asyncio.sleep(1)  # three times as long as headers may take
        await answer_ok(scope, receive, send)

    async def test(connect, shutdown):
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HT")
        assert (await asyncio.wait_for(reader.readuntil(b"ok"), 5)).startswith(b"HTTP/1.1 200")
        assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 408 ")
        writer.close()

    connections(test, app=slow)


def test_a_shutdown_makes_each_answer_the_last_of_its_connection():
    async def test(connect, shutdown):
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert b"connection: close" not in await reader.readuntil(b"ok")
        shutdown.closing = True
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert b"connection: close" in await asyncio.wait_for(reader.read(), 2)
        writer.close()

    connections(test)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused(data):
    async def test(connect, shutdown):
        reader, writer = await connect()
        writer.write(data)
        assert (await asyncio.wait_for(reader.read(), 2)).startswith(b"HTTP/1.1 4")
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.close()

    connections(test)


def test_some_requests_may_be_sent_before_an_answer_is_read(loop):
    async def echo(scope, receive, send):
        await receive()
        await asyncio.sleep(0.002)
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]}
        )
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    async def test(connect, shutdown):
        reader, writer = await connect()
        for _ in range(2):
            paths = [b"/%02d" % i for i in range(MAX_BEHIND)]
            writer.write(b"".join(b"GET %s HTTP/1.1\r\nhost: a\r\n\r\n" % path for path in paths))
            for path in paths:
                assert b"connection: close" not in await asyncio.wait_for(
                    reader.readuntil(b"\r\n\r\n"), 2
                )
                assert await reader.readexactly(3) == path
        writer.close()

    connections(test, app=echo, loop=loop)


def test_requests_without_end_are_not_kept(loop):
    asked = 0
    go = asyncio.Event()

    async def app(scope, receive, send):
        nonlocal asked
        asked += 1
        await go.wait()
        await answer_ok(scope, receive, send)

    async def test(connect, shutdown):
        reader, writer = await connect()
        writer.write(GET * 5000)
        await asyncio.sleep(0.1)
        go.set()
        received = b""
        with contextlib.suppress(ConnectionError):  # it has sent what is not read
            while more := await asyncio.wait_for(reader.read(65_536), 2):
                received += more
        writer.close()
        assert (
            asked
            == MAX_BEHIND + 1
            == received.count(b"HTTP/1.1 200 ")
            == received.count(b"HTTP/1.1")
        )
        assert received.partition(b"connection: close")[0].count(b"HTTP/1.1") == MAX_BEHIND + 1

    connections(test, app=app, loop=loop)


def test_large_requests_that_are_sent_ahead_wait_for_their_turn(loop):
    async def slow(scope, receive, send):
        await asyncio.sleep(0.002)
        await answer_ok(scope, receive, send)

    async def test(connect, shutdown):
        reader, writer = await connect()
        request = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 40000\r\n\r\n" + bytes(40_000)
        writer.write(request * 4 * MAX_BEHIND)
        for _ in range(4 * MAX_BEHIND):
            assert b"connection: close" not in await asyncio.wait_for(reader.readuntil(b"ok"), 2)
        writer.close()

    connections(test, app=slow, loop=loop)


def test_a_client_that_leaves_ends_the_request_that_is_being_answered(loop):
    ends = []

    async def app(scope, receive, send):
        try:
            assert (await receive())["type"] == "http.request"
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [(b"content-length", b"200")],
                }
            )
            for _ in range(100):
                await asyncio.sleep(0.002)
                await send({"type": "http.response.body", "body": b"ok", "more_body": True})
            ends.append(await receive())
        except Exception as error:
            ends.append(error)

    async def test(connect, shutdown):
        reader, writer = await connect()
        writer.write(GET * 3)
        await reader.readuntil(b"ok")
        writer.transport.abort()
        await until(lambda: ends)
        await asyncio.sleep(0.1)  # it is the only end
        assert ends == [{"type": "http.disconnect"}]

    connections(test, app=app, loop=loop)


@pytest.mark.parametrize("last", [False, True])
def test_an_answer_that_is_not_read_is_not_kept(loop, last):
    async def test(connect, shutdown):
        reader, writer = await connect(limit=1024)
        shutdown.closing = last
        writer.write(GET)
        await until(lambda: connect.state.total_requests and not connect.state.connections)
        received = 0
        with pytest.raises(ConnectionError):
            while more := await asyncio.wait_for(reader.read(1_000_000), 2):
                received += len(more)
            raise ConnectionError  # the system may end it in either way
        assert 0 < received < LARGE
        writer.close()

    connections(test, app=answer_large, loop=loop, timeout=0.3)


def test_an_answer_may_take_its_time_and_limits_each_one_alone(loop):
    async def test(connect, shutdown):
        reader, writer = await connect(limit=1024)
        for _ in range(3):
            writer.write(GET)
            await asyncio.sleep(0.2)
            await reader.readuntil(b"\r\n\r\n")
            assert len(await asyncio.wait_for(reader.readexactly(LARGE), 2)) == LARGE
        writer.close()

    connections(test, app=answer_large, loop=loop, timeout=0.5)


def test_tls_knows_what_is_not_read(loop, certificate):
    trusted = ssl.create_default_context(cafile=certificate["tls_certificate"])

    async def test(connect, shutdown):
        reader, writer = await connect(ssl=trusted, limit=1024)
        for _ in range(3):
            writer.write(GET)
            await reader.readuntil(b"\r\n\r\n")
            assert len(await asyncio.wait_for(reader.readexactly(LARGE), 2)) == LARGE
        writer.write(GET * 2)
        await until(lambda: not connect.state.connections)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError, ssl.SSLError)):
            await asyncio.wait_for(reader.readexactly(2 * LARGE), 2)
        writer.transport.abort()

    connections(test, app=answer_large, loop=loop, timeout=0.4, **certificate)


def test_empty_lines_after_an_answer_do_not_lift_the_idle_limit(loop):
    async def test(connect, shutdown):
        reader, writer = await connect()
        begun = time.monotonic()
        for _ in range(2):  # a request after an empty line is answered, and idling begins anew
            writer.write(GET)
            await reader.readuntil(b"ok")
            await asyncio.sleep(0.2)
            writer.write(b"\r\n")
        while not reader.at_eof() and time.monotonic() - begun < 2:
            writer.write(b"\r\n")
            with contextlib.suppress(TimeoutError):
                assert await asyncio.wait_for(reader.read(1), 0.05) == b""
        assert 0.5 < time.monotonic() - begun < 2
        writer.close()

    connections(test, loop=loop, idle=0.4)
