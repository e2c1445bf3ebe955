"""The trackers that a training can report to, and their options: config.log.tracker."""

import re
from typing import Any
from urllib.parse import unquote

from ml_collections import ConfigDict

from vision.config.options import complete
from vision.errors import UserError, check_choice
from vision.support.extras import require

MODES = ("online", "offline")  # of wandb
# {tracker: {option: default}}
TRACKERS: dict[str, dict[str, str]] = {
    "mlflow": {
        "uri": "",  # of the tracking server or database; "" = as MLflow itself chooses
        "experiment": "vision",
        "name": "",  # of the run; "" = that of its directory
    },
    "wandb": {
        "project": "vision",
        "entity": "",  # "" = the user's own
        "mode": "online",
        "name": "",
    },
}
PACKAGES = {"mlflow": ("mlflow-skinny", "alembic", "sqlalchemy"), "wandb": ("wandb",)}

# Of an address: a user of a server, a user with a password of a database, or either in a query.
CREDENTIALS = re.compile(
    r"https?://[^/?#]*@"
    r"|(?!https?:)[\w+.-]+://[^:/]*:[^@]+@"
    r"|.*[?&;]\w*(password|passwd|pwd|token|secret)\w*=",
    re.IGNORECASE,
)


def tracker_options(c: ConfigDict) -> dict[str, Any]:
    """Returns all options of the tracker that a config names; {} without one.

    Args:
        c: config.log.

    Raises:
        UserError: there is no such tracker or option, or an option has a wrong value.
    """
    if not c.tracker:
        if c.tracker_options:
            name = next(iter(c.tracker_options))
            raise UserError(f"log.tracker_options.{name} needs log.tracker: {', '.join(TRACKERS)}")
        return {}
    check_choice("log.tracker", c.tracker, TRACKERS)
    subject = f"the tracker '{c.tracker}'"
    options = complete("log.tracker_options", subject, c.tracker_options, TRACKERS[c.tracker])
    if "mode" in options:
        check_choice("log.tracker_options.mode", options["mode"], MODES)
    return options


def check_tracker(c: ConfigDict) -> None:
    """Raises `UserError` if config.log names a tracker that cannot be used; imports nothing.

    Also if an address holds a password: the config is stored in the run, and sent to the tracker.
    """
    uri = tracker_options(c).get("uri", "").strip()
    if any(CREDENTIALS.match(text) for text in (uri, unquote(uri))):
        raise UserError(
            "log.tracker_options.uri must not contain credentials, because config.json would store "
            "them: set MLFLOW_TRACKING_URI instead,\nor leave them out and set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if c.tracker:
        require(f"log.tracker = '{c.tracker}'", c.tracker, only=PACKAGES[c.tracker])
