"""The middlewares of an application, in order."""

from collections.abc import Iterable, Sequence

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from vision.serving.http.middleware.body import ReadBody, RefuseCompression, TrackBody
from vision.serving.http.middleware.deadline import Deadline
from vision.serving.http.middleware.error_responses import ErrorResponses
from vision.serving.http.middleware.request_log import RequestLog
from vision.serving.http.middleware.require_key import RequireKey
from vision.serving.http.middleware.response_headers import ResponseHeaders
from vision.serving.keys import ApiKeys
from vision.serving.limits import BodyBudget
from vision.serving.logs.telemetry import Telemetry
from vision.serving.settings import Settings, origins


def middleware_stack(
    api_keys: ApiKeys,
    telemetry: Telemetry,
    settings: Settings,
    public: Iterable[str] = (),
    checks: Sequence[Middleware] = (),
) -> list[Middleware]:
    """Returns the middlewares that stand between a client and the routes, the outermost first.

    Routes find the request's `RequestTrace` in `scope["trace"]`, and raise
    `vision.serving.errors.Refused`.

    Args:
        api_keys: the keys that are accepted.
        telemetry: metrics and logs.
        settings: the server's settings.
        public: paths that need no key.
        checks: further middlewares, which come before the API key is checked.
    """
    budget = BodyBudget(settings.max_body)
    return [
        Middleware(RequestLog, telemetry, settings),
        Middleware(TrackBody, budget),
        Middleware(ResponseHeaders, settings),
        *_cors(settings),
        Middleware(ErrorResponses, telemetry, settings),
        *checks,
        Middleware(RequireKey, api_keys, public),
        Middleware(RefuseCompression),
        Middleware(ReadBody, budget, settings),
        Middleware(Deadline, settings),
    ]


def _cors(settings):
    """Returns the middleware that lets other origins' pages read responses, errors too.

    It answers their preflight requests, which have no key. Keys are not cookies: a page sends its
    own, so credentials are never allowed.
    """
    allowed = origins(settings)
    if not allowed:
        return []
    options = {
        "allow_origins": allowed,
        "allow_methods": ("GET", "POST"),
        "allow_headers": (
            "Authorization",
            "Content-Type",
            "Inference-Header-Content-Length",
            "X-Api-Key",
            "X-Request-Id",
            "X-Route-Key",
        ),
        "expose_headers": (
            "Inference-Header-Content-Length",
            "Retry-After",
            "X-Model-Version",
            "X-Request-Id",
        ),
    }
    return [Middleware(CORSMiddleware, **options)]
