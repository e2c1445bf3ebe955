"""The time that a response may take."""

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from vision.serving.errors import Unavailable
from vision.serving.http.middleware.base import HttpMiddleware
from vision.serving.http.middleware.body import ClientGone
from vision.serving.settings import Settings


class Deadline(HttpMiddleware):
    """Cancels a request with a body that takes too long, or whose client has disconnected.

    Args:
        app: the ASGI application.
        settings: the server's settings.
    """

    def __init__(self, app: ASGIApp, settings: Settings):
        super().__init__(app)
        self._seconds = settings.timeout

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = scope["body"]
        if not body.exists:
            await self.app(scope, receive, send)
            return
        client_gone = False
        try:
            async with asyncio.timeout(self._seconds) as deadline:

                async def watch_client() -> None:
                    nonlocal client_gone
                    await body.wait_for_disconnect()
                    client_gone = True
                    deadline.reschedule(0)

                watcher = asyncio.create_task(watch_client())
                try:
                    await self.app(scope, receive, send)
                finally:
                    watcher.cancel()
        except TimeoutError as error:
            if client_gone:
                raise ClientGone from error
            raise Unavailable(
                f"there was no answer within {self._seconds:g} seconds: try again", 1.0
            ) from error
