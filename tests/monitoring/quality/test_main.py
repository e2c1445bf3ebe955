"""`python -m vision.monitoring.quality`: the truth, estimates, alarms, the report, bad input."""

import json

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

from tests.monitoring.conftest import START
from tests.monitoring.quality.conftest import CLASSES
from tests.support.tiny_bundle import write_bundle
from vision.errors import UserError
from vision.monitoring.quality.__main__ import main
from vision.reference.quality import Estimate, parse


def record_of(folder):
    return json.loads((folder / "out" / "quality.json").read_text())


def test_what_has_decayed_and_since_when(decayed, command, tmp_path):
    code, printed, errors = command(f"--labels={decayed}", "--window=200", "--strict")
    assert code == 1 and errors.startswith("error: quality has decayed: zoo/3 accuracy, zoo/3 re")
    assert "1,200 rows of this model, 0 of others; 1,200 labels, 0 of them for requests" in printed
    assert "200 rows, 200 labels: decay" in printed and "CBPE" in printed
    assert "accuracy since 2025-10-09T08:54:40Z: " in printed
    record = record_of(tmp_path)
    (version,) = record["versions"]
    assert [window["alarm"] for window in version["windows"]] == [False] * 4 + [True] * 2
    assert version["rows"] == version["labels"] == 1200 and version["latest"] == 5
    assert version["alarms"][0]["measure"] == "accuracy" and record["alarm"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Decay" in page and "when exported" in page and "<script src" not in page


def test_the_numbers_are_those_of_pandas_and_statsmodels(decayed, command, tmp_path):
    assert command(f"--labels={decayed}", "--window=400")[0] == 0
    rows = pd.read_parquet(tmp_path / "log").merge(pd.read_csv(decayed), on=["id", "image"])
    for place, window in enumerate(record_of(tmp_path)["versions"][0]["windows"]):
        own = rows[400 * place : 400 * (place + 1)]
        right = own["class"] == own["label"]
        low, high = proportion_confint(right.sum(), 400, method="wilson")
        accuracy = window["accuracy"]
        assert accuracy["value"] == pytest.approx(right.mean())
        assert [accuracy["low"], accuracy["high"]] == pytest.approx([low, high])
        for name in CLASSES:
            of_class = right[own["label"] == name]
            share = window["recall"][name]
            low, high = proportion_confint(of_class.sum(), len(of_class), method="wilson")
            assert [share["value"], share["low"], share["high"]] == pytest.approx(
                [of_class.mean(), low, high]
            )
        bins = np.ceil(own["confidence"] * 15)
        gaps = [
            abs((right - own["confidence"])[bins == i].mean()) * (bins == i).mean()
            for i in bins.unique()
        ]
        error = window["calibration"]["error"]
        assert error["value"] == pytest.approx(sum(gaps), abs=1e-6)
        assert 0 <= error["low"] <= error["high"] <= 1
        assert window["calibration"]["mean_confidence"] == pytest.approx(own["confidence"].mean())


def test_estimates_stand_beside_the_truth(served, command, tmp_path):
    """Of harder images they fall with it; labels whose meaning has changed they cannot see."""
    served.put(400, START)
    served.put(400, START + 40, hardness=2.5)
    served.put(400, START + 80, wrong=0.4)
    served.close()
    assert command(f"--labels={served.label()}", "--window=400")[0] == 0
    version = record_of(tmp_path)["versions"][0]
    truth = [window["accuracy"]["value"] for window in version["windows"]]
    cbpe = [window["estimates"]["cbpe"] for window in version["windows"]]
    assert cbpe[0] == pytest.approx(truth[0], abs=0.05) and truth[1] < truth[0] - 0.1
    assert cbpe[1] == pytest.approx(truth[1], abs=0.07)
    assert cbpe[2] > truth[2] + 0.2
    errors = [abs(a - b) for a, b in zip(cbpe, truth, strict=True)]
    assert version["estimators"]["cbpe"] == pytest.approx(np.mean(errors))


def test_estimates_are_judged_on_the_answers_that_have_labels(served, bundle, command, tmp_path):
    """Labels of the surest answers alone are of easier images than all."""
    served.put(1000, START)
    served.close()
    table = pd.read_parquet(tmp_path / "log")
    sure = table[table.confidence > 0.9]
    labels = tmp_path / "labels.csv"
    own = [[r.id, r.image, served.truth[r.id, r.image]] for r in sure.itertuples()]
    rows = "".join(f"{name},{image},{label}\n" for name, image, label in own)
    labels.write_text("id,image,label\n" + rows)
    assert command(f"--labels={labels}", "--window=1000")[0] == 0
    version = record_of(tmp_path)["versions"][0]
    accuracy = version["windows"][0]["accuracy"]["value"]
    assert accuracy > version["windows"][0]["estimates"]["cbpe"] + 0.02
    estimate = Estimate(parse(bundle[0].reference, CLASSES, "file"))
    estimate.add(sure.confidence.to_numpy())
    errors = {name: abs(value - accuracy) for name, value in estimate.accuracies().items()}
    assert version["estimators"] == pytest.approx(errors)


def test_labels_of_classes_that_the_bundle_does_not_have(served, command, tmp_path):
    served.put(1000, START)
    served.close()
    for request, index in served.truth:
        if int(request[1:]) % 50 == 0:
            served.truth[request, index] = "zebra"
    labels = served.label()
    code, _, errors = command(f"--labels={labels}", "--window=1000")
    assert code == 2 and "no class 'zebra'" in errors and "--new-classes" in errors
    code, printed, _ = command(f"--labels={labels}", "--window=1000", "--new-classes=yak,zebra")
    assert code == 0 and "200 of classes that the model does not have" in printed
    window = record_of(tmp_path)["versions"][0]["windows"][0]
    assert window["labels"] == 1000 and window["accuracy"]["value"] < 0.8
    assert sum(share["labels"] for share in window["recall"].values()) == 800
    assert window["accuracy"]["alarm"]


def test_answers_that_share_a_label_are_counted(served, command, tmp_path):
    """A client has used an identifier twice."""
    served.put(200, START)
    served.close()
    labels = served.label()
    kept = dict(served.truth)
    served.truth.clear()
    served.put(100, START + 20)  # the identifiers begin again
    served.close()
    assert set(served.truth) <= set(kept)
    code, printed, _ = command(f"--labels={labels}", "--window=300")
    assert code == 0 and "100 answers share the label of another answer" in printed
    version = record_of(tmp_path)["versions"][0]
    assert version["labels"] == 300 and version["repeated_labels"] == 100


def test_without_labels_it_estimates(decayed, command, tmp_path):
    code, printed, errors = command("--window=200", "--strict")
    assert code == 0 and errors == "" and "no labels, so the accuracy is only estimated" in printed
    version = record_of(tmp_path)["versions"][0]
    assert version["latest"] is None and version["estimators"] == {}
    assert all(set(w["estimates"]) == {"cbpe", "atc", "doc"} for w in version["windows"])
    assert "no labels" in (tmp_path / "out" / "report.html").read_text()


def test_labels_that_are_too_few(served, command, tmp_path):
    served.put(400, START, wrong=0.9)
    served.close()
    labels = served.label(share=0.1)
    code, printed, _ = command(f"--labels={labels}", "--window=200", "--strict")
    assert code == 0 and "no window has 100 labels, this one has " in printed
    assert "too few labels" in (tmp_path / "out" / "report.html").read_text()
    assert command(f"--labels={labels}", "--window=400", "--least-labels=20", "--strict")[0] == 1


def test_the_latest_window_with_labels_decides(served, command, tmp_path):
    """Labels are late: the windows after it have none yet."""
    served.put(200, START, wrong=0.5)
    served.close()
    labels = served.label()
    served.put(400, START + 20)
    served.close()
    assert command(f"--labels={labels}", "--window=200", "--strict")[0] == 1
    version = record_of(tmp_path)["versions"][0]
    assert version["latest"] == 0 and [w["labels"] for w in version["windows"]] == [200, 0, 0]


def test_each_version_has_windows_of_its_own(served, command, tmp_path):
    served.put(300, START)
    served.put(300, START + 30, version="4", wrong=0.5, shadow=True)
    served.put(100, START + 60, version="5", fingerprint="another")
    served.close()
    labels = served.label(more=[["nowhere", 0, "cat"], ["later", 0, ""]])
    code, printed, errors = command(f"--labels={labels}", "--window=300", "--strict")
    assert code == 1 and "zoo/4 accuracy" in errors and "zoo/3" not in errors
    assert "600 rows of this model, 100 of others; 701 labels, 1 of them for requests" in printed
    assert "1 more are empty" in printed
    versions = {v["version"]: v["alarm"] for v in record_of(tmp_path)["versions"]}
    assert versions == {"3": False, "4": True}


def test_windows_of_time_and_a_folder_of_labels(decayed, command, tmp_path):
    folder = tmp_path / "labels"
    folder.mkdir()
    rows = pd.read_csv(decayed)
    rows[:500].to_parquet(folder / "a.parquet")
    rows[500:].to_csv(folder / "b.csv", index=False)
    assert command(f"--labels={folder}", "--window=1m", "--history=2")[0] == 0
    windows = record_of(tmp_path)["versions"][0]["windows"]
    # windows begin at full minutes of the clock; the log begins at 08:53:20
    assert [w["labels"] for w in windows] == [600, 200]


def error_of(result):
    code, printed, errors = result
    assert code == 2 and printed == "", result
    assert errors.startswith("error: ") and len(errors.splitlines()) <= 2
    return errors


def test_bundles_that_do_not_say_how_good_they_were(decayed, command, tmp_path):
    plain = write_bundle(tmp_path / "plain", CLASSES)
    message = error_of(command(bundle=plain))
    assert "does not say how good its model was: export it again" in message
    assert len(message.splitlines()) == 1
    assert "there is no bundle" in error_of(command(bundle=tmp_path / "nowhere"))


def test_logs_that_are_wrong(served, command, bundle, tmp_path):
    assert "has no predictions-" in error_of(command())
    served.put(100, START, fingerprint="another")
    served.close()
    message = error_of(command())
    assert "has no rows of the model" in message and "only of zoo/3" in message
    served.put(100, START - 5000)
    served.close()
    assert "100 rows of this model, fewer than a window" in error_of(command("--window=101"))


def test_a_clock_that_went_back(served, command):
    served.put(100, START)
    served.put(100, START - 4000)
    served.close()
    assert "clock went back by" in error_of(command("--window=1h"))
    code, printed, _ = command("--window=200")
    assert code == 0 and "clock went back" in printed


def test_labels_that_are_wrong(decayed, command, tmp_path):
    assert "there is no file or folder" in error_of(command(f"--labels={tmp_path / 'no.csv'}"))
    wrong = tmp_path / "wrong.csv"
    for text, message in (
        ("id,label\nx,cat\n", "none of 1 labels belongs to a request in --log"),
        ("id,image,label\nr0,0,cta\n", "no class 'cta' (did you mean 'cat'?)"),
        ("id,label\nr0,cat\nr0,dog\n", "has two labels, 'cat' and 'dog'"),
        ("name,label\nr0,cat\n", "has no column 'id'"),
        ("", "has no rows"),
    ):
        wrong.write_text(text)
        assert message in error_of(command(f"--labels={wrong}", "--window=200"))
    wrong.write_bytes(b"id,label\nr0,\xe9\n")
    assert "not UTF-8" in error_of(command(f"--labels={wrong}", "--window=200"))


def test_an_error_leaves_what_was_there(decayed, command, tmp_path):
    assert command(f"--labels={decayed}", "--window=200")[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    error_of(command("--window=5000"))
    decayed.write_text("id,label\nr0,cta\n")
    error_of(command(f"--labels={decayed}", "--window=200"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--window=12", "at least 30 rows"),
        ("--history=0", "at least 1"),
        ("--alpha=0", r"in \[0.000001, 0.5\]"),
        ("--effect=2", r"in \[0, 1\]"),
        ("--least-labels=3", "at least 10"),
        ("--every=0", r"in \[1, 86,400\]"),
        ("--log=", "give --log"),
        ("--out=", "give --out"),
        ("--bundle=", "give --bundle"),
        ("word", "unexpected argument"),
        ("--listen=9109 --strict", "give only one of them"),
        ("--labeled=3", "label"),
    ],
)
def test_flags_that_are_wrong(tmp_path, flag, message):
    argv = [f"--bundle={tmp_path}", f"--log={tmp_path}", f"--out={tmp_path / 'out'}"]
    with pytest.raises(UserError, match=message):
        main([*argv, *flag.split()])
    assert not (tmp_path / "out").exists()
