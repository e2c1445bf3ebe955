"""`python -m vision.evaluation`: what it writes, that it can be read, and what it says to
mistakes."""

import html
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import sklearn.metrics as reference
from PIL import Image

from tests.evaluation.conftest import LITTLE, evaluate
from tests.support.browser import OVERLAPS, browse
from tests.support.markup import MARKUP
from tests.support.tiny_bundle import write_bundle
from vision import inference
from vision.config import default
from vision.data.pictures import data_uri
from vision.evaluation import __main__ as command
from vision.evaluation.report.words import METRICS
from vision.run.curves import draw_run
from vision.run.directory import read_run
from vision.run.readings import metric_lines

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def metrics(evaluated):
    return json.loads((evaluated / "evaluation" / "metrics.json").read_text())


@pytest.fixture(scope="module")
def table(evaluated):
    return pq.read_table(evaluated / "evaluation" / "predictions.parquet")


def test_everything_is_written(evaluated):
    names = {
        "report.html",
        "metrics.json",
        "predictions.parquet",
        "MODEL_CARD.md",
        "confusion.png",
        "reliability.png",
    }
    names |= {"confusion_normalized.png", "map.png", "robustness.png", "risk_coverage.png"}
    names |= {"calibration.json", "unsure.json"}
    assert {file.name for file in (evaluated / "evaluation").iterdir()} == names
    report = (evaluated / "evaluation" / "report.html").read_text()
    assert '<h2 id="training">' in report and 'alt="learning curves' in report


def test_the_curves_mark_the_step_that_the_result_calls_the_best(tiny_run, tmp_path):
    """It may have been chosen in a way that the log does not tell."""
    run = shutil.copytree(tiny_run, tmp_path / "run")
    result = json.loads((run / "result.json").read_text())
    (other, *_) = {line["step"] for line in metric_lines(run)} - {result["best_step"]}
    (run / "result.json").write_text(json.dumps(result | {"best_step": other}))
    assert evaluate("--workdir", run, **LITTLE) == 0
    report = (run / "evaluation" / "report.html").read_text()
    config, _ = read_run(run)
    assert data_uri(draw_run(run, config, other)) in report
    assert data_uri(draw_run(run, config)) not in report


def test_numbers_follow_from_the_predictions(metrics, table):
    columns = table.to_pydict()
    numbers = metrics["metrics"]
    truth = columns["label_index"]
    predicted = columns["predicted_index"]
    assert len(truth) == metrics["data"]["images"]
    p = np.array(columns["probabilities"], np.float64)
    assert (
        numbers["accuracy"]["value"]
        == reference.accuracy_score(truth, predicted)
        == np.mean(columns["correct"])
    )
    assert numbers["macro_f1"]["value"] == pytest.approx(
        reference.f1_score(truth, predicted, average="macro"), abs=1e-9
    )
    kappa = reference.cohen_kappa_score(truth, predicted)
    assert numbers["cohen_kappa"]["value"] == pytest.approx(kappa, abs=1e-9)
    assert numbers["nll"]["value"] == pytest.approx(np.mean(columns["nll"]), abs=1e-9)
    np.testing.assert_allclose(columns["confidence"], p.max(1), rtol=1e-6)
    assert (
        metrics["confusion"]
        == reference.confusion_matrix(truth, predicted, labels=range(10)).tolist()
    )
    assert set(numbers) == set(METRICS)
    for number in numbers.values():
        assert number["low"] <= number["value"] <= number["high"]
    point = metrics["operating_point"]["at_threshold"]
    assert (
        point["positives"] == truth.count(3)
        and 0 <= point["miss_rate"]["low"] <= point["miss_rate"]["high"] <= 1
    )
    best = np.array(columns["top5"])[:, 0]
    assert best.tolist() == columns["predicted"]


def test_names_lead_back_to_the_images(evaluated, table):
    from vision.data.pipeline import named_splits

    classifier = inference.from_run(evaluated)
    columns = table.to_pydict()
    header = json.loads(table.schema.metadata[b"vision"])
    source = named_splits(classifier.config.data, classifier.config.seed)[0][header["split"]]
    assert header["classes"] == list(classifier.classes) and header["source"] == "digits"
    places = {source.name(i): i for i in range(len(source))}
    # the run has a part of the split, by data.limit
    rows = [places[name] for name in columns["name"][:8]]
    assert [source.classes[source.labels[row]] for row in rows] == columns["label"][:8]
    assert columns["row"] == list(range(len(columns["row"])))
    images = np.stack([classifier.prepare(source[row]["image"]) for row in rows])
    np.testing.assert_allclose(
        inference.softmax(classifier(images)[0]), columns["probabilities"][:8], atol=1e-5
    )


def test_the_temperature_is_kept_with_the_run_and_used(evaluated, metrics):
    classifier = inference.from_run(evaluated)
    assert classifier.temperature == metrics["calibration"]["temperature"] != 1.0
    file = evaluated / "evaluation/calibration.json"
    text = file.read_text()
    try:
        file.write_text(json.dumps(json.loads(text) | {"step": 1}))  # of another checkpoint
        assert inference.from_run(evaluated).temperature == 1.0
        file.write_text(text[:10])
        with pytest.raises(inference.UserError, match="calibration.json is damaged"):
            inference.from_run(evaluated)
    finally:
        file.write_text(text)


def test_many_passes(metrics):
    robust = metrics["robustness"]
    views = metrics["views"]
    assert robust["images"] == LITTLE["sample"] and len(robust["corruptions"]) == 15
    assert [view["views"] for view in views] == [
        "none",
        "flip",
        "flip_shift",
        "five_crop",
        "ten_crop",
    ]
    assert views[0]["accuracy"] == robust["clean_accuracy"]
    assert metrics["embedding"]["training_images"] == LITTLE["probe"]


def test_the_card_says_what_the_numbers_say(evaluated, metrics):
    card = (evaluated / "evaluation" / "MODEL_CARD.md").read_text()
    accuracy = metrics["metrics"]["accuracy"]
    assert f"| Accuracy | {100 * accuracy['value']:.1f} % ({100 * accuracy['low']:.1f} to" in card
    for part in (
        "# vit mu/4",
        "## How good it is",
        "## Where it fails",
        "## How it was made",
        "License: not stated",
    ):
        assert part in card
    assert "steps, best at" in card


@pytest.mark.parametrize("width", [1120, 390])
def test_the_report_in_a_browser(evaluated, width):
    with browse(f"file://{evaluated}/evaluation/report.html", width) as page:
        page.check()
        assert page.evaluate("document.title").startswith("Evaluation of vit mu/4")
        assert page.evaluate("document.images.length") > 20
        # Each section that a sentence leads to is there.
        assert page.evaluate(
            "[...document.querySelectorAll('a')].every(a => document.querySelector(a.hash))"
        )


def test_the_browser_sees_what_is_wrong(tmp_path):
    (tmp_path / "page.html").write_text(
        "<p>one</p><p style='margin-top:-2em'>two</p><img src=none.png alt=x>"
    )
    with browse(f"file://{tmp_path}/page.html") as page:
        assert page.evaluate(OVERLAPS) and page.evaluate("document.images[0].naturalWidth") == 0
        assert len(page.requests) == 2


def test_little_is_asked_for(tiny_run, tmp_path, capsys):
    off = dict.fromkeys(("corruptions", "views", "explain", "slices", "temperature"), "false")
    keys = off | {"bootstrap": 0, "map": "none", "probe": 0, "examples": 0, "pairs": 0, "errors": 0}
    assert evaluate("--workdir", tiny_run, "--out", tmp_path / "a/b", "--split=val", **keys) == 0
    summary = json.loads((tmp_path / "a/b/metrics.json").read_text())
    assert (
        summary["metrics"]["accuracy"].keys() == {"value"}
        and summary["robustness"] is None is summary["bootstrap"]
    )
    assert not (tmp_path / "a/b/map.png").exists() and "Accuracy: " in capsys.readouterr().out
    with browse(f"file://{tmp_path}/a/b/report.html") as page:
        page.check()


def test_a_bundle(tmp_path, capsys):
    write_bundle(tmp_path / "bundle", [str(i) for i in range(10)], 8, 1)
    argv = (
        "--bundle",
        tmp_path / "bundle",
        "--data",
        "digits",
        "--out",
        tmp_path / "out",
        "--split",
        "val",
    )
    assert (
        evaluate(*argv[:2], "--out", tmp_path / "out") == 2
        and "which images? Give --data" in capsys.readouterr().err
    )
    assert evaluate(*argv, corruptions="false", bootstrap=20, probe=0, map="none") == 0
    summary = json.loads((tmp_path / "out/metrics.json").read_text())
    assert summary["views"] is None and summary["data"]["source"] == "digits"
    bundle = next((tmp_path / "bundle").glob("*.onnx"))
    bundle.write_bytes(bundle.read_bytes() + b" ")
    assert evaluate(*argv) == 2 and "has changed" in capsys.readouterr().err


def test_names_of_classes_are_not_markup(tmp_path):
    random = np.random.default_rng(0)
    for name in (MARKUP, "other"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            image = random.integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(image).save(tmp_path / "photos" / name / f"{i}.png")
    classes = sorted((MARKUP, "other"))
    folder = write_bundle(tmp_path / "bundle", classes, 8, 1)
    argv = ("--bundle", folder, "--data", f"folder:{tmp_path}/photos", "--out", tmp_path / "out")
    keys = {"corruptions": "false", "bootstrap": 20, "probe": 0, "map": "none", "pairs": 2}
    assert evaluate(*argv, "--split=all", **keys) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"{MARKUP} mistaken for" in html.unescape(page)
    for file in ("report.html", "MODEL_CARD.md"):
        text = (tmp_path / "out" / file).read_text()
        assert MARKUP not in text and "<img src=x" not in text, file


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "which model?"),
        (("--workdir", "RUN", "--bundle", "x"), "which model?"),
        (("--workdir", "none"), "none is not a run directory"),
        (("--bundle", "none"), "none"),
        (("--workdir", "RUN", "--split=tset"), "did you mean 'test'?"),
        (("--workdir", "RUN", "--data=mnist6k"), "mnist6k"),
        (("--workdir", "RUN", "--data=digits", "--out="), "where to? Give --out"),
        (("--workdir", "RUN", "--split=val", "--out="), "where to? Give --out"),
        (("--workdir", "RUN", "more"), "unexpected argument 'more'"),
        (
            ("--workdir", "RUN", "--config.model.name=resnet"),
            "model.name belongs to the model",
        ),
        (
            ("--workdir", "RUN", "--config.evaluation.bins=1"),
            "evaluation.bins must be at least 2, got 1",
        ),
        (("--workdir", "RUN", "--config.evaluation.map=tsen"), "did you mean 'tsne'?"),
        (
            ("--workdir", "RUN", "--config.evaluation.positive=x"),
            "evaluation.positive = 'x' is not a class of the model: 0, 1",
        ),
    ],
)
def test_mistakes(argv, message, tiny_run, tmp_path, capsys):
    argv = [str(tiny_run) if a == "RUN" else a for a in argv]
    assert evaluate("--out", tmp_path / "out", *argv) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_run_without_checkpoints(tiny_run, tmp_path, capsys):
    for name in ("config.json", "data.json"):
        shutil.copy(tiny_run / name, tmp_path)
    assert evaluate("--workdir", tmp_path) == 2
    assert "has no checkpoints yet: train it further" in capsys.readouterr().err
    (tmp_path / "checkpoints").mkdir()
    assert evaluate("--workdir", tmp_path) == 2
    assert len(capsys.readouterr().err.splitlines()) <= 2


def test_the_folder_of_programs_belongs_to_the_command():
    config = default()
    overrides = default()
    overrides.compile_cache = "/runs/xla"
    changed = command._override(config, overrides, ["--config.compile_cache=/runs/xla"])
    assert changed.compile_cache == "/runs/xla" and config.compile_cache != "/runs/xla"
