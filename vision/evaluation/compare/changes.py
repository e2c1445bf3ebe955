"""The differences of a comparison as text: a table of all measures, and one change."""

from collections.abc import Mapping
from typing import Any

from vision.evaluation.report.words import amount, measured


def table(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the table of metrics, and of their changes against the first run.

    Args:
        comparison: from `vision.evaluation.compare.comparison.compare`.

    Returns:
        [{"title", "cells": [{"value", "change"}], one per run}].
    """
    rows = []
    for name, title, is_share in measured(*(run["metrics"] for run in comparison["runs"])):
        cells = [
            {"value": amount(run["metrics"][name], is_share), "change": ""}
            for run in comparison["runs"]
        ]
        for cell, pair in zip(cells[1:], comparison["comparisons"], strict=True):
            if change := pair["differences"].get(name):
                cell["change"] = change_text(change, is_share)
        rows.append({"title": title, "cells": cells})
    return rows


def change_text(change: Mapping[str, float], is_share: bool) -> str:
    """Returns a change as text: "+1.2 points (-0.3 to +2.7)", or "+0.012 (-0.003 to +0.027)".

    Args:
        change: {"difference", "low", "high"}; without an interval, only the difference.
        is_share: whether to print percentage points.
    """

    def number(value):
        return f"{100 * value:+z.1f}" if is_share else f"{value:+.3g}"  # z: never -0.0

    unit = " points" if is_share else ""
    text = f"{number(change['difference'])}{unit}"
    if "low" not in change:
        return text
    return f"{text} ({number(change['low'])} to {number(change['high'])})"
