"""Who may send requests."""

from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from vision.serving.http.middleware.base import HttpMiddleware
from vision.serving.keys import ApiKeys, key_of


class RequireKey(HttpMiddleware):
    """Refuses requests without a valid API key, and records the key's name.

    Args:
        app: the ASGI application.
        api_keys: the keys that are accepted.
        public: paths that need no key.
    """

    def __init__(self, app: ASGIApp, api_keys: ApiKeys, public: Iterable[str] = ()):
        super().__init__(app)
        self._api_keys = api_keys
        self._public = frozenset(public)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in self._public:
            trace = scope["trace"]
            trace.key = self._api_keys.check(key_of(trace.headers))
        await self.app(scope, receive, send)
