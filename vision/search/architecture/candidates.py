"""The networks that a search has judged: a JSON file that it goes on from, a table, and a plot."""

import csv
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from vision.compression.report import front
from vision.errors import UserError
from vision.search.failures import LOG
from vision.support.files import ABANDONED, replacing, write_json
from vision.support.lock import NAME as LOCK
from vision.support.reading import read_json

FILE = "search.json"
SCHEMA = {"request": dict, "rows": {str: dict}, "latencies": {str: float}, "beside": [dict]}
RUNS = "runs"  # the directory of the trainings
FAILED = "failed: "  # how the reason begins why a network was skipped that could not be judged
COLUMNS = (
    "variant",
    "accuracy",
    "macs",
    "predicted",
    "latency",
    "score",
    "on_front",
    "best",
    "skipped",
)
LABELS = {"macs": "million multiply-adds for an image", "latency": "ms for a batch of {}"}

Row = dict[str, Any]


class Candidates:
    """What a search knows of the networks that it has met.

    Args:
        out: the search's directory.
        request: what defines the search. One that was interrupted goes on with the same.

    Attributes:
        rows: {name of a network: {"accuracy": of the validation split, or "skipped": why there is
            none; "macs"; "predicted": milliseconds; "score"}}, in the order of the search.
        latencies: {name: measured milliseconds}; {"MODEL:VARIANT": ...} of others, {"again: NAME":
            ...} of a second measurement.
        beside: the rows of other architectures, with "title".

    Raises:
        UserError: the directory holds another search, or anything else.
    """

    def __init__(self, out: pathlib.Path, request: Mapping[str, Any]):
        self.out = out
        self.request = json.loads(json.dumps(request))
        self.rows: dict[str, Row] = {}
        self.latencies: dict[str, float] = {}
        self.beside: list[Row] = []
        if not (out / FILE).is_file():
            if not out.exists() or not any(map(_is_foreign, out.iterdir())):
                return
            raise UserError(f"--out {out} exists already: give a new or empty directory")
        record = read_json(out / FILE, SCHEMA, "give another --out")
        for key, value in self.request.items():
            if record.get("request", {}).get(key) != value:
                raise UserError(
                    f"--out {out} holds another search: {key} is "
                    f"{record.get('request', {}).get(key)!r} there, {value!r} here.\n"
                    "Give another --out, or the command that made it"
                )
        self.rows = record["rows"]
        self.latencies = record["latencies"]
        self.beside = record["beside"]

    def add(self, variant: str, row: Row) -> None:
        """Keeps what is known of a network."""
        self.rows[variant] = row
        self.save()

    def failures(self) -> dict[str, str]:
        """Returns {name: reason} of the networks that could not be judged."""
        reasons = {name: str(row.get("skipped", "")) for name, row in self.rows.items()}
        return {
            name: reason.removeprefix(FAILED)
            for name, reason in reasons.items()
            if reason.startswith(FAILED)
        }

    def forget_failures(self) -> None:
        """Drops the networks that could not be judged, so that they are tried again."""
        failed = self.failures()
        for name in failed:
            del self.rows[name]
        if failed:
            self.save()

    def save(self, more: Mapping[str, Any] | None = None) -> None:
        """Writes the JSON file, with further entries."""
        record = {"request": self.request, "rows": self.rows, "latencies": self.latencies}
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(self.out / FILE, record | {"beside": self.beside} | dict(more or {}))

    def judged(self) -> dict[str, Row]:
        """Returns the rows with an accuracy, with "latency" where it was measured."""
        return {
            name: row | ({"latency": self.latencies[name]} if name in self.latencies else {})
            for name, row in self.rows.items()
            if "accuracy" in row
        }

    def write(self, summary: Mapping[str, Any], title: str) -> None:
        """Writes search.json, candidates.csv and pareto.png.

        Args:
            summary: {"front": names, "best": name or None, "cost": "macs" or "latency", "budget":
                number or None, "batch": images, "reference": ...}.
            title: of the plot.
        """
        self.save(summary)
        with replacing(self.out / "candidates.csv", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
            for name, row in self.rows.items():
                marks: Row = {"variant": name, "latency": self.latencies.get(name, "")}
                marks["on_front"] = int(name in summary["front"])
                marks["best"] = int(name == summary["best"])
                writer.writerow(row | marks)
        with replacing(self.out / "pareto.png", binary=True) as file:
            file.write(plot(list(self.judged().values()), self.beside, summary, title))


def cost_text(value: float, cost: str) -> str:
    """Returns a cost as messages show it: multiply-adds as a whole number, or milliseconds."""
    return f"{value:,.0f}" if cost == "macs" else f"{value:,.6g}"


def _is_foreign(entry: pathlib.Path) -> bool:
    """Returns whether an entry of a directory is not what the start of a search leaves."""
    return entry.name not in (LOCK, LOG, RUNS) and not ABANDONED.fullmatch(entry.name)


def best_front(rows: Mapping[str, Row], cost: str) -> list[str]:
    """Returns the names of the networks that no other one beats in both, by increasing cost."""
    names = [name for name, row in rows.items() if cost in row]
    indices = front([rows[n][cost] for n in names], [rows[n]["accuracy"] for n in names])
    return [names[i] for i in indices]


def plot(
    rows: Sequence[Row], beside: Sequence[Row], summary: Mapping[str, Any], title: str
) -> bytes:
    """Returns a PNG of accuracy against cost, with the front and other architectures.

    Args:
        rows: networks of the search.
        beside: other architectures, with "title".
        summary: see `Candidates.write`.
        title: of the plot.
    """
    from matplotlib.figure import Figure

    cost = summary["cost"]
    unit = 1e6 if cost == "macs" else 1.0
    shown = {str(i): row for i, row in enumerate(rows) if cost in row}
    predicted = [row | {cost: row["predicted"]} for row in rows if cost not in row]
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()

    def draw(points: Sequence[Row], **style: Any) -> None:
        axes.plot(
            [point[cost] / unit for point in points],
            [100 * point["accuracy"] for point in points],
            **style,
        )

    blue: dict[str, Any] = {"linestyle": "", "color": "#0969da", "alpha": 0.45}
    draw(list(shown.values()), marker="o", label="networks of the space", **blue)
    if predicted:
        draw(predicted, marker="x", label="the same, latency predicted", **blue)
    best = [shown[name] for name in best_front(shown, cost)]
    draw(best, linestyle="--", marker="o", color="#57606a", linewidth=1, label="front")
    placed = [row for row in beside if cost in row and "accuracy" in row]
    if placed:
        label = "other architectures, trained alone"
        draw(placed, linestyle="", marker="D", color="#cf222e", label=label)
    for row in placed:
        point = (row[cost] / unit, 100 * row["accuracy"])
        axes.annotate(row["title"], point, (5, 5), textcoords="offset points", fontsize=9)
    if summary["budget"] is not None:
        axes.axvline(summary["budget"] / unit, color="#afb8c1", linewidth=1, label="budget")
    axes.set_xlabel(LABELS[cost].format(summary["batch"]))
    axes.set_ylabel("accuracy on the validation split, %")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()
