"""Writes a config as a file that runs as it is."""

import datetime
import json
import keyword
import pprint
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from vision.config.schema import OPTION_GROUPS, default
from vision.config.validate import leaves

# Keys of how a run is computed and shown: who runs the config decides.
LEFT_OUT = ("log.curves", "log.progress")


def config_file(
    config: ConfigDict, docstring: Sequence[str], searched: Mapping[str, Any] | None = None
) -> str:
    """Returns the text of a config file: what differs from the defaults, a line for each key.

    Args:
        config: the config.
        docstring: lines that say where it came from.
        searched: {key: value} of what a search has chosen, which is marked.
    """
    searched = searched or {}
    lines = ['"""' + "\n".join(docstring).replace("\\", "\\\\").replace('"""', "'''").strip()]
    lines += ['"""', "", "from vision.config import default", "", "", "def get_config():"]
    lines += ["    c = default()"]
    plain = dict(leaves(default()))
    for key, value in leaves(config):
        if key in LEFT_OUT or (key in plain and plain[key] == value):
            continue
        mark = "  # searched" if key in searched else ""
        lines.append(f"    c.{_path(key)} = {pprint.pformat(value, width=1000)}{mark}")
    return "\n".join([*lines, "    return c", ""])


def _path(key: str) -> str:
    """Returns a key as code: names of options need not be identifiers."""
    for group in OPTION_GROUPS:
        if key.startswith(f"{group}."):
            first, *rest = key.removeprefix(f"{group}.").split(".")
            if not rest and first.isidentifier() and not keyword.iskeyword(first):
                return key
            names = "".join(f"[{json.dumps(name)}]" for name in (first, *rest))
            return f"{group}{names}"
    return key


def docstring(
    title: str,
    command: str,
    origin: Sequence[str],
    evidence: Sequence[str],
) -> list[str]:
    """Returns the lines of a config's docstring.

    Args:
        title: what the config is, as a sentence.
        command: the search's command.
        origin: lines on the trial that it is from.
        evidence: lines on what it was measured to do.
    """
    today = datetime.date.today().isoformat()
    return [title, "", f"    {command}", "", *origin, "", *evidence, f"Written on {today}."]


def changed_keys(config: ConfigDict, base: ConfigDict) -> dict[str, Any]:
    """Returns {key: value} of a config where it differs from another."""
    before = dict(leaves(base))
    return {
        key: value
        for key, value in leaves(config)
        if key not in before or before[key] != value or type(before[key]) is not type(value)
    }
