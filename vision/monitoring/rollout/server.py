"""What servers say of a model's versions in their metrics."""

import email.utils
import http.client
import math
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import NamedTuple

from vision.errors import UserError, brief
from vision.monitoring.rollout.readings import ANSWERED, FAILED, bucket
from vision.monitoring.rollout.state import Counts

TIMEOUT = 10.0  # seconds
LARGEST = 64 * 2**20  # bytes of metrics
READY = "ready"
OK = ("200", "OK")


class Unreachable(Exception):
    """A server does not say what is asked; the message is a clause."""


class Report(NamedTuple):
    """What a server says of a model.

    Attributes:
        counts: of each version, since the server's start.
        states: {version: its state, such as "ready"}.
        serving: version with most of the requests; "" if there is none.
        alarms: {version: {feature: whether its latest window alarms}}, without versions of which no
            window was compared.
        ended: {version: when its latest window ended, seconds since the epoch}.
        started: when its process started, seconds since the epoch; 0 if it does not say.
        has_drift: whether it compares windows of any version.
        clock: seconds by which the server's clock is ahead of ours, to a second or two; 0 if it
            does not say.
    """

    counts: Counts
    states: dict[str, str]
    serving: str
    alarms: dict[str, dict[str, bool]]
    ended: dict[str, float]
    started: float
    has_drift: bool
    clock: float


def check_url(url: str, flag: str = "--server") -> str:
    """Returns a URL without a slash at its end; raises `UserError` if a flag's value is not one."""
    try:
        parts = urllib.parse.urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        raise UserError(f"{flag} must be a URL such as http://127.0.0.1:8080, got {url}")
    return url.rstrip("/")


def ask(url: str, model: str, key: str = "") -> Report:
    """Returns what a server says of a model.

    Args:
        url: the server's.
        model: name of the model.
        key: API key, if the server requires one.

    Raises:
        Unreachable: it does not answer, or not with its metrics.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"{url}/metrics", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            text = response.read(LARGEST).decode("utf-8", "replace")
            clock = _ahead(response.headers.get("Date"))
            is_complete = not response.length  # bytes that are still to come
    except urllib.error.HTTPError as error:
        with error:
            raise Unreachable(f"{url}/metrics says {error.code} {error.reason}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Unreachable(f"{url} cannot be reached: {_reason(error)}") from error
    if not is_complete:
        raise Unreachable(f"{url}/metrics broke off after {len(text):,} characters")
    return parse(text, url, model)._replace(clock=clock)


def parse(text: str, url: str, model: str) -> Report:
    """Returns what metrics say of a model.

    Args:
        text: in Prometheus' format.
        url: where they are from, for messages.
        model: name of the model.

    Raises:
        Unreachable: they are not a server's metrics.
    """
    from prometheus_client.parser import text_string_to_metric_families

    try:
        families = list(text_string_to_metric_families(text))
    except (ValueError, KeyError, IndexError) as error:
        raise Unreachable(f"{url}/metrics is not in Prometheus' format") from error
    samples = [sample for family in families for sample in family.samples]
    if not any(sample.name == "vision_ready" for sample in samples):
        raise Unreachable(f"{url}/metrics has no vision_ready: it is not of a model server")
    has_drift = any(family.name == "vision_drift_alarm" for family in families)
    report = Report({}, {}, "", {}, {}, 0.0, has_drift, 0.0)
    for sample in samples:
        if sample.name == "process_start_time_seconds":
            report = report._replace(started=sample.value)
        if sample.labels.get("model") == model and sample.labels.get("version"):
            report = _add(report, sample)
    return report


def _add(report, sample):
    """Returns a report with a sample of the model added."""
    version = sample.labels["version"]
    value = sample.value
    key = _count_key(sample)
    if key:
        tally = report.counts.setdefault(version, {})
        tally[key] = tally.get(key, 0.0) + value
    elif sample.name == "vision_version_state" and value:
        report.states[version] = sample.labels["state"]
    elif sample.name == "vision_version_serving" and value:
        report = report._replace(serving=version)
    elif sample.name == "vision_drift_alarm":
        report.alarms.setdefault(version, {})[sample.labels["feature"]] = bool(value)
    elif sample.name == "vision_drift_window_end_seconds":
        report.ended[version] = value
    return report


def _count_key(sample):
    """Returns what a sample counts, as `readings` names it; "" if nothing of that."""
    labels = sample.labels
    if sample.name == "vision_requests_total" and labels.get("code") in OK:
        return ANSWERED
    if sample.name == "vision_failures_total":
        return FAILED
    if sample.name == "vision_stage_seconds_bucket" and labels.get("stage") == "total":
        return bucket(float(labels["le"]))
    return ""


def _ahead(date):
    """Returns the seconds by which a Date header is ahead of our clock."""
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() - math.floor(time.time())
    except (TypeError, ValueError):
        return 0.0


def _reason(error):
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        return brief(error.reason)
    return brief(error)
