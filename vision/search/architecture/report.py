"""What a search says in the end, and the architectures that it stands beside."""

import functools
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from vision.errors import UserError
from vision.inference import Classifier, from_run
from vision.models.surgery.costs import multiply_adds
from vision.search.architecture.candidates import Candidates, cost_text
from vision.search.architecture.costs import architecture
from vision.search.architecture.networks import Networks, Trained, best_accuracy

SHOWN = 10  # networks of the front


class Beside:
    """Other architectures, which a plot shows beside a search's networks.

    Args:
        networks: the search's networks.
        candidates: gets a row for each.
        measure: measures the latency of (name, what creates the classifier).
    """

    def __init__(
        self,
        networks: Networks,
        candidates: Candidates,
        measure: Callable[[str, Callable[[], Classifier]], float],
    ):
        self._networks = networks
        self._candidates = candidates
        self._measure = measure

    def add(self, names: Iterable[str]) -> None:
        """Adds the rows of architectures: MODEL:VARIANT, or the directories of finished runs.

        Raises:
            UserError: it is neither, or without a --config there is nothing to train it with.
        """
        self._candidates.beside = [self._row(name) for name in names]

    def _row(self, name: str) -> dict[str, Any]:
        create: Callable[[], Classifier]
        if pathlib.Path(name).is_dir():
            classifier = from_run(name)
            row = {"title": pathlib.Path(name).resolve().name, "accuracy": best_accuracy(name)}
            row["macs"] = multiply_adds(
                classifier.model, classifier.image_size, classifier.channels
            )
            create = functools.partial(from_run, name)
        else:
            model, variant = architecture(name, "--beside")
            if not isinstance(self._networks, Trained):
                raise UserError(
                    f"--beside {name}: a supernet trains no other architecture; train it, and give "
                    "its run directory"
                )
            row = {"title": name, "accuracy": self._networks.train(variant, model)}
            task = self._networks.task
            row["macs"] = task.macs(variant, model)
            create = functools.partial(task.classifier, variant, model)
        if self._candidates.request["cost"] == "latency":
            row["latency"] = self._measure(name, create)
        return row


def describe(candidates: Candidates, summary: Mapping[str, Any], values: Any) -> list[str]:
    """Returns the lines that the command prints.

    Args:
        candidates: what was found.
        summary: see `Candidates.write`.
        values: the flags.
    """
    rows = candidates.judged()
    skipped = len(candidates.rows) - len(rows)
    lines = [
        f"{len(rows)} of {summary['space']:,} networks judged"
        + (f", {skipped} skipped" if skipped else "")
    ]
    names = summary["front"]
    lines += [_line(name, rows[name]) for name in names[-SHOWN:]]
    if len(names) > SHOWN:
        lines.append(f"and {len(names) - SHOWN} smaller ones on the front")
    lines += [_line(row["title"], row) for row in candidates.beside]
    if summary["budget"] is not None:
        best = summary["best"]
        if best is None:
            lines.append("no judged network is within the budget when measured: judge more of them")
        else:
            budget = cost_text(summary["budget"], summary["cost"])
            lines.append(f"best within the budget of {budget}: {best}")
            if values.workdir:
                lines.append(
                    f"extract it: python -m vision.search.architecture.extract --workdir "
                    f"{values.workdir} --variant {best} --out RUN"
                )
    lines.append(f"{candidates.out}: search.json, candidates.csv, pareto.png")
    return lines


def _line(name: str, row: Mapping[str, Any]) -> str:
    latency = f", {row['latency']:.3f} ms" if "latency" in row else ""
    return f"{100 * row['accuracy']:.2f} %, {row['macs']:,} multiply-adds{latency}: {name}"
