"""The REST routes as an OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.0)."""

from typing import Any

from vision.serving.headers import FORMATS
from vision.serving.http.schemas import SCHEMAS, TILING, UNSURE, ref
from vision.serving.protocol.inference import MAX_TOP_K
from vision.version import __version__

DESCRIPTION = (
    "Classifies images. Send tensors with the Open Inference Protocol V2 or V1, or send an image "
    "as it is. A refused request gets {'error': 'one line'}; each answer names its version and its "
    "request."
)
REASONS = {
    400: "The request is wrong; the error says where",
    401: "The API key is missing or wrong",
    404: "There is no such model or version",
    408: "The body did not arrive in time",
    413: "The body or an image is too large, or there are too many images to answer in time",
    415: f"The body is not an image of a known format ({', '.join(FORMATS)}), or it is compressed",
    429: "Too many requests; the header Retry-After gives the seconds to wait before retrying",
    503: "The server or the model is not ready",
}
MODEL_AND_VERSION = ("model", "version")
INFERENCE_ERRORS = (400, 401, 404, 408, 413, 415, 429, 503)


def document() -> dict[str, Any]:
    """Returns the OpenAPI document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "vision", "version": __version__, "description": DESCRIPTION},
        "paths": _health() | _v2() | _v1() | _classify(),
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            },
        },
        "security": [{}, {"bearer": []}, {"key": []}],
    }


def _health():
    return {
        "/v2/health/live": _get("Whether the server is alive", "Live", errors=(), tag="health"),
        "/v2/health/ready": _get(
            "Whether the server takes requests", "Ready", errors=(503,), tag="health"
        ),
        "/metrics": _get("Metrics for Prometheus", None, errors=(401, 429), tag="health"),
    }


def _v2():
    server = _get(
        "The server's name, version and extensions", "Server", errors=(401, 429), tag="V2"
    )
    paths = {
        "/v2": server,
        "/v2/": server,
        "/v2/models": _get("Names of the models", "Models", errors=(401, 429), tag="V2"),
    }
    json_length = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "schema": {"type": "integer", "minimum": 2},
    }
    for path, names in (
        ("/v2/models/{model}", ("model",)),
        ("/v2/models/{model}/versions/{version}", MODEL_AND_VERSION),
    ):
        errors = (401, 404, 429, 503)
        paths[path] = _get("A model's inputs and outputs", "Model", errors, names, "V2")
        paths[f"{path}/ready"] = _get(
            "Whether a model takes requests", "ModelReady", errors, names, "V2"
        )
        infer = _post(
            "Classifies images sent as tensors",
            {"application/json": {"schema": ref("InferRequest")}, "application/octet-stream": {}},
            "InferResponse",
            names,
            "V2",
            [json_length],
        )
        infer["post"]["responses"]["200"]["content"]["application/octet-stream"] = {}
        paths[f"{path}/infer"] = infer
    return paths


def _v1():
    body = {"application/json": {"schema": ref("PredictRequest")}}
    versioned = "/v1/models/{model}/versions/{version}:predict"
    return {
        "/v1/models": _get("Names of the models", "Models", errors=(401, 429), tag="V1"),
        "/v1/models/{model}": _get(
            "Whether a model takes requests", "ModelReady", (401, 404, 429, 503), ("model",), "V1"
        ),
        "/v1/models/{model}:predict": _post(
            "Classifies images", body, "PredictResponse", ("model",), "V1"
        ),
        versioned: _post("Classifies images", body, "PredictResponse", MODEL_AND_VERSION, "V1"),
    }


def _classify():
    image = {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {"file": image}, "required": ["file"]}
    top_k = {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K, "default": 5}
    flag = {"type": "boolean", "default": False}
    classify = _post(
        "Classifies an image: the body or a form's file; with tiles, a large image by its tiles",
        {
            "multipart/form-data": {"schema": form},
            **{media_type: {} for media_type in FORMATS.values()},
            "application/octet-stream": {},
        },
        "Classified",
        ("model",),
        "images",
        [
            {"name": "top_k", "in": "query", "schema": top_k},
            {"name": "version", "in": "query", "schema": {"type": "string", "minLength": 1}},
            {"name": "heatmap", "in": "query", "schema": flag},
            {"name": "unsure", "in": "query", "schema": UNSURE},
            *({"name": key, "in": "query", "schema": value} for key, value in TILING.items()),
            {"name": "map", "in": "query", "schema": flag},
        ],
    )
    answer = classify["post"]["responses"]["200"]["content"]["application/json"]
    answer["schema"] = {"oneOf": [ref("Classified"), ref("Tiled")]}
    return {
        "/classify/models": _get(
            "What is known about the models", "Known", (401, 429, 503), tag="images"
        ),
        "/classify/{model}": classify,
    }


def _get(summary, schema, errors, names=(), tag=""):
    """Returns a path with a GET operation.

    Args:
        summary: one line.
        schema: name of the response's schema; None if the response is plain text.
        errors: status codes.
        names: names of the path's parameters.
        tag: the section.
    """
    content = {"application/json": {"schema": ref(schema)}} if schema else {"text/plain": {}}
    return {
        "get": {
            "summary": summary,
            "tags": [tag],
            "parameters": _path(names),
            "responses": {"200": {"description": "It is", "content": content}} | _refusals(errors),
        }
    }


def _post(summary, content, schema, names, tag, parameters=()):
    """Returns a path with a POST operation, whose responses name their version and request.

    Args:
        summary: one line.
        content: the body's schema by media type.
        schema: name of the response's schema.
        names: names of the path's parameters.
        tag: the section.
        parameters: in the query and the headers.
    """
    headers = {
        "X-Model-Version": {
            "description": "The version that answered",
            "schema": {"type": "string"},
        },
        "X-Request-Id": {
            "description": "The request, in the server's log",
            "schema": {"type": "string"},
        },
    }
    answer = {
        "description": "The answer",
        "headers": headers,
        "content": {"application/json": {"schema": ref(schema)}},
    }
    sticky = {"name": "X-Route-Key", "in": "header", "schema": {"type": "string"}}
    sticky["description"] = "Requests with the same key go to the same version"
    return {
        "post": {
            "summary": summary,
            "tags": [tag],
            "parameters": [*_path(names), *parameters, sticky],
            "requestBody": {"required": True, "content": content},
            "responses": {"200": answer} | _refusals(INFERENCE_ERRORS),
        }
    }


def _path(names):
    schema = {"type": "string", "minLength": 1}
    return [{"name": name, "in": "path", "required": True, "schema": schema} for name in names]


def _refusals(codes):
    content = {"application/json": {"schema": ref("Error")}}
    return {str(code): {"description": REASONS[code], "content": content} for code in codes}
