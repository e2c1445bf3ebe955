"""Request bodies: reading them within limits of size, time and memory."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vision.serving.errors import TooLarge, TooSlow, Unreadable
from vision.serving.http.middleware.base import HttpMiddleware
from vision.serving.limits import BodyBudget
from vision.serving.request_trace import RequestTrace
from vision.serving.settings import Settings

# Bytes a second of a body that may take longer than the limit: a phone needs 20 seconds or more to
# send a photo of 25 MB.
RATE = 524_288


class ClientGone(Exception):
    """The client has closed the connection."""


class RequestBody:
    """A request's body as it arrives; iterating over it gives its chunks.

    Args:
        headers: values by lower-case name.
        receive: ASGI's function that waits for the next message of the client.

    Attributes:
        exists: whether there is a body.
        length: bytes that the client announced; 0 if it announced none.
        expects_continue: whether the client waits to be asked for the body.
        complete: whether all of it has arrived.
    """

    def __init__(self, headers: Mapping[str, str], receive: Receive):
        length = headers.get("content-length", "0")
        self._receive = receive
        self.length = int(length) if re.fullmatch("[0-9]{1,18}", length) else 0
        self.exists = bool(self.length) or "transfer-encoding" in headers
        self.expects_continue = "expect" in headers
        self.complete = not self.exists

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while not self.complete:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            self.complete = not message.get("more_body", False)
            if message.get("body"):
                yield message["body"]

    async def wait_for_disconnect(self) -> None:
        """Waits until the client has closed the connection."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


class TrackBody(HttpMiddleware):
    """Puts the `RequestBody` into `scope["body"]`, and releases its bytes after the response.

    It stands outside the middleware that responds to errors, because an error's traceback keeps
    the body in memory until then.

    Args:
        app: the ASGI application.
        budget: counts the bytes of all requests.
    """

    def __init__(self, app: ASGIApp, budget: BodyBudget):
        super().__init__(app)
        self.budget = budget

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        trace = scope["trace"]
        scope["body"] = RequestBody(trace.headers, receive)
        try:
            await self.app(scope, receive, send)
        finally:
            self.budget.release(trace.received)


class RefuseCompression(HttpMiddleware):
    """Refuses compressed bodies, whose size is unknown before they are unpacked."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        encoding = scope["trace"].headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise Unreadable(
                "compressed requests are not accepted: send the body without Content-Encoding"
            )
        await self.app(scope, receive, send)


class ReadBody(HttpMiddleware):
    """Reads the whole body before the application sees the request.

    Args:
        app: the ASGI application.
        budget: counts the bytes of all requests.
        settings: the server's settings.
    """

    def __init__(self, app: ASGIApp, budget: BodyBudget, settings: Settings):
        super().__init__(app)
        self._budget = budget
        self._settings = settings

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = scope["body"]
        data = await self._read(body, scope["trace"]) if body.exists else b""
        await self.app(scope, _replay(data), send)

    async def _read(self, body: RequestBody, trace: RequestTrace) -> bytes:
        limit = self._settings.max_body
        if body.length > limit:
            raise TooLarge(f"the body has {body.length:,} bytes: send at most {limit:,}")
        chunks = []
        patience = self._settings.body_timeout
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.timeout_at(begun + patience) as deadline:
                async for chunk in body:
                    trace.received += len(chunk)
                    self._budget.add(len(chunk))
                    if trace.received > limit:
                        raise TooLarge(f"the body has more than {limit:,} bytes")
                    self._budget.check(trace.received)
                    if trace.received > RATE:
                        patience = self._settings.body_timeout + trace.received / RATE
                        deadline.reschedule(begun + patience)
                    chunks.append(chunk)
        except TimeoutError as error:
            raise TooSlow(f"the body did not arrive within {patience:.3g} seconds") from error
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _replay(data: bytes) -> Receive:
    """Returns an ASGI `receive` that gives a body, once."""
    messages: list[Message] = [{"type": "http.request", "body": data, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive
