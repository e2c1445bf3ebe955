"""`python -m vision.evaluation.gate`: small models that really classify digits, as bundles."""

import errno
import json
import re
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from tests.support.commands import outcome
from tests.support.tiny_bundle import write_bundle
from vision.config.flags import parse_stage
from vision.data.division import Members, describe, write_division
from vision.data.recall import Past
from vision.data.sources import open_splits
from vision.errors import UserError
from vision.evaluation.gate import __main__ as gate
from vision.evaluation.gate import judge, rules
from vision.evaluation.gate.unseen import Learned
from vision.evaluation.measures.calibration import calibration_error
from vision.reference.shares import mcnemar
from vision.run.directory import read_run


def fitted(images, labels, classes, strength=1.0):
    """Returns the two matrices of a linear model, by ridge regression on one-hot labels."""
    pixels = images.reshape(len(images), -1) / 255
    goals = np.eye(classes)[labels]
    square = pixels.T @ pixels + strength * np.eye(64)
    weights = np.linalg.solve(square, pixels.T @ goals)
    return (np.eye(64) / 255).astype(np.float32), (8 * weights).astype(np.float32)


@pytest.fixture(scope="module")
def digits():
    source = open_splits("digits")["all"]
    images = np.stack([source[i]["image"] for i in range(len(source))])
    return images, np.asarray(source.labels)


@pytest.fixture(scope="module")
def place(digits, tmp_path_factory):
    """A folder with the data `old` (digits 1200 to 1500) and `new` (darker, the rest), and the
    bundles `few` (fitted to 60), `many` (to 1000) and `nine` (without nines)."""
    images, labels = digits
    root = tmp_path_factory.mktemp("gate")
    dark = (images * 0.4).astype(np.uint8)
    parts = {"old": (images, range(1200, 1500)), "new": (dark, range(1500, len(images)))}
    for name, (pictures, rows) in parts.items():
        for row in rows:
            path = root / name / f"digit {labels[row]}" / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), pictures[row])
    names = [f"digit {i}" for i in range(10)]
    both = np.concatenate([images[:1000], dark[:1000]])
    nines = labels[:1000] < 9
    for name, data, classes in (
        ("few", (images[:60], labels[:60]), names),
        ("many", (both, np.tile(labels[:1000], 2)), names),
        ("nine", (images[:1000][nines], labels[:1000][nines]), names[:9]),
    ):
        matrices = fitted(*data, len(classes))
        write_bundle(root / name, classes, model={"matrices": matrices})
    return root


@pytest.fixture
def command(place, tmp_path, capsys):
    """`command(old, new, *flags)` judges on `old` and `new`; returns (code, stdout, stderr)."""

    def run(old, new, *flags, data=("old", "new")):
        argv = [str(place / old), str(place / new), f"--out={tmp_path / 'gate'}"]
        argv += [f"--data={name}=folder:{place / name}" for name in data]
        return outcome(gate.main, capsys, *argv, *flags)

    return run


def answers_of(place, bundle, digits, rows, factor=1.0):
    """Returns (right, confidence) of a bundle on some digits, computed with NumPy alone."""
    images, labels = digits
    manifest = json.loads((place / bundle / "bundle.json").read_text())
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(place / bundle / "model.onnx").graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pixels = (images[rows] * factor).astype(np.uint8).reshape(len(rows), -1).astype(np.float64)
    logits = pixels @ arrays["first"] @ arrays["second"]
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    predicted = logits.argmax(1)
    assert manifest["classes"][0] == "digit 0"
    return predicted == labels[rows], (shifted / shifted.sum(1, keepdims=True)).max(1)


def test_a_better_model_passes(place, digits, command, tmp_path):
    code, printed, errors = command("few", "many")
    assert (code, errors) == (0, ""), errors
    record = json.loads((tmp_path / "gate" / "gate.json").read_text())
    for name, rows, factor in (("old", range(1200, 1500), 1.0), ("new", range(1500, 1797), 0.4)):
        old, old_confidence = answers_of(place, "few", digits, list(rows), factor)
        new, new_confidence = answers_of(place, "many", digits, list(rows), factor)
        data = record["data"][name]
        assert data["images"] == len(rows) and data["seen"] == 0
        np.testing.assert_allclose(data["accuracy"], [old.mean(), new.mean()])
        counts = data["comparison"]["mcnemar"]
        assert counts["only_other"] == (new & ~old).sum()
        expected = mcnemar(int((old & ~new).sum()), int((new & ~old).sum()))
        assert counts["p"] == pytest.approx(expected)
        errors = [
            calibration_error(old_confidence, old)[0],
            calibration_error(new_confidence, new)[0],
        ]
        np.testing.assert_allclose(data["calibration_error"], errors, atol=2e-3)
    assert record["passed"] and [rule["kind"] for rule in record["rules"]] == [
        "max-loss",
        "min-gain",
    ]
    assert "pass  new: gains at least 0 points" in printed
    assert "pass  old: loses at most 1 point" in printed
    assert printed.rstrip().endswith("many may replace few: it passes all 2 rules")
    text = (tmp_path / "gate" / "gate.md").read_text()
    assert (
        text.startswith("### ✅ `many` against `few`\n")
        and "| `new` | 297 |" in text
        and "| data | images | `few` | `many` |" in text
    )
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines[:4]}) == 1


def test_a_worse_model_fails(command, tmp_path):
    code, printed, errors = command("many", "few")
    assert code == 1 and errors.startswith("error: few must not replace many")
    assert "FAIL  old: loses at most 1 point" in printed
    record = json.loads((tmp_path / "gate" / "gate.json").read_text())
    assert not record["passed"]
    assert "**fail**" in (tmp_path / "gate" / "gate.md").read_text()


def test_limits_decide(command, tmp_path):
    flags = ["--max-loss=old=1", "--max-class-loss=old=0.01", "--max-calibration-loss=old=0"]
    code, printed, _ = command("many", "few", *flags, data=["old"])
    assert code == 1 and re.search(r"FAIL  old: no class loses more than 1 point +\+\d", printed)
    record = json.loads((tmp_path / "gate" / "gate.json").read_text())
    rule, _, calibration = record["rules"]
    before, now = record["data"]["old"]["accuracy"]
    assert rule["passed"] and 0.05 < rule["value"] == pytest.approx(before - now)
    assert rule["low"] < rule["value"] < rule["high"]
    before, now = record["data"]["old"]["calibration_error"]
    assert calibration["value"] == pytest.approx(now - before)
    assert calibration["passed"] == (now <= before)
    # exactly the limit passes by the estimate, and not for sure
    flags = [f"--max-loss=old={rule['value']}", "--max-class-loss=old=0.01", "--class-images=100"]
    code, printed, _ = command("many", "few", *flags, data=["old"])
    assert code == 0 and "no class has enough images to be judged" in printed
    code, _, errors = command("many", "few", *flags, "--decide=interval", data=["old"])
    assert code == 1 and "is not sure to pass 2 of 2 rules" in errors


def test_a_class_that_only_the_new_model_has(place, digits, command, tmp_path):
    code, printed, _ = command("nine", "many")
    assert code == 0 and "note: nine does not have 'digit 9', and counts as wrong there" in printed
    record = json.loads((tmp_path / "gate" / "gate.json").read_text())
    rows = list(range(1200, 1500))
    right, _ = answers_of(place, "nine", digits, rows)
    assert record["data"]["old"]["accuracy"][0] == right.mean()  # never right on a nine
    nines = next(
        row for row in record["data"]["old"]["comparison"]["per_class"] if row["class"] == "digit 9"
    )
    assert nines["first"] == 0 and nines["other"] > 0.5
    code, printed, _ = command("many", "nine")  # and a class that is given up
    assert code == 1 and "note: nine does not have 'digit 9'" in printed


def test_images_that_a_run_has_learned_from_are_left_out(tiny_run, tmp_path, capsys):
    copy = shutil.copytree(tiny_run, tmp_path / "copy")
    gate.main([str(tiny_run), str(copy), "--data=old=digits", f"--out={tmp_path / 'gate'}"])
    record = json.loads((tmp_path / "gate" / "gate.json").read_text())
    test = read_run(tiny_run)[1]["splits"]["test"]["images"]
    data = record["data"]["old"]
    assert data["images"] == test and data["seen"] == 1797 - test
    assert data["comparison"]["differences"]["accuracy"]["difference"] == 0 and record["passed"]
    assert f"{1797 - test:,} images are left out" in capsys.readouterr().out


def division_in(folder, **splits):
    """Writes a division {split: names}; returns what a model knows of it."""
    division = {}
    for name, images in splits.items():
        columns = np.array(images, object), np.array(["a"] * len(images), object)
        division[name] = Members(*columns)
    folder.mkdir()
    write_division(folder / "splits.csv.gz", division)
    return Past(folder, describe(division))


def model(source, past):
    return SimpleNamespace(past=past, config=SimpleNamespace(data=SimpleNamespace(source=source)))


def test_what_a_model_has_learned_from(tmp_path):
    past = division_in(
        tmp_path / "run",
        train=["a/1.png", "2:x.png"],
        memory=["a/2.png"],
        val=["a/3.png"],
        test=["a/4.png", "2:y.png"],
        forgotten=["a/5.png"],
    )
    joined = model("folder:photos + csv:new.csv", past)
    learned = {"a/1.png", "a/2.png", "a/3.png", "a/5.png"}
    assert Learned(joined, "folder:photos", {}).names == learned
    assert Learned(joined, "folder:./photos/?rename=a:b", {}).names == learned
    assert Learned(joined, "csv:new.csv", {}).names == {"x.png"}
    both = Learned(joined, "csv:new.csv + folder:photos", {}).names
    assert both == {"x.png", *(f"2:{name}" for name in learned)}
    assert Learned(model("digits", None), "digits", {}).is_unknown
    assert not Learned(model("digits", None), "folder:photos", {}).is_unknown
    assert not Learned(model("", None), "digits", {}).is_unknown
    same = division_in(tmp_path / "b", train=["1"], val=["2"], test=["2"])
    assert Learned(model("digits", same), "digits", {}).names == {"1"}  # val is test


def test_copies_of_what_a_model_has_learned_from(tmp_path):
    photos = [f"a/{i}.png" for i in range(6)]
    labeled = [f"images/{i}.png" for i in range(6)]
    past = division_in(
        tmp_path / "run",
        train=[*photos[:4], *(f"2:{name}" for name in labeled[:4])],
        test=[*photos[4:], *(f"2:{name}" for name in labeled[4:])],
    )
    joined = model("folder:photos + csv:to_label/labeled.csv", past)

    def learned(spec, names, label="a"):
        for name in names:
            path = tmp_path / spec.partition(":")[2] / label / name
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.zeros((8, 8), np.uint8))
        source = f"folder:{tmp_path / spec.partition(':')[2]}"
        return Learned(joined, source, open_splits(source, 0, 1))

    names = [name.removeprefix("a/") for name in photos]
    copy = learned("folder:elsewhere", names)  # the folder, in another place
    assert copy.names == set(photos[:4]) and not copy.alike
    part = learned("folder:half", names[:3])
    assert not part.names and part.alike == set(photos[:3])
    assert not learned("folder:others", ["x.png", "y.png", names[0]]).alike
    assert not learned("folder:test", names[4:]).alike  # which it has not learned from
    table = tmp_path / "copy.csv"
    pictures = tmp_path / "images"
    pictures.mkdir()
    for name in labeled:
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8), np.uint8))
    table.write_text("path,label\n" + "".join(f"{name},a\n" for name in labeled))
    spec = f"csv:{table}"
    assert Learned(joined, spec, open_splits(spec, 0, 1)).names == set(labeled[:4])
    both = f"folder:{tmp_path / 'others'} + {spec}"
    second = {f"2:{name}" for name in labeled[:4]}
    assert Learned(joined, both, open_splits(both, 0, 1)).names == second
    table.write_text("path,label\n" + "".join(f"{name},b\n" for name in labeled))
    relabeled = Learned(joined, spec, open_splits(spec, 0, 1))
    assert not relabeled.names and relabeled.alike == set(labeled[:4])


def test_each_model_sees_the_bits_that_it_was_trained_with(tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        cv2.imwrite(str(tmp_path / label / "1.png"), np.full((8, 8), 2048, np.uint16))
    models = [model("", None), model("", None), model("", None)]
    for predictor, bits in zip(models, (0, 12, 0), strict=True):
        predictor.config.data.bits = bits
    _, prepared, seen = judge._images(models, f"folder:{tmp_path}")
    assert [int(images[0]["image"].max()) for images in prepared] == [8, 128, 8] and seen == 0


def error_of(result):
    code, _, errors = result
    assert code == 2, result
    assert errors.startswith("error: ") and len(errors.splitlines()) <= 2
    return errors


def test_what_cannot_be_compared(place, command, tmp_path):
    assert "there is no directory" in error_of(command("few", "nowhere"))
    assert "is given twice" in error_of(command("few", "few"))
    folder = f"--data=other=folder:{tmp_path / 'nothing'}"
    assert "does not exist" in error_of(command("few", "many", folder))
    strange = tmp_path / "strange"
    for label in ("cat", "dog"):
        (strange / label).mkdir(parents=True)
        cv2.imwrite(str(strange / label / "1.png"), np.zeros((8, 8), np.uint8))
    message = error_of(command("few", "many", f"--data=x=folder:{strange}"))
    assert "classes that the model does not have: cat, dog" in message
    assert not (tmp_path / "gate").exists()
    assert command("few", "many")[0] == 0
    before = (tmp_path / "gate" / "gate.json").read_bytes()
    error_of(command("few", "nowhere"))
    assert (tmp_path / "gate" / "gate.json").read_bytes() == before


def test_a_failure_leaves_no_verdict(place, command, tmp_path, monkeypatch):
    assert command("few", "many")[0] == 0

    def write(path, value):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(gate, "write_json", write)
    code, _, errors = command("few", "many")
    assert code == 1 and "error: " in errors and "must not replace" not in errors
    assert not list((tmp_path / "gate").iterdir())


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--data=old"], "must be NAME=SOURCE"),
        (["--data=o ld=digits"], "must be NAME=SOURCE"),
        (["--data=old=digits", "--data=old=digits"], "is given twice"),
        ([], "on which images"),
        (["--data=test=digits"], "no rule covers test: give"),
        (["--data=old=digits", "--max-loss=odl=0.1"], "did you mean 'old'"),
        (["--data=old=digits", "--max-loss=old=x"], r"a number in \[0, 1\], got x"),
        (["--data=old=digits", "--max-loss=old=-1"], r"a number in \[0, 1\]"),
        (["--data=old=digits", "--max-loss=old"], r"a number in \[0, 1\]"),
        (["--data=old=digits", "--min-gain=old=nan"], r"a number in \[-1, 1\]"),
        (["--data=old=digits", "--max-loss=old=0", "--max-loss=old=0"], "is given twice"),
        (["--data=old=digits", "--decide=luck"], "choose from estimate, interval"),
        (["--data=old=digits", "--class-images=0"], "at least 1"),
        (["--data=old=digits", "--out="], "give --out"),
        (["--data=old=digits", "third"], "give two runs or bundles"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value) or "nothing",
)
def test_flags_that_are_wrong(tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        gate.main(["a", "b", f"--out={tmp_path / 'out'}", *flags])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags, expected",
    [
        ([], ["old=0.01"]),
        (["--max-loss=new=0.5"], ["new=0.5", "old=0.01"]),  # a rule about others changes nothing
        (["--max-loss=new=0.5", "--max-loss=old=1"], ["new=0.5", "old=1"]),
    ],
    ids=["none", "another", "own"],
)
def test_a_default_holds_unless_a_rule_is_about_its_data(flags, expected):
    values = parse_stage(["a", "b", *flags], "", gate._flags)[1]
    assert gate._given(values, "max-loss", {"old": "x", "new": "y"}) == expected
    assert gate._given(values, "max-loss", {"other": "x"}) == [
        v for v in expected if v in str(flags)
    ]


def test_one_image_of_a_hundred_is_a_loss_of_one_point():
    rule = rules.Rule("max-loss", "old", 0.01)
    loss = 0.95 - 0.94  # 0.010000000000000009
    assert rules.keeps(rule, {"value": loss, "high": 0.05}, "estimate")
    assert not rules.keeps(rule, {"value": loss, "high": 0.05}, "interval")
    assert not rules.keeps(rule, {"value": 0.011, "high": 0.05}, "estimate")
