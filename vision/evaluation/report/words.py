"""The results of an evaluation, in sentences."""

from collections.abc import Iterator, Mapping
from typing import Any

# key in metrics.json: (title, whether it is a share)
METRICS = {
    "accuracy": ("Accuracy", True),
    "top5_accuracy": ("Top-5 accuracy", True),
    "balanced_accuracy": ("Balanced accuracy", True),
    "macro_precision": ("Precision, macro", True),
    "macro_recall": ("Recall, macro", True),
    "macro_f1": ("F1, macro", True),
    "weighted_precision": ("Precision, weighted", True),
    "weighted_recall": ("Recall, weighted", True),
    "weighted_f1": ("F1, weighted", True),
    "roc_auc": ("ROC-AUC, one against rest", False),
    "average_precision": ("Average precision, one against rest", False),
    "cohen_kappa": ("Cohen's kappa", False),
    "matthews_corrcoef": ("Matthews correlation", False),
    "nll": ("Cross-entropy, nats", False),
    "brier": ("Brier score", False),
}
FEW = 300  # images of a split, below which intervals are wide
ENOUGH = 10  # images of a class, below which it is not mentioned
GAP = 0.05  # expected calibration error from which it is reported
SURE = 0.9  # confidence above which an error is reported

Verdict = tuple[str, str, str]


def measured(*metrics: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Returns [(key, title, whether it is a share)] of the `METRICS` that are in all of these.

    Top-5 accuracy means nothing for fewer than six classes, and is not measured there.
    """
    return [
        (key, title, is_share)
        for key, (title, is_share) in METRICS.items()
        if all(key in numbers for numbers in metrics)
    ]


def amount(metric: Mapping[str, Any] | float | None, is_share: bool) -> str:
    """Returns a metric as text: "97.8 % (96.4 to 98.9)", "0.123 (0.100 to 0.150)" or "undefined".

    Args:
        metric: {"value", "low", "high"}, the latter two optional; or only the value. A value of
            None is undefined.
        is_share: whether to print it in percent.
    """
    if not isinstance(metric, Mapping):
        metric = {"value": metric}
    if metric["value"] is None:
        return "undefined"

    def number(value):
        return f"{100 * value:.1f}" if is_share else f"{value:.4g}"

    text = number(metric["value"]) + (" %" if is_share else "")
    low = metric.get("low")
    high = metric.get("high")
    return text if low is None else f"{text} ({number(low)} to {number(high)})"


def images(count: int) -> str:
    """Returns "1 image", "2,000 images"."""
    return f"{count:,} image{'' if count == 1 else 's'}"


def _percent(share):
    return f"{100 * share:.1f} %"


def verdicts(summary: Mapping[str, Any], sure_errors: int) -> list[Verdict]:
    """Returns [(state, sentence, section of the page)], the most urgent first.

    A state is "bad", "look" or "good".

    Args:
        summary: the content of metrics.json.
        sure_errors: number of errors with a confidence above `SURE`.
    """
    parts = (_data, _classes, _confidence, _unsure, _slices, _passes)
    lines = [line for part in parts for line in part(summary)]
    if sure_errors:
        sentence = f"Errors with a confidence above {100 * SURE:.0f} %: {sure_errors:,}."
        lines.append(("look", sentence, "errors"))
    order = ("bad", "look", "good")
    return sorted(lines, key=lambda line: order.index(line[0]))


def _data(summary: Mapping[str, Any]) -> Iterator[Verdict]:
    data = summary["data"]
    absent = [row["class"] for row in summary["per_class"] if not row["support"]]
    if data["unreadable"]:
        sentence = f"Unreadable images, which are not counted here: {data['unreadable']:,}."
        yield "bad", sentence, "metrics"
    if absent:
        some = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        sentence = (
            f"Classes without any image here, so nothing is known: {len(absent):,} ({some}). Means "
            f"over classes cover the other {len(summary['per_class']) - len(absent):,}."
        )
        yield "look", sentence, "classes"
    if data["images"] < FEW:
        sentence = f"Only {images(data['images'])}: the intervals show how uncertain this is."
        yield "look", sentence, "metrics"
    if data["learned_from"]:
        sentence = (
            "The model was trained on at least some of these images: it will do worse on new ones."
        )
        yield "look", sentence, "metrics"


def _classes(summary: Mapping[str, Any]) -> Iterator[Verdict]:
    present = [row for row in summary["per_class"] if row["support"]]
    large = [row for row in present if row["support"] >= ENOUGH]
    worst = min(large or present, key=lambda row: row["recall"]["value"])
    accuracy = summary["metrics"]["accuracy"]
    recall = worst["recall"]
    if large and recall.get("high", recall["value"]) < accuracy["value"]:
        share = amount(recall, True)
        sentence = (
            f"The weakest class is {worst['class']}: right on {share} of {worst['support']:,}."
        )
        yield "look", sentence, "classes"
    if summary["confused_pairs"]:
        pair = summary["confused_pairs"][0]
        sentence = (
            f"Most often, {pair['true']} is mistaken for {pair['predicted']}: "
            f"{images(pair['images'])}."
        )
        yield "look", sentence, "pairs"
    else:
        yield "good", "No image is misclassified.", "metrics"


def _confidence(summary: Mapping[str, Any]) -> Iterator[Verdict]:
    plain = summary["calibration"]["plain"]
    scaled = summary["calibration"].get("scaled")
    accuracy = summary["metrics"]["accuracy"]["value"]
    confidence = plain["mean_confidence"]
    ece = plain["ece"]["value"]
    if rejected := summary["calibration"].get("rejected"):
        yield "look", _rejection(rejected, plain["nll"]), "calibration"
    means = (
        f"The model is {_percent(confidence)} sure on average, and right on {_percent(accuracy)}"
    )
    if ece < GAP:
        is_sure = summary["data"]["images"] >= FEW
        claim = "can be trusted" if is_sure else "fits, as far as so few images show"
        sentence = f"{means}: its confidence {claim} (ECE {_percent(ece)})."
        yield "good", sentence, "calibration"
        return
    kind = _miscalibration(confidence - accuracy)
    sentence = f"{means}: it is {kind}, ECE {_percent(ece)}."
    if scaled and scaled["ece"]["value"] < ece:
        sentence += f" A temperature lowers that to {_percent(scaled['ece']['value'])}."
    yield "look", sentence, "calibration"


def _rejection(rejected: Mapping[str, Any], nll: float) -> str:
    """Returns why a fitted temperature is not used."""
    temperature = f"The temperature {rejected['temperature']:.3f}"
    if rejected["split"] == "val":
        return (
            f"{temperature}, fitted to the validation split, does not help on held-out images of "
            "that split, so it is not used."
        )
    return (
        f"{temperature}, fitted to the validation split, raises the cross-entropy here from "
        f"{nll:.3f} to {rejected['nll']:.3f}, so it is not used. Do the two splits differ?"
    )


def _miscalibration(gap):
    if gap > 0.01:
        return "overconfident"
    if gap < -0.01:
        return "underconfident"
    return "wrong in both directions"


def _unsure(summary: Mapping[str, Any]) -> Iterator[Verdict]:
    unsure = summary.get("unsure") or {}
    rows = [(row, row["precision"]) for row in unsure.get("precision", ())]
    rows += [(row, row["coverage"]) for row in unsure.get("sets", ())]
    rule = (unsure.get("validation") or {}).get("rule")
    for row, got in rows:
        if row["kept"] == "no":
            sentence = (
                f"The promise {row['wish']} from the validation images is not kept here: "
                f"{amount(got, True)}. Do the two splits differ?"
            )
            yield "bad", sentence, "unsure"
        elif row["wish"] == rule:
            yield "good" if row["kept"] else "look", _rule_kept(row, got), "unsure"


def _rule_kept(row, got):
    """Returns what the chosen rule does."""
    if "answered" in row:
        answered = amount(row["answered"], True)
        nothing = ", which promises nothing" if row["expected"] is None else ""
        return (
            f"With {row['wish']}{nothing}, {answered} are answered, and "
            f"{amount(got, True)} of these answers are right."
        )
    return (
        f"With {row['wish']}, {amount(row['single'], True)} get a single class, and "
        f"{amount(got, True)} of the sets contain the true one."
    )


def _slices(summary: Mapping[str, Any]) -> Iterator[Verdict]:
    accuracy = summary["metrics"]["accuracy"]
    if not summary["slices"]:
        return
    worst = summary["slices"][0]
    if worst["accuracy"]["high"] < accuracy.get("low", accuracy["value"]):
        share = amount(worst["accuracy"], True)
        sentence = (
            f"Weakest where {worst['by']} is {worst['slice']}: {share} of {worst['images']:,}."
        )
        yield "look", sentence, "slices"


def _passes(summary: Mapping[str, Any]) -> Iterator[Verdict]:
    robustness = summary["robustness"]
    if robustness and robustness["clean_accuracy"]:
        corruptions = robustness["corruptions"]
        worst = min(corruptions, key=lambda name: sum(corruptions[name])).replace("_", " ")
        mean = _percent(robustness["mean_corruption_accuracy"])
        clean = _percent(robustness["clean_accuracy"])
        sentence = f"Under corruptions, accuracy is {mean} instead of {clean}; {worst} hurts most."
        yield "look", sentence, "robustness"
    better = [
        view
        for view in summary["views"] or []
        if view["views"] != "none" and view["change"]["low"] > 0
    ]
    if better:
        best = max(better, key=lambda view: view["accuracy"])
        points = 100 * best["change"]["difference"]
        sentence = f"Averaging over the views {best['views']} adds {points:.1f} points."
        yield "good", sentence, "views"
