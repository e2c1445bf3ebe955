"""Unsure answers: what a request asks for, and the outputs of V2 that say so.

A request's parameter `unsure` is "precision=0.99", "coverage=0.95" or "threshold=0.9" as in
`vision.reference.unsure`, "rule" for the rule that the bundle was exported with, or "none". Without
it the bundle's rule applies, if it has one. An image that is cut into tiles has no rule.
"""

from typing import Any

from vision.bundle.directory import Bundle
from vision.errors import UserError
from vision.reference.unsure import OWN, Rule, rule_for
from vision.serving.errors import Refused
from vision.serving.protocol.json_io import field_of

PARAMETER = "unsure"
NONE = "none"
# {name: datatype}: whether each answer is unsure, and which classes are in the set of each
OUTPUTS = {"unsure": "BOOL", "in_set": "BOOL"}
REMEDY = "export its run again after python -m vision.evaluation.unsure"


def unsure_of(parameters: dict[str, Any]) -> str:
    """Returns what a request's parameters ask for; "" if they say nothing."""
    return field_of(parameters, PARAMETER, str, "")


def rule_of(bundle: Bundle, text: str, is_cut: bool = False) -> Rule | None:
    """Returns the rule that applies to a request; None if no answer is to be called unsure.

    What was measured on validation images says nothing about a decision on many tiles, so no rule
    applies to one.

    Args:
        bundle: the model.
        text: the request's parameter; "" if it has none.
        is_cut: whether the request's image is cut into tiles.

    Raises:
        Refused: the parameter is wrong, or the bundle cannot promise that, or the image is cut.
    """
    if is_cut and text:
        raise Refused(f"{PARAMETER} is for images that are not cut: leave out {PARAMETER} or tiles")
    if is_cut or text == NONE:
        return None
    if text in ("", OWN):
        rule = bundle.evidence.own_rule if bundle.evidence else None
        if text and rule is None:
            raise Refused(f"{PARAMETER}={OWN}: the model has no rule of its own: {REMEDY}")
        return rule
    try:
        return rule_for(text, bundle.evidence, PARAMETER, REMEDY)
    except UserError as error:
        raise Refused(" ".join(str(error).splitlines())) from error


def outputs_of(bundle: Bundle) -> dict[str, tuple[str, list[int]]]:
    """Returns {name: (datatype, shape)} of the outputs that a bundle's own rule adds."""
    rule = bundle.evidence.own_rule if bundle.evidence else None
    if rule is None:
        return {}
    shapes = {"unsure": [-1], "in_set": [-1, len(bundle.classes)]}
    names = OUTPUTS if rule.gives_sets else ("unsure",)
    return {name: (OUTPUTS[name], shapes[name]) for name in names}
