"""Load, unload and roll back, on a port of its own: closed by default, and only on 127.0.0.1.

Triton's model repository extension (docs/protocol/extension_model_repository.md of
triton-inference-server/server), except that load and unload need the version: {"parameters":
{"version": "2"}}. GET /v2/repository returns all of `Repository.states`.
"""

import re

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from vision.serving.errors import Refused
from vision.serving.http.middleware.base import HttpMiddleware
from vision.serving.http.middleware.stack import middleware_stack
from vision.serving.keys import ApiKeys
from vision.serving.logs.telemetry import Telemetry
from vision.serving.models.repository import Repository
from vision.serving.protocol.json_io import read_json
from vision.serving.settings import Settings

HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?")
MODEL = "/v2/repository/models/{model}"
ROUTES = (
    "GET /v2/repository, POST /v2/repository/index "
    "and /v2/repository/models/MODEL/{load,unload,rollback}"
)


class Foreign(Refused):
    """A request of another site's page in a browser on this machine."""

    status = 403
    code = "PERMISSION_DENIED"


class RefuseBrowsers(HttpMiddleware):
    """Refuses what a browser sends for another site's page, under its name or by its script."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope["trace"].headers
        if (
            not HOST.fullmatch(headers.get("host", ""))
            or "origin" in headers
            or "sec-fetch-site" in headers
        ):
            raise Foreign("this port is for programs on this machine, not for pages in a browser")
        await self.app(scope, receive, send)


def build(
    repository: Repository, api_keys: ApiKeys, telemetry: Telemetry, settings: Settings
) -> Starlette:
    """Returns the ASGI application."""

    async def states(request: Request) -> JSONResponse:
        return JSONResponse(repository.states())

    async def index(request: Request) -> JSONResponse:
        versions = [
            {
                "name": name,
                "version": version,
                "state": state["state"].upper(),
                "reason": state["reason"],
            }
            for name, model in repository.states().items()
            for version, state in model["versions"].items()
        ]
        return JSONResponse(versions)

    async def load(request: Request) -> JSONResponse:
        await repository.load(request.path_params["model"], await _version(request))
        return JSONResponse({})

    async def unload(request: Request) -> JSONResponse:
        await repository.unload(request.path_params["model"], await _version(request))
        return JSONResponse({})

    async def roll_back(request: Request) -> JSONResponse:
        return JSONResponse({"version": await repository.roll_back(request.path_params["model"])})

    routes = [
        Route("/v2/repository", states, methods=["GET"]),
        Route("/v2/repository/index", index, methods=["POST"]),
        Route(f"{MODEL}/load", load, methods=["POST"]),
        Route(f"{MODEL}/unload", unload, methods=["POST"]),
        Route(f"{MODEL}/rollback", roll_back, methods=["POST"]),
    ]
    checks = [Middleware(RefuseBrowsers)]
    app = Starlette(
        routes=routes,
        middleware=middleware_stack(api_keys, telemetry, settings, checks=checks),
        exception_handlers={HTTPException: _unknown_route},
    )
    app.router.redirect_slashes = False
    return app


async def _unknown_route(request: Request, error: Exception) -> JSONResponse:
    """Returns the response to an unknown path or method."""
    assert isinstance(error, HTTPException)
    return JSONResponse(
        {"error": f"this port serves only {ROUTES}"}, error.status_code, headers=error.headers
    )


async def _version(request: Request) -> str:
    """Returns the version that a request's body names."""
    body = await request.body()
    parameters = read_json(body).get("parameters") if body else None
    version = parameters.get("version") if isinstance(parameters, dict) else None
    if not isinstance(version, str) or not version:
        raise Refused('name the version, as a string: {"parameters": {"version": "2"}}')
    return version
