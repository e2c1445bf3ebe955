"""Answers of a version that nobody was given, image by image."""

import numpy as np
import pytest

from tests.monitoring.abtest.conftest import error_of, record_of
from tests.support import ab_logs


@pytest.mark.parametrize("images", [1, 4])
def test_shadow_answers_are_compared_image_by_image(command, tmp_path, images):
    random = np.random.default_rng(2)
    columns, truth = ab_logs.draw(random, 800, (0.85, 0.85), images)
    count = len(truth)
    given = columns | {"version": ["1"] * count}
    other = np.where(truth == "cat", "dog", "cat")
    better = np.where(random.random(count) < 0.93, truth, other)
    shadow = columns | {"version": ["2"] * count, "shadow": np.ones(count, bool), "class": better}
    order = random.permutation(count)
    ab_logs.write(tmp_path / "log", given)
    ab_logs.write(
        tmp_path / "log", {name: np.asarray(values)[order] for name, values in shadow.items()}, 1
    )
    ab_logs.write_labels(tmp_path / "labels.csv", columns["id"], columns["image"], truth)
    flags = (f"--labels={tmp_path / 'labels.csv'}", "--effect=0.05")
    code, printed, _ = command(*flags)
    assert code == 0 and "ship: " in printed
    record = record_of(tmp_path)
    old_right = np.asarray(columns["class"]) == truth
    new_right = better == truth
    pairs = record["pairs"]
    assert pairs["images"] == count and pairs["requests"] == 800 and not record["checks"]
    assert pairs["mcnemar"]["only_new"] == (new_right & ~old_right).sum()
    assert pairs["mcnemar"]["only_old"] == (old_right & ~new_right).sum()
    assert pairs["agreement"] == pytest.approx((better == columns["class"]).mean())
    is_exact = record["measure"]["p"] == pytest.approx(pairs["mcnemar"]["p"])
    assert is_exact == (images == 1)
    assert "McNemar" in (tmp_path / "out" / "report.html").read_text()
    (tmp_path / "table.csv").write_text("id,latency\nr1,5\n")
    message = error_of(
        command(f"--table={tmp_path / 'table.csv'}", "--measure=latency", "--effect=-1")
    )
    assert "only shadow answers" in message


def test_shadow_answers_are_not_mixed_with_given_ones(split, command, tmp_path):
    labels = f"--labels={tmp_path / 'labels.csv'}"
    command(labels, "--effect=0.05")
    alone = record_of(tmp_path)
    columns, truth = split
    always_wrong = np.where(truth == "cat", "dog", "cat")
    shadow = columns | {
        "version": ["2"] * len(truth),
        "shadow": np.ones(len(truth), bool),
        "class": always_wrong,
    }
    ab_logs.write(tmp_path / "log", shadow, 1)
    command(labels, "--effect=0.05")
    both = record_of(tmp_path)
    assert both["measure"] == alone["measure"] and both["verdict"] == alone["verdict"]
    # of the requests that version 1 has answered
    assert both["pairs"]["images"] == (np.array(columns["version"]) == "1").sum()
    assert both["pairs"]["comparison"]["new"] == 0


def test_shadow_answers_of_unknown_users_are_left_out(command, tmp_path):
    """100 of 400 requests have no user: together they would count as one, of 100 images."""
    random = np.random.default_rng(6)
    given = {
        "id": [f"r{i}" for i in range(400)],
        "version": ["1"] * 400,
        "class": np.where(random.random(400) < 0.8, "cat", "dog"),
    }
    better = np.where(random.random(400) < 0.95, "cat", "dog")
    ab_logs.write(tmp_path / "log", given)
    shadow = {"version": ["2"] * 400, "shadow": np.ones(400, bool), "class": better}
    ab_logs.write(tmp_path / "log", given | shadow, 1)
    ab_logs.write_labels(tmp_path / "labels.csv", given["id"], [0] * 400, ["cat"] * 400)
    lines = [f"r{i},u{i}" if i < 300 else f"r{i}," for i in range(400)]
    (tmp_path / "table.csv").write_text("id,user\n" + "\n".join(lines))
    flags = (f"--labels={tmp_path / 'labels.csv'}", f"--table={tmp_path / 'table.csv'}")
    code, printed, _ = command(*flags, "--unit=user", "--effect=0.05")
    assert code == 0 and "100 answers have no user in --table and are left out" in printed
    record = record_of(tmp_path)
    assert record["measure"]["units"] == 300
    assert record["measure"]["new"] == (better[:300] == "cat").mean()
    assert record["pairs"]["mcnemar"]["p"] == record["measure"]["p"]  # of the same images
    (tmp_path / "table.csv").write_text("id,user\nr1,\n")
    message = error_of(command(*flags, "--unit=user", "--effect=0.05"))
    assert "no image that both versions answered has a known accuracy and user" in message
