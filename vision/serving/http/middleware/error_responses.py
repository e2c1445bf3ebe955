"""Errors as responses: one line of JSON."""

import asyncio
import json
import math
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from vision.serving.errors import Refused, TooSlow, Unauthorized, Unavailable
from vision.serving.http.middleware.base import HttpMiddleware
from vision.serving.http.middleware.body import ClientGone, RequestBody
from vision.serving.logs.telemetry import Telemetry
from vision.serving.request_trace import RequestTrace
from vision.serving.settings import Settings

GONE = 499  # nginx's status of a client that did not wait; only for the log

Headers = Sequence[tuple[bytes, bytes]]


class ErrorResponses(HttpMiddleware):
    """Turns exceptions into responses, and counts them.

    Args:
        app: the ASGI application. `vision.serving.errors.Refused` is the error of a request;
            any other exception is one of the server's own.
        telemetry: counts the errors.
        settings: the server's settings.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry, settings: Settings):
        super().__init__(app)
        self._telemetry = telemetry
        self._settings = settings

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        trace = scope["trace"]
        try:
            await self.app(scope, receive, send)
        except ClientGone:
            trace.status = GONE
        except asyncio.CancelledError:  # the server is stopping and waits no longer
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            stopping = Unavailable("the server is stopping: try again", 1.0)
            self._telemetry.refused(trace.protocol, trace.model, stopping)
            headers = [(b"retry-after", b"1"), (b"connection", b"close")]
            await _send_error(trace, send, stopping.status, stopping.message, headers)
        except Refused as error:
            self._telemetry.refused(trace.protocol, trace.model, error)
            await self._refuse(scope, send, error)
        except Exception as error:  # the one place for unforeseen errors; clients see no details
            self._telemetry.failed(trace.protocol, trace.model, error)
            await _send_error(trace, send, 500, "internal error")

    async def _refuse(self, scope: Scope, send: Send, error: Refused) -> None:
        body = scope["body"]
        headers = []
        if error.retry_after:
            headers.append((b"retry-after", str(math.ceil(error.retry_after)).encode()))
        if isinstance(error, Unauthorized):
            headers.append((b"www-authenticate", b"Bearer"))
        if not body.complete and not isinstance(error, TooSlow):
            await self._drain(body)
        if not body.complete:
            headers.append((b"connection", b"close"))
        await _send_error(scope["trace"], send, error.status, error.message, headers)

    async def _drain(self, body: RequestBody) -> None:
        """Reads and drops the rest of a refused body, within limits.

        A client that sends all of its request before it reads would otherwise see a broken
        connection instead of the reason.
        """
        limit = self._settings.max_body
        if body.expects_continue or body.length > 2 * limit:
            return
        drained = 0
        try:
            async with asyncio.timeout(self._settings.body_timeout):
                async for chunk in body:
                    drained += len(chunk)
                    if drained > limit:
                        return
        except (TimeoutError, ClientGone):
            pass


async def _send_error(
    trace: RequestTrace, send: Send, status: int, message: str, headers: Headers = ()
) -> None:
    """Sends an error, unless a response has already started."""
    if trace.status:
        return
    content = json.dumps({"error": message}).encode()
    all_headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": content})
