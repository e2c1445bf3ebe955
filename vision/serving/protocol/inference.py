"""What a request asks for and how its answer is laid out, in every version of the protocol."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from vision.serving.errors import Refused
from vision.serving.protocol import tiled, unsure
from vision.serving.protocol.json_io import field_of, quote
from vision.serving.request import Answer
from vision.tiles.grid import Tiling

TOP_K = 5  # number of labels and scores if a request names none
MAX_TOP_K = 10_000
MAX_ID = 256  # characters
# {name: datatype}: what the metadata declares, and what a request that names no output gets
OUTPUTS = {"labels": "BYTES", "scores": "FP32", "probabilities": "FP32", "embedding": "FP32"}
ALL_OUTPUTS = OUTPUTS | unsure.OUTPUTS  # the latter if there is a rule for unsure answers


@dataclasses.dataclass
class RequestedOutput:
    """An output that a request asks for.

    Attributes:
        name: a key of `OUTPUTS` or of `vision.serving.protocol.unsure.OUTPUTS`, or if the image is
            cut of `vision.serving.protocol.tiled.OUTPUTS`.
        binary: whether it is sent as raw bytes after the JSON.
        classification: 0, or how many classes of "probabilities" to send as texts
            "PROBABILITY:INDEX:CLASS".
        optional: whether it is left out if the answer does not have it.
    """

    name: str
    binary: bool = False
    classification: int = 0
    optional: bool = False


@dataclasses.dataclass
class Inference:
    """What a request asks for.

    Attributes:
        images: as in `vision.serving.request.Request`.
        outputs: the outputs, in the order of the request.
        top_k: number of labels and scores.
        id: the client's own ID; "" if it sent none.
        cells: as in `vision.serving.request.Request`.
        tiling: as in `vision.serving.request.Request`.
        unsure: as in `vision.serving.request.Request`.
    """

    images: np.ndarray | list[bytes]
    outputs: list[RequestedOutput]
    top_k: int = TOP_K
    id: str = ""
    cells: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    tiling: Tiling | None = None
    unsure: str = ""


class OutputTensor(NamedTuple):
    """An output of an answer.

    Attributes:
        request: the request for it.
        datatype: "BYTES", "FP32", "INT32" or "BOOL".
        shape: its dimensions.
        data: array of this shape, or the texts as a flat list.
    """

    request: RequestedOutput
    datatype: str
    shape: list[int]
    data: np.ndarray | list[bytes]


def requested_outputs(
    outputs: Iterable[tuple[str, dict[str, Any]]],
    parameters: dict[str, Any],
    tiling: Tiling | None = None,
) -> list[RequestedOutput]:
    """Returns the outputs that a request asks for.

    Args:
        outputs: (name, parameters) of each output in the request; empty for all that the model's
            metadata declares, or for `vision.serving.protocol.tiled.DEFAULT` if the image is cut.
        parameters: the request's own parameters.
        tiling: how the image is cut, if it is.
    """
    names = tuple(ALL_OUTPUTS if tiling is None else tiled.OUTPUTS)
    binary = field_of(parameters, "binary_data_output", bool, False)
    requests = []
    for name, own_parameters in outputs:
        if name not in names:
            raise Refused(f"there is no output {quote(name)}: ask for {', '.join(names)}")
        count = field_of(own_parameters, "classification", int, 0)
        if count and (name != "probabilities" or not 0 < count <= MAX_TOP_K):
            raise Refused(
                f"classification must be in [1, {MAX_TOP_K}], and is only for 'probabilities'"
            )
        own_binary = field_of(own_parameters, "binary_data", bool, binary)
        requests.append(RequestedOutput(name, own_binary, count))
    if len({request.name for request in requests}) != len(requests):
        raise Refused("an output is requested twice")
    defaults = names if tiling is None else tiled.DEFAULT
    return requests or [
        RequestedOutput(name, binary, optional=name in unsure.OUTPUTS) for name in defaults
    ]


def top_k_of(parameters: dict[str, Any]) -> int:
    """Returns how many labels and scores a request's parameters ask for."""
    count = field_of(parameters, "top_k", int, TOP_K)
    if not 0 < count <= MAX_TOP_K:
        raise Refused(f"top_k must be in [1, {MAX_TOP_K}]")
    return count


def output_tensors(answer: Answer, inference: Inference) -> list[OutputTensor]:
    """Returns the outputs that a request asks for, from the model's answer."""
    image = answer.tiled
    top = answer.top(inference.top_k) if image is None else [image.top(inference.top_k)]
    tensors = []
    for request in inference.outputs:
        if request.name in unsure.OUTPUTS:
            members = getattr(answer, request.name)
            if members is not None:
                tensors.append(OutputTensor(request, "BOOL", list(members.shape), members))
            elif not request.optional:
                raise Refused(
                    f"there is no output {request.name!r}: neither the request nor the model has "
                    f"such a rule. Send the parameter {unsure.PARAMETER}, or {unsure.REMEDY}"
                )
        elif request.classification:
            data = [text.encode() for text in _classification(answer, request.classification)]
            count = len(answer.probabilities)
            shape = [count, len(data) // count]
            tensors.append(OutputTensor(request, "BYTES", shape, data))
        elif request.name == "labels":
            data = [label.encode() for best in top for label, _ in best]
            tensors.append(OutputTensor(request, "BYTES", [len(top), len(top[0])], data))
        elif image is not None:
            array = tiled.array_of(answer, image, request.name, inference.top_k)
            datatype = tiled.OUTPUTS[request.name]
            tensors.append(OutputTensor(request, datatype, list(array.shape), array))
        else:
            array = np.asarray(_numbers(answer, top, request.name), "<f4")
            tensors.append(OutputTensor(request, "FP32", list(array.shape), array))
    return tensors


def answer_size(answer: Answer, inference: Inference) -> int:
    """Returns about how many numbers and texts a response will contain."""
    image = answer.tiled
    if image is not None:
        names = [request.name for request in inference.outputs]
        return sum(tiled.size(answer, image, name, inference.top_k) for name in names)
    count = len(answer.probabilities) * min(inference.top_k, len(answer.classes))
    if not inference.outputs:
        return 2 * count
    sizes = {
        "labels": count,
        "scores": count,
        "probabilities": answer.probabilities.size,
        "embedding": answer.embedding.size,
        "unsure": 0 if answer.unsure is None else answer.unsure.size,
        "in_set": 0 if answer.in_set is None else answer.in_set.size,
    }
    return sum(sizes[request.name] for request in inference.outputs)


def _numbers(answer, top, name):
    if name == "scores":
        return [[probability for _, probability in best] for best in top]
    return getattr(answer, name)


def _classification(answer: Answer, count: int) -> Iterator[str]:
    """Yields Triton's "PROBABILITY:INDEX:CLASS", at most `count` for each image."""
    order = np.argsort(-answer.probabilities, axis=1, kind="stable")[:, :count]
    for row, best in zip(answer.probabilities, order, strict=True):
        yield from (f"{row[i]:f}:{i}:{answer.classes[i]}" for i in best)
