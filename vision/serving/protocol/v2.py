"""The Open Inference Protocol, from bytes to a request and back: V2 with its binary tensors, and
V1. No web framework.

V2 is https://github.com/kserve/open-inference-protocol, its binary tensors and its classification
are Triton's extensions (docs/protocol/extension_{binary_data,classification}.md of
triton-inference-server/server). V1 is TensorFlow Serving's predict API. What a client sent wrong
raises `vision.serving.errors.Refused`.
"""

import base64
import binascii
import dataclasses
import itertools
import json
import math
import pathlib
import re
import reprlib

import numpy as np

from vision import __version__
from vision.serving.errors import Refused, TooLarge
from vision.serving.protocol.json_io import items, read_json

TOP_K = 5  # of labels and scores, where a request does not say
EXTENSIONS = ["binary_tensor_data", "classification"]
OUTPUTS = {"labels": "BYTES", "scores": "FP32", "probabilities": "FP32", "embedding": "FP32"}
DEFAULT_OUTPUTS = ("labels", "scores")
# by the suffix of the model's file
PLATFORMS = {".onnx": "onnxruntime_onnx", ".tflite": "litert_tflite"}
MAX_TOP_K = 10_000
MAX_ID = 256  # characters
# in a request, whatever the settings say: to look at so many takes a thirtieth of a second
MAX_IMAGES = 65_536


@dataclasses.dataclass
class Tensor:
    """An input.

    Attributes:
        name, datatype: of V2.
        shape: a list of ints.
        data: raw bytes, as in the binary extension; a list of bytes, of BYTES; or JSON's lists,
            flat or nested.
    """

    name: str
    datatype: str
    shape: list
    data: bytes | memoryview | list


@dataclasses.dataclass
class Wanted:
    """An output that a request asks for.

    Attributes:
        name: a key of `OUTPUTS`.
        binary: whether as raw bytes behind the JSON.
        classification: 0, or how many classes of "probabilities" as texts
            "PROBABILITY:INDEX:CLASS".
    """

    name: str
    binary: bool = False
    classification: int = 0


@dataclasses.dataclass
class Inference:
    """What a request asks.

    Attributes:
        images: as `vision.serving.service.Request` has them.
        outputs: list of `Wanted`.
        top_k: of labels and scores.
        id: the client's own; "" where it gave none.
    """

    images: np.ndarray | list
    outputs: list
    top_k: int = TOP_K
    id: str = ""


def server_metadata():
    """Returns V2's server metadata."""
    return {"name": "vision", "version": __version__, "extensions": EXTENSIONS}


def model_metadata(model, versions, bundle):
    """Returns V2's metadata of a model, by the bundle of the version that is asked about."""
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
        ],
        "outputs": [
            {"name": name, "datatype": kind, "shape": shapes[name]}
            for name, kind in OUTPUTS.items()
        ],
    }


def read_v2(body, header_length=None):
    """Returns the `Inference` of a V2 request.

    Args:
        body: bytes of JSON, and behind them those of binary tensors.
        header_length: the header Inference-Header-Content-Length, a text: how many of them are
            JSON; None = all.
    """
    length = len(body) if header_length is None else _length(header_length, len(body))
    document = read_json(body[:length])
    raw = memoryview(body)[length:]
    start = 0
    tensors = []
    for one in _list_of(dict, document, "inputs", required=True):
        tensor, size = _read_input(one, raw[start:])
        start += size
        tensors.append(tensor)
    if start != len(raw):
        raise Refused(
            f"{len(raw)} bytes follow the JSON, but binary_data_size of the inputs adds up to {start}"
        )
    parameters = _parameters(document)
    outputs = [
        (_field(one, "name", str, required=True), _parameters(one))
        for one in _list_of(dict, document, "outputs")
    ]
    identity = _field(document, "id", str, "")
    if len(identity) > MAX_ID or not identity.isascii():
        raise Refused(f"id is longer than {MAX_ID} characters or not ASCII")
    return Inference(
        images_of(tensors), wanted(outputs, parameters), top_k_of(parameters), identity
    )


def images_of(tensors):
    """Returns the images of a V2 request's `Tensor`s: uint8 (N, H, W, C), or a list of encoded
    ones."""
    names = [tensor.name for tensor in tensors]
    if len(names) != 1 or names[0] not in ("images", "image"):
        raise Refused(
            "give exactly one input: 'images' (UINT8, raw pixels) or 'image' (BYTES, encoded)"
        )
    tensor = tensors[0]
    kind, ranks = ("UINT8", (4,)) if tensor.name == "images" else ("BYTES", (1, 2))
    if tensor.datatype != kind:
        raise Refused(f"input {tensor.name!r} is {kind}, not {_quote(tensor.datatype)}")
    if len(tensor.shape) not in ranks or not all(
        type(n) is int and 0 < n < 2**31 for n in tensor.shape
    ):
        shape = "[N, height, width, channels]" if kind == "UINT8" else "[N]"
        raise Refused(
            f"input {tensor.name!r} has the shape {shape}, each at least 1, not {_quote(tensor.shape)}"
        )
    count = math.prod(tensor.shape)
    if kind == "BYTES":
        _check_count(count)
        return _encoded(tensor.data, count)
    data, shape = _numbers(tensor.data) if isinstance(tensor.data, list) else (tensor.data, [])
    if len(shape) > 1 and shape != tensor.shape:
        raise Refused(f"input 'images' has lists of the shape {shape}, but says {tensor.shape}")
    if len(data) != count:
        raise Refused(f"input 'images' has {len(data)} numbers, its shape asks for {count}")
    return np.frombuffer(data, np.uint8).reshape(tensor.shape)


def wanted(outputs, parameters):
    """Returns the list of `Wanted` of a request's [(output's name, its parameters)] and its own
    parameters."""
    binary = _field(parameters, "binary_data_output", bool, False)
    if not outputs:
        return [Wanted(name, binary) for name in DEFAULT_OUTPUTS]
    found = []
    for name, own in outputs:
        if name not in OUTPUTS:
            raise Refused(f"there is no output {_quote(name)}: ask for {', '.join(OUTPUTS)}")
        count = _field(own, "classification", int, 0)
        if count and (name != "probabilities" or not 0 < count <= MAX_TOP_K):
            raise Refused(f"classification is for 'probabilities' and lies in [1, {MAX_TOP_K}]")
        found.append(Wanted(name, _field(own, "binary_data", bool, binary), count))
    if len({one.name for one in found}) != len(found):
        raise Refused("an output is asked for twice")
    return found


def top_k_of(parameters):
    """Returns how many labels and scores a request's parameters ask for."""
    count = _field(parameters, "top_k", int, TOP_K)
    if not 0 < count <= MAX_TOP_K:
        raise Refused(f"top_k lies in [1, {MAX_TOP_K}]")
    return count


def results(answer, inference):
    """Returns of each output that is asked for (`Wanted`, datatype, shape, data): float32 array or
    list of bytes."""
    top = answer.top(inference.top_k)
    found = []
    for one in inference.outputs:
        if one.classification:
            data = [text.encode() for text in _classification(answer, one.classification)]
            found.append((one, "BYTES", [len(top), len(data) // len(top)], data))
        elif one.name == "labels":
            data = [name.encode() for best in top for name, _ in best]
            found.append((one, "BYTES", [len(top), len(top[0])], data))
        else:
            scores = [[probability for _, probability in best] for best in top]
            array = np.asarray(scores if one.name == "scores" else getattr(answer, one.name), "<f4")
            found.append((one, "FP32", list(array.shape), array))
    return found


def write_v2(answer, inference, identity):
    """Returns (body, how many bytes of it are JSON or None where all are) of a V2 answer."""
    outputs = []
    raws = []
    for one, datatype, shape, data in results(answer, inference):
        entry = {"name": one.name, "datatype": datatype, "shape": shape}
        if one.binary:
            raws.append(pack_bytes(data) if datatype == "BYTES" else data.tobytes())
            entry["parameters"] = {"binary_data_size": len(raws[-1])}
            outputs.append(json.dumps(entry))
        else:
            values = (
                [text.decode() for text in data] if datatype == "BYTES" else data.ravel().tolist()
            )
            outputs.append(f'{json.dumps(entry)[:-1]}, "data": [{items(values)}]}}')
    head = {"model_name": answer.model, "model_version": answer.version, "id": identity}
    head = f'{json.dumps(head)[:-1]}, "outputs": [{", ".join(outputs)}]}}'.encode()
    return (b"".join([head, *raws]), len(head)) if raws else (head, None)


def size_of(answer, inference):
    """Returns about how many numbers and texts an answer will hold."""
    count = len(answer.probabilities) * min(inference.top_k, len(answer.classes))
    sizes = {"labels": count, "scores": count, "probabilities": answer.probabilities.size}
    sizes["embedding"] = answer.embedding.size
    return sum(sizes[one.name] for one in inference.outputs) if inference.outputs else 2 * count


def read_v1(body):
    """Returns the `Inference` of a V1 request: {"instances": [...], "parameters": {"top_k": 5}}.

    An instance is {"b64": encoded image}, {"image": {"b64": ...}}, or lists of lists of pixels, (H,
    W, C).
    """
    document = read_json(body)
    instances = _field(document, "instances", list, required=True)
    if not instances:
        raise Refused("instances is empty")
    _check_count(len(instances))
    count = top_k_of(_parameters(document))
    if isinstance(instances[0], dict):
        return Inference([_decode64(_text64(one)) for one in instances], [], count)
    data, shape = _numbers(instances)
    if len(shape) != 4:
        raise Refused('an instance is {"b64": ...} or lists of pixels, (height, width, channels)')
    return Inference(np.frombuffer(data, np.uint8).reshape(shape), [], count)


def write_v1(answer, inference):
    """Returns the body of a V1 answer."""
    predictions = [
        {"labels": [name for name, _ in best], "scores": [probability for _, probability in best]}
        for best in answer.top(inference.top_k)
    ]
    head = json.dumps({"model_name": answer.model, "model_version": answer.version})
    return f'{head[:-1]}, "predictions": [{", ".join(map(json.dumps, predictions))}]}}'.encode()


def unpack_bytes(data, count):
    """Returns the texts of a raw BYTES tensor: each has its length before it, 4 bytes, little
    endian."""
    found = []
    start = 0
    while start < len(data) and len(found) < count:
        size = int.from_bytes(data[start : start + 4], "little")
        found.append(bytes(data[start + 4 : start + 4 + size]))
        start += 4 + size
    if start != len(data) or len(found) != count:
        raise Refused(
            f"the BYTES tensor is not {count} times a length of 4 bytes and as many bytes"
        )
    return found


def pack_bytes(texts):
    """Returns a raw BYTES tensor; see `unpack_bytes`."""
    return b"".join(
        itertools.chain.from_iterable((len(text).to_bytes(4, "little"), text) for text in texts)
    )


def _read_input(one, raw):
    """Returns (`Tensor`, how many of the raw bytes are its own)."""
    name = _field(one, "name", str, required=True)
    datatype = _field(one, "datatype", str, required=True)
    shape = _field(one, "shape", list, required=True)
    size = _field(_parameters(one), "binary_data_size", int, None)
    if size is None:
        return Tensor(name, datatype, shape, _field(one, "data", list, required=True)), 0
    if "data" in one:
        raise Refused("an input has data or binary_data_size, not both")
    if not 0 <= size <= len(raw):
        raise Refused(f"binary_data_size of an input is {size}, but {len(raw)} bytes are left")
    return Tensor(name, datatype, shape, raw[:size]), size


def _length(text, limit):
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > limit:
        raise Refused(
            f"Inference-Header-Content-Length is {_quote(text)}, the body has {limit} bytes"
        )
    return int(text)


def _numbers(data):
    """Returns (bytes, shape) of JSON's lists in lists of numbers from 0 to 255."""
    shape = [len(data)]
    while data and isinstance(data[0], list):
        size = len(data[0])
        if len(shape) == 4 or not all(type(row) is list and len(row) == size for row in data):
            raise Refused("the lists of pixels are not all of one length, or nested too deep")
        shape.append(size)
        data = list(itertools.chain.from_iterable(data))
    try:
        return bytes(data), shape
    except (ValueError, TypeError, OverflowError) as error:
        raise Refused("pixels are whole numbers from 0 to 255") from error


def _encoded(data, count):
    """Returns the encoded images of a BYTES tensor."""
    if not isinstance(data, list):
        return unpack_bytes(data, count)
    data = list(
        itertools.chain.from_iterable(row if isinstance(row, list) else [row] for row in data)
    )
    if len(data) != count:
        raise Refused(f"input 'image' has {len(data)} texts, its shape asks for {count}")
    return [one if isinstance(one, bytes) else _decode64(one) for one in data]


def _decode64(text):
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise Refused("an encoded image in JSON is a text of base64") from error


def _text64(instance):
    """Returns the text of a V1 instance."""
    instance = instance.get("image", instance) if isinstance(instance, dict) else None
    if not isinstance(instance, dict) or not isinstance(instance.get("b64"), str):
        raise Refused('an encoded instance is {"b64": "..."} or {"image": {"b64": "..."}}')
    return instance["b64"]


def _check_count(count):
    if count > MAX_IMAGES:
        raise TooLarge(f"the request holds {count:,} images")


def _classification(answer, count):
    """Yields Triton's "PROBABILITY:INDEX:CLASS", `count` of each image at most."""
    order = np.argsort(-answer.probabilities, axis=1, kind="stable")[:, :count]
    for row, best in zip(answer.probabilities, order, strict=True):
        yield from (f"{row[i]:f}:{i}:{answer.classes[i]}" for i in best)


def _field(document, key, kind, default=None, required=False):
    """Returns a value of a dict that came as JSON, of the type that it must have."""
    if key not in document:
        if required:
            raise Refused(f"{key!r} is missing")
        return default
    value = document[key]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise Refused(f"{key!r} is {_quote(value)}, not a JSON {KINDS[kind]}")
    return value


KINDS = {str: "string", int: "integer", bool: "boolean", list: "array", dict: "object"}


def _list_of(kind, document, key, required=False):
    values = _field(document, key, list, [], required)
    if not all(isinstance(value, kind) for value in values) or len(values) > len(OUTPUTS):
        raise Refused(f"{key!r} is not a list of at most {len(OUTPUTS)} objects")
    return values


def _parameters(document):
    return _field(document, "parameters", dict, {})


def _quote(value):
    """Returns what a client sent as an error can show it: short, on one line."""
    return reprlib.repr(value)
