"""Which checkpoint is the best: whether more of a metric is better, or less."""

import re
from collections.abc import Mapping

from ml_collections import ConfigDict

DIRECTIONS = ("max", "min")
LAST = "val/step"  # as checkpoint.metric: the last checkpoint is the best
# of what every run measures; an objective may declare those of its own measures
BUILT_IN = {
    "val/loss": "min",
    "val/accuracy": "max",
    "val/top5_accuracy": "max",
    "val/balanced_accuracy": "max",
    "val/macro_f1": "max",
    LAST: "max",
}
# Words in the name of another metric of which less is better.
LESS_IS_BETTER = frozenset(
    ("loss", "losses", "error", "errors", "err", "entropy", "perplexity", "distance", "divergence")
    + ("nll", "brier", "ece", "mce", "mse", "mae", "rmse", "nmse", "kl", "fid", "risk", "regret")
)


def guess(metric: str) -> str:
    """Returns "max" or "min", whichever is better by the words of a metric's name."""
    words = re.split(r"[^a-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", metric).lower())
    return "min" if LESS_IS_BETTER.intersection(words) else "max"


def direction(c: ConfigDict, declared: Mapping[str, str] | None = None) -> str:
    """Returns "max" or "min": which values of `c.metric` are better.

    A built-in metric's direction follows from the metric, whatever `c.mode` says: older versions
    wrote "max" into each config. For others `c.mode` decides, unless it is "auto".

    Args:
        c: config.checkpoint.
        declared: {metric: "max" or "min"} of further ones.
    """
    fixed = (BUILT_IN | dict(declared or {})).get(c.metric)
    if fixed:
        return fixed
    return guess(c.metric) if c.mode == "auto" else c.mode


def doubt(c: ConfigDict, declared: Mapping[str, str] | None = None) -> str:
    """Returns a sentence if `c.mode` contradicts `c.metric`; "" otherwise.

    Args:
        c: config.checkpoint.
        declared: see `direction`.
    """
    if c.mode == "auto":
        return ""
    used = direction(c, declared)
    less = "lower" if used == "min" else "higher"
    if used != c.mode:
        return (
            f"checkpoint.mode = {c.mode} contradicts checkpoint.metric = {c.metric}, for which "
            f"{less} is better: {used} is used"
        )
    if c.metric not in BUILT_IN | dict(declared or {}) and guess(c.metric) != used:
        return (
            f"checkpoint.mode = {c.mode}: {less} values of {c.metric} count as better, although "
            f"its name suggests otherwise; if it is right, set checkpoint.mode={guess(c.metric)}"
        )
    return ""
