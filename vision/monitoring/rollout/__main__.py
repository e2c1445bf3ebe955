"""Shifts traffic to a new version of a model step by step, and rolls it back if it is worse.

    python -m vision.monitoring.rollout --models models --model pets --to 4 \\
        --server http://127.0.0.1:8080 --out rollout
    python -m vision.monitoring.rollout --models models --model pets --from 3 --to 4 \\
        --steps 1,5,25,100 --server http://10.0.0.1:8080,http://10.0.0.2:8080 \\
        --log predictions --labels labels --window 1h --out rollout
    python -m vision.monitoring.rollout ... --dry-run
    python -m vision.monitoring.rollout --model pets --from 3 --to 4 --manifest argo

Writes the model's traffic.json, which its servers follow: docs/serving.md. A step ends when its
--window (requests to the new version, or a time) is over and no guardrail is broken: the share of
requests that fail (--errors), p99 (--p99), drift that only the new version has, answers that differ
(--disagreement, with --log), accuracy (--accuracy, with --labels). If a test that stays valid
however often you look shows that one is broken, the new version's weight becomes 0.

If there is no way to tell, because a server is down, a version is not ready or a clock was set, the
weight stays and --webhook gets a message. If the command is killed, repeat it to continue. --out
gets rollout.json and report.html.

Exit codes: 0, the new version has all of the traffic; 1, it was rolled back; 2, a mistake; 3, for
--patience there was no way to tell or no traffic, or a file could not be written.
"""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from vision import cli
from vision.config.flags import parse_stage
from vision.errors import RunError, UserError, check_choice, check_count, check_range, printable
from vision.support import disk
from vision.support.extras import require_stage
from vision.support.files import make_directory
from vision.support.lock import locked
from vision.support.progress import quiet
from vision.support.reading import read_text

STUCK = 3  # exit code
MANIFESTS = ("argo", "kserve")
LOCK = ".rollout.lock"


def main(argv: Sequence[str]) -> None:
    _, values, words = parse_stage(argv, __doc__, _flags)
    _check(values, words)
    require_stage("a rollout", "rollout")
    from vision.monitoring.rollout import controller, start, state
    from vision.monitoring.rollout.places import Pace

    plan = _plan(values)
    if values.manifest:
        from vision.monitoring.rollout import manifests

        print(manifests.write(values.manifest, plan, values.prometheus), end="")
        return
    places = _places(values, plan)
    out = places.out
    with contextlib.ExitStack() as stack:
        if not values["dry-run"].value:
            stack.enter_context(locked(places.folder, f"--model {plan.model}:", LOCK))
            stack.enter_context(locked(out))
        progress = state.load(out, plan)
        is_new = progress is None
        plan = _with_old(plan, places, progress)
        if progress is None:
            progress = start.begin(plan, places, start.ask_all(places, plan.model))
        plan = _readable(plan, places)
        pace = Pace(values.interval, values.settle, values.patience)
        rollout = controller.Controller(plan, places, pace, progress, cli.show)
        if values["dry-run"].value:
            cli.show(*_describe(rollout, is_new))
            return
        _run(rollout, is_new)


def _run(rollout, is_new):
    """Runs a rollout to its end; raises `RunError` if it was rolled back."""
    progress = rollout.state
    plan = rollout.plan
    out = rollout.places.out
    failure = ""
    try:
        if progress.is_final:
            rollout.follow_weights()  # a kill may have come before they were written
        else:
            if not is_new:
                cli.show(f"continues at {progress.weight:g} % of the traffic")
            make_directory(out)
            with quiet():  # for days; each decision is a line
                rollout.run()
    except (OSError, RunError) as error:
        failure = str(error if isinstance(error, RunError) else disk.failed(f"--out {out}", error))
        rollout.alert("error", failure)
    if progress.status == "rolled back" and progress.before is None:
        reason = f"version {plan.new} of {plan.model} was rolled back. {progress.reason}"
        raise RunError(f"{reason}\n{failure}".strip())
    if progress.status == "done" and not failure:
        cli.show(f"version {plan.new} has all of the traffic of {plan.model}: {out}/report.html")
        return
    if failure:
        message = f"the rollout stopped: {failure}"
    else:
        message = (
            f"the rollout stays at {progress.weight:g} %: {progress.reason} The same command "
            "continues it"
        )
    print(f"error: {printable(message)}", file=sys.stderr)
    sys.exit(STUCK)


def _describe(rollout, is_new):
    """Returns the plan, and what would be done now, in a few lines."""
    from vision.monitoring.rollout import traffic

    plan = rollout.plan
    progress = rollout.state
    rows, seconds = plan.window
    window = f"{rows:,} requests of version {plan.new}" if rows else f"{seconds:,.0f} seconds"
    limits = "; ".join(f"{name} {_limit(plan, name)}".strip() for name in plan.guards)
    steps = ", ".join(f"{step:g} %" for step in plan.steps)
    lines = [
        f"{plan.model}: from version {plan.old} to {plan.new} by {steps}; a step lasts at least "
        f"{window}, and nothing is decided before {plan.min_answers:,}",
        f"guardrails: {limits}",
    ]
    if progress.is_final:
        return [*lines, f"{progress.status}: {progress.reason}"]
    if is_new:
        return [*lines, f"now: would set the weights {traffic.describe(progress.weights)}"]
    decision = rollout.measure()
    return [*lines, f"now, at {progress.weight:g} %: {decision.action}: {decision.reason}"]


def _limit(plan, name):
    limits = plan.limits
    return {
        "errors": f"at most {limits.errors:.3g} more",
        "p99": f"at most {limits.p99:g} times as long",
        "disagreement": f"at most {limits.disagreement:.3g}",
        "accuracy": f"at most {limits.accuracy:.3g} less",
    }.get(name, "")


def _plan(values):
    """Returns the plan that the flags describe; its old version is "" if a server must be asked."""
    from vision.monitoring.rollout.plan import Limits, Plan, parse_guards, parse_steps
    from vision.monitoring.windows import parse_span

    guards = ["errors", "p99", "drift"]
    guards += ["disagreement"] if values.log else []
    guards += ["accuracy"] if values.labels else []
    names = parse_guards(values.guards or ",".join(guards))
    for name, flag in (("disagreement", "log"), ("accuracy", "labels")):
        if name in names and not values[flag].value and not values.manifest:
            raise UserError(f"--guards {name} needs --{flag}")
    return Plan(
        model=values.model,
        old=values["from"].value,
        new=values.to,
        steps=parse_steps(values.steps),
        window=parse_span(values.window),
        min_answers=values["min-answers"].value,
        min_labels=values["min-labels"].value,
        guards=names,
        limits=Limits(values.errors, values.p99, values.disagreement, values.accuracy),
        alpha=values.alpha,
        mismatch=values.mismatch,
    )


def _places(values, plan):
    """Returns where the rollout reads and writes, checked."""
    from vision.monitoring.label_files import SUFFIXES
    from vision.monitoring.rollout.places import Places
    from vision.monitoring.rollout.server import check_url
    from vision.monitoring.rollout.start import model_folder

    versions = [version for version in (plan.old, plan.new) if version]
    labels = pathlib.Path(values.labels) if values.labels else None
    if labels and not labels.is_dir() and labels.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"--labels {labels} must be a folder that exists, or a file .csv or .parquet"
        )
    if values.webhook:
        check_url(values.webhook, "--webhook")
    return Places(
        folder=model_folder(pathlib.Path(values.models), plan.model, versions),
        servers=[check_url(url.strip()) for url in values.server.split(",")],
        out=pathlib.Path(values.out),
        log=pathlib.Path(values.log) if values.log else None,
        labels=labels,
        key=read_text(values["key-file"].value).strip() if values["key-file"].value else "",
        webhook=values.webhook,
    )


def _with_old(plan, places, progress):
    """Returns the plan with its old version, from the state or else from the servers."""
    from vision.monitoring.rollout import start

    if progress is not None:
        return dataclasses.replace(plan, old=progress.old)
    if plan.old:
        return plan
    reports = start.ask_all(places, plan.model)
    return dataclasses.replace(plan, old=start.old_version(reports, places, plan.model, plan.new))


def _readable(plan, places):
    """Returns the plan without drift if that cannot be read, and says so."""
    from vision.monitoring.rollout import start

    why = start.why_no_drift(plan, places) if "drift" in plan.guards else ""
    if not why:
        return plan
    if plan.guards == ("drift",):
        raise UserError(f"--guards drift cannot be read: {why}")
    cli.show(f"drift cannot be read, so it is not a guardrail: {why}")
    return dataclasses.replace(plan, guards=tuple(name for name in plan.guards if name != "drift"))


def _check(values, words):
    """Raises `UserError` if a flag is missing or out of range."""
    if words:
        raise UserError(f"unexpected argument '{words[0]}': flags start with --")
    needed = [("model", "NAME of the model"), ("to", "VERSION that gets the traffic")]
    if values.manifest:
        check_choice("--manifest", values.manifest, MANIFESTS)
        needed.append(("from", "VERSION that has the traffic"))
    else:
        needed.insert(0, ("models", "DIRECTORY, the server's --models"))
        needed.append(("server", "URL, such as http://127.0.0.1:8080"))
        needed.append(("out", "DIRECTORY to write to"))
    for name, meaning in needed:
        if not values[name].value:
            raise UserError(f"give --{name} {meaning}")
    if values["from"].value == values.to:
        raise UserError(f"--from and --to are both {values.to}: give two versions")
    if values.labels and not values.log:
        raise UserError("--labels needs --log DIRECTORY, which has the labeled requests")
    check_count("--min-answers", values["min-answers"].value, 1, 10**9)
    check_count("--min-labels", values["min-labels"].value, 0, 10**9)
    check_range("--p99", values.p99, 1 <= values.p99 <= 1000, "in [1, 1000]")
    for name in ("errors", "disagreement", "accuracy"):
        limit = values[name].value
        check_range(f"--{name}", limit, 1e-6 <= limit <= 1, "in [0.000001, 1]")
    check_range("--alpha", values.alpha, 1e-6 <= values.alpha <= 0.5, "in [0.000001, 0.5]")
    check_range("--mismatch", values.mismatch, 0 <= values.mismatch <= 0.5, "in [0, 0.5]")
    check_range("--interval", values.interval, 0.05 <= values.interval <= 3600, "in [0.05, 3600]")
    check_range("--settle", values.settle, 0 <= values.settle <= 3600, "in [0, 3600]")
    check_range("--patience", values.patience, 0 < values.patience <= 1e7, "in (0, 10000000]")


def _flags(values):
    def text(name, default, meaning):
        flags.DEFINE_string(name, default, meaning, flag_values=values)

    def number(name, default, meaning):
        flags.DEFINE_float(name, default, meaning, flag_values=values)

    def count(name, default, meaning):
        flags.DEFINE_integer(name, default, meaning, flag_values=values)

    text("models", "", "directory of MODEL/VERSION/ bundles, the server's --models")
    text("model", "", "name of the model")
    text("to", "", "version that gets the traffic")
    text("from", "", "version that has it now; '' = the one that gets most of the requests")
    text("steps", "1,5,25,100", "percentages of the traffic, rising to 100")
    text("server", "", "URL of the server; counts of several, separated by commas, are added up")
    text("key-file", "", "file with the servers' API key")
    text("log", "", "directory of the server's --prediction-log")
    text("labels", "", "file or folder of labels, which may come later: docs/monitoring.md")
    text("window", "1000", "requests to the new version that a step lasts, or a time such as 1h")
    count("min-answers", 200, "requests to the new version before any decision")
    count("min-labels", 100, "labels of its answers before a step ends, with --labels")
    text("guards", "", "of errors, p99, drift, disagreement, accuracy; '' = all that can be read")
    number("errors", 0.01, "allowed rise in the share of requests without an answer")
    number("p99", 2.0, "allowed ratio of the new version's p99 to the old one's")
    number("disagreement", 0.2, "allowed share of different answers, or change in a class's share")
    number("accuracy", 0.02, "allowed drop in accuracy")
    number("alpha", 0.05, "maximum chance of a rollback within the limits, not counting drift")
    number(
        "mismatch",
        0.001,
        "p-value of the traffic split, or of equal label shares, below which the rollout pauses; "
        "0 = never",
    )
    number("interval", 10.0, "seconds between checks")
    number("settle", 5.0, "seconds for servers to follow new weights: more than their --poll")
    number(
        "patience",
        3600.0,
        "seconds without traffic, or in doubt, before it gives up; past a step's window, before it "
        "says what it is waiting for",
    )
    text("webhook", "", "URL that gets a JSON message at each change and alert")
    text("manifest", "", "argo or kserve: print the plan in that form and do nothing")
    text("prometheus", "http://prometheus.monitoring:9090", "for --manifest argo: its address")
    text("out", "", "directory of rollout.json and report.html")
    flags.DEFINE_bool(
        "dry-run", False, "print the plan and what it would do now", flag_values=values
    )


if __name__ == "__main__":
    cli.run(main, outlives_output=True)
