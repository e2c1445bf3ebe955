"""Where a request ends: each is answered once, and nothing in a body is taken for a request."""

import asyncio
import contextlib
import json
import re
import socket
import threading

import pytest

from vision.serving.http.connection import Shutdown
from vision.serving.server import Http
from vision.serving.settings import Settings

OFFERS = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    "TLS": b"Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n",
    "websocket": b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n",
    "several": b"Connection: upgrade\r\nUpgrade: h2c, foo/2\r\nUpgrade: bar\r\n",
    "last": b"Connection: Upgrade, close\r\nUpgrade: h2c\r\n",
}
SILENCE = 0.05  # seconds
TURNS = 50  # of the server's loop, in which it answers whatever it has got
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
AFTER = b"GET /after HTTP/1.1\r\nHost: x\r\n\r\n"


async def echo(scope, receive, send):
    """An application that says what it was asked."""
    body = b""
    message = {"more_body": True}
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    names = b",".join(sorted(name for name, _ in scope["headers"]))
    text = b"%s %s %d [%s]\n" % (scope["method"].encode(), scope["raw_path"], len(body), names)
    length = (b"content-length", b"%d" % len(text))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": text})


@pytest.fixture(scope="module")
def talk():
    """`talk(*parts)` sends the parts, and returns all that comes until the server closes or is
    silent."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    listener = socket.create_server(("127.0.0.1", 0))
    server = Http(echo, Shutdown(), Settings(body_timeout=1.0, drain=0.5), listener)
    serving = asyncio.run_coroutine_threadsafe(server.serve_until_exit(), loop)

    async def turns():
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def talk(parts, pause):
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        received = b""
        had_turns = False  # since the last bytes, so that silence on a busy machine is no answer
        with contextlib.suppress(ConnectionError):
            for i, part in enumerate(parts):
                await asyncio.sleep(pause if i else 0)
                writer.write(part)
            while True:
                try:
                    more = await asyncio.wait_for(reader.read(65_536), SILENCE)
                except TimeoutError:
                    if had_turns:
                        break
                    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(turns(), loop))
                    had_turns = not writer.transport.get_write_buffer_size()
                    continue
                if not more:
                    break
                received += more
                had_turns = False
        writer.transport.abort()
        return received

    yield lambda *parts, pause=0.03: asyncio.run(talk(parts, pause))
    server.should_exit = True
    serving.result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    listener.close()


def statuses(received):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", received)]


def asked(received):
    """Returns ["METHOD /path LENGTH"] of the requests that were answered."""
    return [line.decode() for line in re.findall(rb"(?m)^(\w+ /\S* \d+) \[.*\]$", received)]


def post(offer, body, chunked=False, version=b"1.1", more=b""):
    """Returns (head, body) on the wire."""
    if chunked:
        half = len(body) // 2
        pieces = [piece for piece in (body[:half], body[half:]) if piece]
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        body += b"0\r\n\r\n"
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    head = b"POST /it HTTP/%s\r\nHost: x\r\n%s%s%s\r\n\r\n" % (version, offer, more, length)
    return head, body


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("offer", OFFERS)
def test_an_offer_of_another_protocol_is_ignored(talk, offer, chunked):
    head, body = post(OFFERS[offer], HIDDEN, chunked)
    after = ["GET /after 0"] if offer != "last" else []
    cases = [
        (head + body,),
        (head, body),
        (head + body[:7], body[7:30], body[30:]),
        (head[:-2], head[-2:], body),
        tuple((head + body)[i : i + 1] for i in range(len(head + body))),
    ]
    for parts in cases:
        pause = 0.03 if len(parts) < 9 else 0.0
        assert asked(talk(*parts, pause=pause)) == [f"POST /it {len(HIDDEN)}"], parts
    assert asked(talk(head + body + AFTER)) == [f"POST /it {len(HIDDEN)}", *after]
    assert asked(talk(head + body, AFTER)) == [f"POST /it {len(HIDDEN)}", *after]


def test_offers_one_after_the_other_and_without_a_body(talk):
    offer = OFFERS["h2c"]
    get = b"GET /get HTTP/1.1\r\nHost: x\r\n%s\r\n" % offer
    post_it = b"".join(post(offer, HIDDEN))
    expected = ["GET /get 0", f"POST /it {len(HIDDEN)}"] * 2 + ["GET /after 0"]
    assert asked(talk((get + post_it) * 2 + AFTER)) == expected
    assert asked(talk(get, post_it, get, post_it, AFTER)) == expected
    empty = b"POST /it HTTP/1.1\r\nHost: x\r\n%sContent-Length: 0\r\n\r\n" % offer
    assert asked(talk(empty + AFTER)) == ["POST /it 0", "GET /after 0"]


def test_an_offer_with_a_body_that_waits_or_is_of_http_1_0(talk):
    head, body = post(OFFERS["h2c"], HIDDEN, more=b"Expect: 100-continue\r\n")
    received = talk(head, body, AFTER)
    assert statuses(received) == [100, 200, 200]
    assert asked(received) == [f"POST /it {len(HIDDEN)}", "GET /after 0"]
    head, body = post(OFFERS["h2c"], HIDDEN, version=b"1.0")
    assert asked(talk(head + body + AFTER)) == [f"POST /it {len(HIDDEN)}"]


def test_a_large_body_with_an_offer_arrives_whole(talk):
    for chunked in (False, True):
        head, body = post(OFFERS["h2c"], bytes(3_000_000), chunked)
        assert asked(talk(head + body + AFTER)) == ["POST /it 3000000", "GET /after 0"]


@pytest.mark.parametrize(
    "request_",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n" + HIDDEN,
        b"CONNECT / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" + HIDDEN,
    ],
)
def test_what_can_be_no_request_of_ours_is_refused_once(talk, request_):
    received = talk(request_)
    assert statuses(received) in ([400], [404], [405])
    assert asked(received) == []


# heads that servers and proxies have disagreed on, each before the bytes of HIDDEN
N = len(HIDDEN)
DOUBTFUL = {
    "TE and CL": b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (N + 5),
    "CL and TE": b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n0\r\n\r\n" % (N + 5),
    "two CL": b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % N,
    "the same CL": b"Content-Length: %d\r\nContent-Length: %d\r\n\r\n" % (N, N),
    "a list of CL": b"Content-Length: 0, %d\r\n\r\n" % N,
    "a signed CL": b"Content-Length: +0\r\n\r\n",
    "a hexadecimal CL": b"Content-Length: 0x0\r\n\r\n",
    "no CL": b"Content-Length:\r\n\r\n",
    "a blank before the colon": b"Content-Length : %d\r\n\r\n" % N,
    "a vertical tab": b"Content-Length: \x0b0\r\n\r\n",
    "a folded CL": b"Content-Length:\r\n 0\r\n\r\n",
    "a folded header": b"X: a\r\n b: c\r\nContent-Length: 0\r\n\r\n",
    "a bare LF": b"X: a\nContent-Length: 0\r\n\r\n",
    "a bare CR": b"X: a\rContent-Length: 0\r\n\r\n",
    "an end of bare LF": b"Content-Length: 0\n\n",
    "a NUL": b"X: \0\r\nContent-Length: 0\r\n\r\n",
    "identity": b"Transfer-Encoding: identity\r\n\r\n",
    "identity and CL": b"Transfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n",
    "xchunked": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked, identity": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "gzip, chunked": b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "two TE": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "identity first": b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "quoted TE": b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "a folded TE": b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "chunked with a parameter": b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    "an empty TE": b"Transfer-Encoding:\r\nContent-Length: 0\r\n\r\n",
    "a size of LF": b"Transfer-Encoding: chunked\r\n\r\n0\n\n",
    "a negative size": b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    "a size of 0x": b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
    "a size that overflows": b"Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n",
    "a blank in the size": b"Transfer-Encoding: chunked\r\n\r\n1 1\r\na\r\n0\r\n\r\n",
    "a longer chunk": b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    "an LF in an extension": b"Transfer-Encoding: chunked\r\n\r\n0;a\nb\r\n\r\n",
    "a CR in an extension": b"Transfer-Encoding: chunked\r\n\r\n0;a\rb\r\n\r\n",
    "a trailer of LF": b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: a\n\r\n",
    "two hosts": b"Host: y\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("offer", [b"", OFFERS["h2c"]], ids=["plain", "h2c"])
@pytest.mark.parametrize("name", DOUBTFUL)
def test_a_doubtful_head_is_refused_and_nothing_after_it_is_read(talk, name, offer):
    received = talk(b"POST /it HTTP/1.1\r\nHost: x\r\n" + offer + DOUBTFUL[name] + HIDDEN)
    assert statuses(received) == [400] and not asked(received)


def test_a_trailer_is_no_header(talk):
    head = b"POST /it HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    for offer in (b"", OFFERS["h2c"]):
        request = head.replace(b"Host: x\r\n", b"Host: x\r\n" + offer)
        received = talk(request + b"1\r\na\r\n0\r\nX-Api-Key: stolen\r\n\r\n" + AFTER)
        assert asked(received) == ["POST /it 1", "GET /after 0"]
        assert b"x-api-key" not in received


@pytest.mark.parametrize("name", ["extension", "trailer", "trailers"])
def test_what_is_beside_a_body_is_limited(talk, name):
    head = b"POST /it HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    head += {"extension": b"1;", "trailer": b"0\r\nX: ", "trailers": b"0\r\n"}[name]
    more = b"X: y\r\n" * 5_000 if name == "trailers" else b"y" * 30_000
    assert statuses(talk(head, *(more,) * 3)) == [431]


GARBAGE = b"\0\0 not HTTP\r\n\r\n"


def test_what_is_no_request_does_not_answer_the_one_before_it(talk):
    for broken in (
        GARBAGE,
        b"POST /next HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /next HTTP/1.1\r\nX: " + b"y" * 600_000,
    ):
        for offer in (b"", OFFERS["h2c"]):
            good = b"".join(post(offer, b"abc"))
            assert asked(talk(good + broken)) == ["POST /it 3"]
            assert asked(talk(good * 3 + broken + AFTER)) == ["POST /it 3"] * 3
    refused = talk(AFTER, GARBAGE)
    assert statuses(refused) == [200, 400]
    assert json.loads(refused.rpartition(b"\r\n\r\n")[2]).keys() == {"error"}
