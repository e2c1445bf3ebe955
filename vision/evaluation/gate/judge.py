"""From two models and named data to a verdict: gate.json, gate.md, and lines to print."""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vision.bundle.directory import MANIFEST
from vision.data.sources import open_splits
from vision.data.splits import Joined
from vision.errors import UserError
from vision.evaluation.compare.changes import change_text
from vision.evaluation.compare.comparison import align, compare
from vision.evaluation.data import match_classes
from vision.evaluation.gate.answers import answer
from vision.evaluation.gate.rules import Rule, keeps, measure
from vision.evaluation.gate.unseen import Learned, unseen
from vision.evaluation.measures.calibration import calibration_error
from vision.inference import Predictor, from_flags
from vision.support.progress import waiting

FORMAT = 1  # of gate.json
WORST = 5  # classes that lose most, in gate.md


@dataclasses.dataclass(frozen=True)
class Request:
    """What to judge.

    Attributes:
        models: directories of the old and of the new run or bundle.
        titles: their names.
        data: {name: source}.
        rules: what the new model must keep.
        decide: "estimate" or "interval", see `vision.evaluation.gate.rules.keeps`.
        class_images: images that a class must have to be judged.
    """

    models: Sequence[str]
    titles: Sequence[str]
    data: Mapping[str, str]
    rules: Sequence[Rule]
    decide: str
    class_images: int


def judge(request: Request, report: Callable[[str], object] = print) -> dict[str, Any]:
    """Returns the contents of gate.json.

    Args:
        request: what to judge.
        report: called with a line of text for each of the data.

    Raises:
        UserError: a model or a source cannot be opened, or they do not fit together.
    """
    models = [_open(path) for path in request.models]
    data = {}
    rules = []
    for name, spec in request.data.items():
        with waiting(f"comparing on {name}"):
            pair, details = _compare(models, request.titles, name, spec, report)
        runs = details.pop("runs")
        for rule in request.rules:
            if rule.data == name:
                measured = measure(rule, runs, pair, request.class_images, request.decide)
                is_kept = keeps(rule, measured, request.decide)
                rules.append(
                    dataclasses.asdict(rule) | measured | {"text": rule.text(), "passed": is_kept}
                )
        data[name] = details | {"comparison": pair}
    return {
        "format": FORMAT,
        "passed": all(rule["passed"] for rule in rules),
        "decide": request.decide,
        "class_images": request.class_images,
        "models": [
            {"title": title, "directory": str(path)}
            for title, path in zip(request.titles, request.models, strict=True)
        ],
        "rules": rules,
        "data": data,
    }


def _open(path: str) -> Predictor:
    if not pathlib.Path(path).is_dir():
        raise UserError(f"there is no directory {path}")
    is_bundle = pathlib.Path(path, MANIFEST).is_file()
    return from_flags(None, "" if is_bundle else path, path if is_bundle else "")


def _compare(
    models: Sequence[Predictor],
    titles: Sequence[str],
    name: str,
    spec: str,
    report: Callable[[str], object],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (the comparison of two models on a source, what else is known of it)."""
    learned, prepared, seen = _images(models, spec)
    images = prepared[0]
    classes = tuple(dict.fromkeys([*models[0].classes, *models[1].classes]))
    match_classes(classes, images)
    report(f"{name}, {spec}: {len(images):,} images")
    answers = [
        answer(model, title, own, classes, spec)
        for model, title, own in zip(models, titles, prepared, strict=True)
    ]
    runs, left_out = align(answers)
    comparison = compare(runs, left_out)
    present = {classes[i] for i in set(runs[0].columns["label_index"].tolist())}
    notes = _notes(models, titles, learned, seen, present)
    for note in notes:
        report(f"note: {note}")
    return comparison["comparisons"][0], {
        "runs": runs,
        "source": spec,
        "images": comparison["images"],
        "unreadable": len(images) - comparison["images"],
        "seen": seen,
        "notes": notes,
        "accuracy": [run["accuracy"] for run in comparison["runs"]],
        "calibration_error": [
            calibration_error(run.columns["confidence"], run.columns["correct"])[0] for run in runs
        ],
    }


def _images(models: Sequence[Predictor], spec: str) -> tuple[list[Learned], list[Joined], int]:
    """Opens a source for each model, which may take other bits of 16-bit images.

    Returns:
        (what each model has learned from, the images that none has learned from as each takes them,
        the number of the others).
    """
    bits = [model.config.data.bits for model in models]
    opened = {number: open_splits(spec, number, 1) for number in dict.fromkeys(bits)}
    learned = [Learned(model, spec, opened[bits[0]]) for model in models]
    prepared = {number: unseen(parts, learned, spec) for number, parts in opened.items()}
    return learned, [prepared[number][0] for number in bits], prepared[bits[0]][1]


def _notes(models, titles, learned, seen, present):
    """Returns what a reader of the verdict must know, in sentences."""
    notes = []
    if seen:
        notes.append(f"{seen:,} images are left out: a model was trained on them")
    for model, title, own in zip(models, titles, learned, strict=True):
        if own.is_unknown:
            notes.append(
                f"{title} was trained on this data and has no list of its training images: it may "
                "have seen some of these"
            )
        if own.alike:
            notes.append(
                f"{len(own.alike):,} images have the names of images that {title} was trained on: "
                "they may be copies"
            )
        missing = sorted(present - set(model.classes))
        if missing:
            names = ", ".join(map(repr, missing[:WORST])) + ", ..." * (len(missing) > WORST)
            notes.append(f"{title} does not have {names}, and counts as wrong there")
    return notes


def lines(record: Mapping[str, Any]) -> list[str]:
    """Returns the verdict as printed: a table of the data, and one of the rules."""
    table = [_heads(*(model["title"] for model in record["models"]))]
    table += [[name, *_numbers(data)] for name, data in record["data"].items()]
    states = [
        ["pass" if rule["passed"] else "FAIL", rule["text"], _value(rule)]
        for rule in record["rules"]
    ]
    return [*_aligned(table), "", *_aligned(states), "", verdict(record)]


def _heads(old, new):
    change = "change, points (95 %)"
    return ["data", "images", old, new, change, "McNemar's p", "calibration error"]


def _numbers(data):
    """Returns the cells of a line of the table."""
    pair = data["comparison"]
    return [
        f"{data['images']:,}",
        *(f"{100 * accuracy:.1f} %" for accuracy in data["accuracy"]),
        change_text(pair["differences"]["accuracy"], True).replace(" points", ""),
        f"{pair['mcnemar']['p']:.2g}",
        "{:.3f} to {:.3f}".format(*data["calibration_error"]),
    ]


def _aligned(rows):
    """Returns rows of cells as lines with columns of one width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def verdict(record: Mapping[str, Any]) -> str:
    """Returns the verdict in a sentence."""
    old, new = (model["title"] for model in record["models"])
    failed = sum(not rule["passed"] for rule in record["rules"])
    count = len(record["rules"])
    is_sure = record["decide"] == "interval"
    if not failed:
        passes = "is sure to pass" if is_sure else "passes"
        return f"{new} may replace {old}: it {passes} all {count} rules"
    fails = "is not sure to pass" if is_sure else "fails"
    return f"{new} must not replace {old}: it {fails} {failed} of {count} rules"


def markdown(record: Mapping[str, Any]) -> str:
    """Returns gate.md, which a comment on a pull request can hold."""
    old, new = (_cell(model["title"]) for model in record["models"])
    mark = "✅" if record["passed"] else "❌"
    text = [f"### {mark} {new} against {old}", "", _row(_heads(old, new)), "|---|" + "--:|" * 6]
    text += [_row([_cell(name), *_numbers(data)]) for name, data in record["data"].items()]
    text += ["", "| Rule | Measured | |", "|---|---|---|"]
    for rule in record["rules"]:
        state = "pass" if rule["passed"] else "**fail**"
        worst = f", {_cell(rule['class'])}" if rule.get("class") else ""
        value = _value(rule | {"class": ""})
        text.append(_row([rule["text"], value + worst, state]))
    for name, data in record["data"].items():
        losses = [row for row in data["comparison"]["per_class"] if row["difference"] < 0][:WORST]
        if losses:
            text += ["", f"Classes that lose most on {_cell(name)}:", ""]
            text += [
                f"- {_cell(row['class'])}: {change_text(row, True)} of {row['images']:,} images"
                for row in losses
            ]
        for note in data["notes"]:
            text += ["", f"> {_cell(name)}: {_plain(note)}"]
    return "\n".join([*text, "", _plain(verdict(record)), ""])


def _row(cells):
    return f"| {' | '.join(cells)} |"


def _value(rule):
    if rule["value"] is None:
        return "no class has enough images to be judged"
    numbers = [100 * rule[key] for key in ("value", "low", "high")]
    worst = f", {rule['class']}" if rule.get("class") else ""
    return "{:+z.1f} points ({:+z.1f} to {:+z.1f})".format(*numbers) + worst  # z: never -0.0


def _cell(text):
    """Returns a name as code, in which Markdown obeys nothing, such as a mention of a person."""
    plain = " ".join(str(text).replace("`", "'").replace("|", "\\|").split())
    return f"`{plain}`"


def _plain(text):
    """Returns a sentence with names in it as Markdown that shows only text."""
    escaped = str(text).replace("&", "&amp;").replace("<", "&lt;").replace("@", "&#64;")
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", escaped)
