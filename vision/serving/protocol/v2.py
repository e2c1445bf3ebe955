"""V2, the Open Inference Protocol with its binary tensors: from bytes to a request, and back.

The protocol is https://github.com/kserve/open-inference-protocol; its binary tensors and its
classification are Triton's extensions (docs/protocol/extension_{binary_data,classification}.md of
triton-inference-server/server). What a client sent wrong raises `vision.serving.errors.Refused`.
"""

import json
import pathlib
import re
from collections.abc import Iterable
from typing import Any

from vision.bundle.directory import Bundle
from vision.serving.errors import Refused
from vision.serving.protocol.inference import (
    ALL_OUTPUTS,
    MAX_ID,
    OUTPUTS,
    Inference,
    output_tensors,
    requested_outputs,
    top_k_of,
)
from vision.serving.protocol.json_io import (
    field_of,
    join_items,
    objects_of,
    parameters_of,
    quote,
    read_json,
)
from vision.serving.protocol.tensors import Tensor, cells_of, images_of, pack_bytes
from vision.serving.protocol.tiled import OUTPUTS as TILED_OUTPUTS
from vision.serving.protocol.tiled import tiling_from
from vision.serving.protocol.unsure import outputs_of, unsure_of
from vision.serving.request import Answer
from vision.version import __version__

MAX_INPUTS = 256
EXTENSIONS = ["binary_tensor_data", "classification"]
# platform by the suffix of the model's file
PLATFORMS = {".onnx": "onnxruntime_onnx", ".tflite": "litert_tflite"}


def server_metadata() -> dict[str, Any]:
    """Returns V2's server metadata."""
    return {"name": "vision", "version": __version__, "extensions": EXTENSIONS}


def model_metadata(model: str, versions: Iterable[str], bundle: Bundle) -> dict[str, Any]:
    """Returns V2's metadata of a model.

    Args:
        model: its name.
        versions: names of the versions that are loaded.
        bundle: the bundle of the version in question.
    """
    pixels = [-1, bundle.image_size, bundle.image_size, bundle.channels]
    shapes = {
        "labels": [-1, -1],
        "scores": [-1, -1],
        "probabilities": [-1, len(bundle.classes)],
        "embedding": [-1, -1],
    }
    return {
        "name": model,
        "versions": list(versions),
        "platform": PLATFORMS[pathlib.PurePath(bundle.file).suffix],
        "inputs": [
            {"name": "images", "datatype": "UINT8", "shape": pixels},
            {"name": "image", "datatype": "BYTES", "shape": [-1]},
            *(
                {"name": name, "datatype": datatype, "shape": [-1]}
                for name, datatype in _datatypes(bundle).items()
            ),
        ],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": shapes[name]}
            for name, datatype in OUTPUTS.items()
        ]
        + [
            {"name": name, "datatype": datatype, "shape": shape}
            for name, (datatype, shape) in outputs_of(bundle).items()
        ],
    }


def _datatypes(bundle: Bundle) -> dict[str, str]:
    """Returns {name: datatype} of what a model takes beside images."""
    if bundle.encoder is None:
        return {}
    numbers = {column.name for column in bundle.encoder.columns.numbers}
    return {name: "FP32" if name in numbers else "BYTES" for name in bundle.encoder.names}


def read_request(body: bytes, header_length: str | None = None) -> Inference:
    """Returns what a request asks for.

    Args:
        body: JSON, followed by the binary tensors.
        header_length: the header Inference-Header-Content-Length, the number of bytes that are
            JSON; None if all are.

    Raises:
        Refused: the request is wrong.
    """
    length = len(body) if header_length is None else _json_length(header_length, len(body))
    document = read_json(body[:length])
    raw = memoryview(body)[length:]
    start = 0
    tensors = []
    for entry in objects_of(document, "inputs", MAX_INPUTS, required=True):
        tensor, size = _read_input(entry, raw[start:])
        start += size
        tensors.append(tensor)
    if start != len(raw):
        raise Refused(
            f"{len(raw)} bytes follow the JSON, but the inputs' binary_data_size adds up to {start}"
        )
    parameters = parameters_of(document)
    tiling = tiling_from(parameters)
    outputs = [
        (field_of(entry, "name", str, required=True), parameters_of(entry))
        for entry in objects_of(document, "outputs", max(len(ALL_OUTPUTS), len(TILED_OUTPUTS)))
    ]
    request_id = field_of(document, "id", str, "")
    if len(request_id) > MAX_ID or not request_id.isascii():
        raise Refused(f"id must be ASCII and have at most {MAX_ID} characters")
    return Inference(
        images_of(tensors),
        requested_outputs(outputs, parameters, tiling),
        top_k_of(parameters),
        request_id,
        cells_of(tensors),
        tiling,
        unsure_of(parameters),
    )


def write_response(
    answer: Answer, inference: Inference, request_id: str
) -> tuple[bytes, int | None]:
    """Returns (body, how many of its bytes are JSON or None if all are) of the response."""
    outputs = []
    raw_tensors = []
    for request, datatype, shape, data in output_tensors(answer, inference):
        entry: dict[str, Any] = {"name": request.name, "datatype": datatype, "shape": shape}
        if request.binary:
            raw = pack_bytes(data) if isinstance(data, list) else data.tobytes()
            entry["parameters"] = {"binary_data_size": len(raw)}
            raw_tensors.append(raw)
            outputs.append(json.dumps(entry))
        else:
            if isinstance(data, list):
                values = [text.decode() for text in data]
            else:
                values = data.ravel().tolist()
            outputs.append(f'{json.dumps(entry)[:-1]}, "data": [{join_items(values)}]}}')
    names = {"model_name": answer.model, "model_version": answer.version, "id": request_id}
    head = f'{json.dumps(names)[:-1]}, "outputs": [{", ".join(outputs)}]}}'.encode()
    if not raw_tensors:
        return head, None
    return b"".join([head, *raw_tensors]), len(head)


def _read_input(entry: dict[str, Any], raw: memoryview) -> tuple[Tensor, int]:
    """Returns an input, and how many of the raw bytes belong to it."""
    name = field_of(entry, "name", str, required=True)
    datatype = field_of(entry, "datatype", str, required=True)
    shape = field_of(entry, "shape", list, required=True)
    size = field_of(parameters_of(entry), "binary_data_size", int)
    if size is None:
        return Tensor(name, datatype, shape, field_of(entry, "data", list, required=True)), 0
    if "data" in entry:
        raise Refused("an input must have either data or binary_data_size, not both")
    if not 0 <= size <= len(raw):
        raise Refused(f"binary_data_size of an input is {size}, but {len(raw)} bytes are left")
    return Tensor(name, datatype, shape, raw[:size]), size


def _json_length(text: str, limit: int) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > limit:
        raise Refused(
            f"Inference-Header-Content-Length is {quote(text)}, but the body has {limit} bytes"
        )
    return int(text)
