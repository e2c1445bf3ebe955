"""The schemas of the OpenAPI document: what routes take and answer."""

from collections.abc import Sequence
from typing import Any

from vision.reference.unsure import FORMS
from vision.serving.protocol import tiled
from vision.serving.protocol.inference import ALL_OUTPUTS, MAX_ID, MAX_TOP_K, OUTPUTS
from vision.serving.protocol.tensors import NUMBERS
from vision.serving.protocol.v2 import MAX_INPUTS
from vision.tiles.grid import LARGEST, MOST_OVERLAP, SMALLEST, Tiling


def ref(name: str) -> dict[str, str]:
    """Returns a reference to one of `SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(required: Sequence[str], **properties: Any) -> dict[str, Any]:
    """Returns the schema of an object with these properties."""
    return {"type": "object", "properties": properties, "required": list(required)}


def array(items: Any, **limits: Any) -> dict[str, Any]:
    """Returns the schema of an array."""
    return {"type": "array", "items": items, **limits}


TEXT = {"type": "string"}
NUMBER = {"type": "number"}
COUNT = {"type": "integer", "minimum": 1}
SIZE = {"type": "integer", "minimum": 0}
ANY = {"type": "object"}
SHAPE = array({"type": "integer"})
TOP_K = {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K}
TILING: dict[str, dict[str, Any]] = {
    "tiles": {
        "type": "integer",
        "minimum": SMALLEST,
        "maximum": LARGEST,
        "description": "Cuts the image, which must be the only one, into tiles with this side, in "
        "pixels, and decides from all of them",
    },
    "overlap": {
        "type": "number",
        "minimum": 0,
        "maximum": MOST_OVERLAP,
        "default": Tiling.overlap,
        "description": "With tiles, the fraction of a tile's side that overlaps the next tile",
    },
    "normal": {
        "type": "string",
        "description": "With tiles, the class of images without defects",
    },
    "defect_threshold": {
        "type": "number",
        "minimum": 0,
        "exclusiveMaximum": 1,
        "default": Tiling.defect_threshold,
        "description": "With normal, the probability that another class must exceed in a tile",
    },
}
INPUT = record(
    ["name", "datatype", "shape"],
    name={
        "type": "string",
        "description": "images or image; for what else the model takes, see its metadata",
    },
    datatype={"enum": ["UINT8", "BYTES", *NUMBERS]},
    shape=array(COUNT, minItems=1, maxItems=4),
    data=array(
        {},
        minItems=1,
        description="Pixels, row by row, flat or nested; images as base64 or data URIs; or texts "
        "or numbers, null for missing ones",
    ),
    parameters=record([], binary_data_size={"type": "integer", "minimum": 0}),
)
OUTPUT = record(
    ["name"],
    name={
        "enum": list(ALL_OUTPUTS | tiled.OUTPUTS),
        "description": "unsure: whether each answer is unsure, and in_set: the classes that it may "
        "be, if the request or the model has such a rule; tile, tiles, map, map_x and map_y are "
        "for an image that is cut into tiles",
    },
    parameters=record([], binary_data={"type": "boolean"}),
)
RESULT = record(
    ["name", "datatype", "shape"],
    name=TEXT,
    datatype=TEXT,
    shape=SHAPE,
    data=array({}),
    parameters=ANY,
)
TENSOR = record(["name", "datatype", "shape"], name=TEXT, datatype=TEXT, shape=SHAPE)
INSTANCE = record(
    ["b64"],
    b64={"type": "string", "minLength": 1, "description": "An image as base64 or a data URI"},
)
PLACE = {"x": SIZE, "y": SIZE, "width": COUNT, "height": COUNT}
TIMES = record(["decode", "queue", "compute"], decode=NUMBER, queue=NUMBER, compute=NUMBER)
UNSURE = {
    "type": "string",
    "minLength": 1,
    "pattern": "^(none|rule|((precision|coverage|threshold)=)?0?[.][0-9]+)$",
    "description": f"When an answer is unsure: {FORMS}; rule, the one exported with the model; or "
    "none. By default, the model's own rule applies, if it has one. Not with tiles",
}
IS_UNSURE = {"type": "boolean", "description": "Whether the answer is unsure, if there is a rule"}
SET = array(TEXT, description="The classes that it may be, if the rule is a coverage")
SCORED = record(
    ["labels", "scores"],
    labels=array(TEXT),
    scores=array(NUMBER),
    unsure=IS_UNSURE,
    set=SET,
)
VERSION = record(
    ["classes", "image_size", "channels"],
    classes=COUNT,
    image_size=COUNT,
    channels=COUNT,
    crop_fraction=NUMBER,
    seen=NUMBER,
    quality={"type": ["object", "null"]},
    heatmap={"type": "boolean"},
    unsure={
        "type": ["string", "null"],
        "description": "The rule by which answers are unsure; null if it has none",
    },
    inputs=array(TEXT),
)
SCHEMAS = {
    "Error": record(["error"], error=TEXT),
    "Live": record(["live"], live={"type": "boolean"}),
    "Ready": record(["ready"], ready={"type": "boolean"}),
    "Server": record(
        ["name", "version", "extensions"], name=TEXT, version=TEXT, extensions=array(TEXT)
    ),
    "Models": record(["models"], models=array(TEXT)),
    "Model": record(
        ["name", "versions", "platform", "inputs", "outputs"],
        name=TEXT,
        versions=array(TEXT),
        platform=TEXT,
        inputs=array(TENSOR),
        outputs=array(TENSOR),
    ),
    "ModelReady": record(["name", "ready"], name=TEXT, ready={"type": "boolean"}),
    "InferRequest": record(
        ["inputs"],
        id={"type": "string", "maxLength": MAX_ID, "pattern": "^[ -~]*$"},
        inputs=array(INPUT, minItems=1, maxItems=MAX_INPUTS),
        outputs=array(
            OUTPUT,
            maxItems=max(len(ALL_OUTPUTS), len(tiled.OUTPUTS)),
            description=f"By default {', '.join(OUTPUTS)}, and unsure and in_set if there is a "
            "rule; for an image that is cut into tiles, "
            f"{', '.join(tiled.DEFAULT)}",
        ),
        parameters=record(
            [], top_k=TOP_K, binary_data_output={"type": "boolean"}, unsure=UNSURE, **TILING
        ),
    ),
    "InferResponse": record(
        ["model_name", "model_version", "outputs"],
        model_name=TEXT,
        model_version=TEXT,
        id=TEXT,
        outputs=array(RESULT),
    ),
    "PredictRequest": record(
        ["instances"],
        instances={
            "oneOf": [
                array(INSTANCE, minItems=1),
                array(
                    array(array(array({"type": "integer", "minimum": 0, "maximum": 255}))),
                    minItems=1,
                ),
            ]
        },
        parameters=record([], top_k=TOP_K, unsure=UNSURE),
    ),
    "PredictResponse": record(
        ["predictions"], model_name=TEXT, model_version=TEXT, predictions=array(SCORED)
    ),
    "Classified": record(
        ["model", "version", "id", "top", "milliseconds"],
        model=TEXT,
        version=TEXT,
        id=TEXT,
        top=array(record(["class", "probability"], **{"class": TEXT}, probability=NUMBER)),
        unsure=IS_UNSURE,
        set=SET,
        milliseconds=TIMES,
        heatmap=array(
            array(NUMBER), description="Where the first class is seen, 0 to 1, if the model tells"
        ),
    ),
    "Tiled": record(
        ["model", "version", "id", "class", "score", "width", "height", "tile", "top", "tiles"],
        model=TEXT,
        version=TEXT,
        id=TEXT,
        **{"class": TEXT},
        score=NUMBER,
        width=COUNT,
        height=COUNT,
        tile=record([*PLACE], **PLACE) | {"description": "The tile that decided"},
        top=array(record(["class", "score"], **{"class": TEXT}, score=NUMBER)),
        tiles=array(
            record(
                [*PLACE, "top"],
                **PLACE,
                top=array(record(["class", "probability"], **{"class": TEXT}, probability=NUMBER)),
            )
        ),
        milliseconds=TIMES,
        map=record(
            ["x", "y", "probabilities"],
            x=SHAPE,
            y=SHAPE,
            probabilities=array(array(array(NUMBER))),
        ),
    ),
    "Known": record(
        ["models"],
        models=array(
            record(
                ["name", "versions", "serving", "about"],
                name=TEXT,
                versions=array(TEXT),
                serving={
                    "type": "string",
                    "description": "The version that gets most of the requests",
                },
                about={
                    "type": "object",
                    "additionalProperties": VERSION,
                    "description": "By version",
                },
            )
        ),
    ),
}
