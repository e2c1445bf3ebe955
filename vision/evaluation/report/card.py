"""MODEL_CARD.md: what a model is for, how good it is, where it fails, how it was made. Mitchell et
al. 2019 (arXiv:1810.03993)."""

import json
import pathlib

from vision.evaluation.report.words import METRICS, amount, verdicts

WORST = 5  # classes and slices that are listed


def text(found, c, workdir=""):
    """Returns a model card in Markdown.

    Args:
        found: `vision.evaluation.evaluate.Evaluation`.
        c: config.evaluation.
        workdir: the run's directory, whose result.json says how it was made; "" = none.
    """
    summary = found.summary
    model = found.summary["model"]
    data = summary["data"]
    config = found.classifier.config
    lines = [
        f"# {model['name']} {model['variant']}, {_cell(config.data.source or data['source'])}",
        "",
        f"Classifies images, {_channels(found.classifier.channels)}, {model['image_size']} x {model['image_size']} px, "
        f"into {len(data['classes']):,} classes: {_some(data['classes'])}.",
        "",
        f"License: {c.license or 'not stated (set evaluation.license)'}.",
        "",
        "## How good it is",
        "",
        f"Measured on {data['images']:,} images: {_cell(data['source'])}, {data['split']}. {summary['date'][:10]}, "
        f"{summary['device']}. In brackets 95 % bootstrap intervals.",
        "",
        "| metric | value |",
        "|---|---|",
        *(
            f"| {title} | {amount(summary['metrics'][k], share)} |"
            for k, (title, share) in METRICS.items()
        ),
        f"| Expected calibration error | {amount(summary['calibration']['plain']['ece'], True)} |",
        *_scaled(summary["calibration"]),
        "",
        "## Where it fails",
        "",
        *(
            f"- {_cell(sentence)}"
            for state, sentence, _ in verdicts(summary, found.sure_errors)
            if state != "good"
        ),
        "",
        *_weakest(summary),
        "It was made for these classes alone, and gives one of them to any picture, of whatever it is. On images from "
        "elsewhere than those that it was measured on it may do worse.",
        "",
        "## How it was made",
        "",
        *_made(found.classifier, workdir),
        "",
    ]
    return "\n".join(lines)


def _scaled(calibration):
    if calibration["temperature"] is None:
        return []
    ece = amount(calibration["scaled"]["ece"], True)
    return [f"| The same with temperature {calibration['temperature']:.3f} | {ece} |"]


def _weakest(summary):
    """Returns tables of the weakest classes and slices."""
    held = sorted(
        (one for one in summary["per_class"] if one["support"]),
        key=lambda one: one["recall"]["value"],
    )
    lines = ["| weakest classes | images | recall | precision |", "|---|---|---|---|"]
    for one in held[:WORST]:
        numbers = " | ".join(amount(one[key], True) for key in ("recall", "precision"))
        lines.append(f"| {_cell(one['class'])} | {one['support']:,} | {numbers} |")
    lines.append("")
    if summary["slices"]:
        lines += ["| weakest slices | images | accuracy |", "|---|---|---|"]
        for one in summary["slices"][:WORST]:
            share = amount(one["accuracy"], True)
            lines.append(
                f"| {_cell(one['by'])}: {_cell(one['slice'])} | {one['images']:,} | {share} |"
            )
        lines.append("")
    return lines


def _made(classifier, workdir):
    """Returns what a run's files, or a bundle's config, say of its training; of weights only where
    they are from."""
    config = classifier.config
    if not config.data.source:
        return ["- the bundle does not say"]
    if not workdir and classifier.model is not None:
        return [f"- weights from {_cell(config.model.pretrained)}, not trained further"]
    start = f", from {_cell(config.model.pretrained)}" if config.model.pretrained else ""
    t = config.train
    o = config.optimizer
    length = f"{t.steps:,} steps" if t.steps else f"{t.epochs:g} epochs"
    lines = [f"- trained on {_cell(config.data.source)}{start}"]
    lines.append(
        f"- {o.name}, rate {o.learning_rate:g}, {config.schedule.name}, batches of {t.batch_size}, {length}"
    )
    file = pathlib.Path(workdir, "result.json")
    return [*lines, *_result(json.loads(file.read_text()))] if workdir and file.is_file() else lines


def _result(result):
    """Returns what a run's result.json says."""
    sizes = ", ".join(f"{n:,} {name}" for name, n in result["split_sizes"].items())
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return [
        f"- images: {sizes}",
        f"- parameters: {result['parameters']['all']:,}, of which {result['parameters']['learning']:,} learned",
        f"- {result['steps']:,} steps, best at {result['best_step']:,}; {result['train_seconds']:,.0f} s on "
        f"{result['device']}, {result['date'][:10]}",
        f"- code {result['git_commit'] or 'outside a checkout'}, {versions}",
    ]


def _channels(count):
    return "gray" if count == 1 else "in color"


def _some(classes):
    shown = ", ".join(map(_cell, classes[:20]))
    return shown + (f" and {len(classes) - 20:,} more" if len(classes) > 20 else "")


def _cell(value):
    """Returns a text that does not end a table's cell or begin HTML."""
    return str(value).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
