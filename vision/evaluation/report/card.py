"""MODEL_CARD.md: what a model is for, how good it is, where it fails, how it was made.

Mitchell et al. 2019 (arXiv:1810.03993).
"""

import pathlib
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from vision.evaluation.report.words import amount, measured, verdicts
from vision.support.reading import read_json
from vision.support.schema import NATURAL

if TYPE_CHECKING:
    from vision.evaluation.evaluate import Evaluation

WORST = 5  # classes and slices in the tables

RESULT = {
    "split_sizes": {str: NATURAL},
    "versions": {str: str},
    "parameters": {"all": NATURAL, "learning": NATURAL},
    "steps": NATURAL,
    "best_step": NATURAL,
    "train_seconds": float,
    "device": str,
    "date": str,
    "git_commit": (str, None),
}


def text(evaluation: "Evaluation", c: ConfigDict, workdir: pathlib.Path | str = "") -> str:
    """Returns a model card in Markdown.

    Args:
        evaluation: the results.
        c: config.evaluation.
        workdir: the run's directory, whose result.json describes the training; "" for none.
    """
    summary = evaluation.summary
    model = summary["model"]
    data = summary["data"]
    classifier = evaluation.classifier
    source = _cell(classifier.config.data.source or data["source"])
    color = "gray" if classifier.channels == 1 else "in color"
    side = model["image_size"]
    failures = [
        f"- {_cell(sentence)}"
        for state, sentence, _ in verdicts(summary, evaluation.sure_errors)
        if state != "good"
    ]
    lines = [
        f"# {model['name']} {model['variant']}, {source}",
        "",
        f"Classifies images, {color}, {side} x {side} px, "
        f"into {len(data['classes']):,} classes: {_some(data['classes'])}.",
        "",
        f"License: {c.license or 'not stated (set evaluation.license)'}.",
        "",
        "## How good it is",
        "",
        *_metrics(summary),
        "",
        *_unsure(summary),
        "## Where it fails",
        "",
        *failures,
        "",
        *_weakest(summary),
        "It knows only these classes and assigns one of them to any picture, whatever it shows. "
        "On images from sources other than those it was measured on, it may do worse.",
        "",
        "## How it was made",
        "",
        *_training(classifier, workdir),
        "",
    ]
    return "\n".join(lines)


def _metrics(summary):
    """Returns the lines of the section on metrics."""
    data = summary["data"]
    calibration = summary["calibration"]
    lines = [
        f"Measured on {data['images']:,} images: {_cell(data['source'])}, {data['split']}. "
        f"{summary['date'][:10]}, {summary['device']}. 95 % intervals are in parentheses.",
        "",
        "| metric | value |",
        "|---|---|",
    ]
    for key, title, is_share in measured(summary["metrics"]):
        lines.append(f"| {title} | {amount(summary['metrics'][key], is_share)} |")
    ece = amount(calibration["plain"]["ece"], True)
    lines.append(f"| Expected calibration error | {ece} |")
    if calibration["temperature"] is not None:
        ece = amount(calibration["scaled"]["ece"], True)
        lines.append(f"| The same with temperature {calibration['temperature']:.3f} | {ece} |")
    return lines


def _unsure(summary):
    """Returns the section on unsure answers; no lines if none were measured."""
    unsure = summary["unsure"]
    validation = unsure and unsure["validation"]
    if not validation:
        return []
    rule = validation["rule"]
    start = f"By its chosen rule `{rule}`, it" if rule else "It never"
    lines = [
        "## When it is unsure",
        "",
        f'{start} declines to name a class ("unsure"). Promises from {validation["images"]:,} '
        "validation images, and their outcome here:",
        "",
    ]
    answers = [(row, row["answered"], row["precision"]) for row in unsure["precision"]]
    sets = [(row, row["single"], row["coverage"]) for row in unsure["sets"]]
    for rows, share, kept in (
        (answers, "images answered", "right of these"),
        (sets, "one class named", "sets with the true class"),
    ):
        if rows:
            lines += [f"| promised | {share} | {kept} |", "|---|---|---|"]
            lines += [
                f"| `{r['wish']}` | {amount(a, True)} | {amount(b, True)} |" for r, a, b in rows
            ]
            lines.append("")
    return lines


def _weakest(summary):
    """Returns tables of the weakest classes and slices."""
    present = [row for row in summary["per_class"] if row["support"]]
    present.sort(key=lambda row: row["recall"]["value"])
    lines = ["| weakest classes | images | recall | precision |", "|---|---|---|---|"]
    for row in present[:WORST]:
        recall = amount(row["recall"], True)
        precision = amount(row["precision"], True)
        lines.append(f"| {_cell(row['class'])} | {row['support']:,} | {recall} | {precision} |")
    lines.append("")
    if summary["slices"]:
        lines += ["| weakest slices | images | accuracy |", "|---|---|---|"]
        for row in summary["slices"][:WORST]:
            name = f"{_cell(row['by'])}: {_cell(row['slice'])}"
            lines.append(f"| {name} | {row['images']:,} | {amount(row['accuracy'], True)} |")
        lines.append("")
    return lines


def _training(classifier, workdir):
    """Returns how the model was trained, from a run's files or a bundle's config.

    For pretrained weights, only where they come from.
    """
    config = classifier.config
    if not config.data.source:
        return ["- the bundle does not record it"]
    if not workdir and classifier.model is not None:
        return [f"- weights from {_cell(config.model.pretrained)}, not trained further"]
    start = f", from {_cell(config.model.pretrained)}" if config.model.pretrained else ""
    t = config.train
    o = config.optimizer
    length = f"{t.steps:,} steps" if t.steps else f"{t.epochs:g} epochs"
    lines = [
        f"- trained on {_cell(config.data.source)}{start}",
        f"- {o.name}, learning rate {o.learning_rate:g}, {config.schedule.name}, "
        f"batches of {t.batch_size}, {length}",
    ]
    result = read_result(workdir)
    return lines + (_result(result) if result else [])


def read_result(workdir: pathlib.Path | str) -> dict[str, Any] | None:
    """Returns a run's result.json; None of a run that is not finished, or of no run ("").

    Raises:
        UserError: it is damaged.
    """
    file = pathlib.Path(workdir, "result.json")
    if not workdir or not file.is_file():
        return None
    return read_json(file, RESULT, "remove it, and test the run again")


def _result(result):
    """Returns the lines about a run's result.json."""
    sizes = ", ".join(f"{n:,} {name}" for name, n in result["split_sizes"].items())
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    parameters = result["parameters"]
    return [
        f"- images: {sizes}",
        f"- parameters: {parameters['all']:,}, of which {parameters['learning']:,} trained",
        f"- {result['steps']:,} steps, best at {result['best_step']:,}; "
        f"{result['train_seconds']:,.0f} s on {result['device']}, {result['date'][:10]}",
        f"- code {result['git_commit'] or 'outside a checkout'}, {versions}",
    ]


def _some(classes):
    shown = ", ".join(map(_cell, classes[:20]))
    return shown + (f" and {len(classes) - 20:,} more" if len(classes) > 20 else "")


def _cell(value):
    """Returns text that neither ends a table's cell nor begins HTML."""
    return str(value).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
