"""The report on a rollout: the weight over time, what was decided, the guardrails by step."""

import datetime
import math
import pathlib
from typing import Any

from vision.monitoring.analysis import moment
from vision.monitoring.rollout.plan import Plan
from vision.monitoring.rollout.rules import Action, Reading
from vision.monitoring.rollout.state import DONE, PAUSED, ROLLED_BACK, State
from vision.support.files import replacing
from vision.support.page import render

TEMPLATE = pathlib.Path(__file__).with_name("report.html")
WIDTH = 600  # of the drawing
HEIGHT = 120
KINDS = {DONE: "good", ROLLED_BACK: "bad", PAUSED: "look"}
ACTIONS = {
    Action.RAISE: "good",
    Action.FINISH: "good",
    Action.ROLL_BACK: "bad",
    Action.HOLD: "look",
    Action.PAUSE: "look",
}


def write(out: pathlib.Path, plan: Plan, state: State) -> None:
    """Writes report.html, in full or not at all; raises `OSError` if it cannot be written."""
    page = render(TEMPLATE, _context(plan, state))
    with replacing(out / "report.html") as file:
        file.write(page)


def plain(reading: Reading) -> dict[str, Any]:
    """Returns a reading as JSON can hold it: NaN and infinite numbers as None."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in reading._asdict().items()
    }


def _context(plan, state):
    decisions = [
        decision
        | {
            "moment": moment(decision.get("since", decision["time"])),
            "kind": ACTIONS.get(decision["action"], ""),
            "measured": [
                reading
                for reading in decision["readings"]
                if reading["units"] and reading["excess"] is not None
            ],
        }
        for decision in state.decisions
    ]
    return {
        "plan": plan,
        "state": state,
        "kind": KINDS.get(state.status, ""),
        "date": datetime.date.today().isoformat(),
        "decisions": decisions,
        "steps": _last_of_each_step(decisions),
        "chart": _chart(state),
        "number": _number,
    }


def _last_of_each_step(decisions):
    """Returns the last decision with a measurement in each step."""
    steps = {}
    for decision in decisions:
        if decision["measured"]:
            steps[decision["step"]] = decision
    return list(steps.values())


def _chart(state):
    """Returns the points of the weight over time; None before the first decision."""
    changes = [(d.get("since", d["time"]), d["weight"]) for d in state.decisions]
    if not changes:
        return None
    changes.append((max(state.updated_at, changes[-1][0]), state.weight))
    first, last = changes[0][0], changes[-1][0]
    points = []
    height = None
    for time, weight in changes:
        x = round(4 + (WIDTH - 8) * (time - first) / max(last - first, 1e-9), 1)
        y = round(HEIGHT - 4 - (HEIGHT - 8) * weight / 100, 1)
        points += [f"{x},{height}"] if height not in (None, y) else []
        points.append(f"{x},{y}")
        height = y
    return {"points": " ".join(points), "first": moment(first), "last": moment(last)}


def _number(name, value):
    if value is None:
        return "–"
    return f"{1000 * value:.3g} ms" if name == "p99" else f"{100 * value:.2f} %"
