"""What the repository knows of its models and their versions."""

import dataclasses

from vision.serving.models import traffic
from vision.serving.models.version import Version

LOADING = "loading"
READY = "ready"
WAITING = "waiting"
REFUSED = "refused"
UNLOADED = "unloaded"


@dataclasses.dataclass
class Known:
    """What is known of one version.

    Attributes:
        seen: its `Listed` at the last look; None = it was gone.
        tried: the mark of its files when it was last loaded or refused.
        version: the `Version` that answers; None = none does.
        state, reason: for people.
        is_held: an operator has unloaded it.
    """

    seen: tuple | None = None
    tried: tuple | None = None
    version: Version | None = None
    state: str = WAITING
    reason: str = ""
    is_held: bool = False


@dataclasses.dataclass
class Model:
    """What is known of one model.

    Attributes:
        known: {version: `Known`}.
        data: bytes of traffic.json as they were last read; None = there was none.
        split: the last `Traffic` that was valid.
        reason: why the present one is not; "" = it is.
        fault: why the model's directory, or its traffic.json, cannot be read; "" = it can.
        absent: what traffic.json names and is not there, for people; "" = all is.
        aside: versions that were rolled back: they take no requests but those that name them.
    """

    known: dict = dataclasses.field(default_factory=dict)
    data: bytes | None = None
    split: traffic.Traffic = traffic.Traffic()
    reason: str = ""
    fault: str = ""
    absent: str = ""
    aside: set = dataclasses.field(default_factory=set)

    def loaded(self):
        """Returns the names of the versions that answer, the highest last."""
        return sorted(
            (name for name, known in self.known.items() if known.version), key=traffic.order
        )

    def eligible(self):
        """Returns those of them that may get requests that name no version: all where all were
        rolled back."""
        loaded = self.loaded()
        return [name for name in loaded if name not in self.aside] or loaded

    def absent_versions(self):
        """Returns what traffic.json names and is not there, a sentence: a slip, or still to come;
        "" = nothing."""
        weights, shadow = self.split
        named = [version for version, weight in weights.items() if weight] + [shadow] * bool(shadow)
        absent = [version for version in named if version not in self.known]
        return f"{traffic.FILE} names {', '.join(absent)}, which no directory has" if absent else ""

    def tell(self):
        """Returns what an operator wants to know; see
        `vision.serving.models.repository.Repository.states`."""
        return {
            "serving": self.split.main(self.eligible()) or "",
            "weights": dict(self.split.weights),
            "shadow": self.split.shadow,
            "reason": self.fault or self.reason or self.absent,
            "rolled_back": sorted(self.aside, key=traffic.order),
            "versions": {
                version: {"state": self.known[version].state, "reason": self.known[version].reason}
                for version in sorted(self.known, key=traffic.order)
            },
        }
