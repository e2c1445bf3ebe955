"""Requests for an image that is cut into tiles, and the answers to them.

The parameters have the names of `vision.tiles.grid.Tiling`: tiles, overlap, normal and
defect_threshold.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vision.errors import UserError, brief
from vision.serving.errors import Refused
from vision.serving.protocol.json_io import field_of, quote
from vision.serving.request import Answer
from vision.tiles.decision import TiledPrediction
from vision.tiles.grid import KEYS, Tiling, tiling_of

# {name: datatype} of V2's outputs for an image that is cut
OUTPUTS = {
    "labels": "BYTES",
    "scores": "FP32",
    "tile": "INT32",
    "tiles": "INT32",
    "probabilities": "FP32",
    "embedding": "FP32",
    "map": "FP32",
    "map_x": "INT32",
    "map_y": "INT32",
}
DEFAULT = ("labels", "scores", "tile", "tiles", "probabilities")  # if a request names none
DTYPES = {"FP32": "<f4", "INT32": "<i4"}


def tiling_from(parameters: Mapping[str, Any]) -> Tiling | None:
    """Returns how a request's parameters cut its image; None if they do not.

    Raises:
        Refused: one of them is wrong.
    """
    given = {key: parameters[key] for key in KEYS if key in parameters}
    kinds = {"tiles": int, "normal": str}
    for key, value in given.items():
        if key in kinds:
            field_of(given, key, kinds[key])
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise Refused(f"{key!r} must be a number, got {quote(value)}")
    try:
        return tiling_of(given)
    except UserError as error:
        raise Refused(brief(error)) from error


def refuse_tiles(parameters: Mapping[str, Any]) -> None:
    """Raises `Refused` if parameters cut an image where that is not possible."""
    if any(key in parameters for key in KEYS):
        raise Refused("tiles are for protocol V2 and /classify: use one of them")


def array_of(answer: Answer, tiled: TiledPrediction, name: str, top_k: int) -> np.ndarray:
    """Returns an output of numbers.

    Args:
        answer: the answer.
        tiled: its prediction for the image.
        name: a key of `OUTPUTS`, apart from "labels".
        top_k: number of scores.

    Returns:
        scores (1, top_k), of the image; tile (1, 4), which decided, as x, y, width, height; tiles
        (N, 4); probabilities (N, C); embedding (N, D); map (C, rows, columns) with map_x
        (columns + 1,) and map_y (rows + 1,), as in `vision.tiles.grid.DefectMap`.
    """
    compute: dict[str, Callable[[], Any]] = {
        "scores": lambda: [[score for _, score in tiled.top(top_k)]],
        "tile": lambda: [tiled.grid[tiled.decision.tile]],
        "tiles": lambda: [tiled.grid[number] for number in range(len(tiled.grid))],
        "probabilities": lambda: answer.probabilities,
        "embedding": lambda: answer.embedding,
        "map": lambda: tiled.defect_map.probabilities,
        "map_x": lambda: tiled.defect_map.x,
        "map_y": lambda: tiled.defect_map.y,
    }
    return np.asarray(compute[name](), DTYPES[OUTPUTS[name]])


def size(answer: Answer, tiled: TiledPrediction, name: str, top_k: int) -> int:
    """Returns about how many numbers and texts an output has."""
    count = len(tiled.grid)
    if name in ("probabilities", "embedding"):
        return getattr(answer, name).size
    if name == "map":
        return 4 * count * len(tiled.classes)  # cells: at most twice as many, each way
    return {"tiles": 4 * count, "tile": 4}.get(name, min(top_k, len(tiled.classes)))


def to_json(head: dict[str, Any], tiled: TiledPrediction, top_k: int, with_map: bool) -> bytes:
    """Returns the answer of /classify, written in pieces, between which other threads can run.

    Args:
        head: what answers have in common.
        tiled: the prediction.
        top_k: classes of the image and of each tile, at most.
        with_map: whether the map is added.
    """
    document = head | tiled.summary(top_k)
    tiles = (json.dumps(tiled.tile(number, top_k)) for number in range(len(tiled.grid)))
    text = f'{json.dumps(document)[:-1]}, "tiles": [{", ".join(tiles)}]'
    if with_map:
        heat = tiled.defect_map
        edges = json.dumps({"x": heat.x.tolist(), "y": heat.y.tolist()})
        rows = (
            f"[{', '.join(json.dumps(row.tolist()) for row in values)}]"
            for values in heat.probabilities
        )
        text += f', "map": {edges[:-1]}, "probabilities": [{", ".join(rows)}]}}'
    return f"{text}}}".encode()
