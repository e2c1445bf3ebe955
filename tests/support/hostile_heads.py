"""Queries, paths, methods, keys and headers that no well-meant client sends, and what comes too
slowly."""

import json

from tests.support.wire import (
    ACCEPTED,
    ANY,
    CLOSED,
    KEY,
    OFFERS,
    REFUSED,
    Case,
    classify,
    http,
    image,
    named,
    tensor,
)


def queries():
    queries = [
        "top_k=0",
        "top_k=-1",
        "top_k=x",
        "top_k=1e9",
        "top_k=999999999999",
        "top_k=",
        "top_k=5&top_k=6",
        "top_k=%00",
        "x=1",
    ]
    queries += [
        "version=9",
        "version=../1",
        "version=%2e%2e%2f1",
        "version=1%00",
        "version=" + "1" * 5_000,
        "version=*",
        "top_k[]=5",
    ]
    queries += [
        "top_k=%D9%A3",
        "version=1&version=2",
        "%76ersion=9",
        "top_k=5;version=9",
        "=",
        "&top_k=a",
    ]
    return named("query", [classify(image(), query=f"?{value}") for value in queries])


def paths():
    body = json.dumps(tensor()).encode()
    models = [
        "..",
        ".",
        "%2e%2e",
        "..%2ftiny",
        "tiny%2f1",
        "tiny%00",
        "tiny%0d%0aX: 1",
        "%ff",
        "%c0%ae%c0%ae",
        "TINY",
        "tiny.",
        "tiny%20",
    ]
    models += [
        "x" * 10_000,
        "%",
        "%zz",
        "~",
        "$HOME",
        "tiny;1",
        "t%EF%BD%89ny",
        "*",
        "%5c..%5c",
        "{model}",
        "../tiny",
        "tiny/../tiny",
        "-",
    ]
    paths = [
        f"/v2/models/{model}{end}" for model in models for end in ("/infer", "/versions/1/infer")
    ]
    paths += [
        f"/v2/models/tiny/versions/{value}/infer"
        for value in ("0", "-1", "01", "1.0", "9", "..", "%2e", "1%2f", "x" * 9_000, "")
    ]
    paths += [
        "/v2/models/tiny/infer/",
        "//v2/models/tiny/infer",
        "/v2//models/tiny/infer",
        "/v2/models//infer",
        "/V2/models/tiny/infer",
    ]
    paths += [
        "/v2/models/tiny/generate",
        "/v2/repository/index",
        "/v2/repository/models/tiny/unload",
        "/v2/shutdown",
        "/v3",
        "*",
    ]
    paths += [
        "http://evil.example/v2/models/nope/infer",
        "/v2/models/tiny/infer%3f",
        "/v2/models/tiny/infer%23",
    ]
    requests = [http("POST", path, body) for path in paths]
    files = [
        "/etc/passwd",
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/page/index.html",
        "/index.html/..",
        "/page.css/",
    ]
    files += [
        "/..%2fserver.py",
        "/server.py",
        "/./page.js",
        "/static/../rest.py",
        "/.git/config",
        "/favicon.ico%00",
        "/docs/",
        "/metrics/",
    ]
    files += [
        "/v2/models/" + "a/" * 3_000,
        "/%",
        "/\\..\\..\\windows\\win.ini",
        "/v1/models/..",
        "/v1/models/tiny/ready",
    ]
    return named("path", requests + [http("GET", path) for path in files])


def methods():
    methods = (
        "PUT",
        "DELETE",
        "PATCH",
        "OPTIONS",
        "TRACE",
        "CONNECT",
        "PROPFIND",
        "GEt",
        "X" * 50,
        "GET POST",
        "\0",
        "",
    )
    paths = (
        "/v2/models/tiny/infer",
        "/classify/tiny",
        "/v2/health/live",
        "/",
        "/metrics",
        "/v1/models/tiny:predict",
    )
    requests = [http(method, path, b"x") for method in methods for path in paths]
    requests += [
        http("GET", path)
        for path in ("/v2/models/tiny/infer", "/classify/tiny", "/v1/models/tiny:predict")
    ]
    return named(
        "method",
        requests
        + [
            http("POST", path, b"x")
            for path in ("/v2", "/v2/health/live", "/metrics", "/docs", "/")
        ],
    )


def keys():
    body = json.dumps(tensor()).encode()
    wrong = [
        None,
        "",
        " ",
        KEY[:-1],
        KEY + "x",
        KEY.upper(),
        "\0" * 8,
        "x" * 20_000,
        "\xff\xfe",
        "*",
        "null",
        f'"{KEY}"',
        "' OR '1'='1",
    ]
    paths = ("/v2/models/tiny/infer", "/classify/tiny", "/nothing")
    requests = [http("POST", path, body, key=key) for key in wrong for path in paths]
    schemes = [
        f"Basic {KEY}",
        "Bearer",
        "Bearer ",
        f"Bearer {KEY}x",
        f"Bearer\t{KEY}",
        f"bearer{KEY}",
        KEY,
        f"Bearer {KEY},{KEY}",
        "Digest x",
    ]
    requests += [http("POST", paths[0], body, {"Authorization": value}, None) for value in schemes]
    requests += [
        http("GET", path, key=None)
        for path in ("/metrics", "/v2", "/v2/models", "/v2/models/tiny/ready", "/classify/models")
    ]
    requests += [
        http("GET", path, key=None)
        for path in (
            "/v2/health/../models",
            "//",
            "/v2/health/live/",
            "/docs%00",
            "/v2/health/LIVE",
        )
    ]
    requests += [http("POST", f"{paths[0]}?api_key={KEY}&x-api-key={KEY}", body, key=None)]
    return named("key", requests)


def heads():
    body = json.dumps(tensor()).encode()
    path = "/v2/models/tiny/infer"
    line = b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nX-Api-Key: " + KEY.encode() + b"\r\n"
    headers = [
        {"Content-Length": value}
        for value in ("-1", "abc", "1e3", "0x10", "9" * 30, "5, 5", "", "+5", "99999999999")
    ]
    headers += [
        {"Content-Encoding": value}
        for value in ("gzip", "deflate", "br", "zstd", "gzip, gzip", "x" * 1_000)
    ]
    headers += [
        {"Transfer-Encoding": value, "Content-Length": None}
        for value in ("gzip", "chunked, gzip", "x", "identity", "\x0bchunked")
    ]
    headers += [
        {"Transfer-Encoding": "chunked"},
        {"X-Big": "x" * 1_000_000},
        {f"X-{i}": "y" * 100 for i in range(2_000)},
        {"X y": "1"},
        {"": "1"},
    ]
    requests = [http("POST", path, body, value) for value in headers]
    wild = [
        line + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n123456",
        line + b"\0: 1\r\n\r\n",
        line + b"X: \0\r\n\r\n",
        line + b": 1\r\n\r\n",
    ]
    wild += [
        line + b"Transfer-Encoding: chunked\r\n\r\n" + end
        for end in (
            b"zz\r\n",
            b"-5\r\nhello",
            b"5\r\nhelloo\r\n0\r\n\r\n",
            b"FFFFFFFFFFFFFFFFF\r\n",
        )
    ]
    wild += [
        line + b"Transfer-Encoding: chunked\r\n\r\n5;" + b"x" * 50_000 + b"\r\nhello\r\n0\r\n\r\n",
        line + b"A" * 90_000,
    ]
    wild += [
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\3\1\2\0\1\0\1\xfc\3\3" + b"\0" * 200 + b"\r\n\r\n",
    ]
    wild += [
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\nHost x\n\n",
        b"\r\n" * 50_000,
    ]
    wild += [
        line + b"X-A: b\r\n c: d\r\n\r\n",
        line + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n",
    ]
    tricks = [
        {"X-Request-Id": value} for value in ("a\tb", "\xff" * 9, "x" * 5_000, "../../x", "{}")
    ] + [{"X-Route-Key": "x" * 9_000}]
    tricks += [
        {"X-Forwarded-For": "127.0.0.1"},
        {"Host": "evil.example"},
        {"X-Http-Method-Override": "DELETE"},
        {"Content-Type": "x" * 5_000},
    ]
    cases = named("header", requests) + named("head", wild, CLOSED)
    return cases + named("trick", [http("POST", path, body, value) for value in tricks], ANY)


def offers():
    """Requests that offer another protocol: the offer is ignored, and the body is the body."""
    body = json.dumps(tensor()).encode()
    path = "/v2/models/tiny/infer"
    cases = []
    for i, offer in enumerate(OFFERS):
        request = http("POST", path, body, offer)
        end = len(request) - len(body)
        chunked = offer | {"Content-Length": None, "Transfer-Encoding": "chunked"}
        chunks = http("POST", path, b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), chunked)
        old = request.replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)
        health = http("GET", "/v2/health/live", b"", offer)
        hidden = http("GET", "/v2/health/live")
        cases += [
            Case(f"offer {i}, whole", (request,), ACCEPTED),
            Case(f"offer {i}, apart", (request[:end], request[end:]), ACCEPTED, 0.05),
            Case(f"offer {i}, in parts", (request[:90], request[90:]), ACCEPTED, 0.05),
            Case(f"offer {i}, chunked", (chunks,), ACCEPTED),
            Case(f"offer {i}, HTTP/1.0", (old,), ACCEPTED),
            Case(f"offer {i}, GET", (health,), ACCEPTED),
            Case(
                f"offer {i}, an image", (http("POST", "/classify/tiny", image(), offer),), ACCEPTED
            ),
            Case(f"offer {i}, a hidden request", (http("POST", path, hidden, offer),)),
        ]
    return cases


def slow():
    body = json.dumps(tensor()).encode()
    request = http("POST", "/v2/models/tiny/infer", body)
    head = len(request) - len(body)
    drip = tuple(request[i : i + 1] for i in range(head, head + 40))
    return [
        Case("slow body", (request[:head], *drip), REFUSED, 0.1),
        Case("slow head", tuple(request[i : i + 1] for i in range(60)), CLOSED, 0.1),
        Case("no end of the body", (request[:-1],)),
        Case("no end of the head", (request[: head - 2],), CLOSED),
        Case(
            "a longer length", (http("POST", "/v2/models/tiny/infer", body, length=len(body) + 1),)
        ),
        Case("an endless length", (http("POST", "/classify/tiny", b"x" * 100_000, length=10**15),)),
        Case("silence", (b"",), CLOSED),
        Case("too large", (http("POST", "/classify/tiny", b"\0" * 34_000_000),)),
        Case("too large, in chunks", (_chunked(b"\0" * 1_000_000, 35),)),
    ]


def _chunked(data, count):
    head = http(
        "POST", "/classify/tiny", headers={"Content-Length": None, "Transfer-Encoding": "chunked"}
    )
    return head + (b"%x\r\n" % len(data) + data + b"\r\n") * count + b"0\r\n\r\n"
