"""`python -m vision.evaluation.unsure`, what a run keeps of it, and what becomes of that."""

import json
import shutil

import cv2
import numpy as np
import pytest

from tests.evaluation.conftest import LITTLE, evaluate
from tests.reference.test_unsure import CONTENTS
from tests.support.commands import exit_code, outcome, refusal
from vision import inference, predict
from vision.bundle.directory import open_bundle
from vision.data.pipeline import open_data
from vision.evaluation import unsure as command
from vision.evaluation.report.words import amount
from vision.export import __main__ as export_command
from vision.parallel import make_mesh
from vision.run.unsure import run_evidence

pytestmark = pytest.mark.long

FILE = "evaluation/unsure.json"


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    return shutil.copytree(tiny_run, tmp_path_factory.mktemp("unsure") / "run")


def test_a_rule_is_chosen_on_the_validation_split(run, capsys):
    code, out, err = outcome(command.main, capsys, "--workdir", run, "--coverage", "0.9")
    assert code == 0 and "coverage=0.9: classes with a probability of at least" in out + err
    contents = json.loads((run / FILE).read_text())
    classifier = inference.from_run(run)
    config = classifier.config
    loaders = open_data(config, make_mesh(1), past=classifier.past).loaders
    images = np.asarray(loaders["val"].data["image"])
    labels = np.asarray(loaders["val"].data["label"])
    p = classifier.probabilities_and_embeddings(images)[0]
    true = np.sort(p[np.arange(len(labels)), labels])[::-1]
    place = int(np.ceil((len(labels) + 1) * 0.9 - 1e-9)) - 1
    own = classifier.evidence.own_rule
    assert own.least == pytest.approx(true[place], abs=1e-5)
    assert contents["images"] == len(labels) and contents["rule"] == "coverage=0.9"
    assert contents["source"] == config.data.source and contents["step"] == classifier.step
    table = contents["precision"]
    for threshold, answered, right in zip(
        table["threshold"], table["answered"], table["right"], strict=True
    ):
        is_answered = p.max(1) >= threshold
        assert abs(is_answered.sum() - answered) <= 1  # another batch size rounds otherwise
        assert abs((p.argmax(1) == labels)[is_answered].sum() - right) <= 1


def test_what_cannot_be_promised_is_refused_and_nothing_is_written(run, capsys):
    before = (run / FILE).read_text() if (run / FILE).is_file() else None
    message = refusal(command.main, capsys, "--workdir", run, "--precision", "0.999")
    assert "takes at least 3,688 answers without a mistake" in message
    assert ((run / FILE).read_text() if (run / FILE).is_file() else None) == before


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--precision", "1.2"), "--precision: precision must be above 0 and below 1, got '1.2'"),
        (("--coverage", "0"), "--coverage: coverage must be above 0 and below 1"),
        (("--precision", "much"), "--precision must be"),
        (("--precision", "0.9", "--coverage", "0.9"), "either --precision or --coverage, not both"),
        (("--confidence", "1", "--precision", "0.9"), "--confidence must be at least 0.5 and bel"),
        (("more",), "unexpected argument 'more'"),
    ],
)
def test_mistakes(run, capsys, flags, reason):
    assert reason in refusal(command.main, capsys, "--workdir", run, *flags)


def test_without_a_run_or_a_validation_split_it_is_refused(capsys, run, tmp_path):
    assert "which run? Give --workdir RUN" in refusal(command.main, capsys, "--precision=0.9")
    copy = shutil.copytree(run, tmp_path / "run")
    config = json.loads((copy / "config.json").read_text())
    data = json.loads((copy / "data.json").read_text())
    config["data"]["fractions"] = [0.7, 0.0, 0.3]
    data.pop("splits", None)
    (copy / "splits.csv.gz").unlink(missing_ok=True)
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "data.json").write_text(json.dumps(data))
    message = refusal(command.main, capsys, "--workdir", copy, "--precision=0.9")
    assert "no validation split" in message or "val" in message


def test_an_evaluation_keeps_the_rule_and_measures_it(run, capsys):
    """It fits a temperature, so that the thresholds change with it."""
    little = LITTLE | {"corruptions": False, "views": False, "probe": 0, "map": "none"}
    assert outcome(command.main, capsys, "--workdir", run, "--coverage", "0.9")[0] == 0
    assert evaluate("--workdir", run, "--config.evaluation.explain=false", **little) == 0
    summary = json.loads((run / "evaluation/metrics.json").read_text())
    contents = json.loads((run / FILE).read_text())
    assert contents["rule"] == "coverage=0.9"
    assert contents["temperature"] == (summary["calibration"]["temperature"] or 1.0)
    assert inference.from_run(run).evidence.own_rule.requirement.value == 0.9
    unsure = summary["unsure"]
    assert [row["wish"] for row in unsure["sets"]][0] == "coverage=0.9"
    table = unsure["sets"][0]
    assert sum(row["images"] for row in table["per_class"]) == summary["data"]["images"]
    page = (run / "evaluation/report.html").read_text()
    assert "Unsure answers" in page and "coverage=0.9, chosen" in page
    assert (run / "evaluation/risk_coverage.png").is_file()
    card = (run / "evaluation/MODEL_CARD.md").read_text()
    assert "By its chosen rule `coverage=0.9`, it declines" in card
    assert f"| `coverage=0.9` | {amount(table['single'], True)} |" in card
    flag = "--config.evaluation.unsure=false"
    assert evaluate("--workdir", run, flag, "--config.evaluation.explain=false", **little) == 0
    assert json.loads((run / FILE).read_text()) == contents  # it was not asked to forget the rule
    assert not (run / "evaluation/risk_coverage.png").exists()
    assert "Unsure answers" not in (run / "evaluation/report.html").read_text()
    assert "When it is unsure" not in (run / "evaluation/MODEL_CARD.md").read_text()


def test_a_chosen_rule_is_not_weakened_or_lost_in_silence(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    little = LITTLE | {"corruptions": False, "views": False, "probe": 0, "map": "none"}
    little["explain"] = False
    flags = ("--workdir", copy, "--coverage=0.9", "--confidence=0.8")
    assert outcome(command.main, capsys, *flags)[0] == 0
    contents = json.loads((copy / FILE).read_text())
    # as after more training
    (copy / FILE).write_text(json.dumps(contents | {"step": contents["step"] + 1}))
    flags = ("--workdir", copy, "--out", tmp_path / "1")
    code, out, err = outcome(export_command.main, capsys, *flags)
    assert code == 0 and open_bundle(tmp_path / "1").evidence is None
    assert "coverage=0.9, were measured for another checkpoint" in out + err
    assert "run python -m vision.evaluation.unsure again" in out + err
    assert evaluate("--workdir", copy, **little) == 0
    again = json.loads((copy / FILE).read_text())
    assert again["rule"] == "coverage=0.9" and again["confidence"] == 0.8
    assert again["step"] == contents["step"]
    impossible = {key: CONTENTS[key] for key in ("precision", "rule", "images", "confidence")}
    (copy / FILE).write_text(json.dumps(again | impossible))
    capsys.readouterr()
    assert evaluate("--workdir", copy, **little) == 0
    captured = capsys.readouterr()
    assert "dropped: no threshold promises precision=0.95" in captured.out + captured.err
    assert json.loads((copy / FILE).read_text())["rule"] is None


def test_a_rule_can_be_cleared(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    assert outcome(command.main, capsys, "--workdir", copy, "--coverage", "0.9")[0] == 0
    contents = json.loads((copy / FILE).read_text())
    message = refusal(command.main, capsys, "--workdir", copy, "--clear", "--coverage=0.9")
    assert "give either --clear or --coverage, not both" in message
    code, out, err = outcome(command.main, capsys, "--workdir", copy, "--clear")
    assert code == 0 and "coverage=0.9 is no longer the rule" in out + err
    assert json.loads((copy / FILE).read_text()) == contents | {"rule": None}
    message = refusal(command.main, capsys, "--workdir", copy, "--clear")
    assert "no rule was chosen for" in message


def test_another_checkpoint_source_or_temperature_has_no_thresholds(run, capsys):
    assert outcome(command.main, capsys, "--workdir", run, "--threshold", "0.5")[0] == 0
    measured = json.loads((run / FILE).read_text())
    own = (measured["step"], measured["source"], measured["temperature"])
    assert run_evidence(run, *own).own_rule.least == 0.5
    for other in ((own[0] + 1, *own[1:]), (own[0], "else", own[2]), (*own[:2], own[2] + 0.1)):
        assert run_evidence(run, *other) is None


@pytest.fixture(scope="module")
def bundle(run, tmp_path_factory):
    """The run's bundle, with sets of the coverage 0.9."""
    assert exit_code(command.main, "--workdir", run, "--coverage", "0.9") == 0
    out = tmp_path_factory.mktemp("bundles") / "1"
    assert exit_code(export_command.main, "--workdir", run, "--out", out) == 0
    return out


def test_a_bundle_keeps_its_promises_as_its_run_does(run, tmp_path):
    """Its probabilities are those of the run's temperature, which must not be applied again."""
    copy = shutil.copytree(run, tmp_path / "run")
    little = LITTLE | {"corruptions": False, "views": False, "probe": 0, "map": "none"}
    little["explain"] = False
    assert evaluate("--workdir", copy, **little) == 0
    assert abs(inference.from_run(copy).temperature - 1) > 0.05
    assert exit_code(export_command.main, "--workdir", copy, "--out", tmp_path / "1") == 0
    assert evaluate("--bundle", tmp_path / "1", "--out", tmp_path / "again", **little) == 0
    files = (copy / "evaluation/metrics.json", tmp_path / "again/metrics.json")
    ours, theirs = (json.loads(file.read_text())["unsure"] for file in files)
    assert theirs["precision"] == ours["precision"] and theirs["sets"] == ours["sets"]
    assert theirs["validation"] == ours["validation"] and ours["sets"]
    assert theirs["aurc"]["value"] == pytest.approx(ours["aurc"]["value"], abs=1e-6)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for i in range(6):
        cv2.imwrite(str(folder / f"{i}.png"), random.integers(0, 256, (8, 8), np.uint8))
    return folder


def answers(capsys, *argv):
    code, out, err = outcome(predict.main, capsys, *argv, "--format", "json")
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


def test_a_bundle_answers_as_its_run(run, bundle, photos, capsys):
    opened = open_bundle(bundle)
    assert opened.evidence.contents == inference.from_run(run).evidence.contents
    for requirement in ("rule", "coverage=0.97", "threshold=0.3"):
        ours = answers(capsys, "--workdir", run, "--unsure", requirement, photos)
        theirs = answers(capsys, "--bundle", bundle, "--unsure", requirement, photos)
        for a, b in zip(ours, theirs, strict=True):
            assert a["unsure"] == b["unsure"] and a.get("set") == b.get("set")
            assert a["rule"] == ("coverage=0.9" if requirement == "rule" else requirement)
    least = opened.evidence.own_rule.least
    for answer in answers(capsys, "--bundle", bundle, "--unsure=rule", "--top=10", photos):
        likely = [t["class"] for t in answer["top"] if t["probability"] >= least]
        assert answer["set"] == (likely or [answer["top"][0]["class"]])
        assert answer["unsure"] == (len(answer["set"]) > 1)


def test_tables_show_the_answer_and_the_best_guess(bundle, photos, capsys):
    _, table, _ = outcome(
        predict.main, capsys, "--bundle", bundle, "--unsure=threshold=0.999999", "--top=2", photos
    )
    header, *lines = table.splitlines()
    assert header.split() == ["answer", "top", "1", "top", "2", "file"]
    assert all(line.startswith("unsure ") and " % " in line for line in lines)
    assert {line.index(str(photos)) for line in lines} == {header.index("file")}
    flags = ("--bundle", bundle, "--unsure=coverage=0.97", "--top=1", photos)
    _, table, _ = outcome(predict.main, capsys, *flags)
    assert table.split()[0] == "set"
    _, text, _ = outcome(predict.main, capsys, *flags, "--format=csv")
    header, *rows = (line.split(",") for line in text.splitlines())
    assert header == ["file", "rank", "class", "probability", "unsure", "in_set"]
    sets = {answer["file"]: answer for answer in answers(capsys, *flags)}
    for file, answer in sets.items():
        listed = [row for row in rows if row[0] == file]
        members = [row[2] for row in listed if row[5] == "true"]
        assert members == answer["set"] and len(listed) == max(1, len(members))
        assert {row[4] for row in listed} == {str(answer["unsure"]).lower()}


def test_pictures_show_the_top_classes_whatever_is_in_the_set(bundle, photos, tmp_path, capsys):
    flags = ("--bundle", bundle, "--unsure=coverage=0.97", "--top=1", photos)
    assert any(len(answer["set"]) > 1 for answer in answers(capsys, *flags))
    plain = tmp_path / "plain"
    unsure = tmp_path / "unsure"
    answers(capsys, "--bundle", bundle, "--top=1", photos, "--pictures", plain)
    answers(capsys, *flags, "--pictures", unsure)
    names = sorted(path.relative_to(plain) for path in plain.rglob("*.jpg"))
    assert len(names) == 6
    assert sorted(path.relative_to(unsure) for path in unsure.rglob("*.jpg")) == names
    for name in names:
        assert (unsure / name).read_bytes() == (plain / name).read_bytes()


def test_predict_refuses_what_nothing_promises(run, bundle, photos, tmp_path, capsys):
    flags = ("--bundle", bundle, photos)
    message = refusal(predict.main, capsys, *flags, "--unsure=precision=0.9999")
    assert "no threshold promises precision=0.9999" in message
    assert "precision must be above 0" in refusal(predict.main, capsys, *flags, "--unsure=1.5")
    plain = shutil.copytree(run, tmp_path / "run")
    (plain / FILE).unlink(missing_ok=True)
    message = refusal(predict.main, capsys, "--workdir", plain, photos, "--unsure=0.9")
    assert "nothing was measured on validation images: run python -m vision.eval" in message
    (plain / FILE).write_text('{"format": 1}')
    message = refusal(predict.main, capsys, "--workdir", plain, photos)
    assert "unsure.json is damaged" in message and "vision.evaluation again" in message


def test_a_bundle_with_a_damaged_rule_is_refused(bundle, tmp_path, photos, capsys):
    copy = shutil.copytree(bundle, tmp_path / "1")
    manifest = json.loads((copy / "bundle.json").read_text())
    manifest["unsure"]["rule"] = "precision=0.99999"
    (copy / "bundle.json").write_text(json.dumps(manifest))
    message = refusal(predict.main, capsys, "--bundle", copy, photos)
    assert "its unsure.rule is not possible" in message and "export it again" in message


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_another_precision_has_no_thresholds(run, bundle, tmp_path, capsys, precision):
    out = tmp_path / "1"
    flags = ("--workdir", run, "--out", out, "--precision", precision)
    code, printed, err = outcome(export_command.main, capsys, *flags)
    if code == 1 and "changes the class" in err:
        pytest.skip("int8 changes too many classes of this tiny model to be exported")
    assert code == 0 and "no thresholds for unsure answers" in printed + err
    assert f"{precision} changes them" in printed + err
    assert open_bundle(out).evidence is None
