"""The evaluation as files: a page that a person reads in a browser, pictures, numbers and
predictions for programs."""

import json
import os
import pathlib

import numpy as np

from vision.data.decode import UnreadableImage
from vision.data.pictures import data_uri, picture
from vision.errors import UserError
from vision.evaluation.measures import scores
from vision.evaluation.report import card, examples, figures
from vision.evaluation.report.explain import area_under, deletion_curves, explainer, overlay
from vision.evaluation.report.words import METRICS, verdicts
from vision.run.calibration import CALIBRATION, Calibration, write_calibration
from vision.support.files import replacing, write_json
from vision.support.page import render

FIGURES = ("confusion", "confusion_normalized", "reliability", "map", "robustness")
ROWS = 60  # of the table of classes; of more classes the worst
GALLERIES = 20  # classes whose hardest and easiest images are shown, the worst first
COARSE = 5  # positions along a side of a heat map, below which it hardly says where
OF_PAIR = 4  # images of a confused pair
PROBABILITIES = 100  # classes up to which predictions.parquet holds all probabilities
_BATCH = 16  # images a call of the explainer


def write(out, found, c, workdir=""):
    """Writes report.html, metrics.json, predictions.parquet, MODEL_CARD.md and PNG files into a
    directory.

    Args:
        out: an existing directory, `pathlib.Path`.
        found: `vision.evaluation.evaluate.Evaluation`.
        c: config.evaluation.
        workdir: the run's directory, for the card; "" = none.

    Raises:
        UserError: it cannot be written to.
    """
    pictures = draw(found)
    page = render(pathlib.Path(__file__).with_name("report.html"), context(found, c, pictures))
    try:
        for name in FIGURES:
            if name in pictures:
                with replacing(out / f"{name}.png", binary=True) as file:
                    file.write(pictures[name])
            else:  # of an evaluation before this one
                (out / f"{name}.png").unlink(missing_ok=True)
        write_json(out / "metrics.json", found.summary)
        write_predictions(out / "predictions.parquet", found)
        (out / CALIBRATION).unlink(missing_ok=True)
        if (temperature := found.summary["calibration"]["temperature"]) is not None:
            step = getattr(found.classifier, "step", None)
            write_calibration(out, Calibration(temperature, step, found.split.spec))
        for name, text in (("MODEL_CARD.md", card.text(found, c, workdir)), ("report.html", page)):
            with replacing(out / name) as file:
                file.write(text)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror or error}") from error


def draw(found):
    """Returns {name: PNG} of the report's figures."""
    summary = found.summary
    classes = found.classifier.classes
    curves = dict(calibrations(summary["calibration"]))
    drawn = {
        "confusion": figures.confusion(summary["confusion"], classes, False),
        "confusion_normalized": figures.confusion(summary["confusion"], classes, True),
        "reliability": figures.reliability(curves),
    }
    if found.points is not None:
        labels = found.outputs.labels[found.mapped]
        wrong = ~found.correct[found.mapped]
        drawn["map"] = figures.embedding_map(found.points, labels, classes, wrong)
    if summary["robustness"]:
        drawn["robustness"] = figures.robustness(summary["robustness"])
    return drawn


def write_predictions(path, found):
    """Writes a Parquet table with one row an image.

    Its columns: row, name, label, predicted, label_index, predicted_index, correct, confidence (of
    the predicted class), nll (nats), top5, and for up to `PROBABILITIES` classes all probabilities.
    The temperature is not applied.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = np.array(found.classifier.classes, object)
    outputs = found.outputs
    p = found.probabilities
    best = np.argsort(-outputs.logits, axis=1, kind="stable")[:, :5]
    columns = {
        "row": pa.array(outputs.rows, pa.int64()),
        "name": pa.array(
            [_text(found.split.source.name(int(row))) for row in outputs.rows], pa.string()
        ),
        "label": pa.array(names[outputs.labels], pa.string()),
        "predicted": pa.array(names[found.predicted], pa.string()),
        "label_index": pa.array(outputs.labels, pa.int32()),
        "predicted_index": pa.array(found.predicted, pa.int32()),
        "correct": pa.array(found.correct),
        "confidence": pa.array(found.confidence, pa.float32()),
        "nll": pa.array(scores.losses(outputs.logits, outputs.labels)[0], pa.float64()),
        "top5": pa.array(names[best].tolist(), pa.list_(pa.string())),
    }
    if p.shape[1] <= PROBABILITIES:
        values = pa.array(p.astype(np.float32).ravel())
        columns["probabilities"] = pa.FixedSizeListArray.from_arrays(values, p.shape[1])
    known = {"classes": list(names), "source": found.split.spec, "split": found.split.name}
    # to find the images again
    known |= {"data": found.split.config.data.to_dict(), "seed": found.split.config.seed}
    known["model"] = f"{found.summary['model']['name']} {found.summary['model']['variant']}"
    table = pa.table(columns).replace_schema_metadata({"vision": json.dumps(known)})
    with replacing(path, binary=True) as file:
        pq.write_table(table, file, compression="zstd")


def context(found, c, pictures):
    """Returns what the page shows, by name."""
    summary = found.summary
    classes = found.classifier.classes
    held = [one for one in summary["per_class"] if one["support"]]
    worst = sorted(held, key=lambda one: (one["recall"]["value"], -one["support"]))
    gallery = _Gallery(found, c.explain)
    pairs = examples.confused_pairs(summary["confusion"], c.pairs)
    shown = {
        "errors": examples.worst_errors(found.own, found.correct, c.errors),
        **{("pair", pair): _of_pair(found, pair) for pair in pairs},
    }
    for one in worst[:GALLERIES]:
        label = classes.index(one["class"])
        hard, easy = examples.of_class(found.own, found.outputs.labels, label, c.examples)
        shown |= {("hard", one["class"]): hard, ("easy", one["class"]): easy}
    gallery.explain(np.concatenate([np.asarray(rows, np.int64) for rows in shown.values()]))
    cards = {key: [gallery.card(int(i)) for i in rows] for key, rows in shown.items()}
    return {
        "summary": summary,
        "verdicts": verdicts(summary, found.sure_errors),
        "metrics": METRICS,
        "rates": _rates(summary["operating_point"]),
        "calibrations": calibrations(summary["calibration"]),
        "shade": _shade,
        "per_class": worst[:ROWS],
        "hidden_classes": max(0, len(worst) - ROWS),
        "absent": [one["class"] for one in summary["per_class"] if not one["support"]],
        "figures": {name: data_uri(png) for name, png in pictures.items()},
        "method": gallery.method,
        "grid": gallery.grid,
        "trust": gallery.trust,
        "coarse": 0 < min(gallery.grid) < COARSE,
        "errors": cards["errors"],
        "all_errors": int((~found.correct).sum()),
        "pairs": [
            {"true": classes[a], "predicted": classes[b], "images": int(summary["confusion"][a][b])}
            | {
                "share": summary["confusion"][a][b] / sum(summary["confusion"][a]),
                "cards": cards["pair", (a, b)],
            }
            for a, b in pairs
        ],
        "examples": [
            {
                "class": one["class"],
                "hard": cards["hard", one["class"]],
                "easy": cards["easy", one["class"]],
            }
            for one in worst[:GALLERIES]
            if c.examples
        ],
        "hidden_examples": max(0, len(worst) - GALLERIES),
        "slices": summary["slices"][:ROWS],
        "command": f"config.evaluation = {json.dumps(summary['config'])}",
    }


def _rates(point):
    """Returns [(what decides, rates)] of the positive class."""
    if not point:
        return []
    found = [("The most likely class", point["at_argmax"])]
    if point["threshold"] is None:
        return found
    title = f"Its probability is at least {point['threshold']:.4g}, for a recall of {point['wanted_recall']:.3g}"
    return [*found, (title, point["at_threshold"])]


def calibrations(found):
    """Returns [(title, numbers)]: without a temperature, and with the one that was fitted."""
    fitted = found["temperature"]
    return [
        ("As it is", found["plain"]),
        *([(f"Temperature {fitted:.3f}", found["scaled"])] if fitted else []),
    ]


def _shade(value, clean):
    """Returns a cell's color: white for the accuracy without corruption, the redder the less is
    left of it."""
    left = min(1.0, value / clean) if clean else 1.0
    return f"hsl(4, 85%, {60 + 40 * left:.0f}%)"


def _of_pair(found, pair):
    return examples.of_pair(found.outputs.labels, found.predicted, found.confidence, pair, OF_PAIR)


class _Gallery:
    """Pictures of images, with heat maps where the model can be explained."""

    def __init__(self, found, explain):
        self._found = found
        self._heat = {}
        model = found.classifier.model
        self._explainer = explainer(found.classifier) if explain and model is not None else None
        self.method, self.grid = (
            (self._explainer.method, self._explainer.grid) if self._explainer else ("", (0, 0))
        )
        self.trust = None

    def explain(self, positions):
        """Computes the heat maps of the predicted classes of some images, int (M,)."""
        if self._explainer is None:
            return
        positions = np.unique(positions)
        for start in range(0, len(positions), _BATCH):
            chosen = positions[start : start + _BATCH]
            images = []
            for i in chosen:
                images.append(self._found.classifier.prepare(self._image(int(i))))
            # one shape, compiled once
            padded = np.resize(np.stack(images), (_BATCH, *images[0].shape))
            classes = np.resize(self._found.predicted[chosen], _BATCH)
            heat = self._explainer(padded, classes)
            if self.trust is None:
                self.trust = self._delete(padded, heat, classes, len(chosen))
            for i, image, one in zip(chosen, images, heat, strict=False):
                self._heat[int(i)] = overlay(image, np.asarray(one))

    def _delete(self, images, heat, classes, count):
        """Returns how much faster the probability falls as hot pixels are deleted than as pixels
        are at random."""
        random = np.random.default_rng(0).random(heat.shape)
        curves = [
            deletion_curves(self._found.classifier, images, one, classes)[:count]
            for one in (heat, random)
        ]
        return {"images": count} | dict(
            zip(("hot", "random"), map(_mean_area, curves), strict=True)
        )

    def card(self, i):
        """Returns what is shown of an image."""
        found = self._found
        classes = self._found.classifier.classes
        name = found.split.source.name(int(found.outputs.rows[i]))
        return {
            "picture": picture(self._image(i)),
            "heat": picture(self._heat[i]) if i in self._heat else "",
            "name": _text(name),
            "short": _text(os.path.basename(name) or name),
            "true": classes[found.outputs.labels[i]],
            "predicted": classes[found.predicted[i]],
            "confidence": float(found.confidence[i]),
            "own": float(found.own[i]),
            "correct": bool(found.correct[i]),
        }

    def _image(self, i):
        row = int(self._found.outputs.rows[i])
        try:
            return self._found.split.source[row]["image"]
        except UnreadableImage as error:  # it was readable a minute ago
            raise UserError(
                f"{self._found.split.source.name(row)} cannot be read any more: {error.reason}"
            ) from error


def _mean_area(curves):
    return float(area_under(curves).mean())


def _text(name):
    """A file's name may be no text."""
    return name.encode("utf-8", "replace").decode()
