"""Whether the decisions on line-scan pictures are right."""

import collections
import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

from experiments.steel_defects.lines import Defect
from experiments.steel_defects.patches import GOOD

COVERED = 0.25  # share of a defect that a tile must cover to have seen it


def judge(decisions: Sequence[dict[str, Any]], defects: Sequence[Defect]) -> dict[str, Any]:
    """Returns how many pictures are decided rightly, and how many defects are seen.

    Of the first half of the pictures, the threshold with the fewest wrong decisions is taken; the
    second half is judged by it.

    Args:
        decisions: what `vision.predict --format=json` printed about each picture.
        defects: all defects.

    Returns:
        {"threshold", "pictures": [{"name", "map": the picture of its map, "defects", "score",
        "tiles", "is_judged", "is_right"}], "bad", "clean": pictures of the second half, "misses",
        "false_alarms": of these, "defects": in them, "seen": of these}.
    """
    counts = collections.Counter(defect.picture for defect in defects)
    pictures = []
    for number, decision in enumerate(decisions):
        name = pathlib.Path(decision["file"]).name
        scores = {entry["class"]: entry["score"] for entry in decision["top"]}
        pictures.append(
            {
                "name": name,
                "map": str(pathlib.Path(decision["map"]).with_suffix(".png")),
                "defects": counts[name],
                "score": 1 - scores[GOOD],
                "tiles": len(decision["tiles"]),
                "is_judged": 2 * number >= len(decisions),
            }
        )
    threshold = _best_threshold([p for p in pictures if not p["is_judged"]])
    for picture in pictures:
        picture["is_right"] = (picture["score"] > threshold) == (picture["defects"] > 0)
    judged = {p["name"]: p for p in pictures if p["is_judged"]}
    wrong = [p["defects"] > 0 for p in judged.values() if not p["is_right"]]
    tiles = {pathlib.Path(decision["file"]).name: decision["tiles"] for decision in decisions}
    shown = [defect for defect in defects if defect.picture in judged]
    bad = sum(p["defects"] > 0 for p in judged.values())
    return {
        "threshold": threshold,
        "pictures": pictures,
        "bad": bad,
        "clean": len(judged) - bad,
        "misses": wrong.count(True),
        "false_alarms": wrong.count(False),
        "defects": len(shown),
        "seen": sum(_is_seen(defect, tiles[defect.picture], threshold) for defect in shown),
    }


def _best_threshold(pictures: Sequence[dict[str, Any]]) -> float:
    """Returns the threshold with the fewest wrong decisions."""
    scores = sorted({0.0, 1.0, *(p["score"] for p in pictures)})
    between = [(low + high) / 2 for low, high in itertools.pairwise(scores)]
    wrong = [sum((p["score"] > t) != (p["defects"] > 0) for p in pictures) for t in between]
    return between[wrong.index(min(wrong))]


def _is_seen(defect: Defect, tiles: Sequence[dict[str, Any]], threshold: float) -> bool:
    """Whether a tile on a defect has a class other than `GOOD` above the threshold."""
    return any(
        _covers(tile, defect)
        and any(entry["probability"] > threshold for entry in tile["top"] if entry["class"] != GOOD)
        for tile in tiles
    )


def _covers(tile: dict[str, Any], defect: Defect) -> bool:
    right = min(tile["x"] + tile["width"], defect.left + defect.width)
    bottom = min(tile["y"] + tile["height"], defect.top + defect.height)
    wide = right - max(tile["x"], defect.left)
    high = bottom - max(tile["y"], defect.top)
    return min(wide, high) > 0 and wide * high >= COVERED * defect.width * defect.height
