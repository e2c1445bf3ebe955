"""Drift that only the new version has: the servers' latest windows, each server by itself."""

from vision.monitoring.rollout.rules import Reading
from vision.monitoring.rollout.server import Report
from vision.monitoring.rollout.state import ENDED, Runs

DRIFTED_WINDOWS = 2  # in a row that alarm


def follow(runs: Runs, seen: Report, old: str, new: str, since: float) -> Runs:
    """Returns a server's runs with its latest window.

    A window counts if the old version has one of the same step to compare it with: what drifts for
    both is the traffic's doing.

    Args:
        runs: of the server so far.
        seen: what it says.
        old: the old version.
        new: the new one.
        since: when the step began, seconds since the epoch.
    """
    ended = seen.ended.get(new, 0.0)
    if ended == runs.get(ENDED) or min(ended, seen.ended.get(old, 0.0)) < since:
        return runs
    others = seen.alarms.get(old, {})
    drifted = [
        name
        for name, is_alarm in seen.alarms.get(new, {}).items()
        if is_alarm and not others.get(name)
    ]
    return {ENDED: ended} | {name: runs.get(name, 0.0) + 1 for name in drifted}


def reading(servers: dict[str, Runs], answers: float) -> Reading:
    """Returns the guardrail's reading.

    Args:
        servers: {URL: runs}.
        answers: requests of the new version in the step.
    """
    if not any(servers.values()):
        return Reading("drift")
    longest: dict[str, float] = {}
    for runs in servers.values():
        for name, run in runs.items():
            if name != ENDED:
                longest[name] = max(run, longest.get(name, 0.0))
    if not longest:
        return Reading("drift", excess=-1.0, units=answers)
    run = max(longest.values())
    names = ", ".join(sorted(name for name in longest if longest[name] == run))
    windows = "1 window" if run == 1 else f"{run:.0f} windows in a row"
    is_broken = run >= DRIFTED_WINDOWS
    return Reading(
        "drift", excess=1.0, units=answers, p=float(not is_broken), note=f"{names} in {windows}"
    )
