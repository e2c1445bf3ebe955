"""The report on an A/B test: a page with the verdict, what it rests on, and the looks before."""

import datetime
import pathlib
from typing import Any

from vision.support.page import render, write_report

TEMPLATE = pathlib.Path(__file__).with_name("report.html")
WIDTH = 600  # of drawings
HEIGHT = 120
KINDS = {"ship": "good", "keep": "bad", "continue": "look"}
STATES = {"holds": "good", "broken": "bad", "open": "look"}


def write(out: pathlib.Path, record: dict[str, Any]) -> None:
    """Writes report.html and abtest.json into a directory, which is made if it is missing.

    Raises:
        UserError, RunError: it cannot be written to; what was there remains.
    """
    write_report(out, render(TEMPLATE, _context(record)), "abtest.json", record)


def _context(record):
    measure = record["measure"]
    sequence = measure["sequence"]
    intervals = [("for one look", measure["low"], measure["high"])]
    if sequence["low"] is not None:
        intervals.append(("at every look", sequence["low"], sequence["high"]))
    return {
        "record": record,
        "measure": measure,
        "old": record["versions"][0],
        "new": record["versions"][1],
        "kind": KINDS[record["verdict"]["decision"]],
        "states": STATES,
        "level": f"{100 - 100 * record['alpha']:.4g} %",
        "date": datetime.date.today().isoformat(),
        "bars": _bars(intervals, measure["difference"], record["effect"]),
        "chart": _chart(record["looks"], record["effect"]),
    }


def _bars(intervals, difference, effect):
    """Returns places of intervals on a line that has 0 and the effect, in WIDTH."""
    numbers = [0, effect, difference, *(end for _, low, high in intervals for end in (low, high))]
    numbers = [number for number in numbers if number is not None]
    place = _scale(min(numbers), max(numbers), 8, WIDTH - 8)
    return {
        "zero": place(0),
        "effect": place(effect),
        "difference": place(difference),
        "rows": [
            {"title": title, "left": place(low), "right": place(high), "low": low, "high": high}
            for title, low, high in intervals
            if low is not None
        ],
    }


def _chart(looks, effect):
    """Returns the points of both intervals' ends look by look; None with fewer than two looks."""
    if len(looks) < 2:
        return None
    shown = [look for look in looks if look["always_low"] is not None] or looks
    # the first looks are so uncertain that nothing else could be seen
    settled = shown[len(shown) // 4 :]
    ends = [look[name] for look in settled for name in ("always_low", "always_high", "low", "high")]
    ends = [end for end in ends if end is not None]
    down = _scale(min([0, effect, *ends]), max([0, effect, *ends]), HEIGHT - 4, 4)
    across = _scale(0, len(looks) - 1, 4, WIDTH - 4)

    def band(low, high):
        points = [(i, look) for i, look in enumerate(looks) if look[low] is not None]
        upper = [f"{across(i)},{_inside(down(look[high]))}" for i, look in points]
        lower = [f"{across(i)},{_inside(down(look[low]))}" for i, look in reversed(points)]
        return " ".join(upper + lower)

    line = [f"{across(i)},{_inside(down(look['difference']))}" for i, look in enumerate(looks)]
    return {
        "always": band("always_low", "always_high"),
        "naive": band("low", "high"),
        "line": " ".join(line),
        "zero": down(0),
        "effect": down(effect),
        "first": looks[0]["time"],
        "last": looks[-1]["time"],
        "peeked": sum(look["low"] > 0 or look["high"] < 0 for look in looks),
        "shown": sum(
            look["always_low"] is not None and (look["always_low"] > 0 or look["always_high"] < 0)
            for look in looks
        ),
        "looks": len(looks),
    }


def _scale(low, high, start, end):
    """Returns a function from [low, high] to [start, end], rounded."""
    width = (high - low) or 1.0
    return lambda value: round(start + (end - start) * (value - low) / width, 1)


def _inside(y):
    return min(max(y, 0), HEIGHT)
