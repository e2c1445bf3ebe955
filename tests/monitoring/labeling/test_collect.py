"""`python -m vision.monitoring.collect`: the choice, tasks, and what a user gets wrong."""

import dataclasses
import json
import re
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.monitoring.conftest import START, photos
from tests.monitoring.labeling.conftest import ALL, SHADOWED, error_of, table_of
from tests.support.tiny_bundle import write_bundle
from vision.data.sources import open_splits
from vision.errors import UserError
from vision.monitoring import collect
from vision.monitoring.labeling import collecting
from vision.reference import appearance
from vision.reference.features import NAMES
from vision.serving.request import Answer, Description, Request

pytestmark = pytest.mark.long


def test_what_is_worth_labeling_is_collected(kept, command, tmp_path, watched):
    code, printed, errors = command("--window=100", "--count=60")
    assert (code, errors) == (0, ""), errors
    assert "310 images kept; alarms in 1 of 3 windows" in printed and "60 images: " in printed
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
    assert "version 4" in page and "<script src" not in page and page.count("<img") >= 60


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
    assert sum(is_drawn) == 20 and all(is_drawn[:20])  # another one for each copy
    assert "20 random" in printed
    assert "Drawn at random" in (tmp_path / "out" / "report.html").read_text()


def test_the_same_command_gives_the_same_collection(kept, command, tmp_path):
    assert command("--window=100", "--count=30")[0] == 0
    first = (tmp_path / "out" / "images.csv").read_bytes()
    assert command("--window=100", "--count=30")[0] == 0  # replaces one without answers
    assert (tmp_path / "out" / "images.csv").read_bytes() == first


def keys_of(directory):
    return {(row["id"], row["image"]) for row in table_of(directory / "images.csv")}


def test_images_of_earlier_collections_are_not_collected_again(made, kept, command, tmp_path):
    flags = ("--window=100", "--count=40")
    command(*flags)
    assert keys_of(tmp_path / "out") == keys_of(made / "out")  # without --earlier they are
    code, printed, _ = command(*flags, f"--earlier={made / 'out'}")
    assert code == 0 and "270 images kept, 40 more in earlier collections" in printed
    second = shutil.copytree(tmp_path / "out", tmp_path / "second")
    both = f"--earlier={made / 'out'},{second}"
    code, printed, _ = command(*flags, both)
    assert code == 0 and "80 more in earlier collections" in printed
    directories = (made / "out", second, tmp_path / "out")
    assert len(set().union(*map(keys_of, directories))) == 120
    # ten images came twice, in requests of different names
    names = [row["path"] for directory in directories for row in table_of(directory / "images.csv")]
    assert len(set(names)) == len(names) == 120
    record = json.loads((tmp_path / "out" / "collection.json").read_text())
    assert record["earlier"] == [str(made / "out"), str(second)]


def test_as_many_as_asked_are_drawn_at_random_from_what_is_left(made, kept, command, tmp_path):
    flags = ("--window=100", "--count=60", "--random=50", "--seed=3")
    code, printed, _ = command(*flags, f"--earlier={made / 'out'}")
    assert code == 0 and "50 random" in printed
    assert not keys_of(tmp_path / "out") & keys_of(made / "out")


def test_earlier_collections_that_are_wrong(made, kept, command, tmp_path):
    assert "--earlier" in error_of(command(f"--earlier={tmp_path / 'log'}"))
    assert "in --earlier too" in error_of(command(f"--earlier={made / 'out'},{tmp_path / 'out'}"))
    earlier = shutil.copytree(made / "out", tmp_path / "earlier")
    record = json.loads((earlier / "collection.json").read_text())
    names = [f"r{number}" for number in range(1, 311)]
    record["images"] = [record["images"][0] | {"request": name, "path": name} for name in names]
    (earlier / "collection.json").write_text(json.dumps(record))
    assert "all 310 images that it kept are in --earlier" in error_of(
        command(f"--earlier={earlier}")
    )
    (earlier / "collection.json").write_text("{")
    message = error_of(command(f"--earlier={earlier}"))
    assert "collection.json" in message and "leave it out of --earlier" in message
    assert not (tmp_path / "out").exists()


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


def test_logs_without_images(writer, command, tmp_path, watched):
    assert "there is no directory" in error_of(command())
    writing = writer()
    writing.put(photos(40, 3), START + np.arange(40))
    writing.close()
    assert "has 40 rows of this model but no images: start the server with --keep-images" in (
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
    assert "all 310 images that it kept have been deleted" in error_of(command())


@pytest.mark.parametrize("left", [17, 0])
def test_images_that_the_server_deletes_meanwhile(kept, command, tmp_path, monkeypatch, left):
    select = collecting.select

    def slowly(scores, classes, sketches, reference, screening, *options):
        places, copies = select(scores, classes, sketches, reference, screening, *options)
        for place in places[left:]:
            screening.pictures.files[place].unlink()
        return places, copies

    monkeypatch.setattr(collecting, "select", slowly)
    code, printed, errors = command("--window=100", "--count=20")
    if not left:
        assert code == 2 and "all 20 chosen images were deleted in the meantime" in errors
        assert not (tmp_path / "out").exists()
        return
    assert code == 0 and "3 of the chosen images were deleted before they were copied" in printed
    assert "17 images of the 20 that were asked for" in printed
    assert len(table_of(tmp_path / "out" / "images.csv")) == 17
    assert "3 of the chosen images" in (tmp_path / "out" / "report.html").read_text()


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
        ("--earlier=missing", "--earlier missing is not a collection"),
        ("word", "unexpected argument"),
    ],
)
def test_flags_that_are_wrong(tmp_path, flag, message):
    argv = [f"--bundle={tmp_path}", f"--log={tmp_path}", f"--out={tmp_path / 'out'}"]
    with pytest.raises(UserError, match=re.escape(message)):
        collect.main([*argv, flag])
    assert not (tmp_path / "out").exists()


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
