"""The evaluation as files: a page and pictures for people, numbers and predictions for programs."""

import json
import os
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from vision.data.pictures import data_uri
from vision.evaluation.measures import scores
from vision.evaluation.measures.blocks import best_classes
from vision.evaluation.report import card, examples, figures
from vision.evaluation.report.gallery import Gallery, printable
from vision.evaluation.report.words import measured, verdicts
from vision.inference import softmax
from vision.run.calibration import CALIBRATION, Calibration, write_calibration
from vision.run.curves import draw_run
from vision.run.unsure import UNSURE, write_evidence
from vision.support.files import filling, replacing, write_json
from vision.support.page import render

if TYPE_CHECKING:
    from vision.evaluation.evaluate import Evaluation

FIGURES = (
    "confusion",
    "confusion_normalized",
    "reliability",
    "risk_coverage",
    "map",
    "robustness",
)
ROWS = 60  # of the table of classes; with more classes the worst
GALLERIES = 20  # classes whose hardest and easiest images are shown, the worst first
COARSE = 5  # positions along a side of a heat map, below which it hardly shows where
OF_PAIR = 4  # images of a confused pair
DRAWN = 1000  # classes up to which the confusion matrix is drawn
PROBABILITIES = 100  # classes up to which predictions.parquet holds all probabilities


def write(
    out: pathlib.Path, evaluation: "Evaluation", c: ConfigDict, workdir: pathlib.Path | str = ""
) -> None:
    """Writes report.html, metrics.json, predictions.parquet, MODEL_CARD.md and PNG files.

    Args:
        out: an existing directory.
        evaluation: the results.
        c: config.evaluation.
        workdir: the run's directory, for the card; "" for none.

    Raises:
        UserError: if it cannot be written to.
    """
    pictures = draw(evaluation)
    template = pathlib.Path(__file__).with_name("report.html")
    best_step = (card.read_result(workdir) or {}).get("best_step")
    curves = draw_run(workdir, evaluation.classifier.config, best_step) if workdir else b""
    values = context(evaluation, c, pictures) | {"curves": data_uri(curves) if curves else ""}
    page = render(template, values)
    texts = {"MODEL_CARD.md": card.text(evaluation, c, workdir), "report.html": page}
    with filling(out, "") as folder:
        for name, picture in pictures.items():
            with replacing(folder / f"{name}.png", binary=True) as file:
                file.write(picture)
        write_json(folder / "metrics.json", evaluation.summary)
        write_predictions(folder / "predictions.parquet", evaluation)
        _write_temperature(folder, evaluation)
        if evaluation.evidence is not None:
            write_evidence(folder, evaluation.evidence.contents)
        for name, text in texts.items():
            with replacing(folder / name) as file:
                file.write(text)
        written = os.listdir(folder)
    for name in (*(f"{figure}.png" for figure in FIGURES), CALIBRATION, UNSURE):
        is_kept = name == UNSURE and not c.unsure  # it may have a rule that somebody chose
        if name not in written and not is_kept:  # left from an earlier evaluation
            (out / name).unlink(missing_ok=True)


def _write_temperature(out, evaluation):
    """Writes calibration.json if a temperature was fitted."""
    temperature = evaluation.summary["calibration"]["temperature"]
    if temperature is not None:
        step = getattr(evaluation.classifier, "step", None)
        write_calibration(out, Calibration(temperature, step, evaluation.split.spec))


def draw(evaluation: "Evaluation") -> dict[str, bytes]:
    """Returns {name: PNG} of the report's figures."""
    summary = evaluation.summary
    classes = evaluation.classifier.classes
    pictures = {"reliability": figures.reliability(dict(calibrations(summary["calibration"])))}
    counts, names = _present(evaluation.cells, classes)
    if len(names) <= DRAWN:
        pictures["confusion"] = figures.confusion(counts, names, False)
        pictures["confusion_normalized"] = figures.confusion(counts, names, True)
    if evaluation.points is not None:
        labels = evaluation.outputs.labels[evaluation.mapped]
        wrong = ~evaluation.correct[evaluation.mapped]
        pictures["map"] = figures.embedding_map(evaluation.points, labels, classes, wrong)
    if summary["unsure"]:
        pictures["risk_coverage"] = figures.risk_coverage(summary["unsure"])
    if summary["robustness"]:
        pictures["robustness"] = figures.robustness(summary["robustness"])
    return pictures


def _present(cells, classes):
    """Returns (counts, names): the confusion matrix of the classes that occur, if it can be drawn.

    The counts are int (P, P), of P classes that have images or for which some are mistaken; None
    for more than `DRAWN`.
    """
    present, place = np.unique(cells[:, :2], return_inverse=True)
    names = [classes[i] for i in present]
    if len(names) > DRAWN:
        return None, names
    true, predicted = place.reshape(-1, 2).T
    counts = np.zeros((len(names), len(names)), np.int64)
    counts[true, predicted] = cells[:, 2]
    return counts, names


def write_predictions(path: pathlib.Path, evaluation: "Evaluation") -> None:
    """Writes a Parquet table with one row per image.

    Its columns: row, name, label, predicted, label_index, predicted_index, correct, confidence (of
    the predicted class), nll (nats), top5, and for up to `PROBABILITIES` classes all probabilities.
    The temperature is not applied.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    classes = np.array(evaluation.classifier.classes, object)
    outputs = evaluation.outputs
    split = evaluation.split
    names = [printable(split.source.name(int(row))) for row in outputs.rows]
    best = best_classes(outputs.logits, 5)
    columns = {
        "row": pa.array(outputs.rows, pa.int64()),
        "name": pa.array(names, pa.string()),
        "label": pa.array(classes[outputs.labels], pa.string()),
        "predicted": pa.array(classes[evaluation.predicted], pa.string()),
        "label_index": pa.array(outputs.labels, pa.int32()),
        "predicted_index": pa.array(evaluation.predicted, pa.int32()),
        "correct": pa.array(evaluation.correct),
        "confidence": pa.array(evaluation.confidence, pa.float32()),
        "nll": pa.array(scores.losses(outputs.logits, outputs.labels)[0], pa.float64()),
        "top5": pa.array(classes[best].tolist(), pa.list_(pa.string())),
    }
    count = len(classes)
    if count <= PROBABILITIES:
        values = pa.array(softmax(outputs.logits).astype(np.float32).ravel())
        columns["probabilities"] = pa.FixedSizeListArray.from_arrays(values, count)
    model = evaluation.summary["model"]
    header = {
        "classes": list(classes),
        "source": split.spec,
        "split": split.name,
        # to find the images again
        "data": split.config.data.to_dict(),
        "seed": split.config.seed,
        "model": f"{model['name']} {model['variant']}",
    }
    table = pa.table(columns).replace_schema_metadata({"vision": json.dumps(header)})
    with replacing(path, binary=True) as file:
        pq.write_table(table, file, compression="zstd")


def context(evaluation: "Evaluation", c: ConfigDict, pictures: dict[str, bytes]) -> dict[str, Any]:
    """Returns the values that report.html shows, by name.

    Args:
        evaluation: the results.
        c: config.evaluation.
        pictures: {name: PNG}, from `draw`.
    """
    summary = evaluation.summary
    present = [row for row in summary["per_class"] if row["support"]]
    worst = sorted(present, key=lambda row: (row["recall"]["value"], -row["support"]))
    gallery = Gallery(evaluation, c.explain)
    shown = [row["class"] for row in worst[:GALLERIES]]
    cards = _cards(evaluation, c, shown, gallery)
    return {
        "summary": summary,
        "verdicts": verdicts(summary, evaluation.sure_errors),
        "metrics": measured(summary["metrics"]),
        "drawn": DRAWN,
        "rates": _rates(summary["operating_point"]),
        "calibrations": calibrations(summary["calibration"]),
        "lost": _lost,
        "per_class": worst[:ROWS],
        "hidden_classes": max(0, len(worst) - ROWS),
        "absent": [row["class"] for row in summary["per_class"] if not row["support"]],
        "figures": {name: data_uri(png) for name, png in pictures.items()},
        "method": gallery.method,
        "grid": gallery.grid,
        "trust": gallery.trust,
        "coarse": 0 < min(gallery.grid) < COARSE,
        "errors": cards["errors"],
        "all_errors": int((~evaluation.correct).sum()),
        "pairs": _pairs(evaluation, c, cards),
        "examples": [
            {"class": name, "hard": cards["hard", name], "easy": cards["easy", name]}
            for name in shown
            if len(cards["hard", name])
        ],
        "hidden_examples": max(0, len(worst) - GALLERIES),
        "slices": summary["slices"][:ROWS],
        "command": f"config.evaluation = {json.dumps(summary['config'])}",
    }


def _cards(evaluation, c, shown, gallery):
    """Returns the cards of the images that the page shows.

    Args:
        evaluation: the results.
        c: config.evaluation.
        shown: names of the classes whose hardest and easiest images are shown.
        gallery: makes the cards.

    Returns:
        {"errors", ("pair", true, predicted), ("hard", class), ("easy", class): list of cards}.
    """
    classes = evaluation.classifier.classes
    labels = evaluation.outputs.labels
    true_probability = evaluation.true_probability
    images = {"errors": examples.worst_errors(true_probability, evaluation.correct, c.errors)}
    for *pair, _ in examples.confused_pairs(evaluation.cells, c.pairs):
        images["pair", *pair] = examples.of_pair(
            labels, evaluation.predicted, evaluation.confidence, pair, OF_PAIR
        )
    elsewhere = [int(i) for rows in images.values() for i in rows]
    for name in shown:
        hard, easy = examples.of_class(
            true_probability, labels, classes.index(name), c.examples, elsewhere
        )
        images["hard", name] = hard
        images["easy", name] = easy
    gallery.explain(np.concatenate([np.asarray(rows, np.int64) for rows in images.values()]))
    return {key: [gallery.card(int(i)) for i in rows] for key, rows in images.items()}


def _pairs(evaluation, c, cards):
    """Returns the most confused pairs of classes, with their cards."""
    classes = evaluation.classifier.classes
    support = np.bincount(evaluation.outputs.labels)
    return [
        {
            "true": classes[true],
            "predicted": classes[predicted],
            "images": images,
            "share": images / support[true],
            "cards": cards["pair", true, predicted],
        }
        for true, predicted, images in examples.confused_pairs(evaluation.cells, c.pairs)
    ]


def _rates(point):
    """Returns [(decision, rates)] of the positive class."""
    if not point:
        return []
    rates = [("The most likely class", point["at_argmax"])]
    if point["threshold"] is not None:
        title = (
            f"Its probability is at least {point['threshold']:.4g}, "
            f"for a recall of {point['wanted_recall']:.3g}"
        )
        rates.append((title, point["at_threshold"]))
    return rates


def calibrations(calibration: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Returns [(title, numbers)]: without a temperature, and with the fitted one, if any."""
    rows = [("As it is", calibration["plain"])]
    if calibration["temperature"]:
        rows.append((f"Temperature {calibration['temperature']:.3f}", calibration["scaled"]))
    return rows


def _lost(value, clean):
    """Returns how much of the clean accuracy is lost, in percent."""
    left = min(1.0, value / clean) if clean else 1.0
    return round(100 * (1 - left))
