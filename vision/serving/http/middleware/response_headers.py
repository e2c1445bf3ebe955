"""The headers that every response has."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vision.serving.http.middleware.base import HttpMiddleware
from vision.serving.settings import Settings

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
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


class ResponseHeaders(HttpMiddleware):
    """Adds `HEADERS` that the response does not set itself, HSTS with TLS, and the request's ID.

    Args:
        app: the ASGI application.
        settings: the server's settings.
    """

    def __init__(self, app: ASGIApp, settings: Settings):
        super().__init__(app)
        headers = dict(HEADERS)
        if settings.tls_certificate:
            headers["strict-transport-security"] = HSTS
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        trace = scope["trace"]

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((name, value) for name, value in self._headers if name not in names),
                    (b"x-request-id", trace.id.encode()),
                ]
            await send(message)

        await self.app(scope, receive, send_with_headers)
