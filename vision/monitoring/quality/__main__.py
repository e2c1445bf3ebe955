"""How good is a model on the requests that it gets, and has it become worse?

    python -m vision.monitoring.quality --bundle models/pets/3 --log predictions --out quality \\
        --labels labels.csv
    python -m vision.monitoring.quality --bundle models/pets/3 --log predictions --out quality \\
        --labels labels/ --window 7d --strict
    python -m vision.monitoring.quality --bundle models/pets/3 --log predictions \\
        --labels labels/ --listen 127.0.0.1:9109 --every 60

Joins late labels to the server's --prediction-log by request ID: .csv, .tsv or .parquet files with
the columns id and label and, if needed, image (its index in the request) and time (when the label
came). Each window of rows or of time gets the accuracy, each class's recall and the calibration
error, with 95 % intervals, and an estimate of the accuracy from confidence alone, which is all that
you get without --labels. A window raises an alarm if the accuracy or a recall is lower than on the
bundle's own validation images and the drop is not due to chance, by Fisher's exact test corrected
for the number of classes. Label images that are chosen at random.

Writes report.html and quality.json into --out; if anything fails, --out keeps its old contents.
With --strict, the exit code is 1 if the latest window with enough labels raises an alarm. With
--listen, it keeps running, checks every --every seconds, and serves the result to Prometheus at
/metrics.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from vision import cli
from vision.config.flags import parse_stage
from vision.errors import RunError, UserError, check_count, check_range
from vision.reference.quality import ESTIMATORS
from vision.support.extras import require, require_stage

MOST_WINDOWS = 10_000
MOST_LABELS = 1_000_000_000


def main(argv: Sequence[str]) -> None:
    _, values, words = parse_stage(argv, __doc__, _flags)
    _check(values, words)
    require_stage("the report", "quality")
    from vision.monitoring.quality import analysis, report
    from vision.monitoring.quality.decay import Limits
    from vision.monitoring.windows import parse_span

    least_labels = getattr(values, "least-labels")
    request = analysis.Request(
        bundle=pathlib.Path(values.bundle),
        log=pathlib.Path(values.log),
        labels=pathlib.Path(values.labels) if values.labels else None,
        window=values.window,
        span=parse_span(values.window),
        history=values.history,
        limits=Limits(values.alpha, values.effect, least_labels),
        new_classes=[name for name in getattr(values, "new-classes").split(",") if name],
    )

    def look(show=cli.show):
        """Looks once, and writes the report if it is wanted."""
        result = analysis.analyze(request, show)
        if values.out:
            report.write(pathlib.Path(values.out), result)
        return result.record

    if values.listen:
        _listen(values, request, look)
        return
    record = look()
    cli.show(*describe(record), f"{values.out}/report.html, quality.json")
    if values.strict and record["alarm"]:
        names = [
            f"{version['model']}/{version['version']} {_measure(alarm)}"
            for version in record["versions"]
            for alarm in version["alarms"]
        ]
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        raise RunError(f"quality has decayed: {', '.join(names[:10])}{more}")


def _listen(values, request, look):
    """Shows Prometheus the quality, until the process gets a signal."""
    require("--listen", "monitoring", only=("prometheus_client",))
    from vision.monitoring.quality import exporter
    from vision.monitoring.quality.analysis import read_quality, signature

    address = exporter.parse_address(values.listen)
    read_quality(request.bundle)  # only what another look may change is tried again
    last: dict[str, Any] = {}

    def look_if_changed():
        state = signature(request)
        if state != last.get("signature"):
            last["record"] = look(lambda line: None)
            last["signature"] = state
        return last["record"]

    exporter.listen(address, values.every, look_if_changed, cli.show)


def describe(record: dict[str, Any]) -> list[str]:
    """Returns what quality.json says, in a few lines."""
    lines = [f"{record['rows']:,} rows of this model, {record['other_rows']:,} of others; "]
    labels = record["labels"]
    if labels is None:
        lines[0] += "no labels, so the accuracy is only estimated and nothing alarms"
    else:
        lines[0] += (
            f"{labels['images']:,} labels, {labels['not_in_log']:,} of them for requests that are "
            f"not in the log, {labels['empty']:,} more are empty"
        )
        if labels["of_new_classes"]:
            lines[0] += f"; {labels['of_new_classes']:,} of classes that the model does not have"
    for version in record["versions"]:
        lines += _describe_version(version, record)
    return lines


def _describe_version(version, record):
    name = f"{version['model']}/{version['version']}"
    windows = version["windows"]
    expected = record["reference"]["accuracy"]
    if version["latest"] is None:
        last = windows[-1]
        lines = [f"{name}: latest window, {_when(last)}: accuracy {expected:.1%} when exported"]
        if record["labels"] is not None:
            lines.append(
                f"  no window has {record['limits']['labels']:,} labels, this one has "
                f"{last['labels']:,}: give a longer --window, or more labels"
            )
    else:
        last = windows[version["latest"]]
        accuracy = last["accuracy"]
        state = "decay" if version["alarm"] else "no decay"
        lines = [
            f"{name}: latest window with labels, {_when(last)}, {last['labels']:,} labels: {state}",
            f"  accuracy {_range(accuracy)}, {expected:.1%} when exported; calibration error "
            f"{_range(last['calibration']['error'])}",
        ]
    for alarm in version["alarms"]:
        lines.append(
            f"  {_measure(alarm)} since {alarm['since']}: {_range(alarm)}, "
            f"{alarm['expected']:.1%} when exported, p {alarm['adjusted']:.2g}"
        )
    estimates = ", ".join(f"{ESTIMATORS[k]} {value:.1%}" for k, value in last["estimates"].items())
    lines.append(f"  estimated without labels: {estimates}")
    if version["repeated_labels"]:
        lines.append(
            f"  note: {version['repeated_labels']:,} answers share the label of another answer: "
            "request identifiers must be unique"
        )
    if version["estimators"]:
        errors = ", ".join(
            f"{ESTIMATORS[k]} {100 * value:.1f}" for k, value in version["estimators"].items()
        )
        lines.append(f"  points off the truth, on average: {errors}")
    return lines


def _when(window):
    return f"{window['start']} to {window['end']}, {window['rows']:,} rows"


def _range(share):
    return f"{share['value']:.1%} ({share['low']:.1%} to {share['high']:.1%})"


def _measure(alarm):
    return "accuracy" if alarm["measure"] == "accuracy" else f"recall of {alarm['class']}"


def _check(values, words):
    """Raises `UserError` if a flag is missing or out of range."""
    if words:
        raise UserError(f"unexpected argument '{words[0]}': flags start with --")
    for name, meaning in (
        ("bundle", "DIRECTORY, the bundle that was served"),
        ("log", "DIRECTORY, the server's --prediction-log"),
        ("out", "DIRECTORY to write to"),
    ):
        if not values[name].value and not (name == "out" and values.listen):
            raise UserError(f"give --{name} {meaning}")
    if values.listen and values.strict:
        raise UserError("--strict looks once, and --listen keeps looking: give only one of them")
    check_count("--history", values.history, 1, MOST_WINDOWS)
    check_count("--least-labels", values["least-labels"].value, 10, MOST_LABELS)
    check_range("--alpha", values.alpha, 1e-6 <= values.alpha <= 0.5, "in [0.000001, 0.5]")
    check_range("--effect", values.effect, 0 <= values.effect <= 1, "in [0, 1]")
    check_range("--every", values.every, 1 <= values.every <= 86_400, "in [1, 86,400]")


def _flags(values):
    def text(name, default, meaning):
        flags.DEFINE_string(name, default, meaning, flag_values=values)

    def number(name, default, meaning):
        flags.DEFINE_float(name, default, meaning, flag_values=values)

    text("bundle", "", "directory of the bundle that was served")
    text("log", "", "directory of the server's --prediction-log")
    text("labels", "", "file of labels (.csv, .tsv or .parquet) or a folder; none: estimates only")
    text(
        "new-classes",
        "",
        "A,B,...: classes in the labels that the bundle lacks; its answers to them are wrong",
    )
    text("window", "1000", "rows in a window, or a time such as 30m, 1h or 7d")
    text("out", "", "directory to write report.html and quality.json to")
    text("listen", "", "ADDRESS:PORT to serve Prometheus metrics at, such as 127.0.0.1:9109")
    number("every", 60.0, "seconds between checks, with --listen")
    number("alpha", 0.01, "maximum chance of a false alarm in a window")
    number("effect", 0.02, "minimum drop in accuracy or recall that raises an alarm")
    flags.DEFINE_integer("history", 50, "number of latest windows to check", flag_values=values)
    flags.DEFINE_integer(
        "least-labels", 100, "labels that a window needs to raise an alarm", flag_values=values
    )
    flags.DEFINE_bool(
        "strict",
        False,
        "exit with 1 if the latest window with labels raises an alarm",
        flag_values=values,
    )


if __name__ == "__main__":
    cli.run(main, outlives_output=True)
