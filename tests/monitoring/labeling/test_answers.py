"""The answers of people: they become a source, add up, disagree, are never lost."""

import csv
import json
from xml.etree import ElementTree

import pytest

from tests.monitoring.labeling.conftest import error_of, table_of
from vision.data.sources import open_splits
from vision.errors import UserError
from vision.monitoring import collect
from vision.monitoring.labeling import collecting
from vision.monitoring.labeling.answers import take_back
from vision.support.lock import locked_beside


def truth_of(collection):
    """Returns {path: label}: 3 are skipped (""), 2 are of a new class, 5 are not as predicted."""
    truth = {row["path"]: row["predicted"] for row in collection}
    paths = list(truth)
    truth |= dict.fromkeys(paths[:3], "") | dict.fromkeys(paths[3:5], "Class 1 ")
    return truth | dict.fromkeys(paths[5:10], "class 7")


def as_csv(out, truth):
    rows = table_of(out / "images.csv")
    with open(out / "images.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows([row | {"label": truth[row["path"]]} for row in rows])
    return out / "images.csv"


def as_cvat(out, truth):
    tree = ElementTree.parse(out / "cvat.xml")
    for image in tree.iter("image"):
        (tag,) = image.findall("tag")
        tag.set("label", truth[f"images/{image.get('name')}"])
        image.set("name", f"to_label/images/{image.get('name')}")  # uploaded with its folders
        if not tag.get("label"):
            image.remove(tag)
    tree.write(out.parent / "annotations.xml")
    return out.parent / "annotations.xml"


def choice(label):
    return {"from_name": "class", "type": "choices", "value": {"choices": [label]}}


def as_label_studio(out, truth):
    tasks = json.loads((out / "label_studio.json").read_text())
    for task in tasks:
        label = truth[task["data"]["path"]]
        result = [choice(label)] if label else []
        task["annotations"] = [{"was_cancelled": not label, "result": result}]
    (out.parent / "project.json").write_text(json.dumps(tasks))
    return out.parent / "project.json"


def as_json_min(out, truth):
    tasks = json.loads((out / "label_studio.json").read_text())
    plain = [{"image": task["data"]["image"], "id": 1} for task in tasks]
    for task, row in zip(tasks, plain, strict=True):
        if truth[task["data"]["path"]]:
            row["class"] = truth[task["data"]["path"]]
    (out.parent / "min.json").write_text(json.dumps(plain))
    return out.parent / "min.json"


@pytest.mark.parametrize("answer", [as_csv, as_cvat, as_label_studio, as_json_min])
def test_answers_become_a_source(collection, command, tmp_path, answer):
    out = tmp_path / "out"
    truth = truth_of(collection)
    code, printed, errors = command(f"--labeled={answer(out, truth)}")
    assert (code, errors) == (0, ""), errors
    confirmed = sum(
        truth[row["path"]] == row["predicted"] for row in collection if truth[row["path"]]
    )
    assert f"37 images labeled, {confirmed} of them as the model said; left out: 3" in printed
    assert "new class 'Class 1', 2 images: is it 'class 1'?" in printed
    source = open_splits(f"csv:{out / 'labeled.csv'}")["all"]
    expected = {path: label.strip() for path, label in truth.items() if label}
    assert {
        key: source.classes[label] for key, label in zip(source.keys(), source.labels, strict=True)
    } == expected
    assert source[0]["image"].shape == (8, 8, 1) and not any(f.lost for f in source.findings)
    ids = {row["path"]: (row["id"], row["image"]) for row in collection}
    labels = {(row["id"], row["image"]): row["label"] for row in table_of(out / "labels.csv")}
    assert labels == {ids[path]: label for path, label in expected.items()}
    record = json.loads((out / "answers.json").read_text())
    assert record["labeled"] == 37 and record["new_classes"] == {"Class 1": 2}


def test_the_halves_of_two_people_add_up(collection, command, tmp_path):
    out = tmp_path / "out"
    paths = [row["path"] for row in collection]
    file = tmp_path / "half.csv"

    def give(labels):
        file.write_text("path,label\n" + "".join(f"{p},{n}\n" for p, n in labels.items()))
        code, printed, errors = command(f"--labeled={file}")
        assert (code, errors) == (0, ""), errors
        return printed

    assert "earlier" not in give(dict.fromkeys(paths[:25], "=new"))
    printed = give(dict.fromkeys(paths[20:40], "class 2") | {paths[24]: "=new", paths[0]: ""})
    assert "40 images labeled" in printed and "; left out: 0 skipped, 0 ambiguous" in printed
    assert "20 of them are answers from an earlier file; 5 were answered again, 4 of" in printed
    source = open_splits(f"csv:{out / 'labeled.csv'}")["all"]
    labels = {key: source.classes[n] for key, n in zip(source.keys(), source.labels, strict=True)}
    assert labels == dict.fromkeys(paths[:20], "=new") | {paths[24]: "=new"} | dict.fromkeys(
        [*paths[20:24], *paths[25:]], "class 2"
    )
    assert len(table_of(out / "labels.csv")) == 40
    record = json.loads((out / "answers.json").read_text())
    assert [record[key] for key in ("labeled", "earlier", "replaced", "changed")] == [40, 20, 5, 4]
    (out / "labeled.csv").write_text("path,label\nimages/mine.png,class 1\n")
    errors = error_of(command(f"--labeled={file}"))
    assert "mine.png, which is not in this collection: move" in errors


def test_people_who_disagree(collection, command, tmp_path):
    out = tmp_path / "out"
    tasks = json.loads((out / "label_studio.json").read_text())
    opinions = [["class 1", "class 1", "class 2"], ["class 1", "class 2"], ["class 3", None]]
    for task, given in zip(tasks, opinions, strict=False):
        task["annotations"] = [
            {"was_cancelled": label is None, "result": [choice(label)] if label else []}
            for label in given
        ]
    tasks[3]["annotations"] = [{"result": [choice("class 1"), choice("class 2")]}]
    tasks.append({"data": {"image": "/data/elsewhere.png"}})
    file = tmp_path / "project.json"
    file.write_text(json.dumps(tasks))
    code, printed, _ = command(f"--labeled={file}")
    assert code == 0 and "2 images labeled" in printed and "36 skipped, 2 ambiguous" in printed
    assert "1 other images in the file are not in this collection" in printed
    rows = {row["path"]: row["label"] for row in table_of(out / "labeled.csv")}
    first, _, third = (task["data"]["path"] for task in tasks[:3])
    assert rows == {first: "class 1", third: "class 3"}


def test_answers_are_never_replaced_by_a_new_collection(kept, collection, command, tmp_path):
    out = tmp_path / "out"
    as_csv(out, truth_of(collection))
    code, _, errors = command("--window=100")
    assert code == 2 and "images.csv was changed after it was written" in errors
    assert command(f"--labeled={out / 'images.csv'}")[0] == 0
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    code, _, errors = command("--window=100")
    assert code == 2 and "has answers already" in errors
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == before


def test_answers_that_come_while_images_are_chosen_remain(kept, collection, command, tmp_path):
    """Answers are read by another process, which the last step of choosing stands for here."""
    out = tmp_path / "out"
    file = tmp_path / "a.csv"
    file.write_text(f"path,label\n{collection[0]['path']},class 1\n")
    with pytest.MonkeyPatch.context() as patch:
        select = collecting.select

        def slowly(*arguments):
            take_back(file, out)
            return select(*arguments)

        patch.setattr(collecting, "select", slowly)
        code, _, errors = command("--window=100", "--count=40")
    assert code == 2 and "has answers already" in errors
    assert len(table_of(out / "labeled.csv")) == 1
    with locked_beside(out):  # as collect does while it writes
        assert "is in use by another process" in error_of(command(f"--labeled={file}"))


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.csv", "path,label\nimages/x.png,cat\n", "names none of the 40 images"),
        ("a.csv", "path,class name\nx,cat\n", "has no column of answers, 'label',"),
        ("a.csv", "name,label\nx,cat\n", "has no column of images, 'path',"),
        ("a.csv", "path,label\n", "has no rows"),
        ("a.xml", "<annotations>", "no element found"),
        ("a.xml", "<!DOCTYPE a><annotations/>", "document type declaration"),
        ("a.xml", "<annotations><track/></annotations>", "not a 'CVAT for images 1.1' export"),
        ("a.xml", "<annotation/>", "not a 'CVAT for images 1.1' export"),
        ("a.json", "[", "line 1, column 2"),
        ("a.json", "{}", "a list"),
        ("a.json", '[{"data": 3}]', "[0].data must be a mapping, got 3"),
        ("a.json", '[{"data": {"image": 3}}]', "task 1 has no 'image'"),
        ("a.json", '[{"image": "a", "class": 5}]', "[0].class must be text or"),
        ("a.json", '[{"annotations": 5}]', "[0].annotations must be a list or null, got 5"),
        ("a.json", '[{"annotations": [5]}]', "[0].annotations[0] must be a mapping, got 5"),
        ("a.json", '[{"annotations": [{"result": 5}]}]', "[0].annotations[0].result must be"),
        ("a.json", '[{"annotations": [{"result": [{"value": []}]}]}]', "value must be a mapping"),
        (
            "a.json",
            '[{"annotations": [{"result": [{"value": {"choices": 1}}]}]}]',
            "must be a list",
        ),
        ("a.json", '[{"data": {"text": "a"}}]', "task 1 has no 'image'"),
        ("a.zip", "PK", "unpack it"),
        ("a.yaml", "", "must be CSV, XML"),
    ],
)
def test_answers_that_are_wrong(collection, command, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    assert message in error_of(command(f"--labeled={tmp_path / name}"))
    assert not (tmp_path / "out" / "labeled.csv").exists()


def test_answers_to_nothing(collection, command, tmp_path):
    out = tmp_path / "out"
    assert "has no answers" in error_of(command(f"--labeled={out / 'label_studio.json'}"))
    assert "has no answers" in error_of(command(f"--labeled={out / 'images.csv'}"))
    assert "cannot read" in error_of(command(f"--labeled={out / 'nothing.csv'}"))
    record = json.loads((out / "collection.json").read_text())
    (out / "collection.json").write_text(json.dumps(record | {"format": 9}))
    assert "has format 9" in error_of(command(f"--labeled={out / 'images.csv'}"))
    (out / "collection.json").unlink()
    assert "is not a collection" in error_of(command(f"--labeled={out / 'images.csv'}"))


def test_answers_are_not_chosen(tmp_path):
    flags = ["--count=200", "--window=100", "--per-class=0", "--random=1", "--seed=0"]
    for flag in flags:
        with pytest.raises(UserError, match=f"leave out {flag.partition('=')[0]}: with --labeled"):
            collect.main([f"--out={tmp_path}", "--labeled=a.csv", flag])
    with pytest.raises(UserError, match="leave out --count, --history: with"):
        collect.main([f"--out={tmp_path}", "--labeled=a.csv", "--history=1", "--count=3"])
