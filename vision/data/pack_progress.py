"""What an unfinished pack has written so far: the progress file that a repeated command reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vision.data.sources.packed import IMAGE, REQUEST, SHARD
from vision.support.reading import read_json
from vision.support.schema import NATURAL, damaged

STATE = {
    "request": REQUEST,
    "plan": {str: NATURAL},
    "shards": {str: SHARD},
    "unreadable": [IMAGE | {"shard": str}],
}
REMEDY = "remove its folder, or pack into a new one"


def read_progress(path: Path) -> dict[str, Any]:
    """Returns the contents of a progress file; raises `UserError` if it is damaged."""
    state = read_json(path, STATE, REMEDY)
    return {key: state[key] for key in STATE}


def check_state(path: Path, state: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    """Raises `UserError` if what an earlier call has left does not fit the images.

    Args:
        path: the progress file, for the message.
        state: what `read_progress` returned.
        parts: {part: source}.
    """
    sizes = {part: len(source) for part, source in parts.items()}
    plan = state["plan"] or sizes
    fits = plan.keys() == sizes.keys() and all(plan[part] <= sizes[part] for part in plan)
    fits &= all(name == shard["file"] for name, shard in state["shards"].items())
    places = ((image["part"], image["index"]) for image in state["unreadable"])
    if not (fits and all(index < sizes.get(part, 0) for part, index in places)):
        raise damaged(path, "it does not fit the images", REMEDY)
