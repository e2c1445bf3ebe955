"""`python -m vision.evaluation.compare`, on predictions as an evaluation writes them."""

import csv
import dataclasses
import html
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from tests.support.commands import outcome
from tests.support.markup import MARKUP
from vision.data.pipeline import named_splits
from vision.errors import UserError
from vision.evaluation.compare import __main__ as compare
from vision.evaluation.compare import comparison
from vision.evaluation.evaluate import Evaluation
from vision.evaluation.measures import intervals
from vision.evaluation.measures.blocks import confidences
from vision.evaluation.outputs import Outputs
from vision.evaluation.report import report
from vision.run.directory import read_run
from vision.support.files import write_json


@pytest.fixture(scope="module")
def digits(tiny_run):
    config, data = read_run(tiny_run)
    return named_splits(config.data, config.seed)[0]["test"], data["classes"]


@pytest.fixture
def evaluated(tiny_run, digits, tmp_path):
    """A function that makes a run whose predictions on real images are wrong as often as is asked
    for."""

    def make(name, errors, seed=0, rows=None, classes=None, split="test", gone=False):
        source, names = digits
        rows = np.arange(len(source)) if rows is None else rows
        random = np.random.default_rng(seed)
        labels = np.asarray(source.labels)[rows]
        logits = random.normal(size=(len(rows), 10)).astype(np.float32)
        wrong = random.random(len(rows)) < errors
        logits[np.arange(len(rows)), np.where(wrong, (labels + 1) % 10, labels)] += 9
        names = tuple(classes or names)
        outputs = Outputs(logits, labels, rows, None, None, None, None)
        config, _ = read_run(tiny_run)
        config.data.source = "folder:gone" if gone else "digits"
        part = SimpleNamespace(source=source, spec="digits", name=split, config=config)
        summary = intervals.with_intervals(logits, labels, names, 50) | {
            "model": {"name": "vit", "variant": name}
        }
        evaluation = Evaluation(
            SimpleNamespace(classes=names),
            part,
            outputs,
            *confidences(logits, labels),
            None,
            summary,
            None,
            None,
        )
        folder = tmp_path / name / "evaluation"
        folder.mkdir(parents=True)
        for file in ("config.json", "data.json"):
            shutil.copy(tiny_run / file, folder.parent)
        write_json(folder / "metrics.json", summary)
        report.write_predictions(folder / "predictions.parquet", evaluation)
        return folder.parent

    return make


def run(capsys, *argv):
    return outcome(compare.main, capsys, *argv)


def test_a_difference_is_told_and_shown(evaluated, digits, tmp_path, capsys):
    good = evaluated("good", 0.05)
    bad = evaluated("bad", 0.4, 1)
    other = evaluated("other", 0.05, 2)
    out = tmp_path / "new" / "comparison"
    code, printed, err = run(capsys, good, bad, other / "evaluation", "--split=test", "--out", out)
    assert (code, err) == (0, "")
    assert "good is better than bad" in printed and "other and good cannot be told apart" in printed
    saved = json.loads((out / "comparison.json").read_text())
    correct = [comparison.load(path, "x").columns["correct"] for path in (good, bad, other)]
    counts = saved["comparisons"][0]["mcnemar"]
    assert counts["only_first"] == (correct[0] & ~correct[1]).sum()
    assert counts["both_wrong"] == (~correct[0] & ~correct[1]).sum()
    assert counts["p"] <= counts["p_holm"] < 0.001 and saved["comparisons"][0]["better"] == "first"
    change = saved["comparisons"][0]["differences"]["accuracy"]
    assert change["difference"] == pytest.approx(correct[1].mean() - correct[0].mean())
    assert change["low"] < change["difference"] < change["high"] < 0
    losses = [row["difference"] for row in saved["comparisons"][0]["per_class"]]
    assert losses == sorted(losses) and len(losses) == 10

    rows = list(csv.DictReader((out / "flipped.csv").open()))
    flipped = np.flatnonzero(np.any(correct, 0) & ~np.all(correct, 0))
    assert [int(row["row"]) for row in rows] == flipped.tolist()
    assert [row["bad correct"] == "true" for row in rows] == correct[1][flipped].tolist()
    assert all(
        (row["bad predicted"] == row["label"]) == (row["bad correct"] == "true") for row in rows
    )

    page = (out / "comparison.html").read_text()
    assert "http" not in page.replace("http-equiv", "") and "<script src" not in page
    plot = 1  # the accuracies
    assert len(re.findall('src="data:image/png', page)) - plot == page.count("<figcaption") > 24
    assert "No pictures" not in page


def test_the_same_predictions_are_no_difference(evaluated, capsys):
    code, printed, _ = run(capsys, evaluated("a", 0.2), evaluated("b", 0.2))
    assert code == 0 and "b and a are right on the same images: no difference." in printed
    assert "wrote" not in printed


def test_names_of_classes_are_not_markup(evaluated, digits, tmp_path, capsys):
    classes = [MARKUP, *digits[1][1:]]
    a = evaluated("a", 0.2, classes=classes)
    b = evaluated("b", 0.2, 1, classes=classes)
    assert run(capsys, a, b, "--out", tmp_path / "out")[0] == 0
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert MARKUP in html.unescape(page)
    assert MARKUP not in page and "<img src=x" not in page


def test_images_that_one_could_not_read_are_left_out(evaluated, digits, capsys):
    size = len(digits[0])
    kept = np.delete(np.arange(size), [3, 8])
    code, printed, _ = run(
        capsys, evaluated("a", 0.2, rows=np.arange(size)[::-1]), evaluated("b", 0.2, rows=kept)
    )
    assert (
        code == 0
        and f"{size - 2} images" in printed
        and "\n2 images that not all runs could read" in printed
    )


def test_without_the_source_there_are_no_pictures(evaluated, tmp_path, capsys):
    a = evaluated("a", 0.2, gone=True)
    b = evaluated("b", 0.2, 1, gone=True)
    assert run(capsys, a, b, "--out", tmp_path / "out")[0] == 0
    page = (tmp_path / "out" / "comparison.html").read_text()
    plots = page.count('<img class="figure"')
    assert "No pictures" in page and page.count("<img ") == plots == 1
    assert "<figcaption" in page


def test_runs_that_cannot_be_compared(evaluated, digits, tmp_path, capsys):
    a = evaluated("a", 0.2)
    names = list(digits[1])
    swapped = evaluated("swapped", 0.2, classes=[names[1], names[0], *names[2:]])
    val = evaluated("val", 0.2, split="val")
    empty = tmp_path / "empty"
    empty.mkdir()
    damaged = tmp_path / "damaged"
    shutil.copytree(a / "evaluation", damaged)
    (damaged / "predictions.parquet").write_bytes(b"PAR1")
    shutil.copytree(a / "evaluation", tmp_path / "older")
    (tmp_path / "older" / "metrics.json").write_text('{"metrics": {}}')
    for argv, message in (
        ((a,), "give at least two evaluated runs"),
        ((a, a), "is given twice"),
        ((a, tmp_path / "nowhere"), "there is no directory"),
        ((a, empty), f"python -m vision.evaluation --workdir {empty}"),
        ((a, damaged), "is not a table of predictions"),
        ((a, tmp_path / "older"), "metrics.accuracy"),
        ((a, swapped), f"class 0 is {names[0]!r} in a, {names[1]!r} in swapped"),
        ((a, val), "a was evaluated on the split test, val on val"),
        ((a, val, "--split=val"), "was evaluated on test, not on val"),
        ((a, val, "--split=tset"), "did you mean 'test'"),
    ):
        code, _, err = run(capsys, *argv)
        assert code == 2 and message in err and len(err.splitlines()) <= 2, err


def test_other_images_are_told(evaluated, digits):
    a = comparison.load(evaluated("a", 0.2), "a")
    labels = a.columns["label"].copy()
    labels[5] = "else"
    b = dataclasses.replace(a, title="b", columns=a.columns | {"label": labels})
    with pytest.raises(UserError, match=r"image 5 has the label .* in a, 'else' in b"):
        comparison.align([a, b])


def test_few_images_have_only_the_intervals_that_make_sense_of_them(evaluated, tmp_path, capsys):
    """Of three images that both get right, draws are all alike, and so say nothing of others."""
    few = np.arange(3)
    a = evaluated("a", 0, rows=few)
    b = evaluated("b", 0, 1, rows=few)
    out = tmp_path / "out"
    code, printed, _ = run(capsys, a, b, "--out", out)
    assert code == 0
    differences = json.loads((out / "comparison.json").read_text())["comparisons"][0]["differences"]
    assert {"macro_f1", "cohen_kappa", "nll"} < differences.keys()
    closed_form = {"accuracy", "balanced_accuracy", "macro_recall", "weighted_recall"}
    closed_form.add("top5_accuracy")
    for name, change in differences.items():
        has_draws = name not in closed_form
        assert (change.keys() == {"difference"}) == has_draws, name
        assert has_draws or change["low"] < 0 < change["high"]
    assert re.search(r"F1, macro .*\n +b .* \+0.0 points\n", printed)
    assert re.search(r"Accuracy .*\n +b .* \+0.0 points \(-56.1 to \+56.1\)\n", printed)
    page = (out / "comparison.html").read_text()
    assert "<small>+0.0 points</small>" in page and "Zou and Donner 2008" in page
