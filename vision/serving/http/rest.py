"""REST: the Open Inference Protocol V2 and V1, `/classify`, health, metrics, the page and the docs.

The routes are Starlette's own. FastAPI, which is built on it, would add nothing:
`vision.serving.protocol` reads the bodies, which may contain binary tensors, and
`vision.serving.http.openapi` documents the routes.
"""

import asyncio
import functools
import json
import mimetypes
import pathlib
import re
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vision.serving.errors import Refused, Unavailable
from vision.serving.headers import FORMATS
from vision.serving.http import docs, openapi
from vision.serving.http.middleware.stack import middleware_stack
from vision.serving.http.multipart import file_of
from vision.serving.keys import ApiKeys
from vision.serving.logs.telemetry import Telemetry
from vision.serving.models.loaded import LoadedVersion
from vision.serving.models.repository import Repository
from vision.serving.protocol import v1, v2
from vision.serving.protocol.inference import answer_size, top_k_of
from vision.serving.protocol.tiled import tiling_from, to_json
from vision.serving.request import Answer
from vision.serving.request import Request as ClassifyRequest
from vision.serving.service import Service
from vision.serving.settings import Settings
from vision.support.page import BASE_STYLE, FRAME_SCRIPT, FRAME_STYLE, ZOOM_SCRIPT
from vision.tiles.grid import KEYS, Tiling

PAGE = pathlib.Path(__file__).parent.parent / "page"
# paths that need no key; the page's files too
PUBLIC = ("/", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready")
JSON = "application/json"
BINARY = "application/octet-stream"
# bytes of JSON, and numbers of an answer, that take a millisecond or more
LONG_BODY = 65_536
LONG_ANSWER = 8_192
LONGEST_NUMBER = 40  # characters of a number in a query


def build(
    service: Service,
    repository: Repository,
    api_keys: ApiKeys,
    telemetry: Telemetry,
    settings: Settings,
) -> Starlette:
    """Returns the ASGI application."""
    routes = _Routes(service, repository, telemetry)
    pages = files()
    table: list[tuple[str, str, Callable]] = [
        # The first route that matches a path answers, so the most frequent ones come first.
        ("POST", "/v2/models/{model}/infer", routes.infer),
        ("POST", "/v2/models/{model}/versions/{version}/infer", routes.infer),
        ("GET", "/classify/models", routes.describe_models),
        ("POST", "/classify/{model}", routes.classify),
        ("POST", "/v1/models/{model}/versions/{version}:predict", routes.predict),
        ("POST", "/v1/models/{model}:predict", routes.predict),
        ("GET", "/v1/models", routes.list_models),
        ("GET", "/v1/models/{model}", routes.model_ready),
        ("GET", "/v2", routes.server_metadata),  # as in the protocol's text
        ("GET", "/v2/", routes.server_metadata),  # as in its OpenAPI document
        ("GET", "/v2/health/live", routes.live),
        ("GET", "/v2/health/ready", routes.ready),
        ("GET", "/v2/models", routes.list_models),
        ("GET", "/v2/models/{model}", routes.model_metadata),
        ("GET", "/v2/models/{model}/ready", routes.model_ready),
        ("GET", "/v2/models/{model}/versions/{version}", routes.model_metadata),
        ("GET", "/v2/models/{model}/versions/{version}/ready", routes.model_ready),
        ("GET", "/metrics", routes.metrics),
        ("GET", "/openapi.json", _fixed(json.dumps(openapi.document()).encode(), JSON)),
        ("GET", "/docs", _fixed(docs.page(openapi.document()).encode(), "text/html")),
        *(("GET", path, _fixed(content, kind)) for path, (content, kind) in pages.items()),
    ]
    app = Starlette(
        routes=[Route(path, endpoint, methods=[method]) for method, path, endpoint in table],
        middleware=middleware_stack(api_keys, telemetry, settings, public=(*PUBLIC, *pages)),
        exception_handlers={HTTPException: _unknown_route},
    )
    app.router.redirect_slashes = False
    return app


async def _unknown_route(request: Request, error: Exception) -> JSONResponse:
    """Returns the response to an unknown path or method."""
    assert isinstance(error, HTTPException)
    reasons = {
        404: "there is no such path; see /docs",
        405: f"{request.method} is not allowed on this path",
    }
    return JSONResponse(
        {"error": reasons[error.status_code]}, error.status_code, headers=error.headers
    )


class _Routes:
    """The routes that use the models; see `build`."""

    def __init__(self, service: Service, repository: Repository, telemetry: Telemetry) -> None:
        self._service = service
        self._repository = repository
        self._telemetry = telemetry

    async def live(self, request: Request) -> Response:
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        if not self._repository.ready:
            raise Unavailable("the server is not ready or is stopping", 1.0)
        return _json({"ready": True})

    async def server_metadata(self, request: Request) -> Response:
        return _json(v2.server_metadata())

    async def list_models(self, request: Request) -> Response:
        return _json({"models": list(self._repository.models())})

    async def model_metadata(self, request: Request) -> Response:
        _record_model(request)
        version = self._find_version(request)
        versions = self._repository.models()[version.model]
        return _json(v2.model_metadata(version.model, versions, version.bundle))

    async def model_ready(self, request: Request) -> Response:
        _record_model(request)
        version = self._find_version(request)
        return _json({"name": version.model, "ready": True})

    async def infer(self, request: Request) -> Response:
        _record_model(request)
        self._find_version(request)
        header_length = request.headers.get("inference-header-content-length")
        body = await request.body()
        json_size = len(body) if header_length is None else _integer(header_length)
        # text that is not a number is refused at once
        slow = isinstance(json_size, int) and json_size > LONG_BODY
        inference = await _call(v2.read_request, body, header_length, in_thread=slow)
        answer = await self._ask(
            request,
            inference.images,
            cells=inference.cells,
            tiling=inference.tiling,
            unsure=inference.unsure,
        )
        response, length = await _call(
            v2.write_response,
            answer,
            inference,
            inference.id or request.scope["trace"].id,
            in_thread=answer_size(answer, inference) > LONG_ANSWER,
        )
        if length is None:
            return _response(response, answer)
        headers = {"inference-header-content-length": str(length)}
        return _response(response, answer, BINARY, headers)

    async def predict(self, request: Request) -> Response:
        _record_model(request)
        self._find_version(request)
        body = await request.body()
        inference = await _call(v1.read_request, body, in_thread=len(body) > LONG_BODY)
        answer = await self._ask(request, inference.images, unsure=inference.unsure)
        slow = answer_size(answer, inference) > LONG_ANSWER
        return _response(await _call(v1.write_response, answer, inference, in_thread=slow), answer)

    async def classify(self, request: Request) -> Response:
        query = _query(request, "top_k", "version", "heatmap", "unsure", "map", *KEYS)
        version = query.get("version", "")
        _record_model(request)
        self._find_version(request, version)
        top_k = top_k_of({"top_k": _integer(query["top_k"])} if "top_k" in query else {})
        with_heat = _boolean(query, "heatmap")
        with_map = _boolean(query, "map")
        tiling = tiling_from(_tiling_values(query))
        if tiling is not None and with_heat:
            raise Refused("heatmap is for images that are not cut: leave out heatmap or tiles")
        if with_map and tiling is None:
            raise Refused("map needs tiles, the side of a tile in pixels")
        body = await request.body()
        content_type = request.headers.get("content-type", "")
        if content_type.lower().startswith("multipart/form-data"):
            body = file_of(body, content_type)
        unsure = query.get("unsure", "")
        answer = await self._ask(request, [body], version, tiling=tiling, unsure=unsure)
        content: dict[str, Any] = {
            "model": answer.model,
            "version": answer.version,
            "id": request.scope["trace"].id,
            "milliseconds": {
                stage: round(1000 * seconds, 3) for stage, seconds in answer.seconds.items()
            },
        }
        if answer.tiled is not None:
            text = await asyncio.to_thread(to_json, content, answer.tiled, top_k, with_map)
            return _response(text, answer)
        content["top"] = [
            {"class": name, "probability": probability}
            for name, probability in answer.top(top_k)[0]
        ]
        if answer.unsure is not None:
            content["unsure"] = bool(answer.unsure[0])
            if members := answer.set_of(0):
                content["set"] = members
        if with_heat and answer.heat is not None:
            content["heatmap"] = [
                [round(value, 3) for value in row] for row in answer.heat[0].tolist()
            ]
        return _response(json.dumps(content).encode(), answer)

    async def describe_models(self, request: Request) -> Response:
        models = [
            self._describe_model(name, versions)
            for name, versions in self._repository.models().items()
        ]
        return _json({"models": models})

    async def metrics(self, request: Request) -> Response:
        body, kind = self._telemetry.exposition()
        return Response(body, media_type=kind)

    def _describe_model(self, name, versions):
        """Returns what the page shows about a model."""
        about = {
            version: _describe_bundle(self._repository.get(name, version).bundle)
            for version in versions
        }
        return {
            "name": name,
            "versions": list(versions),
            "serving": self._repository.get(name).name,
            "about": about,
        }

    def _find_version(self, request: Request, name: str = "") -> LoadedVersion:
        """Returns the version that a request names.

        Routes call it before they look at the body, so that an unknown model is refused first. The
        service picks the version that answers by itself: it may have changed meanwhile.
        """
        version = name or request.path_params.get("version", "")
        return self._repository.get(request.path_params["model"], version)

    async def _ask(
        self,
        request: Request,
        images: Any,
        version: str = "",
        cells: dict[str, list[Any]] | None = None,
        tiling: Tiling | None = None,
        unsure: str = "",
    ) -> Answer:
        trace = request.scope["trace"]
        version = version or request.path_params.get("version", "")
        key = request.headers.get("x-route-key", "")
        answer = await self._service.classify(
            ClassifyRequest(
                trace.model,
                images,
                version,
                key,
                trace.id,
                cells=cells or {},
                tiling=tiling,
                unsure=unsure,
            )
        )
        trace.record_answer(answer)
        return answer


def _record_model(request: Request) -> None:
    """Records the model that a request names, for metrics and the log."""
    request.scope["trace"].model = request.path_params["model"]


def _describe_bundle(bundle):
    return {
        "classes": len(bundle.classes),
        "image_size": bundle.image_size,
        "channels": bundle.channels,
        "crop_fraction": bundle.resize["crop_fraction"],
        "seen": bundle.seen,
        # NaN is not JSON
        "quality": json.loads(json.dumps(bundle.quality), parse_constant=lambda name: None),
        "heatmap": bundle.explain is not None,
        "unsure": str(bundle.evidence.rule) if bundle.evidence and bundle.evidence.rule else None,
        "inputs": list(bundle.encoder.names) if bundle.encoder else [],
    }


async def _call(function: Callable, *arguments: Any, in_thread: bool) -> Any:
    """Calls a function; in a thread if it takes long, so that others are answered meanwhile."""
    if in_thread:
        return await asyncio.to_thread(function, *arguments)
    return function(*arguments)


def _response(body, answer, kind=JSON, headers=None):
    return Response(
        body, media_type=kind, headers={"x-model-version": answer.version} | (headers or {})
    )


def _json(value):
    return Response(json.dumps(value).encode(), media_type=JSON)


def _query(request: Request, *names: str) -> dict[str, str]:
    """Returns a request's query; refuses names that are unknown or given twice."""
    pairs = request.query_params.multi_items()
    for name, _ in pairs:
        if name not in names:
            raise Refused(f"unknown query parameter: use {', '.join(names)}")
    if len(dict(pairs)) != len(pairs):
        raise Refused("a query parameter is given twice")
    return dict(pairs)


def _boolean(query: dict[str, str], name: str) -> bool:
    """Returns a value of a query that is true or false; false if it is missing."""
    if query.get(name, "false") not in ("true", "false"):
        raise Refused(f"{name} must be true or false")
    return query.get(name) == "true"


def _tiling_values(query: dict[str, str]) -> dict[str, Any]:
    """Returns the values of a query that are about tiles, as JSON would have them."""
    read: dict[str, Callable[[str], Any]] = {"tiles": _integer, "normal": str}
    return {key: read.get(key, _number)(query[key]) for key in KEYS if key in query}


def _number(text: str) -> float | str:
    """Returns the number that a text is, or the text itself if it is not one."""
    try:
        return float(text) if len(text) <= LONGEST_NUMBER else text
    except ValueError:
        return text


def _integer(text: str) -> int | str:
    """Returns the number that a text consists of, or the text itself if it is not one."""
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else text


def _fixed(body, kind):
    """Returns an endpoint that always returns the same content."""
    return functools.partial(_send_fixed, body, kind)


async def _send_fixed(body: bytes, kind: str, request: Request) -> Response:
    return Response(body, media_type=kind, headers={"cache-control": "no-cache"})


@functools.cache
def files() -> dict[str, tuple[bytes, str]]:
    """Returns {path: (content, type)} of the page.

    The files are read once: no path of a request is ever looked up on the disk.
    """
    own = {path.relative_to(PAGE).as_posix(): path for path in PAGE.rglob("*") if path.is_file()}
    shared = {path.name: path for path in (BASE_STYLE, FRAME_STYLE, ZOOM_SCRIPT, FRAME_SCRIPT)}
    pages = {}
    for name, path in sorted((own | shared).items()):
        kind = mimetypes.guess_type(path.name)[0] or BINARY
        content = path.read_bytes().replace(b"IMAGE_TYPES", ",".join(FORMATS.values()).encode())
        pages["/" if name == "index.html" else f"/{name}"] = (content, kind)
    return pages
