"""The sentences on unsure answers."""

import pytest

from vision.evaluation.report.words import verdicts

SHARE = {"value": 0.6, "low": 0.5, "high": 0.7}
ANSWERS = {"answered": SHARE, "precision": SHARE, "expected": 0.5, "value": 0.9}
SUMMARY = {
    "data": {"images": 500, "unreadable": 0, "learned_from": False},
    "per_class": [{"class": "cat", "support": 5, "recall": {"value": 0.9}}],
    "metrics": {"accuracy": {"value": 0.9}},
    "confused_pairs": [],
    "calibration": {"plain": {"mean_confidence": 0.9, "ece": {"value": 0.01}}},
    "slices": [],
    "robustness": None,
    "views": None,
}


@pytest.mark.parametrize(
    ("row", "state", "sentence"),
    [
        (
            {"wish": "precision=0.9", "kept": "no"},
            "bad",
            "precision=0.9 from the validation",
        ),
        ({"wish": "precision=0.9", "kept": "yes"}, "good", "With precision=0.9, 60.0 %"),
        (
            {"wish": "precision=0.9", "kept": "within chance"},
            "good",
            "With precision=0.9, 60.0",
        ),
        (
            {"wish": "threshold=0.9", "kept": None, "expected": None},
            "look",
            "With threshold=0.9, which promises nothing, 60.0 % (50.0 to 70.0) are answered",
        ),
    ],
)
def test_only_what_was_promised_is_judged(row, state, sentence):
    unsure = {
        "precision": [ANSWERS | row],
        "sets": [],
        "validation": {"rule": row["wish"]},
    }
    lines = [line for line in verdicts(SUMMARY | {"unsure": unsure}, 0) if line[2] == "unsure"]
    assert len(lines) == 1 and lines[0][0] == state and sentence in lines[0][1]
