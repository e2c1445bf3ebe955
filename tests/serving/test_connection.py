"""A connection: what a client may send before a request is complete, and its last answer."""

import asyncio
import contextlib
import dataclasses
import socket
import time

import pytest

from vision.serving.server import Door, Http
from vision.serving.settings import Settings


async def answer_ok(scope, receive, send):
    """An application that reads a body and says ok."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def connections(test, app=answer_ok, **known):
    """Runs `await test(connect, door)` against an application's server; `connect()` returns (reader, writer)."""

    async def serve_it():
        settings = dataclasses.replace(Settings(body_timeout=0.3, drain=1.0), **known)
        door = Door()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            server = Http(app, door, settings, listener)
            task = asyncio.create_task(server.run_until_told())
            await test(lambda: asyncio.open_connection("127.0.0.1", port), door)
            server.should_exit = True
            await task

    asyncio.run(serve_it())


def test_headers_that_never_end_are_not_waited_for():
    async def test(connect, door):
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
    async def test(connect, door):
        reader, writer = await connect()
        assert await asyncio.wait_for(reader.read(), 2) == b""
        writer.close()

    connections(test)


def test_a_second_request_has_as_long_and_an_idle_connection_stays():
    async def test(connect, door):
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
    async def test(connect, door):
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
    async def test(connect, door):
        reader, writer = await connect()
        one = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 300000\r\n\r\n" + bytes(300_000)
        writer.write(one * 3 + b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        for _ in range(4):
            assert (await asyncio.wait_for(reader.readuntil(b"ok"), 5)).startswith(b"HTTP/1.1 200")
        writer.close()

    connections(test)


def test_half_a_request_behind_one_that_takes_long_does_not_end_it():
    async def slow(scope, receive, send):
        await asyncio.sleep(1)  # three times as long as headers may take
        await answer_ok(scope, receive, send)

    async def test(connect, door):
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HT")
        assert (await asyncio.wait_for(reader.readuntil(b"ok"), 5)).startswith(b"HTTP/1.1 200")
        assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 408 ")
        writer.close()

    connections(test, app=slow)


def test_a_closing_door_makes_each_answer_the_last_of_its_connection():
    async def test(connect, door):
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert b"connection: close" not in await reader.readuntil(b"ok")
        door.closing = True
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert b"connection: close" in await asyncio.wait_for(reader.read(), 2)
        writer.close()

    connections(test)


@pytest.mark.parametrize(
    "data",
    [b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
)
def test_what_is_no_http_is_refused(data):
    async def test(connect, door):
        reader, writer = await connect()
        writer.write(data)
        assert (await asyncio.wait_for(reader.read(), 2)).startswith(b"HTTP/1.1 4")
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.close()

    connections(test)
