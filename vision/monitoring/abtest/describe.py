"""Plans and verdicts in a few lines, as the command prints them."""

from typing import Any

from vision.monitoring.abtest.outcome import p_text
from vision.monitoring.abtest.planning import Plan


def plan(needs: Plan, what: str, alpha: float, power: float, traffic: float) -> list[str]:
    """Returns a plan in a few lines.

    Args:
        needs: what the test needs.
        what: is compared, in words.
        alpha: chance of a false positive.
        power: chance to see the effect.
        traffic: requests in a day; 0 if it is not known.
    """
    fixed = needs.old + needs.new
    sequential = needs.sequential_old + needs.sequential_new
    days = [f", {count:,} days" for count in needs.days(traffic)] if traffic else ["", ""]
    lines = [
        f"{what} (alpha {alpha:g}, power {power:g})",
        f"looked at once: {fixed:,} requests{days[0]}: {needs.old:,} of the old version, "
        f"{needs.new:,} of the new one",
        f"with --sequential: at most {needs.inflation:.2f} times as many, {sequential:,}{days[1]}; "
        "most tests end earlier, and may be looked at on any day",
    ]
    if needs.design_effect > 1:
        lines.append(
            f"images of one request are alike: {needs.design_effect:.2f} times as many images as "
            f"if they were not, {needs.rows_old + needs.rows_new:,}"
        )
    return lines


def verdict(record: dict[str, Any]) -> list[str]:
    """Returns what abtest.json says, in a few lines."""
    lines = [
        f"cannot be compared: {check['doubt']}"
        for check in record["checks"].values()
        if check["doubt"]
    ]
    if record["answers_of_unknown_unit"]:
        lines.append(
            f"{record['answers_of_unknown_unit']:,} answers have no {record['unit']} in --table "
            "and are left out"
        )
    labels = record["labels"]
    if labels and labels["unmatched"]:
        lines.append(
            f"{labels['unmatched']:,} of {labels['labels']:,} labels match no request to the two "
            "versions"
        )
    lines.append(_measure_line(record))
    for guardrail in record["guardrails"]:
        lines.append(
            f"guardrail {guardrail['measure']}, margin {guardrail['margin']:+g}: "
            f"{guardrail['difference']['difference']:+.4g}, {guardrail['state']}"
        )
    pairs = record["pairs"]
    if pairs:
        lines.append(
            f"shadow: {pairs['images']:,} images answered by both, the same class for "
            f"{pairs['agreement']:.1%}"
        )
    lines.append(f"{record['verdict']['decision']}: {record['verdict']['reason']}")
    return lines


def _measure_line(record):
    """Returns the line on the measure that decides."""
    measure = record["measure"]
    old, new = (version["version"] for version in record["versions"])
    low, high, p = (
        (measure["sequence"] if record["sequential"] else measure)[name]
        for name in ("low", "high", "p")
    )
    kind = "at every look" if record["sequential"] else "for one look"
    interval = "not known yet" if low is None else f"{low:+.4g} to {high:+.4g}"
    return (
        f"{measure['name']}: {measure['old']:.4g} with {old}, {measure['new']:.4g} with {new}; "
        f"difference {measure['difference']:+.4g}, {interval} {kind} "
        f"({1 - record['alpha']:.4g}), {p_text(p)}"
    )
