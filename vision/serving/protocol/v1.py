"""V1, the predict API of TensorFlow Serving: from bytes to a request, and back."""

import json
from typing import Any

import numpy as np

from vision.serving.errors import Refused
from vision.serving.protocol.base64_text import decode_base64
from vision.serving.protocol.inference import Inference, top_k_of
from vision.serving.protocol.json_io import field_of, parameters_of, read_json
from vision.serving.protocol.tensors import bytes_of_lists, check_image_count
from vision.serving.protocol.tiled import refuse_tiles
from vision.serving.protocol.unsure import unsure_of
from vision.serving.request import Answer


def read_request(body: bytes) -> Inference:
    """Returns what a request asks for: {"instances": [...], "parameters": {"top_k": 5}}.

    An instance is {"b64": encoded image}, {"image": {"b64": ...}}, or nested lists of pixels,
    (H, W, C).

    Raises:
        Refused: the request is wrong.
    """
    document = read_json(body)
    instances = field_of(document, "instances", list, required=True)
    if not instances:
        raise Refused("instances is empty")
    check_image_count(len(instances))
    parameters = parameters_of(document)
    refuse_tiles(parameters)
    top_k = top_k_of(parameters)
    unsure = unsure_of(parameters)
    if isinstance(instances[0], dict):
        files = [decode_base64(_base64_of(instance)) for instance in instances]
        return Inference(files, [], top_k, unsure=unsure)
    data, shape = bytes_of_lists(instances)
    if len(shape) != 4:
        raise Refused(
            'an instance must be {"b64": ...} or nested lists of pixels, (height, width, channels)'
        )
    pixels = np.frombuffer(data, np.uint8).reshape(shape)
    return Inference(pixels, [], top_k, unsure=unsure)


def write_response(answer: Answer, inference: Inference) -> bytes:
    """Returns the body of the response."""
    predictions: list[dict[str, Any]] = [
        {
            "labels": [label for label, _ in best],
            "scores": [probability for _, probability in best],
        }
        for best in answer.top(inference.top_k)
    ]
    if answer.unsure is not None:
        for image, prediction in enumerate(predictions):
            prediction["unsure"] = bool(answer.unsure[image])
            if members := answer.set_of(image):
                prediction["set"] = members
    head = json.dumps({"model_name": answer.model, "model_version": answer.version})
    return f'{head[:-1]}, "predictions": [{", ".join(map(json.dumps, predictions))}]}}'.encode()


def _base64_of(instance: Any) -> str:
    """Returns the base64 of an instance."""
    image = instance.get("image", instance) if isinstance(instance, dict) else None
    if not isinstance(image, dict) or not isinstance(image.get("b64"), str):
        raise Refused('an encoded instance must be {"b64": "..."} or {"image": {"b64": "..."}}')
    return image["b64"]
