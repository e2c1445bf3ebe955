"""The state of the models and of their versions, which only the repository changes.

`vision.serving.models.repository` has the diagram of the states.
"""

import dataclasses
from typing import Any

from vision.serving.models.loaded import LoadedVersion
from vision.serving.models.scan import VersionFolder
from vision.serving.models.traffic import FILE, Traffic, order

WAITING = "waiting"
LOADING = "loading"
READY = "ready"
REFUSED = "refused"
UNLOADED = "unloaded"


@dataclasses.dataclass
class VersionState:
    """The state of one version.

    Attributes:
        state: WAITING, LOADING, READY, REFUSED or UNLOADED.
        reason: why it is not ready, or why its changed files are not loaded; "" if all is well.
        folder: its `VersionFolder` at the last scan; None if it was gone.
        tried_fingerprint: the fingerprint of its files when they were last loaded or refused.
        loaded: the `LoadedVersion` that answers; None if there is none.
        unloaded_by_operator: scans leave it alone until an operator loads it.
    """

    state: str = WAITING
    reason: str = ""
    folder: VersionFolder | None = None
    tried_fingerprint: tuple | None = None
    loaded: LoadedVersion | None = None
    unloaded_by_operator: bool = False


@dataclasses.dataclass
class ModelState:
    """The state of one model.

    Attributes:
        versions: {name: `VersionState`}.
        traffic: the last valid `Traffic`.
        traffic_data: the bytes of traffic.json at the last scan; None if there was none.
        traffic_reason: why they are not valid; "" if they are.
        fault: why the model's directory, or its traffic.json, cannot be read; "" if it can.
        missing_versions: what traffic.json names and is not there, as a sentence; "" if nothing.
        rolled_back: versions that get only the requests that name them.
    """

    versions: dict[str, VersionState] = dataclasses.field(default_factory=dict)
    traffic: Traffic = Traffic()
    traffic_data: bytes | None = None
    traffic_reason: str = ""
    fault: str = ""
    missing_versions: str = ""
    rolled_back: set[str] = dataclasses.field(default_factory=set)

    def loaded(self) -> list[str]:
        """Returns the names of the versions that answer, the highest last."""
        names = (name for name, version in self.versions.items() if version.loaded)
        return sorted(names, key=order)

    def eligible(self) -> list[str]:
        """Returns the loaded versions that may get requests that name no version.

        Those are the ones that were not rolled back, or all of them if all were.
        """
        loaded = self.loaded()
        return [name for name in loaded if name not in self.rolled_back] or loaded

    def find_missing_versions(self) -> str:
        """Returns a sentence on the versions that traffic.json names and no directory has.

        "" if there are none. Such a name is a slip, or a version still to come.
        """
        weights, shadow = self.traffic
        named = [version for version, weight in weights.items() if weight]
        if shadow:
            named.append(shadow)
        missing = [version for version in named if version not in self.versions]
        if not missing:
            return ""
        return f"{FILE} names {', '.join(missing)}, but there is no such directory"

    def describe(self) -> dict[str, Any]:
        """Returns what operators see; see `vision.serving.models.repository.Repository.states`."""
        return {
            "serving": self.traffic.main(self.eligible()) or "",
            "weights": dict(self.traffic.weights),
            "shadow": self.traffic.shadow,
            "reason": self.fault or self.traffic_reason or self.missing_versions,
            "rolled_back": sorted(self.rolled_back, key=order),
            "versions": {
                name: {"state": self.versions[name].state, "reason": self.versions[name].reason}
                for name in sorted(self.versions, key=order)
            },
        }
