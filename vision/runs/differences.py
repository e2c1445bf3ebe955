"""In which keys the configs of runs differ."""

import json
from collections.abc import Sequence
from typing import Any

from vision.run.directory import FREE
from vision.runs.query import SEED
from vision.runs.record import Run

LONGEST = 60  # characters of a value
MISSING = "unset"
# Keys with a column of their own.
SHOWN = (SEED, "data.source", "model.name", "model.variant")


def differing_keys(runs: Sequence[Run], everything: bool = False) -> list[str]:
    """Returns the keys in which the configs of some runs differ, sorted.

    Args:
        runs: the runs; those that cannot be read count for nothing.
        everything: also keys that change how a run is computed or shown, not what it computes.
    """
    configs = [run.config for run in runs if run.config]
    keys = dict.fromkeys(key for config in configs for key in config)
    return sorted(
        key
        for key in keys
        if (everything or not key.startswith(FREE)) and len({_json(c, key) for c in configs}) > 1
    )


def value_text(run: Run, key: str) -> str:
    """Returns the value of a key of a run's config, as a table shows it; "unset" if it has none."""
    value: Any = run.config.get(key, MISSING)
    if isinstance(value, list):
        text = ", ".join(map(str, value))
    elif isinstance(value, float):
        text = f"{value:g}"
    else:
        text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def distinction(run: Run, keys: Sequence[str]) -> str:
    """Returns what is special about a run's config in a few words, such as "learning_rate=0.1".

    Args:
        run: the run.
        keys: from `differing_keys`.
    """
    shown = [key for key in keys if key not in SHOWN and key in run.config]
    return " ".join(f"{key.rpartition('.')[2]}={value_text(run, key)}" for key in shown)


def _json(config, key):
    return json.dumps(config.get(key, MISSING), default=str)
