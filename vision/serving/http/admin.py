"""Load, unload and roll back, on a port of its own that is closed by default and listens on
127.0.0.1 alone.

Triton's model repository extension (docs/protocol/extension_model_repository.md of
triton-inference-server/server), where load and unload need the version: {"parameters": {"version":
"2"}}. GET /v2/repository tells all of `Repository.states`.
"""

import re

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Route

from vision.serving.errors import Refused
from vision.serving.http.security import Shield
from vision.serving.protocol.json_io import read_json

HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?")


class Foreign(Refused):
    """A request that another site's page made in a browser on this machine."""

    status = 403
    code = "PERMISSION_DENIED"


def build(repository, guard, telemetry, settings):
    """Returns the ASGI application.

    Args:
        repository: `vision.serving.models.repository.Repository`.
        guard: `vision.serving.http.security.Guard`.
        telemetry: `vision.serving.logs.telemetry.Telemetry`.
        settings: `vision.serving.settings.Settings`.
    """

    async def states(request):
        return JSONResponse(repository.states())

    async def index(request):
        return JSONResponse(
            [
                {
                    "name": name,
                    "version": version,
                    "state": known["state"].upper(),
                    "reason": known["reason"],
                }
                for name, model in repository.states().items()
                for version, known in model["versions"].items()
            ]
        )

    async def load(request):
        await repository.load(request.path_params["model"], await _version(request))
        return JSONResponse({})

    async def unload(request):
        await repository.unload(request.path_params["model"], await _version(request))
        return JSONResponse({})

    async def roll_back(request):
        return JSONResponse({"version": await repository.roll_back(request.path_params["model"])})

    of = "/v2/repository/models/{model}"
    table = [("GET", "/v2/repository", states), ("POST", "/v2/repository/index", index)]
    table += [
        ("POST", f"{of}/load", load),
        ("POST", f"{of}/unload", unload),
        ("POST", f"{of}/rollback", roll_back),
    ]
    app = Starlette(
        routes=[Route(path, endpoint, methods=[method]) for method, path, endpoint in table],
        exception_handlers={HTTPException: _say},
    )
    app.router.redirect_slashes = False
    app.add_middleware(Shield, guard=guard, telemetry=telemetry, settings=settings, check=_check)
    return app


async def _say(request, error):
    """Returns the answer to a path or a method that there is not."""
    ways = "GET /v2/repository, POST /v2/repository/index and /v2/repository/models/MODEL/{load,unload,rollback}"
    return JSONResponse(
        {"error": f"this port has {ways}"}, error.status_code, headers=error.headers
    )


def _check(headers):
    """Raises `Foreign` of what a browser sends for another site's page, under that site's name or
    by its script."""
    if (
        not HOST.fullmatch(headers.get("host", ""))
        or "origin" in headers
        or "sec-fetch-site" in headers
    ):
        raise Foreign("this port is for programs on this machine, not for pages in a browser")


async def _version(request):
    """Returns the version that a request's body names."""
    body = await request.body()
    parameters = read_json(body).get("parameters") if body else None
    version = parameters.get("version") if isinstance(parameters, dict) else None
    if not isinstance(version, str) or not version:
        raise Refused('say which version, as a text: {"parameters": {"version": "2"}}')
    return version
