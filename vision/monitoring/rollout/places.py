"""Where a rollout reads and writes, and how often it looks."""

import dataclasses
import pathlib
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Places:
    """Where a rollout reads and writes.

    Attributes:
        folder: the model's directory.
        servers: URLs; all follow the folder.
        out: directory of rollout.json and report.html.
        log: directory of the servers' prediction log; None without.
        labels: file or folder of labels; None without.
        key: API key of the servers; "" without.
        webhook: URL that gets a POST at each change and alert; "" without.
    """

    folder: pathlib.Path
    servers: Sequence[str]
    out: pathlib.Path
    log: pathlib.Path | None = None
    labels: pathlib.Path | None = None
    key: str = ""
    webhook: str = ""


@dataclasses.dataclass(frozen=True)
class Pace:
    """How often a controller looks, and how long it waits.

    Attributes:
        interval: seconds between looks.
        settle: seconds that the servers have to follow new weights.
        patience: seconds without an answer of the new version, or in doubt, after which it gives
            up; and seconds beyond a step's window after which it says what it waits for.
    """

    interval: float = 10.0
    settle: float = 5.0
    patience: float = 3600.0
