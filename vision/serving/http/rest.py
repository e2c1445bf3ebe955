"""REST: the Open Inference Protocol V2 and V1, an image in and its classes out, health, metrics,
the page and the docs.

Routes are Starlette's own. FastAPI, which is built on it, would be used for nothing: a body is read
by `vision.serving.protocol.v2`, which takes binary tensors too, and `vision.serving.http.openapi`
says what the routes take.
"""

import asyncio
import functools
import json
import mimetypes
import pathlib
import re

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vision.serving.errors import Refused, Unavailable
from vision.serving.http import docs, openapi
from vision.serving.http.multipart import file_of
from vision.serving.http.security import Shield
from vision.serving.protocol import v2 as protocol
from vision.serving.service import Request

PAGE = pathlib.Path(__file__).parent.parent / "page"
# without a key; the page's files too
OPEN = ("/", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready")
JSON = "application/json"
BINARY = "application/octet-stream"
# bytes of JSON, and numbers of an answer, that take a millisecond or more
LONG = 65_536
WIDE = 8_192


def build(service, repository, guard, telemetry, settings):
    """Returns the ASGI application.

    Args:
        service: `vision.serving.service.Service`.
        repository: `vision.serving.models.repository.Repository`.
        guard: `vision.serving.http.security.Guard`.
        telemetry: `vision.serving.logs.telemetry.Telemetry`.
        settings: `vision.serving.settings.Settings`.
    """
    of = _Routes(service, repository, telemetry)
    pages = files()
    table = [  # the first one that matches a path answers; what is asked most is found first
        ("POST", "/v2/models/{model}/infer", of.infer),
        ("POST", "/v2/models/{model}/versions/{version}/infer", of.infer),
        ("GET", "/classify/models", of.known),
        ("POST", "/classify/{model}", of.classify),
        ("POST", "/v1/models/{model}/versions/{version}:predict", of.predict),
        ("POST", "/v1/models/{model}:predict", of.predict),
        ("GET", "/v1/models", of.models),
        ("GET", "/v1/models/{model}", of.model_ready),
        ("GET", "/v2", of.server),  # as the protocol's text has it
        ("GET", "/v2/", of.server),  # as its OpenAPI document has it
        ("GET", "/v2/health/live", of.live),
        ("GET", "/v2/health/ready", of.ready),
        ("GET", "/v2/models", of.models),
        ("GET", "/v2/models/{model}", of.model),
        ("GET", "/v2/models/{model}/ready", of.model_ready),
        ("GET", "/v2/models/{model}/versions/{version}", of.model),
        ("GET", "/v2/models/{model}/versions/{version}/ready", of.model_ready),
        ("GET", "/metrics", of.metrics),
        ("GET", "/openapi.json", _fixed(json.dumps(openapi.document()).encode(), JSON)),
        ("GET", "/docs", _fixed(docs.page(openapi.document()).encode(), "text/html")),
        *(("GET", path, _fixed(*file)) for path, file in pages.items()),
    ]
    app = Starlette(
        routes=[Route(path, endpoint, methods=[method]) for method, path, endpoint in table],
        exception_handlers={HTTPException: say},
    )
    app.router.redirect_slashes = False
    app.add_middleware(
        Shield, guard=guard, telemetry=telemetry, settings=settings, public=(*OPEN, *pages)
    )
    return app


async def say(request, error):
    """Returns the answer to a path or a method that there is not."""
    reason = {
        404: "there is no such path; see /docs",
        405: f"{request.method} is not for this path",
    }
    return JSONResponse(
        {"error": reason[error.status_code]}, error.status_code, headers=error.headers
    )


class _Routes:
    """The routes that know the models; see `build`."""

    def __init__(self, service, repository, telemetry):
        self._service = service
        self._repository = repository
        self._telemetry = telemetry

    async def live(self, request):
        return _json({"live": True})

    async def ready(self, request):
        if not self._repository.ready:
            raise Unavailable("the server is not ready, or stops", 1.0)
        return _json({"ready": True})

    async def server(self, request):
        return _json(protocol.server_metadata())

    async def models(self, request):
        return _json({"models": list(self._repository.models())})

    async def model(self, request):
        version = self._version(request)
        return _json(
            protocol.model_metadata(
                version.model, self._repository.models()[version.model], version.bundle
            )
        )

    async def model_ready(self, request):
        version = self._version(request)
        return _json({"name": version.model, "ready": True})

    async def infer(self, request):
        self._version(request)
        length = request.headers.get("inference-header-content-length")
        body = await request.body()
        size = len(body) if length is None else _whole(length)
        inference = await _call(
            protocol.read_v2, body, length, thread=size != length and size > LONG
        )
        answer = await self._ask(request, inference.images)
        trace = request.scope["trace"]
        wide = protocol.size_of(answer, inference) > WIDE
        body, length = await _call(
            protocol.write_v2, answer, inference, inference.id or trace.id, thread=wide
        )
        if length is None:
            return _answer(body, answer)
        return _answer(body, answer, BINARY, {"inference-header-content-length": str(length)})

    async def predict(self, request):
        self._version(request)
        body = await request.body()
        inference = await _call(protocol.read_v1, body, thread=len(body) > LONG)
        answer = await self._ask(request, inference.images)
        wide = protocol.size_of(answer, inference) > WIDE
        return _answer(await _call(protocol.write_v1, answer, inference, thread=wide), answer)

    async def classify(self, request):
        query = _query(request, "top_k", "version", "heatmap")
        version = query.get("version", "")
        self._version(request, version)
        count = protocol.top_k_of({"top_k": _whole(query["top_k"])} if "top_k" in query else {})
        if (heatmap := query.get("heatmap", "false")) not in ("true", "false"):
            raise Refused("heatmap is true or false")
        body = await request.body()
        kind = request.headers.get("content-type", "")
        if kind.lower().startswith("multipart/form-data"):
            body = file_of(body, kind)
        answer = await self._ask(request, [body], version)
        found = {
            "model": answer.model,
            "version": answer.version,
            "id": request.scope["trace"].id,
            "top": [
                {"class": name, "probability": probability}
                for name, probability in answer.top(count)[0]
            ],
            "milliseconds": {
                stage: round(1000 * seconds, 3) for stage, seconds in answer.seconds.items()
            },
        }
        if heatmap == "true" and answer.heat is not None:
            found["heatmap"] = [
                [round(value, 3) for value in row] for row in answer.heat[0].tolist()
            ]
        return _answer(json.dumps(found).encode(), answer)

    async def known(self, request):
        return _json(
            {
                "models": [
                    self._about(name, versions)
                    for name, versions in self._repository.models().items()
                ]
            }
        )

    async def metrics(self, request):
        body, kind = self._telemetry.exposition()
        return Response(body, media_type=kind)

    def _about(self, name, versions):
        """Returns what the page shows of a model."""
        about = {
            version: self._about_version(self._repository.get(name, version).bundle)
            for version in versions
        }
        return {
            "name": name,
            "versions": list(versions),
            "serving": self._repository.get(name).name,
            "about": about,
        }

    def _about_version(self, bundle):
        return {
            "classes": len(bundle.classes),
            "image_size": bundle.image_size,
            "channels": bundle.channels,
            "crop_fraction": bundle.resize["crop_fraction"],
            # a NaN is no JSON
            "quality": json.loads(json.dumps(bundle.quality), parse_constant=lambda name: None),
            "heatmap": bundle.explain is not None,
        }

    def _version(self, request, name=""):
        """Returns the `Version` that a request names; raises before the body is looked at where
        there is none."""
        model = request.scope["trace"].model = request.path_params["model"]
        return self._repository.get(model, name or request.path_params.get("version", ""))

    async def _ask(self, request, images, version=""):
        trace = request.scope["trace"]
        version = version or request.path_params.get("version", "")
        key = request.headers.get("x-route-key", "")
        answer = await self._service.classify(Request(trace.model, images, version, key, trace.id))
        trace.answered(answer)
        return answer


async def _call(function, *arguments, thread):
    """Returns what a function returns; in a thread where it takes long, so that others are answered
    meanwhile."""
    return await asyncio.to_thread(function, *arguments) if thread else function(*arguments)


def _answer(body, answer, kind=JSON, headers=None):
    return Response(
        body, media_type=kind, headers={"x-model-version": answer.version} | (headers or {})
    )


def _json(value):
    return Response(json.dumps(value).encode(), media_type=JSON)


def _query(request, *names):
    """Returns the dict of a request's query, in which each name is known and is given once."""
    pairs = request.query_params.multi_items()
    for name, _ in pairs:
        if name not in names:
            raise Refused(f"the query knows {', '.join(names)}")
    if len(dict(pairs)) != len(pairs):
        raise Refused("the query gives a name twice")
    return dict(pairs)


def _whole(text):
    """Returns the number that a query's text is; the text itself where it is none."""
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else text


def _fixed(body, kind):
    """Returns an endpoint that always answers the same."""
    return functools.partial(_send, body, kind)


async def _send(body, kind, request):
    return Response(body, media_type=kind, headers={"cache-control": "no-cache"})


@functools.cache
def files():
    """Returns {path: (content, type)} of the page, read once: no path of a request is ever looked
    for on the disk."""
    found = {
        f"/{path.relative_to(PAGE).as_posix()}": (
            path.read_bytes(),
            mimetypes.guess_type(path.name)[0] or BINARY,
        )
        for path in sorted(PAGE.rglob("*"))
        if path.is_file()
    }
    return {"/" if path == "/index.html" else path: file for path, file in found.items()}
