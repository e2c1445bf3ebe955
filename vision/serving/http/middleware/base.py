"""The base class of the middlewares."""

from starlette.types import ASGIApp, Receive, Scope, Send


class HttpMiddleware:
    """Passes HTTP requests to `handle`, and everything else straight to the application.

    Args:
        app: the ASGI application, or the next middleware.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self.handle(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles an HTTP request; the arguments are ASGI's."""
        raise NotImplementedError
