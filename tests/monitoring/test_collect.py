"""`python -m vision.monitoring.collect`: the choice, tasks, answers, and what a user gets wrong."""

import csv
import dataclasses
import json
import re
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.monitoring.conftest import START, Writer, photos
from tests.support.commands import outcome
from tests.support.tiny_bundle import write_bundle
from vision.data.sources import open_splits
from vision.errors import UserError
from vision.monitoring import collect
from vision.monitoring.labeling import collecting
from vision.monitoring.labeling.answers import take_back
from vision.reference import appearance
from vision.reference.features import NAMES
from vision.serving.logs.kept_images import KeepRules
from vision.serving.request import Answer, Description, Request
from vision.support.lock import locked_beside

ALL = KeepRules(share=1.0, seconds=1e12)
SHADOWED = range(0, 40, 4)  # images of which another version says another class


@pytest.fixture
def command(watched, tmp_path, capsys):
    """`command(*flags)` runs the command; returns (exit code, stdout, stderr)."""

    def run(*flags, log=tmp_path / "log", bundle=watched[0]):
        argv = (
            [] if any("--labeled" in f for f in flags) else [f"--bundle={bundle}", f"--log={log}"]
        )
        return outcome(collect.main, capsys, *argv, f"--out={tmp_path / 'out'}", *flags)

    return run


def shadow(writing, number, image, moment, monkeypatch):
    """Logs what version 4 says of an image that version 3 has answered: the next class."""
    probabilities, embedding = writing.bundle.probabilities_and_embeddings(image[None])
    other = np.full_like(probabilities, 0.01)
    other[0, (probabilities.argmax() + 1) % 10] = 0.91
    looks = appearance.measure(image, image.shape)[None]
    description = Description(looks, "another bundle", None)
    answer = Answer("pets", "4", writing.bundle.classes, other, embedding, {}, None, description)
    with monkeypatch.context() as patch:
        patch.setattr("time.time", lambda: float(moment))
        writing.log.put(Request("pets", image[None], id=f"r{number + 1}"), answer, shadow=True)


@pytest.fixture(scope="module")
def made(watched, tmp_path_factory):
    """A folder with a log and a collection of 40 of its images, `out`.

    The log has kept all of 200 images, of 100 darker ones, and of 10 that came again.
    """
    folder = tmp_path_factory.mktemp("collect")
    with pytest.MonkeyPatch.context() as patch:
        writing = Writer(folder / "log", watched[1], patch, keep=ALL)
        usual = photos(200, 3)
        writing.put(usual, START + np.arange(200))
        for number in SHADOWED:
            shadow(writing, number, usual[number], START + 200, patch)
        writing.put(photos(100, 4, light=0.5), START + 200 + np.arange(100))
        writing.put(usual[:10], START + 300 + np.arange(10))
        writing.close()
    argv = [f"--bundle={watched[0]}", f"--log={folder / 'log'}", f"--out={folder / 'out'}"]
    collect.main([*argv, "--window=100", "--count=40"])
    return folder


@pytest.fixture
def kept(made, tmp_path):
    """The log, in the test's own directory."""
    return shutil.copytree(made / "log", tmp_path / "log")


def table_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_worth_labeling_is_collected(kept, command, tmp_path, watched):
    code, printed, errors = command("--window=100", "--count=60")
    assert (code, errors) == (0, ""), errors
    assert "310 images kept; 1 of 3 windows alarm" in printed and "60 images: " in printed
    out = tmp_path / "out"
    rows = table_of(out / "images.csv")
    assert len(rows) == 60 and not any(row["label"] for row in rows)
    originals = {path.read_bytes() for path in (tmp_path / "log").rglob("*.png")}
    assert {(out / row["path"]).read_bytes() for row in rows} < originals
    assert len({row["path"] for row in rows}) == 60  # named by their contents: none twice
    reasons = [row["reasons"].split() for row in rows]
    for reason in ("disagree", "far", "drifted", "uncertain"):
        assert sum(reason in own for own in reasons) >= 5, reason
    numbers = [
        int(row["id"][1:]) - 1 for row, own in zip(rows, reasons, strict=True) if "disagree" in own
    ]
    assert set(numbers) <= {*SHADOWED, *range(300, 310)}
    darker = sum(200 < int(row["id"][1:]) <= 300 for row in rows)
    assert darker > 20  # a third of what was kept, and half of what is collected
    entropies = watched[1].reference["drift"]["features"]["entropy"]
    unsure = [
        float(row["entropy"]) for row, own in zip(rows, reasons, strict=True) if "uncertain" in own
    ]
    counts = np.cumsum(entropies["counts"]) / np.sum(entropies["counts"])
    assert min(unsure) >= entropies["edges"][np.searchsorted(counts, 0.9)] - 1e-6
    page = (out / "report.html").read_text()
    assert "60 images to label: out" in page and "Versions disagree" in page
    assert "version 4" in page and "<script" not in page and page.count("<img") >= 60


def test_a_quota_for_each_class(kept, command, tmp_path):
    code, printed, _ = command("--window=100", "--count=60", "--per-class=12")
    predicted = [row["predicted"] for row in table_of(tmp_path / "out" / "images.csv")]
    assert max(map(predicted.count, predicted)) == 12 and code == 0
    assert f"{len(predicted)} images of the 60 that were asked for: " in printed
    page = (tmp_path / "out" / "report.html").read_text()
    assert "60 were asked for" in page and "at most 12 of a class" in page


def test_some_are_drawn_at_random(kept, command, tmp_path):
    code, printed, _ = command("--window=100", "--count=30", "--random=20")
    rows = table_of(tmp_path / "out" / "images.csv")
    is_drawn = ["random" in row["reasons"].split() for row in rows]
    assert code == 0 and len(rows) == 30
    assert 15 <= sum(is_drawn) <= 20 and all(is_drawn[: sum(is_drawn)])  # copies count once
    assert f"{sum(is_drawn)} random" in printed
    assert "Drawn at random" in (tmp_path / "out" / "report.html").read_text()


def test_the_same_command_gives_the_same_collection(kept, command, tmp_path):
    assert command("--window=100", "--count=30")[0] == 0
    first = (tmp_path / "out" / "images.csv").read_bytes()
    assert command("--window=100", "--count=30")[0] == 0  # replaces one without answers
    assert (tmp_path / "out" / "images.csv").read_bytes() == first


@pytest.fixture
def collection(made, tmp_path):
    """The table of a collection of 40 images, which is in the test's own directory."""
    shutil.copytree(made / "out", tmp_path / "out")
    return table_of(tmp_path / "out" / "images.csv")


def test_tasks_are_filled_in(collection, tmp_path, watched):
    out = tmp_path / "out"
    predicted = {row["path"]: row["predicted"] for row in collection}
    source = open_splits(f"cvat:{out / 'cvat.xml'}")["all"]
    assert {
        f"images/{source.name(i).rpartition('/')[2]}": source.classes[source.labels[i]]
        for i in range(len(source))
    } == predicted
    root = ElementTree.parse(out / "cvat.xml").getroot()
    names = [label.findtext("name") for label in root.iter("label")]
    assert names == list(watched[1].classes) and root.findtext("version") == "1.1"
    assert {image.get("width") for image in root.iter("image")} == {"8"}
    tasks = json.loads((out / "label_studio.json").read_text())
    assert {
        task["data"]["path"]: task["predictions"][0]["result"][0]["value"]["choices"][0]
        for task in tasks
    } == predicted
    assert tasks[0]["data"]["image"] == f"/data/local-files/?d=out/{tasks[0]['data']['path']}"
    interface = ElementTree.parse(out / "label_studio.xml").getroot()
    choices = interface.find("Choices")
    result = tasks[0]["predictions"][0]["result"][0]
    assert choices.get("name") == result["from_name"]
    assert interface.find("Image").get("name") == choices.get("toName") == result["to_name"]
    assert [choice.get("value") for choice in choices] == names


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
    assert f"37 images labeled, {confirmed} of them as the model said; 3 skipped, 0" in printed
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
    assert "40 images labeled" in printed and "; 0 skipped, 0 ambiguous" in printed
    assert "20 of them are answers of an earlier file; 5 were answered again, 4 of" in printed
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
    assert "mine.png, which is not of this collection: move" in errors


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
    assert "1 other images of the file are not of this collection" in printed
    rows = {row["path"]: row["label"] for row in table_of(out / "labeled.csv")}
    first, _, third = (task["data"]["path"] for task in tasks[:3])
    assert rows == {first: "class 1", third: "class 3"}


def test_answers_are_never_replaced_by_a_new_collection(kept, collection, command, tmp_path):
    out = tmp_path / "out"
    as_csv(out, truth_of(collection))
    code, _, errors = command("--window=100")
    assert code == 2 and "images.csv was changed since it was written" in errors
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


def test_a_directory_of_something_else_is_left_alone(kept, command, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    code, _, errors = command()
    assert code == 2 and "is not a collection: name another directory" in errors
    (tmp_path / "out" / "thesis.txt").unlink()
    assert command("--count=10")[0] == 0
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    code, _, errors = command("--count=10")
    assert code == 2 and "not a collection's, such as thesis.txt" in errors
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def error_of(result):
    code, printed, errors = result
    assert code == 2 and printed == "", result
    assert errors.startswith("error: ") and len(errors.splitlines()) <= 2
    return errors


def test_logs_without_images(writer, command, tmp_path, watched):
    assert "there is no directory" in error_of(command())
    writing = writer()
    writing.put(photos(40, 3), START + np.arange(40))
    writing.close()
    assert "has 40 rows of this model and no images: start the server with --keep-images" in (
        error_of(command())
    )
    assert "no reference to measure drift from" in error_of(
        command(bundle=write_bundle(tmp_path / "plain"))
    )
    manifest = json.loads((watched[0] / "bundle.json").read_text())
    other = write_bundle(tmp_path / "other", model={"batch": "N"}, reference=manifest["reference"])
    assert "has no rows of the model" in error_of(command(bundle=other))
    assert not (tmp_path / "out").exists()


def test_a_clock_that_went_back(writer, command):
    writing = writer(keep=ALL)
    writing.put(photos(40, 3), START + np.arange(40))
    writing.put(photos(40, 4), START - 3600 + np.arange(40))
    writing.close()
    code, printed, errors = command("--window=1h")
    assert code == 2 and printed == "" and "the server's clock went back by 3,6" in errors
    code, printed, _ = command("--window=30")
    assert code == 0 and "went back" in printed and "follow the order of writing" in printed


def test_images_that_are_gone_are_counted(kept, command, tmp_path):
    images = sorted((tmp_path / "log").rglob("*.png"))
    for path in images[:100]:
        path.unlink()
    images[100].write_bytes(b"not an image")
    code, printed, _ = command("--window=100", "--count=20")
    assert code == 0 and "210 images kept, 100 deleted since" in printed
    shutil.rmtree(tmp_path / "log" / "_images")
    assert "all of the 310 images that it has kept are deleted" in error_of(command())


@pytest.mark.parametrize("left", [17, 0])
def test_images_that_the_server_deletes_meanwhile(kept, command, tmp_path, monkeypatch, left):
    select = collecting.select

    def slowly(scores, classes, sketches, reference, pictures, *options):
        places, copies = select(scores, classes, sketches, reference, pictures, *options)
        for place in places[left:]:
            pictures.files[place].unlink()
        return places, copies

    monkeypatch.setattr(collecting, "select", slowly)
    code, printed, errors = command("--window=100", "--count=20")
    if not left:
        assert code == 2 and "all of the 20 chosen images were deleted meanwhile" in errors
        assert not (tmp_path / "out").exists()
        return
    assert code == 0 and "3 of those chosen were deleted before they were copied" in printed
    assert "17 images of the 20 that were asked for" in printed
    assert len(table_of(tmp_path / "out" / "images.csv")) == 17
    assert "3 of those chosen" in (tmp_path / "out" / "report.html").read_text()


def test_nothing_that_is_worth_it(writer, command, tmp_path):
    writing = writer(keep=ALL)
    # one image that is as all are
    usual = photos(600, 2)
    outputs = writing.bundle.probabilities_and_embeddings(usual)
    entropy = -(outputs[0] * np.log(outputs[0] + 1e-30)).sum(1)
    looks = appearance.measure_all(usual)[:, : NAMES.index("aspect_ratio")]
    spread = np.abs((looks - looks.mean(0)) / (looks.std(0) + 1e-9)).max(1)
    writing.put(usual[[np.argmin(spread + 10 * (entropy > np.median(entropy)))]], [START])
    writing.close()
    code, printed, _ = command()
    assert code == 0 and "nothing is written" in printed and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.csv", "path,label\nimages/x.png,cat\n", "names none of the 40 images"),
        ("a.csv", "path,class name\nx,cat\n", "has no column of answers, 'label',"),
        ("a.csv", "name,label\nx,cat\n", "has no column of images, 'path',"),
        ("a.csv", "path,label\n", "has no rows"),
        ("a.xml", "<annotations>", "no element found"),
        ("a.xml", "<!DOCTYPE a><annotations/>", "document type declaration"),
        ("a.xml", "<annotations><track/></annotations>", "not an export 'CVAT for images 1.1'"),
        ("a.xml", "<annotation/>", "not an export 'CVAT for images 1.1'"),
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


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--count=0", "at least 1"),
        ("--per-class=-1", "at least 0"),
        ("--history=0", "at least 1"),
        ("--seed=-1", "at least 0"),
        ("--random=201", "at most 200"),
        ("--window=1y", "must be a number of rows, or a time"),
        ("--log=", "give --log"),
        ("--bundle=", "give --bundle"),
        ("--out=", "give --out"),
        ("--labeled=a.csv", "not both"),
        ("word", "unexpected argument"),
    ],
)
def test_flags_that_are_wrong(tmp_path, flag, message):
    argv = [f"--bundle={tmp_path}", f"--log={tmp_path}", f"--out={tmp_path / 'out'}"]
    with pytest.raises(UserError, match=re.escape(message)):
        collect.main([*argv, flag])
    assert not (tmp_path / "out").exists()


def test_answers_are_not_chosen(tmp_path):
    flags = ["--count=200", "--window=100", "--per-class=0", "--random=1", "--seed=0"]
    for flag in flags:
        with pytest.raises(UserError, match=f"leave out {flag.partition('=')[0]}: with --labeled"):
            collect.main([f"--out={tmp_path}", "--labeled=a.csv", flag])
    with pytest.raises(UserError, match="leave out --count, --history: with"):
        collect.main([f"--out={tmp_path}", "--labeled=a.csv", "--history=1", "--count=3"])


def test_names_that_a_spreadsheet_or_a_path_would_obey(writer, watched, command, tmp_path):
    writing = writer(keep=ALL)
    image = np.uint8(255 * (np.indices((8, 8, 1)).sum(0) % 2))
    outputs = writing.bundle.probabilities_and_embeddings(image[None])
    looks = appearance.measure(image, image.shape)[None]
    description = Description(looks, writing.bundle.fingerprint, None)
    answer = Answer("pets", "3", writing.bundle.classes, *outputs, {}, None, description)
    request = Request("pets", image[None], id="=cmd|' /C calc'!A1")
    writing.log.put(request, dataclasses.replace(answer), shadow=False)
    writing.close()
    assert command()[0] == 0
    assert "\n=cmd" not in (text := (tmp_path / "out" / "images.csv").read_text())
    assert ",'=cmd" in text
    (row,) = table_of(tmp_path / "out" / "images.csv")
    file = tmp_path / "a.csv"
    file.write_text(f"path,label\n{row['path']},=class 1\n")
    assert command(f"--labeled={file}")[0] == 0
    assert "'=class 1" in (tmp_path / "out" / "labeled.csv").read_text()
