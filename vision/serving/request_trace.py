"""What the server records about a request while it answers it, and the line it logs afterward."""

import dataclasses
import random
import re
import time
from collections.abc import Mapping
from typing import Any

from vision.serving.request import Answer

# IDs are no secret, and the system's random source takes a tenth of a millisecond
_ID_SOURCE = random.Random()


@dataclasses.dataclass
class RequestTrace:
    """What is known of a request that is being answered; its route fills in model and version.

    Attributes:
        id: the request's ID.
        headers: values by lower-case name.
        key: name of its API key.
        protocol: "rest" or "grpc", for metrics and the log.
        model: name of the model, for metrics and the log.
        version: name of the version, for metrics and the log.
        received: bytes of the request's body.
        sent: bytes of the response's body.
        status: HTTP status of the response; 0 before the response has started.
        images: number of images in the request.
        seconds: duration of each stage, as in `vision.serving.request.Answer`.
    """

    id: str
    headers: Mapping[str, str]
    key: str = ""
    protocol: str = "rest"
    model: str = ""
    version: str = ""
    received: int = 0
    sent: int = 0
    status: int = 0
    images: int = 0
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def record_answer(self, answer: Answer) -> None:
        """Records the version, the number of images and the durations of an answer."""
        self.version = answer.version
        self.images = len(answer.probabilities)
        self.seconds = answer.seconds

    def log_entry(
        self, code: int | str, seconds: float, client: str, **request: str
    ) -> dict[str, Any]:
        """Returns the request's line of the access log; it contains no image and no key.

        Args:
            code: status code of the response.
            seconds: time from the request to the end of the response.
            client: the client's address.
            **request: the request in the protocol's own terms, such as method and path.
        """
        return {
            "time": round(time.time(), 6),
            "protocol": self.protocol,
            "id": self.id,
            **request,
            "client": client,
            "key": self.key,
            "bytes": self.received,
            "sent": self.sent,
            "model": self.model[:200],
            "version": self.version,
            "code": code,
            "images": self.images,
            **{stage: round(duration, 6) for stage, duration in self.seconds.items()},
            "seconds": round(seconds, 6),
        }


def request_id(headers: Mapping[str, str]) -> str:
    """Returns the ID in a request's `x-request-id` if a log can hold it, or a new one.

    Args:
        headers: values by lower-case name.
    """
    requested_id = headers.get("x-request-id", "")
    if re.fullmatch(r"[A-Za-z0-9._:/+=-]{1,128}", requested_id):
        return requested_id
    return f"{_ID_SOURCE.getrandbits(64):016x}"
