"""The REST routes as an OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.0)."""

from typing import Any

from vision import __version__
from vision.serving.protocol.inference import MAX_ID, MAX_TOP_K, OUTPUTS
from vision.serving.protocol.tensors import NUMBERS
from vision.serving.protocol.v2 import MAX_INPUTS

DESCRIPTION = (
    "Classifies images. Models are asked by the Open Inference Protocol V2 or V1, "
    "or with an image as it is. A request that is refused gets {'error': 'one line'}; "
    "each answer names its version and its request."
)
REASONS = {
    400: "The request is wrong; the error says where",
    401: "An API key is needed, or the one that was sent is wrong",
    404: "There is no such model or version",
    408: "The body did not arrive in time",
    413: "The body or an image is too large, or the images are too many to be answered in time",
    415: "The body is not an image of a known format, or it is compressed",
    429: "Too many requests; the header Retry-After says in how many seconds to try again",
    503: "The server or the model is not ready",
}
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
        "/v2/health/live": _get("Whether the server lives", "Live", errors=(), tag="health"),
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
            "Classifies images, by tensors",
            {"application/json": {"schema": _ref("InferRequest")}, "application/octet-stream": {}},
            "InferResponse",
            names,
            "V2",
            [json_length],
        )
        infer["post"]["responses"]["200"]["content"]["application/octet-stream"] = {}
        paths[f"{path}/infer"] = infer
    return paths


def _v1():
    body = {"application/json": {"schema": _ref("PredictRequest")}}
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
    return {
        "/classify/models": _get(
            "What there is to know of the models", "Known", (401, 429, 503), tag="images"
        ),
        "/classify/{model}": _post(
            "Classifies an image, the body itself or a form's file",
            {
                "multipart/form-data": {"schema": form},
                "image/*": {},
                "application/octet-stream": {},
            },
            "Classified",
            ("model",),
            "images",
            [
                {"name": "top_k", "in": "query", "schema": top_k},
                {"name": "version", "in": "query", "schema": {"type": "string", "minLength": 1}},
                {"name": "heatmap", "in": "query", "schema": {"type": "boolean", "default": False}},
            ],
        ),
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
    content = {"application/json": {"schema": _ref(schema)}} if schema else {"text/plain": {}}
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
        "content": {"application/json": {"schema": _ref(schema)}},
    }
    sticky = {"name": "X-Route-Key", "in": "header", "schema": {"type": "string"}}
    sticky["description"] = "Requests of the same key go to the same version"
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
    content = {"application/json": {"schema": _ref("Error")}}
    return {str(code): {"description": REASONS[code], "content": content} for code in codes}


def _ref(name):
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required, **properties):
    return {"type": "object", "properties": properties, "required": required}


def _array(items, **limits):
    return {"type": "array", "items": items, **limits}


MODEL_AND_VERSION = ("model", "version")
TEXT = {"type": "string"}
NUMBER = {"type": "number"}
COUNT = {"type": "integer", "minimum": 1}
ANY = {"type": "object"}
SHAPE = _array({"type": "integer"})
TOP_K = {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K}
INPUT = _object(
    ["name", "datatype", "shape"],
    name={
        "type": "string",
        "description": "images or image; or what else the model takes, see its metadata",
    },
    datatype={"enum": ["UINT8", "BYTES", *NUMBERS]},
    shape=_array(COUNT, minItems=1, maxItems=4),
    data=_array(
        {},
        minItems=1,
        description="Pixels, row by row, flat or nested; images as base64 or data URIs; or texts "
        "or numbers, null for missing ones",
    ),
    parameters=_object([], binary_data_size={"type": "integer", "minimum": 0}),
)
OUTPUT = _object(
    ["name"],
    name={"enum": list(OUTPUTS)},
    parameters=_object([], binary_data={"type": "boolean"}),
)
RESULT = _object(
    ["name", "datatype", "shape"],
    name=TEXT,
    datatype=TEXT,
    shape=SHAPE,
    data=_array({}),
    parameters=ANY,
)
TENSOR = _object(["name", "datatype", "shape"], name=TEXT, datatype=TEXT, shape=SHAPE)
INSTANCE = _object(
    ["b64"],
    b64={"type": "string", "minLength": 1, "description": "An image as base64 or a data URI"},
)
SCORED = _object(["labels", "scores"], labels=_array(TEXT), scores=_array(NUMBER))
VERSION = _object(
    ["classes", "image_size", "channels"],
    classes=COUNT,
    image_size=COUNT,
    channels=COUNT,
    crop_fraction=NUMBER,
    seen=NUMBER,
    quality={"type": ["object", "null"]},
    heatmap={"type": "boolean"},
    inputs=_array(TEXT),
)
SCHEMAS = {
    "Error": _object(["error"], error=TEXT),
    "Live": _object(["live"], live={"type": "boolean"}),
    "Ready": _object(["ready"], ready={"type": "boolean"}),
    "Server": _object(
        ["name", "version", "extensions"], name=TEXT, version=TEXT, extensions=_array(TEXT)
    ),
    "Models": _object(["models"], models=_array(TEXT)),
    "Model": _object(
        ["name", "versions", "platform", "inputs", "outputs"],
        name=TEXT,
        versions=_array(TEXT),
        platform=TEXT,
        inputs=_array(TENSOR),
        outputs=_array(TENSOR),
    ),
    "ModelReady": _object(["name", "ready"], name=TEXT, ready={"type": "boolean"}),
    "InferRequest": _object(
        ["inputs"],
        id={"type": "string", "maxLength": MAX_ID, "pattern": "^[ -~]*$"},
        inputs=_array(INPUT, minItems=1, maxItems=MAX_INPUTS),
        outputs=_array(
            OUTPUT, maxItems=len(OUTPUTS), description="If there are none, all are returned"
        ),
        parameters=_object([], top_k=TOP_K, binary_data_output={"type": "boolean"}),
    ),
    "InferResponse": _object(
        ["model_name", "model_version", "outputs"],
        model_name=TEXT,
        model_version=TEXT,
        id=TEXT,
        outputs=_array(RESULT),
    ),
    "PredictRequest": _object(
        ["instances"],
        instances={
            "oneOf": [
                _array(INSTANCE, minItems=1),
                _array(
                    _array(_array(_array({"type": "integer", "minimum": 0, "maximum": 255}))),
                    minItems=1,
                ),
            ]
        },
        parameters=_object([], top_k=TOP_K),
    ),
    "PredictResponse": _object(
        ["predictions"], model_name=TEXT, model_version=TEXT, predictions=_array(SCORED)
    ),
    "Classified": _object(
        ["model", "version", "id", "top", "milliseconds"],
        model=TEXT,
        version=TEXT,
        id=TEXT,
        top=_array(_object(["class", "probability"], **{"class": TEXT}, probability=NUMBER)),
        milliseconds=_object(
            ["decode", "queue", "compute"], decode=NUMBER, queue=NUMBER, compute=NUMBER
        ),
        heatmap=_array(
            _array(NUMBER), description="Where the first class is seen, 0 to 1; of models that know"
        ),
    ),
    "Known": _object(
        ["models"],
        models=_array(
            _object(
                ["name", "versions", "serving", "about"],
                name=TEXT,
                versions=_array(TEXT),
                serving={
                    "type": "string",
                    "description": "The version that has most of the requests",
                },
                about={
                    "type": "object",
                    "additionalProperties": VERSION,
                    "description": "Of each version",
                },
            )
        ),
    ),
}
