"""Is a new version of a model better than the old one? Plans and analyzes an A/B test.

    python -m vision.monitoring.abtest plan --baseline 0.9 --effect 0.01 --traffic 5000
    python -m vision.monitoring.abtest plan --deviation 40 --effect=-5 --split 90:10
    python -m vision.monitoring.abtest analyze --log predictions --model pets --old 3 --new 4 \\
        --labels labels.csv --out abtest
    python -m vision.monitoring.abtest analyze --log predictions --model pets --old 3 --new 4 \\
        --labels labels.csv --table requests.csv --guardrail=latency:5 --sequential --out abtest

`plan` prints how many requests you need for an effect and a power: in a share, such as an accuracy
(--baseline), or in a mean (--deviation). `analyze` compares the answers of two versions in the
server's --prediction-log. The measure is accuracy, a column of the log, such as confidence, or one
of --table, a CSV or Parquet file by request (column id). --effect is the difference that matters;
its sign says which direction is better. --guardrail MEASURE:MARGIN, which may be repeated, is a
measure that must not fall below the old version's by more than the margin (-0.01) or rise above it
by more (5). --covariate, a value known before the answer, makes the test more sensitive (CUPED);
only you can tell whether a column of --table qualifies. With --sequential, you may repeat the
analysis as often as you like. Shadow answers are compared image by image with the returned ones.

Writes report.html and abtest.json into --out and prints ship, keep or continue. If anything fails,
--out keeps its old contents.
"""

import datetime
import math
import pathlib
from collections.abc import Callable, Sequence

from absl import flags

from vision import cli
from vision.config.flags import parse_stage
from vision.errors import UserError, check_choice, check_count, check_range
from vision.monitoring.abtest.moments import LARGEST
from vision.support.extras import require_stage

COMMANDS = ("plan", "analyze")
DEFAULT_EFFECT = 0.01
RATES = ("accuracy", "confidence")  # whose effect has a default
MOST_PLANNED = 10**12
MOST_IMAGES = 1_000_000


def main(argv: Sequence[str]) -> None:
    _, values, words = parse_stage(argv, __doc__, _flags)
    command, *others = words or [""]
    check_choice("the command", command, COMMANDS, ": python -m vision.monitoring.abtest COMMAND")
    if others:
        raise UserError(f"unexpected argument '{others[0]}': flags start with --")
    check_range("--alpha", values.alpha, 1e-6 <= values.alpha <= 0.5, "in [0.000001, 0.5]")
    check_range("--power", values.power, 0.5 <= values.power <= 0.999, "in [0.5, 0.999]")
    commands: dict[str, Callable[..., None]] = {"plan": _plan, "analyze": _analyze}
    commands[command](values)


def _plan(values):
    require_stage("the plan", "abtest")
    from vision.monitoring.abtest import describe, planning

    if (values.baseline is None) == (values.deviation is None):
        raise UserError(
            "give --baseline, the old version's share (such as an accuracy of 0.9), or "
            "--deviation, the standard deviation of a measure"
        )
    effect = _effect(values.effect if values.effect is not None else DEFAULT_EFFECT)
    _check_plan(values)
    share_new = _shares(values.split)[1]
    test = (effect, share_new, values.alpha, values.power)
    if values.baseline is not None:
        rows = planning.proportion_rows(values.baseline, *test)
        what = f"a share of {values.baseline:g} or {values.baseline + effect:g}"
    else:
        rows = planning.mean_rows(values.deviation, *test)
        what = f"a mean that differs by {effect:g}, standard deviation {values.deviation:g}"
    plan = planning.plan(rows, values.alpha, values.power, values.images, values.correlation)
    cli.show(*describe.plan(plan, what, values.alpha, values.power, values.traffic))


def _check_plan(values):
    """Raises `UserError` if a flag of `plan` is out of range."""
    traffic = values.traffic
    is_traffic = traffic == 0 or 1 <= traffic < math.inf
    check_range("--traffic", traffic, is_traffic, "at least 1, or 0 if it is not known")
    is_count = 1 <= values.images <= MOST_IMAGES
    check_range("--images", values.images, is_count, f"from 1 to {MOST_IMAGES:,}")
    correlation = values.correlation
    check_range("--correlation", correlation, 0 <= correlation <= 1, "in [0, 1]")
    if values.baseline is not None:
        check_range("--baseline", values.baseline, 0 < values.baseline < 1, "in (0, 1)")
    else:
        deviation = values.deviation
        check_range("--deviation", deviation, 0 < deviation < math.inf, "above 0, finite")


def _analyze(values):
    _check(values)
    require_stage("the analysis", "abtest")
    from vision.monitoring.abtest import analysis, describe, report
    from vision.monitoring.abtest.answers import Window
    from vision.monitoring.abtest.request import Request

    request = Request(
        log=pathlib.Path(values.log),
        model=values.model,
        old=values.old,
        new=values.new,
        labels=pathlib.Path(values.labels) if values.labels else None,
        table=pathlib.Path(values.table) if values.table else None,
        measure=values.measure,
        effect=_measure_effect(values),
        guardrails=tuple(map(_guardrail, values.guardrail)),
        covariate=values.covariate,
        unit=values.unit,
        shares=_shares(values.split),
        alpha=values.alpha,
        power=values.power,
        planned=values.planned,
        is_sequential=values.sequential,
        window=Window(_moment(values, "since", -math.inf), _moment(values, "until", math.inf)),
    )
    if request.window.since >= request.window.until:
        raise UserError(f"--since {values.since} must be before --until {values.until}")
    record = analysis.analyze(request, cli.show)
    report.write(pathlib.Path(values.out), record)
    cli.show(*describe.verdict(record), f"{values.out}/report.html, abtest.json")


def _check(values):
    """Raises `UserError` if a flag is missing or out of range."""
    for name, meaning in (
        ("log", "DIRECTORY, the server's --prediction-log"),
        ("model", "NAME of the model"),
        ("old", "VERSION that is compared with"),
        ("new", "VERSION that is tried"),
        ("out", "DIRECTORY to write to"),
    ):
        if not values[name].value:
            raise UserError(f"give --{name} {meaning}")
    if values.old == values.new:
        raise UserError(f"--old and --new are both {values.old}: give two versions")
    if values.unit and not values.table:
        raise UserError("--unit is a column of --table: give --table FILE too")
    check_count("--planned", values.planned, 0, MOST_PLANNED)


def _measure_effect(values):
    if values.effect is not None:
        return _effect(values.effect)
    if values.measure in RATES:
        return DEFAULT_EFFECT
    raise UserError(
        f"give --effect, the difference of {values.measure} that matters: above 0 if more is "
        "better, below 0 (--effect=-5) if less is"
    )


def _effect(effect):
    is_number = 1e-12 <= abs(effect) <= LARGEST
    check_range("--effect", effect, is_number, f"a number other than 0, at most {LARGEST:g}")
    return effect


def _shares(text):
    """Returns the (old, new) shares of "50:50", or of "0.5:0.5"; their sum is 1."""
    parts = text.split(":")
    try:
        old, new = map(float, parts)
    except ValueError:
        old = new = math.nan
    total = old + new
    is_split = any(abs(total - wanted) <= 0.01 * wanted for wanted in (1, 100))
    if not (is_split and old > 0 and new > 0):
        raise UserError(
            f"--split must be the versions' shares OLD:NEW, such as 90:10, which sum to 100, got "
            f"{text}: if there are more versions, give the shares among these two"
        )
    return old / total, new / total


def _guardrail(text):
    """Returns (name, margin) of "latency:5"."""
    name, _, margin = text.rpartition(":")
    try:
        value = float(margin)
    except ValueError:
        value = math.nan
    if not name or not 0 < abs(value) <= LARGEST:
        raise UserError(
            f"--guardrail must be MEASURE:MARGIN, such as latency:5 (it may rise by 5) or "
            f"accuracy:-0.01 (it may fall by 0.01), got {text}"
        )
    return name, value


def _moment(values, name, default):
    text = values[name].value
    if not text:
        return default
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(
            f"--{name} must be a time in ISO 8601, such as 2026-11-01T08:00, got {text}"
        ) from error
    return (time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp()


def _flags(values):
    def text(name, default, meaning):
        flags.DEFINE_string(name, default, meaning, flag_values=values)

    def number(name, default, meaning):
        flags.DEFINE_float(name, default, meaning, flag_values=values)

    number("alpha", 0.05, "chance of a false positive")
    number("power", 0.8, "chance of detecting --effect")
    number("effect", None, "difference that matters; negative if less is better; shares: 0.01")
    text("split", "50:50", "shares of the traffic, OLD:NEW")
    number("baseline", None, "plan: the old version's share, such as its accuracy")
    number("deviation", None, "plan: standard deviation of a measure")
    number("traffic", 0.0, "plan: requests per day that the two versions answer")
    number("images", 1.0, "plan: average number of images per request")
    number("correlation", 0.0, "plan: correlation between two images of a request")
    text("log", "", "analyze: directory of the server's --prediction-log")
    text("model", "", "analyze: name of the model")
    text("old", "", "analyze: version to compare with")
    text("new", "", "analyze: version to test")
    text("labels", "", "analyze: file or folder of labels: docs/monitoring.md")
    text("table", "", "analyze: CSV or Parquet file of columns by request (column id)")
    text("measure", "accuracy", "analyze: what decides: accuracy, or a column of log or table")
    text("covariate", "", "analyze: column for CUPED, known before the answer")
    text("unit", "", "analyze: column of --table that the traffic is split by, such as user")
    flags.DEFINE_multi_string(
        "guardrail", [], "analyze: MEASURE:MARGIN; may be repeated", flag_values=values
    )
    flags.DEFINE_bool(
        "sequential", False, "analyze: a test to repeat at any time", flag_values=values
    )
    flags.DEFINE_integer(
        "planned",
        0,
        "analyze: planned number of requests; 0 = what --effect and --power need",
        flag_values=values,
    )
    text("since", "", "analyze: use answers from this time on, ISO 8601, UTC")
    text("until", "", "analyze: use answers before this time")
    text("out", "", "analyze: directory to write report.html and abtest.json to")


if __name__ == "__main__":
    cli.run(main, outlives_output=True)
