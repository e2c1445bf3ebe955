"""What stands between a client and the routes: keys, and limits on what a request may cost before
it is understood."""

import asyncio
import dataclasses
import hashlib
import hmac
import json
import math
import os
import pathlib
import random
import re
import time

from vision.errors import UserError
from vision.serving.errors import (
    Refused,
    TooLarge,
    TooMany,
    TooSlow,
    Unauthorized,
    Unavailable,
    Unreadable,
)

ENVIRONMENT = "env:"  # before the name of a variable that holds what a file of keys would
BODIES = 16  # of the largest size that are held at a time, in all requests together
# bytes of a body that is read all the same: a few slow clients with large ones must not lock others
# out
SMALL = 65_536
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
HSTS = "max-age=31536000"
# of requests, which are no secret; the system's own source takes a tenth of a millisecond
IDS = random.Random()
GONE = 499  # nginx's status, for the log alone, of a client that did not wait


@dataclasses.dataclass
class Key:
    """An API key: its name for the log, the SHA-256 of it, and its rate in requests a second, 0 =
    any."""

    name: str
    digest: bytes
    rate: float
    left: float = 0.0  # of a token bucket that holds a second's worth, at least one
    filled: float = 0.0

    def take(self):
        """Uses one request of the rate; raises `TooMany` where none is left."""
        if not self.rate:
            return
        now = time.monotonic()
        self.left = min(max(self.rate, 1.0), self.left + (now - self.filled) * self.rate)
        self.filled = now
        if self.left < 1:
            raise TooMany(
                f"the key's rate is {self.rate:g} requests a second", (1 - self.left) / self.rate
            )
        self.left -= 1


class Guard:
    """Knows the API keys.

    Args:
        settings: `vision.serving.settings.Settings`.

    Raises:
        UserError: the file or variable of keys cannot be read, or a line of it is not "NAME KEY
            [REQUESTS_A_SECOND]".
    """

    def __init__(self, settings):
        self._keys = _read_keys(settings.keys) if settings.keys else []

    def check(self, key):
        """Returns the name of an API key, "" where none is asked for.

        Which keys there are cannot be told from the time that this takes: all are compared, by
        their digests.

        Raises:
            Unauthorized: the key is missing or wrong.
            TooMany: it has used up its rate.
        """
        if not self._keys:
            return ""
        digest = hashlib.sha256((key or "").encode("utf-8", "surrogateescape")).digest()
        found = None
        for one in self._keys:
            if hmac.compare_digest(one.digest, digest):
                found = one
        if found is None:
            raise Unauthorized(
                "an API key is needed: send 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'"
            )
        found.take()
        return found.name


def key_of(headers):
    """Returns the API key in a request's headers or metadata, a dict with names in lower case; None
    without."""
    kind, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if kind.lower() == "bearer" else headers.get("x-api-key")


def request_id(headers):
    """Returns the id that a request brought in `x-request-id`, where it is one that a log can hold;
    else a new one."""
    given = headers.get("x-request-id", "")
    return (
        given
        if re.fullmatch(r"[A-Za-z0-9._:/+=-]{1,128}", given)
        else f"{IDS.getrandbits(64):016x}"
    )


@dataclasses.dataclass
class Trace:
    """What is known of a request that is being answered; routes fill in the model and its version.

    Attributes:
        id: of the request.
        headers: a dict, names in lower case.
        key: name of its API key.
        protocol, model, version: for metrics and the log.
        received, sent: bytes of the bodies.
        status: of the answer; 0 = it has not begun.
        images: how many it is about.
        seconds: of the stages, as `vision.serving.service.Answer` has them.
    """

    id: str
    headers: dict
    key: str = ""
    protocol: str = "rest"
    model: str = ""
    version: str = ""
    received: int = 0
    sent: int = 0
    status: int = 0
    images: int = 0
    seconds: dict = dataclasses.field(default_factory=dict)

    def answered(self, answer):
        """Takes down what a `vision.serving.service.Answer` says of itself."""
        self.version = answer.version
        self.images = len(answer.probabilities)
        self.seconds = answer.seconds

    def entry(self, code, seconds, client, **asked):
        """Returns the request's line of the access log, a dict; it holds no image and no key.

        Args:
            code: of the answer.
            seconds: until it was there.
            client: address.
            asked: what was asked for, as the protocol has it.
        """
        return {
            "time": round(time.time(), 6),
            "protocol": self.protocol,
            "id": self.id,
            **asked,
            "client": client,
            "key": self.key,
            "bytes": self.received,
            "sent": self.sent,
            "model": self.model[:200],
            "version": self.version,
            "code": code,
            "images": self.images,
            **{stage: round(taken, 6) for stage, taken in self.seconds.items()},
            "seconds": round(seconds, 6),
        }


class Shield:
    """ASGI middleware: reads each body within its limits, ends what takes too long or what nobody
    waits for any more, asks for the key, adds the headers, turns what goes wrong into one line of
    JSON and logs each request.

    Routes find the request's `Trace` in `scope["trace"]`.

    Args:
        app: ASGI application. What it raises may be `vision.serving.errors.Refused`.
        guard: `Guard`.
        telemetry: `vision.serving.logs.telemetry.Telemetry`.
        settings: `vision.serving.settings.Settings`.
        public: paths that need no key.
        check: a function that raises `Refused` of the headers of requests that are not for this
            server.
    """

    def __init__(self, app, guard, telemetry, settings, public=(), check=lambda headers: None):
        self._app = app
        self._guard = guard
        self._telemetry = telemetry
        self._settings = settings
        self._public = frozenset(public)
        self._check = check
        self._held = 0
        extra = {"strict-transport-security": HSTS} if settings.tls_certificate else {}
        self._headers = [
            (name.encode(), value.encode()) for name, value in (HEADERS | extra).items()
        ]

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        begun = time.perf_counter()
        headers = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in reversed(scope["headers"])
        }
        trace = scope["trace"] = Trace(request_id(headers), headers)
        send = self._sender(trace, send)
        body = _Body(headers, receive)
        try:
            await self._guarded(scope, trace, body, send)
        except _Gone:
            trace.status = GONE
        except asyncio.CancelledError:  # the time that a stop waits for answers is over
            asyncio.current_task().uncancel()
            stopped = Unavailable("the server stops: try again", 1.0)
            self._telemetry.refused(trace.protocol, trace.model, stopped)
            await self._say(
                trace,
                send,
                503,
                stopped.message,
                [(b"retry-after", b"1"), (b"connection", b"close")],
            )
        except Refused as error:
            self._telemetry.refused(trace.protocol, trace.model, error)
            await self._refuse(trace, body, send, error)
        # the one place where what nobody foresaw ends; the client learns nothing of it
        except Exception as error:
            self._telemetry.failed(trace.protocol, trace.model, error)
            await self._say(trace, send, 500, "internal error")
        finally:
            self._held -= trace.received
            self._telemetry.access(_entry(scope, trace, time.perf_counter() - begun))

    async def _guarded(self, scope, trace, body, send):
        self._check(trace.headers)
        if scope["path"] not in self._public:
            trace.key = self._guard.check(key_of(trace.headers))
        if (
            "content-encoding" in trace.headers
            and trace.headers["content-encoding"].lower() != "identity"
        ):
            raise Unreadable(
                "compressed requests are not taken: send them without Content-Encoding"
            )
        if not body.exists:
            return await self._app(scope, body.replay(b""), send)
        data = await self._read(trace, body)
        gone = False
        try:
            async with asyncio.timeout(self._settings.timeout) as deadline:

                async def watch():
                    nonlocal gone
                    await body.gone()
                    gone = True
                    deadline.reschedule(0)

                watcher = asyncio.create_task(watch())
                try:
                    await self._app(scope, body.replay(data), send)
                finally:
                    watcher.cancel()
        except TimeoutError as error:
            if gone:
                raise _Gone from error
            raise Unavailable(
                f"there was no answer within {self._settings.timeout:g} seconds: try again", 1.0
            ) from error

    async def _read(self, trace, body):
        """Returns a request's body."""
        limit = self._settings.max_body
        chunks = []
        if body.length > limit:
            raise TooLarge(f"the body has {body.length:,} bytes: send at most {limit:,}")
        try:
            async with asyncio.timeout(self._settings.body_timeout):
                async for chunk in body:
                    trace.received += len(chunk)
                    self._held += len(chunk)
                    if trace.received > limit:
                        raise TooLarge(f"the body has more than {limit:,} bytes")
                    if self._held > BODIES * limit and trace.received > SMALL:
                        raise TooMany("too many large requests at a time: try again later", 1.0)
                    chunks.append(chunk)
        except TimeoutError as error:
            raise TooSlow(
                f"the body did not arrive within {self._settings.body_timeout:g} seconds"
            ) from error
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _refuse(self, trace, body, send, error):
        headers = []
        if error.retry_after:
            headers.append((b"retry-after", str(math.ceil(error.retry_after)).encode()))
        if isinstance(error, Unauthorized):
            headers.append((b"www-authenticate", b"Bearer"))
        if not body.ended and not isinstance(error, TooSlow):
            await self._drain(body)
        if not body.ended:
            headers.append((b"connection", b"close"))
        await self._say(trace, send, error.status, error.message, headers)

    async def _drain(self, body):
        """Reads what a client still sends: one that sends before it reads would not see why it was
        refused."""
        if body.expects_leave or body.length > 2 * self._settings.max_body:
            return
        left = self._settings.max_body
        try:
            async with asyncio.timeout(self._settings.body_timeout):
                async for chunk in body:
                    left -= len(chunk)
                    if left < 0:
                        return
        except (TimeoutError, _Gone):
            pass

    async def _say(self, trace, send, status, message, headers=()):
        if trace.status:
            return  # an answer has begun; nothing can be said any more
        data = json.dumps({"error": message}).encode()
        fields = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(data)).encode()),
            *headers,
        ]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": data})

    def _sender(self, trace, send):
        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                trace.status = message["status"]
                given = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(pair for pair in self._headers if pair[0] not in given),
                    (b"x-request-id", trace.id.encode()),
                ]
            else:
                trace.sent += len(message.get("body", b""))
            await send(message)

        return send_with_headers


class _Gone(Exception):
    """The client has closed the connection."""


class _Body:
    """A request's body, as it comes.

    Attributes:
        exists: whether there is one.
        length: bytes that the client says it has; 0 = it does not say.
        expects_leave: whether the client waits to be asked for it.
        ended: whether all of it has come.
    """

    def __init__(self, headers, receive):
        length = headers.get("content-length", "0")
        self._receive = receive
        self.length = int(length) if re.fullmatch("[0-9]{1,18}", length) else 0
        self.exists = bool(self.length) or "transfer-encoding" in headers
        self.expects_leave = "expect" in headers
        self.ended = not self.exists

    async def __aiter__(self):
        while not self.ended:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            self.ended = not message.get("more_body", False)
            if message.get("body"):
                yield message["body"]

    async def gone(self):
        """Waits until the client has closed the connection."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def replay(self, data):
        """Returns an ASGI `receive` that gives the body, once."""
        messages = [{"type": "http.request", "body": data, "more_body": False}]

        async def receive():
            return messages.pop() if messages else {"type": "http.disconnect"}

        return receive


def _entry(scope, trace, seconds):
    client = scope["client"][0] if scope.get("client") else ""
    return trace.entry(
        trace.status, seconds, client, method=scope["method"], path=scope["path"][:200]
    )


def _read_keys(path):
    """Returns the list of `Key` in a file, or in the environment variable that "env:NAME" names."""
    found = []
    for number, line in enumerate(_key_lines(path), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        rate = words[2] if len(words) == 3 else "0"
        if len(words) not in (2, 3) or not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", rate):
            raise UserError(f"--keys {path}: line {number} is not 'NAME KEY [REQUESTS_A_SECOND]'")
        if not words[1].isascii():
            raise UserError(
                f"--keys {path}: line {number}: a key is of ASCII characters, as headers are"
            )
        digest = hashlib.sha256(words[1].encode()).digest()
        if any(words[0] == one.name or digest == one.digest for one in found):
            raise UserError(f"--keys {path}: line {number} repeats a name or a key")
        found.append(Key(words[0], digest, float(rate), max(float(rate), 1.0), time.monotonic()))
    if not found:
        raise UserError(f"--keys {path} holds no key: a line is 'NAME KEY [REQUESTS_A_SECOND]'")
    return found


def _key_lines(path):
    if path.startswith(ENVIRONMENT):
        name = path.removeprefix(ENVIRONMENT)
        if name not in os.environ:
            raise UserError(f"--keys {path}: the environment has no variable {name!r}")
        # so that no process that is started from here has it
        return os.environ.pop(name).splitlines()
    try:
        return pathlib.Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--keys {path} cannot be read: {getattr(error, 'strerror', None) or 'no UTF-8'}"
        ) from error
