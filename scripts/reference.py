"""The parts of the site's reference that are made from the code, as Markdown: docs/conf.py.

Nothing here is committed: a page of docs/reference/ says <!-- generated: NAME -->, and the build
puts the text there.
"""

import contextlib
import importlib.util
import io
import re
from collections.abc import Callable

from ml_collections import ConfigDict

from vision.config.overview import default_text, range_text, sections
from vision.stages import GROUPS, Stage

LARGEST = 2**31  # limits above it are those of the type
API = """```{eval-rst}
.. currentmodule:: vision

.. autofunction:: load
.. autofunction:: train
.. autofunction:: evaluate
.. autofunction:: export

.. currentmodule:: vision.api

.. autoclass:: LoadedModel
   :members:
.. autoclass:: Prediction
   :members:
.. autoclass:: TrainedRun
   :members:
.. autoclass:: EvaluationResult
.. autoclass:: Metric

.. currentmodule:: vision.errors

.. autoexception:: UserError
.. autoexception:: RunError
```"""


def config_keys() -> str:
    """Returns the schema of a config: a heading for each section, an entry for each key."""
    blocks = []
    for name, meaning, keys in sections():
        blocks += [f"## {name or 'top level'}", _plain(meaning)]
        blocks += [_entry(key_name, key) for key_name, key in keys.items()]
    return "\n\n".join(blocks)


def _entry(name, key):
    """Returns the directive of a key, which the site's search finds and pages can link to."""
    limit = key.range.limit if key.range else None
    is_any = range_text(key) in ("", "any") or (limit is not None and limit > LARGEST)
    facts = (
        [] if key.type is ConfigDict else [key.type.__name__, f"default `` {default_text(key)} ``"]
    )
    facts += [] if is_any else [f"must be {_plain(range_text(key))}"]
    most = "" if is_any or limit is None else f" and at most {limit:,}"
    body = [f"{', '.join(facts)}{most}"] if facts else []
    body.append(_plain(f"{key.meaning[0].upper()}{key.meaning[1:]}."))
    return "\n\n".join([f"```{{confval}} {name}", *body, "```"])


def commands() -> str:
    """Returns what `--help` of each stage prints, under the headings of `vision --help`."""
    blocks = []
    for title, stages in GROUPS.items():
        blocks.append(f"## {title}")
        for stage in stages:
            blocks += [
                f"### {stage.name}",
                f"`vision {stage.name}`, or `python -m {stage.module}`: {stage.meaning}",
                f"```text\n{stage_help(stage)}\n```",
            ]
    return "\n\n".join(blocks)


def stage_help(stage: Stage) -> str:
    """Returns what `vision STAGE --help` prints."""
    name = f"{stage.module}.__main__"
    with contextlib.suppress(ModuleNotFoundError):
        if importlib.util.find_spec(name):
            return _help(importlib.import_module(name))
    return _help(importlib.import_module(stage.module))


def _help(module):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        module.main(["--help"])
    return printed.getvalue().strip()


def python_api() -> str:
    """Returns the directive by which Sphinx reads the docstrings of what users import."""
    return API


def _plain(text):
    """Returns a text as Markdown in which nothing is markup but code in backticks."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"([\\`*_{}\[\]<>|~$#])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


GENERATORS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "config": config_keys,
    "python": python_api,
}
