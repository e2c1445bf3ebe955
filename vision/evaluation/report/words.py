"""What an evaluation found, in sentences."""

# metrics.json's names, what people call them, and whether they are shares.
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
FEW = 300  # images of a split below which intervals are wide
ENOUGH = 10  # images of a class below which nothing is said of it
GAP = 0.05  # between confidence and accuracy, from which it is told
SURE = 0.9  # confidence of an error that is told


def amount(metric, share):
    """Returns "97.8 % (96.4 to 98.9)" or "0.123 (0.100 to 0.150)" of {"value", "low", "high"};
    "undefined" for None."""
    value = metric["value"] if isinstance(metric, dict) else metric
    if value is None:
        return "undefined"
    form = (lambda x: f"{100 * x:.1f}") if share else (lambda x: f"{x:.4g}")
    text = form(value) + (" %" if share else "")
    low, high = (
        (metric.get(k) for k in ("low", "high")) if isinstance(metric, dict) else (None, None)
    )
    return text if low is None else f"{text} ({form(low)} to {form(high)})"


def images(count):
    """Returns "1 image", "2,000 images"."""
    return f"{count:,} image{'' if count == 1 else 's'}"


def _percent(share):
    return f"{100 * share:.1f} %"


def verdicts(summary, sure_errors):
    """Returns [(state, sentence, section of the page)], the most urgent first; a state is "bad",
    "look" or "good".

    Args:
        summary: what metrics.json says.
        sure_errors: errors with a confidence above `SURE`.
    """
    parts = (_data, _classes, _confidence, _slices, _passes)
    lines = [line for part in parts for line in part(summary)]
    if sure_errors:
        lines.append(
            (
                "look",
                f"Errors with a confidence above {100 * SURE:.0f} %: {sure_errors:,}.",
                "errors",
            )
        )
    order = ("bad", "look", "good")
    return sorted(lines, key=lambda line: order.index(line[0]))


def _data(summary):
    data = summary["data"]
    absent = [one["class"] for one in summary["per_class"] if not one["support"]]
    if data["unreadable"]:
        yield (
            "bad",
            f"Images that cannot be read, and are not counted here: {data['unreadable']:,}.",
            "metrics",
        )
    if absent:
        some = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        yield (
            "look",
            f"Classes without any image here, of which nothing is known: {len(absent):,} ({some}).",
            "classes",
        )
    if data["images"] < FEW:
        yield (
            "look",
            f"Only {images(data['images'])}: the intervals say how little that tells.",
            "metrics",
        )
    if data["learned_from"]:
        yield (
            "look",
            "The model has learned from these images, or some: new ones will do worse.",
            "metrics",
        )


def _classes(summary):
    held = [one for one in summary["per_class"] if one["support"]]
    many = [one for one in held if one["support"] >= ENOUGH]
    worst = min(many or held, key=lambda one: one["recall"]["value"])
    accuracy = summary["metrics"]["accuracy"]
    if many and worst["recall"].get("high", worst["recall"]["value"]) < accuracy["value"]:
        share = amount(worst["recall"], True)
        yield (
            "look",
            f"The weakest class is {worst['class']}: right on {share} of {worst['support']:,}.",
            "classes",
        )
    if summary["confused_pairs"]:
        pair = summary["confused_pairs"][0]
        said = f"Most often, {pair['true']} is taken for {pair['predicted']}: {images(pair['images'])}."
        yield "look", said, "pairs"
    else:
        yield "good", "No image is classified wrongly.", "metrics"


def _confidence(summary):
    plain = summary["calibration"]["plain"]
    scaled = summary["calibration"].get("scaled")
    accuracy = summary["metrics"]["accuracy"]["value"]
    confidence = plain["mean_confidence"]
    gap = confidence - accuracy
    said = f"The model is {_percent(confidence)} sure on average, and right on {_percent(accuracy)}"
    if plain["ece"]["value"] < GAP:
        yield (
            "good",
            f"{said}: its confidence can be believed (ECE {_percent(plain['ece']['value'])}).",
            "calibration",
        )
        return
    kind = (
        "overconfident"
        if gap > 0.01
        else "underconfident"
        if gap < -0.01
        else "wrong in both directions"
    )
    mended = ""
    if scaled and scaled["ece"]["value"] < plain["ece"]["value"]:
        mended = f" A temperature lowers that to {_percent(scaled['ece']['value'])}."
    yield (
        "look",
        f"{said}: it is {kind}, ECE {_percent(plain['ece']['value'])}.{mended}",
        "calibration",
    )


def _slices(summary):
    accuracy = summary["metrics"]["accuracy"]
    if not summary["slices"]:
        return
    worst = summary["slices"][0]
    if worst["accuracy"]["high"] < accuracy.get("low", accuracy["value"]):
        share = amount(worst["accuracy"], True)
        yield (
            "look",
            f"Weakest where {worst['by']} is {worst['slice']}: {share} of {worst['images']:,}.",
            "slices",
        )


def _passes(summary):
    found = summary["robustness"]
    if found:
        worst = min(found["corruptions"], key=lambda name: sum(found["corruptions"][name]))
        mean = found["mean_corruption_accuracy"]
        clean = _percent(found["clean_accuracy"])
        worst = worst.replace("_", " ")
        said = f"Under corruptions {_percent(mean)} stay of {clean}; {worst} hurts most."
        yield "look", said, "robustness"
    better = [
        one for one in summary["views"] or [] if one["views"] != "none" and one["change"]["low"] > 0
    ]
    if better:
        best = max(better, key=lambda one: one["accuracy"])
        said = f"Averaging over the views {best['views']} adds {100 * best['change']['difference']:.1f} points."
        yield "good", said, "views"
