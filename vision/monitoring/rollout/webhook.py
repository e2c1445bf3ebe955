"""Tells a URL what a rollout does, as JSON."""

import http.client
import json
import urllib.request
from typing import Any

from vision.errors import brief, printable
from vision.monitoring.rollout.server import TIMEOUT


def post(url: str, body: dict[str, Any]) -> str:
    """Sends a message, and returns why that failed, a line; "" if it did not.

    Args:
        url: as `vision.monitoring.rollout.server.check_url` allows it.
        body: the message.
    """
    try:
        request = urllib.request.Request(
            url, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=TIMEOUT).close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"--webhook cannot be reached: {printable(brief(error))}"
    return ""
