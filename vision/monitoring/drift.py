"""Have the requests to a model changed since it was trained?

    python -m vision.monitoring.drift --bundle models/pets/3 --log predictions --out drift
    python -m vision.monitoring.drift --bundle models/pets/3 --log predictions --out drift \\
        --window 1h --strict

Compares windows of the server's --prediction-log with the reference in the bundle: what the images
look like (brightness, contrast, sharpness, colors, shape, size), how sure the model is, which
classes it predicts, and a sketch of its embeddings. A window is a number of rows or a time (30m,
1h, 7d). A feature raises an alarm if the difference is not due to chance, by a permutation test
corrected for the number of features, and is large: --effect, or a KL divergence of --kl.

Writes report.html and drift.json into --out; if anything fails, --out keeps its old contents. With
--strict, the exit code is 1 if the latest window raises an alarm.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from vision import cli
from vision.config.flags import parse_stage
from vision.errors import RunError, UserError, check_count, check_range
from vision.support.extras import require_stage

MOST_WINDOWS = 10_000


def main(argv: Sequence[str]) -> None:
    _, values, words = parse_stage(argv, __doc__, _flags)
    _check(values, words)
    require_stage("the report", "drift")
    from vision.monitoring import analysis, report
    from vision.monitoring.windows import parse_span
    from vision.reference.verdict import Limits

    request = analysis.Request(
        bundle=pathlib.Path(values.bundle),
        log=pathlib.Path(values.log),
        window=values.window,
        span=parse_span(values.window),
        history=values.history,
        limits=Limits(values.alpha, values.kl, values.effect),
    )
    result = analysis.analyze(request, cli.show)
    report.write(pathlib.Path(values.out), result)
    cli.show(*describe(result.record), f"{values.out}/report.html, drift.json")
    if values.strict and result.record["alarm"]:
        names = ", ".join(alarm["feature"] for alarm in result.record["alarms"])
        raise RunError(f"the latest window has drifted: {names}")


def describe(record: dict[str, Any]) -> list[str]:
    """Returns what drift.json says, in a few lines."""
    windows = record["windows"]
    last = windows[-1]
    alarming = sum(window["alarm"] for window in windows)
    lines = [
        f"{record['rows']:,} rows of this model, {record['other_rows']:,} of others; "
        f"drift in {alarming} of the latest {len(windows)} windows of {record['window']}",
        f"latest window, {last['start']} to {last['end']}, {last['rows']:,} rows: "
        + ("drift" if last["alarm"] else "no drift"),
    ]
    for alarm in record["alarms"]:
        kl = f"KL {alarm['kl']:.3g}, " if "kl" in alarm else ""
        lines.append(
            f"  {alarm['feature']} since {alarm['since']}: {kl}{alarm['test']} "
            f"{alarm['effect']:.3g}, p {alarm['adjusted']:.2g}"
        )
    for change in last["classes"]:
        lines.append(
            f"  {change['class']}: {change['expected']:.1%} of the answers before, "
            f"{change['share']:.1%} now"
        )
    return lines


def _check(values, words):
    """Raises `UserError` if a flag is missing or out of range."""
    if words:
        raise UserError(f"unexpected argument '{words[0]}': flags start with --")
    for name, meaning in (
        ("bundle", "DIRECTORY, the bundle that was served"),
        ("log", "DIRECTORY, the server's --prediction-log"),
        ("out", "DIRECTORY to write to"),
    ):
        if not values[name].value:
            raise UserError(f"give --{name} {meaning}")
    check_count("--history", values.history, 1, MOST_WINDOWS)
    check_range("--alpha", values.alpha, 1e-3 <= values.alpha <= 0.5, "in [0.001, 0.5]")
    check_range("--kl", values.kl, values.kl > 0, "above 0")
    check_range("--effect", values.effect, 0 <= values.effect <= 1, "in [0, 1]")


def _flags(values):
    def text(name, default, meaning):
        flags.DEFINE_string(name, default, meaning, flag_values=values)

    text("bundle", "", "directory of the bundle that was served")
    text("log", "", "directory of the server's --prediction-log")
    text("window", "1000", "rows in a window, or a time such as 30m, 1h or 7d")
    text("out", "", "directory to write report.html and drift.json to")
    flags.DEFINE_integer("history", 50, "number of latest windows to compare", flag_values=values)
    flags.DEFINE_float(
        "alpha", 0.01, "maximum chance of a false alarm in a window", flag_values=values
    )
    flags.DEFINE_float(
        "kl", 0.2, "KL divergence that raises an alarm, if not due to chance", flag_values=values
    )
    flags.DEFINE_float(
        "effect",
        0.1,
        "Kolmogorov-Smirnov or total variation distance that does so",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "strict", False, "exit with 1 if the latest window raises an alarm", flag_values=values
    )


if __name__ == "__main__":
    cli.run(main, outlives_output=True)
