"""The command, from a run to a source that the trainer mixes in."""

import csv
import json
import re
import shutil

import cv2
import numpy as np
import pytest

from tests.objectives.runs import small
from vision import cli
from vision.data.sources import open_splits
from vision.run.directory import read_run
from vision.synthesize.__main__ import main
from vision.training.run import run

pytestmark = pytest.mark.long


def gan_config(source):
    c = small(source)
    c.data.limit = 0
    c.objective.name = "gan"
    c.objective.options.width = 2
    c.objective.options.latent = 3
    c.train.steps = 2
    c.train.eval_every = 2
    return c


@pytest.fixture(scope="module")
def gan(tmp_path_factory):
    """A run on a long tail of digits: 128 of 0, and 32 of 9."""
    workdir = tmp_path_factory.mktemp("gan") / "run"
    run(gan_config("digits?imbalance=4"), workdir)
    return workdir


@pytest.fixture(scope="module")
def balanced(gan, tmp_path_factory):
    out = tmp_path_factory.mktemp("balanced") / "made"
    main(["--workdir", str(gan), "--out", str(out), "--balance", "--truncation", "1.5"])
    return out


def rows_of(out):
    with (out / "synthetic.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def fails(argv, capsys):
    """Runs the command as a program; returns its message on stderr."""
    with pytest.raises(SystemExit) as ended:
        cli.run(main, argv)
    assert ended.value.code == 2
    message = capsys.readouterr().err.strip()
    assert len(message.splitlines()) <= 2 and message.startswith("error: ")
    return message


def test_balance_fills_every_class_up_to_the_largest(gan, balanced):
    record = json.loads((balanced / "synthesis.json").read_text())
    real = record["real"]
    largest = max(real.values())
    assert real["0"] == largest > 3 * real["9"]
    assert record["images"] == {name: largest - count for name, count in real.items()}
    _, data = read_run(gan)
    assert list(real.values()) == data["class_counts"]
    rows = rows_of(balanced)
    assert len(rows) == sum(record["images"].values())
    assert {(row["split"], row["synthetic"]) for row in rows} == {("train", "1")}


def test_what_it_writes_is_a_source(balanced):
    opened = open_splits(f"csv:{balanced / 'synthetic.csv'}")
    assert list(opened) == ["train"]
    source = opened["train"]
    image = source[0]["image"]
    assert image.shape == (8, 8, 1) and image.dtype == np.uint8
    assert set(source.column_values("synthetic")) == {"1"}
    assert source.classes == tuple("123456789")  # none of the largest class, 0


def test_a_training_mixes_it_in(gan, balanced, tmp_path):
    c = small("digits?imbalance=4")
    c.data.limit = 0
    c.data.synthetic = f"csv:{balanced / 'synthetic.csv'}"
    c.train.steps = 1
    run(c, tmp_path / "run")
    _, data = read_run(tmp_path / "run")
    assert len(set(data["class_counts"])) == 1
    _, of_gan = read_run(gan)
    assert data["split_sizes"]["test"] == of_gan["split_sizes"]["test"]


def test_the_record_and_the_page(gan, balanced):
    record = json.loads((balanced / "synthesis.json").read_text())
    quality = record["quality"]
    assert quality["classes"].keys() == set("123456789")
    assert quality["overall"]["frechet"] > quality["validation"]["frechet"] > 0
    assert 0 <= quality["overall"]["recall"] <= 1
    copies = record["copies"]
    assert copies["classes"].keys() == set("123456789")
    assert copies["overall"]["images"] == sum(record["images"].values())
    assert copies["validation"]["smallest"] > 0 and 0 <= copies["overall"]["nearer"] <= 1
    assert copies["validation"]["nearer"] > 0
    assert record["embedding"] == f"vit of {gan}" and record["step"] == 2
    page = (balanced / "report.html").read_text()
    assert page.count("<figure>") == 2 * page.count('class="card"')
    assert "FID" not in page and "<script src" not in page
    assert page.count("Real, validation split") == 2


def test_the_page_begins_with_the_nearest_pairs(balanced):
    with (balanced / "nearest.csv").open(newline="") as lines:
        pairs = list(csv.DictReader(lines))
    assert {row["path"] for row in pairs} == {row["path"] for row in rows_of(balanced)}
    distances = [float(row["distance"]) for row in pairs]
    assert distances == sorted(distances)
    page = (balanced / "report.html").read_text()
    assert '<a href="nearest.csv">' in page
    shown = re.findall(r"images/\d/\d{6}\.png", page)
    first = pairs[0]
    assert shown[0] == first["path"] and first["real"] in page
    assert f"distance <b>{float(first['distance']):.3g}</b>" in page
    titles = re.findall(r"<h3>(\d): (nearest|at random)</h3>", page)
    assert titles == [(name, kind) for name in "123456789" for kind in ("nearest", "at random")]
    sections = re.split(r"<h3>\d: at random</h3>", page)[1:]
    assert [section.split("<h3>")[0].count('class="card"') for section in sections] == 9 * [3]
    for name in "123456789":
        nearest_of_class = next(row["path"] for row in pairs if row["label"] == name)
        assert nearest_of_class in page.split(f"<h3>{name}: nearest</h3>")[1].split("<h3>")[0]


def test_a_seed_gives_the_same_images_and_another_seed_others(gan, tmp_path):
    request = ["--workdir", str(gan), "--count", "2", "--classes", "3,1"]
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        main([*request, "--out", str(tmp_path / name), "--seed", seed])
    images = {
        name: [cv2.imread(str(f)) for f in sorted((tmp_path / name).glob("images/*/*.png"))]
        for name in "abc"
    }
    assert len(images["a"]) == 4 and [row["label"] for row in rows_of(tmp_path / "a")] == list(
        "1133"
    )
    assert np.array_equal(images["a"], images["b"])
    assert not np.array_equal(images["a"], images["c"])
    quality = json.loads((tmp_path / "a" / "synthesis.json").read_text())["quality"]
    assert quality["classes"]["1"]["frechet"] is None  # too few images


def test_few_real_images_are_doubtful(gan, tmp_path, capsys):
    main(["--workdir", str(gan), "--count", "1", "--classes", "9", "--out", str(tmp_path / "a")])
    output = capsys.readouterr()
    assert "note: classes with fewer than 100 training images: 9 (32)" in output.err
    assert "--config.data.synthetic=csv:" in output.out


def test_a_run_whose_validation_images_are_gone(tmp_path, capsys):
    """Its training images cannot stand in for them: each of these is its own nearest one."""
    source = open_splits("digits")["all"]
    with (tmp_path / "table.csv").open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(("path", "label", "split"))
        for number in range(60):
            cv2.imwrite(str(tmp_path / f"{number}.png"), source[number]["image"])
            label = source.classes[source.labels[number]]
            writer.writerow((f"{number}.png", label, ("train", "val", "test")[max(0, number - 57)]))
    c = gan_config(f"csv:{tmp_path / 'table.csv'}")
    c.data.max_unreadable = 0.1
    run(c, tmp_path / "run")
    (tmp_path / "58.png").unlink()
    capsys.readouterr()
    out = tmp_path / "made"
    main(["--workdir", str(tmp_path / "run"), "--count", "4", "--out", str(out)])
    printed = capsys.readouterr().out
    assert re.search(r"every other training image is: \d+\.\d % of the synthetic images\n", printed)
    record = json.loads((out / "synthesis.json").read_text())
    assert record["copies"]["validation"] is None and record["quality"]["validation"] is None
    assert record["copies"]["overall"]["images"] == record["quality"]["overall"]["compared"] == 40
    page = (out / "report.html").read_text()
    assert "Real, validation split" not in page and "has no validation images" in page
    assert "validation split" not in printed + page


def test_another_embedding_judges(gan, tiny_run, tmp_path):
    out = tmp_path / "a"
    main(["--workdir", str(gan), "--count", "4", "--out", str(out), "--embedding", str(tiny_run)])
    record = json.loads((out / "synthesis.json").read_text())
    assert record["embedding"] == f"vit of {tiny_run}"


def test_a_run_of_another_objective(tiny_run, tmp_path, capsys):
    message = fails(
        ["--workdir", str(tiny_run), "--out", str(tmp_path / "a"), "--count", "1"], capsys
    )
    assert "a run of the objective 'supervised', which draws no images" in message
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "how many images? Give --balance, or --count N for each class"),
        (["--count", "3", "--balance"], "how many images?"),
        (["--count", "0"], "--count must be at least 1, got 0"),
        (["--count", "3", "--classes", "1,x"], "--classes = 'x' is unknown"),
        (["--balance", "--classes", "1"], "--balance fills every class: give --classes with"),
        (["--count", "3", "--truncation", "0"], "--truncation must be above 0 and at most 10"),
        (["--count", "3", "--truncation", "11"], "--truncation must be above 0 and at most 10"),
        (["--count", "3", "--truncation", "nan"], "--truncation must be above 0 and at most 10"),
        (["--count", "3", "--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--count", "3", "--embedding", "nowhere"], "nowhere is not a run directory"),
        (["--count", "3", "photos"], "unexpected argument 'photos'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input(argv, message, gan, tmp_path, capsys):
    out = tmp_path / "made"
    assert message in fails(["--workdir", str(gan), "--out", str(out), *argv], capsys)
    assert not any(tmp_path.iterdir())


def test_missing_directories(gan, tmp_path, capsys):
    assert "give --workdir RUN" in fails(["--out", str(tmp_path / "a"), "--balance"], capsys)
    assert "is not a run directory" in fails(
        ["--workdir", str(tmp_path), "--out", str(tmp_path / "a"), "--balance"], capsys
    )


def test_an_existing_directory_stays(gan, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    message = fails(["--workdir", str(gan), "--out", str(tmp_path), "--balance"], capsys)
    assert f"--out {tmp_path} exists: name a new directory" in message
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_balanced_classes_need_nothing(gan, tmp_path, capsys):
    shutil.copytree(gan, tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    config = json.loads(file.read_text())
    config["data"]["labels"] = "20/class"
    file.write_text(json.dumps(config))
    message = fails(
        ["--workdir", str(tmp_path / "run"), "--out", str(tmp_path / "made"), "--balance"], capsys
    )
    assert "each of the 10 classes has 20 training images, so none is missing" in message
