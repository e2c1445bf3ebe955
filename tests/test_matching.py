"""Zero-shot classes and retrieval: against NumPy, and by the commands as a user gives them."""

import json

import cv2
import numpy as np
import pytest

from tests.objectives.runs import lines
from tests.objectives.test_contrastive import captioned
from tests.support.commands import outcome
from vision import matching, predict
from vision.data.sources import open_splits
from vision.evaluation import __main__ as evaluation
from vision.evaluation import retrieval
from vision.evaluation.data import open_split
from vision.inference import from_run
from vision.metrics import RECALLS
from vision.parallel import make_mesh
from vision.run.weights import objective_weights
from vision.training.run import run

pytestmark = pytest.mark.long

NAMES = ("zero", "one", "two")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny run of CLIP on digits; its last checkpoint is the best."""
    c = captioned()
    c.checkpoint.metric = "val/step"
    workdir = tmp_path_factory.mktemp("clip") / "run"
    run(c, workdir)
    return workdir


@pytest.fixture(scope="module")
def matcher(trained):
    return matching.open_matcher(trained)


@pytest.fixture(scope="module")
def digits():
    return open_splits("digits")["all"].images[:20]


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_zero_shot_is_the_mean_of_normalized_prompts(matcher, trained, digits):
    templates = ("a {}", "the number {}", "a small {}")
    classifier = matcher.zero_shot(NAMES, templates)
    logits, embeddings = classifier(digits)
    _, _, arrays = objective_weights(trained)
    np.testing.assert_allclose(embeddings, from_run(trained)(digits)[1], atol=1e-5)
    images = unit(embeddings @ arrays["image_projection.kernel"])
    expected = []
    for name in NAMES:
        prompts = [matcher.text_vectors([form.format(name)])[0] for form in templates]
        for prompt in prompts:
            assert np.linalg.norm(prompt) == pytest.approx(1, abs=1e-5)
        expected.append(np.exp(arrays["log_scale"]) * images @ unit(np.mean(prompts, 0)))
    np.testing.assert_allclose(logits, np.transpose(expected), atol=1e-4)
    assert classifier.classes == NAMES


def test_the_prompts_of_a_run_are_its_templates(matcher, digits):
    assert matcher.templates == ("a {}", "the number {}")
    np.testing.assert_array_equal(
        matcher.zero_shot(NAMES)(digits)[0], matcher.zero_shot(NAMES, matcher.templates)(digits)[0]
    )


def test_many_texts_are_encoded_in_parts(matcher):
    texts = [f"number {i}" for i in range(matching.TEXTS + 3)]
    vectors = matcher.text_vectors(texts)
    assert vectors.shape == (len(texts), 8)
    np.testing.assert_allclose(vectors[-1], matcher.text_vectors(texts[-1:])[0], atol=1e-6)


def test_retrieval_is_what_the_validation_measured(trained, tmp_path, capsys):
    out = tmp_path / "retrieval.json"
    flags = (f"--workdir={trained}", "--split=val", f"--out={out}")
    code, text, _ = outcome(retrieval.main, capsys, *flags)
    assert code == 0 and "image to text: recall@1 0." in text and "(chance 0." in text
    record = json.loads(out.read_text())
    logged = [line for line in lines(trained) if "val/loss" in line][-1]
    for way in ("image_to_text", "text_to_image"):
        for k in RECALLS:
            assert record[f"{way}_at_{k}"] == pytest.approx(logged[f"val/{way}_at_{k}"], abs=0.02)
        assert record[f"{way}_chance_at_1"] == logged[f"val/{way}_chance_at_1"]
    assert record["images"] == 64 and record["captions"] <= 20 and record["split"] == "val"


def test_retrieval_on_other_images(trained, tmp_path, capsys):
    """Whose classes the model does not have, and which have captions of their own."""
    rows = ["path,label,title"]
    random = np.random.default_rng(0)
    for i in range(6):
        cv2.imwrite(str(tmp_path / f"{i}.png"), random.integers(0, 256, (8, 8), np.uint8))
        rows.append(f"{i}.png,{'ab'[i % 2]},title {i}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    spec = f"csv:{tmp_path / 'table.csv'}?text=title"
    code, text, _ = outcome(retrieval.main, capsys, f"--workdir={trained}", f"--data={spec}")
    assert code == 0 and "all: 6 images, 6 different captions" in text
    assert "recall@5 " in text and "(chance 0.8333)" in text
    (tmp_path / "table.csv").write_text("\n".join(rows).replace("title 4", ""))
    flags = (f"--workdir={trained}", f"--data={spec}&empty=keep")
    code, _, text = outcome(retrieval.main, capsys, *flags)
    assert code == 2 and "1 images of all have no caption to be found by" in text


def test_predict_and_evaluate(trained, digits, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "a.png"), digits[0])
    (tmp_path / "prompts.txt").write_text("a {}\n\nthe digit {}.\n")
    flags = (f"--workdir={trained}", "--zero-shot=nought, one,two", "--format=json")
    more = (f"--templates={tmp_path / 'prompts.txt'}", tmp_path / "a.png")
    code, text, _ = outcome(predict.main, capsys, *flags, *more)
    top = json.loads(text)["top"]
    assert code == 0 and {row["class"] for row in top} == {"nought", "one", "two"}
    assert sum(row["probability"] for row in top) == pytest.approx(1)

    out = tmp_path / "out"
    flags = (f"--workdir={trained}", "--zero-shot=classes", f"--out={out}")
    off = [f"--config.evaluation.{key}=False" for key in ("corruptions", "views")]
    code, text, err = outcome(evaluation.main, capsys, *flags, *off, "--config.evaluation.probe=0")
    assert code == 0, err
    record = json.loads((out / "metrics.json").read_text())
    classifier = matching.open_matcher(trained).zero_shot(tuple("0123456789"))
    source = open_split(classifier, classifier.config, make_mesh(1)).source
    images = np.stack([source[i]["image"] for i in range(len(source))])
    accuracy = (classifier(images)[0].argmax(1) == source.labels).mean()
    assert record["metrics"]["accuracy"]["value"] == pytest.approx(accuracy)
    assert not (trained / "calibration.json").exists() and not (trained / "evaluation").exists()


ZERO_SHOT = "--zero-shot=cat,dog"


@pytest.mark.parametrize(
    ("main", "flags", "message"),
    [
        (predict.main, ["--zero-shot=cat", "x"], "must name at least two classes, such as"),
        (predict.main, ["--zero-shot=,", "x"], "must name at least two classes, such as"),
        (predict.main, ["--zero-shot=a,b,a", "x"], "--zero-shot names 'a' twice"),
        (predict.main, ["--templates=x", "x"], "--templates are prompts for --zero-shot"),
        (predict.main, [ZERO_SHOT, "--templates=nowhere", "x"], "cannot read 'nowhere'"),
        (predict.main, [ZERO_SHOT, "--bundle=b", "x"], "--zero-shot needs the text tower of a run"),
        (evaluation.main, [ZERO_SHOT], "where to? Give --out"),
        (retrieval.main, ["--data=digits", "--out=nowhere/x"], "cannot write --out=nowhere/x"),
        (retrieval.main, ["word"], "unexpected argument 'word'"),
    ],
    ids=lambda value: getattr(value, "__module__", str(value)),  # not the address of a function
)
def test_flags_that_do_not_fit(main, flags, message, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_text("no template")
    code, _, err = outcome(main, capsys, f"--workdir={trained}", *flags)
    assert code == 2 and message in err and len(err.strip().splitlines()) <= 2


@pytest.mark.parametrize("flag", [ZERO_SHOT, ""], ids=["predict", "retrieval"])
def test_a_run_without_a_text_tower(flag, tiny_run, tmp_path, capsys):
    (tmp_path / "x.png").write_bytes(b"")
    main = predict.main if flag else retrieval.main
    words = [flag, tmp_path / "x.png"] if flag else []
    code, _, err = outcome(main, capsys, f"--workdir={tiny_run}", *words)
    assert code == 2 and "has no text tower (no tokenizer.json): train one" in err
