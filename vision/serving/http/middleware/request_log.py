"""The access log: one line for each request."""

import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vision.serving.client_address import ClientAddresses
from vision.serving.http.middleware.base import HttpMiddleware
from vision.serving.logs.telemetry import Telemetry
from vision.serving.request_trace import RequestTrace, request_id
from vision.serving.settings import Settings


class RequestLog(HttpMiddleware):
    """Creates the request's `RequestTrace`, in `scope["trace"]`, and logs it after the response.

    Args:
        app: the ASGI application.
        telemetry: writes the access log.
        settings: the server's settings.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry, settings: Settings):
        super().__init__(app)
        self._telemetry = telemetry
        self._addresses = ClientAddresses(settings.trusted_proxies, settings.proxy_header)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        pairs = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
        ]
        headers = dict(reversed(pairs))  # the first of two values counts
        trace = RequestTrace(request_id(headers), headers)
        scope["trace"] = trace

        async def send_recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                trace.status = message["status"]
            else:
                trace.sent += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, send_recorded)
        finally:
            seconds = time.perf_counter() - started
            peer = scope["client"][0] if scope.get("client") else ""
            client = self._addresses.client(peer, pairs)
            self._telemetry.access(log_entry(scope, trace, seconds, client))


def log_entry(scope: Scope, trace: RequestTrace, seconds: float, client: str) -> dict[str, Any]:
    """Returns the line of the access log for an HTTP request that took so many seconds."""
    return trace.log_entry(
        trace.status, seconds, client, method=scope["method"], path=scope["path"][:200]
    )
