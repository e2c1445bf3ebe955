"""`python -m vision.predict`, on a run and on files as they come."""

import csv
import io
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.conftest import REPOSITORY
from tests.support.commands import outcome
from tests.support.processes import environment_of
from tests.support.tiny_bundle import RESIZE, write_bundle
from vision import inference, predict
from vision.bundle import directory as bundle
from vision.data.annotated import annotated
from vision.data.decode import UnreadableImage, decode, resize_crop, to_channels
from vision.data.pictures import overlay
from vision.explain.heat_maps import heat_maps
from vision.support.ahead import AHEAD


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with three images, one of them below another folder, and one that is cut short."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deeper").mkdir()
    random = np.random.default_rng(0)
    for name, size in (("a.png", (8, 8)), ("b.jpg", (30, 20)), ("deeper/c.png", (9, 40))):
        cv2.imwrite(str(folder / name), random.integers(0, 256, (*size, 3), np.uint8))
    (folder / "broken.jpg").write_bytes((folder / "b.jpg").read_bytes()[:100])
    return folder


def run(capsys, *argv):
    return outcome(predict.main, capsys, *argv)


def test_formats_agree_and_unreadable_files_are_named(tiny_run, photos, capsys):
    code, table, err = run(capsys, photos, "--workdir", tiny_run, "--batch_size=2")
    assert code == 1 and "broken.jpg" in err and "error: 1 of 4 files cannot be read" in err
    header, *lines = table.splitlines()
    assert [line.rpartition("/")[2] for line in lines] == ["a.png", "b.jpg", "c.png"]
    assert header.split() == ["top", "1", "top", "2", "top", "3", "top", "4", "top", "5", "file"]
    # the columns are aligned
    assert {line.index(str(photos)) for line in lines} == {header.index("file")}
    _, text, _ = run(capsys, "--workdir", tiny_run, "--format", "csv", "--top=3", photos)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 9 and [row["rank"] for row in rows[:3]] == ["1", "2", "3"]
    _, text, _ = run(capsys, "--workdir", tiny_run, "--format", "json", "--top=99", photos)
    predictions = [json.loads(line) for line in text.splitlines()]
    assert all(
        sum(t["probability"] for t in f["top"]) == pytest.approx(1) and len(f["top"]) == 10
        for f in predictions
    )
    assert [f["top"][0]["class"] for f in predictions] == [row["class"] for row in rows[::3]]
    assert float(rows[0]["probability"]) == pytest.approx(
        predictions[0]["top"][0]["probability"], abs=1e-6
    )


def test_a_padded_batch_changes_nothing(tiny_run, photos):
    classifier = inference.from_run(tiny_run)
    files = [str(photos / name) for name in ("a.png", "b.jpg", "deeper/c.png")]
    small_batches, large_batches = (
        list(predict.predict(classifier, files, batch_size=size)) for size in (2, 3)
    )
    for (a, first), (b, second) in zip(small_batches, large_batches, strict=True):
        assert a == b and [n for n, _ in first] == [n for n, _ in second]
        np.testing.assert_allclose([p for _, p in first], [p for _, p in second], rtol=1e-5)


def test_a_bundle_predicts_what_its_graph_gives(photos, tmp_path, capsys):
    """Of every file, its own probabilities: nothing is swapped on the way through batches and
    threads."""
    folder = write_bundle(tmp_path / "bundle")
    model = bundle.open_bundle(folder)
    code, out, err = run(
        capsys, "--bundle", folder, "--format=json", "--batch_size=2", f"{photos}/**/*.*"
    )
    assert code == 1 and "error: 1 of 4 files cannot be read" in err
    predictions = {
        f["file"]: {t["class"]: t["probability"] for t in f["top"]}
        for f in map(json.loads, out.splitlines())
    }
    assert {file.rpartition("/")[2] for file in predictions} == {"a.png", "b.jpg", "c.png"}
    for file, top in predictions.items():
        image = resize_crop(to_channels(decode(file), 1), 8, **RESIZE)
        expected = dict(
            zip(model.classes, model.probabilities_and_embeddings(image[None])[0][0], strict=True)
        )
        assert top == pytest.approx({name: expected[name] for name in top}, abs=1e-6)
        assert (
            sorted(top.values(), reverse=True) == list(top.values())
            and max(expected.values()) in top.values()
        )


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("*.png", ["[1].png", "a.png"]),
        ("**/*.png", ["[1].png", "a.png", "c.png"]),
        ("**", ["[1].png", "a.png", "b.JPG", "c.png"]),  # images alone, and none twice
        ("?.*", ["a.png", "b.JPG"]),
        ("[ab].*", ["a.png", "b.JPG"]),
        ("[1].png", ["[1].png"]),  # a file of that name comes before the pattern
        ("note.txt", ["note.txt"]),  # who names a file means it
        ("", ["[1].png", "a.png", "b.JPG", "c.png"]),
    ],
)
def test_words_and_patterns(word, names, tmp_path):
    (tmp_path / "deeper").mkdir()
    for name in (
        "a.png",
        "b.JPG",
        "[1].png",
        "note.txt",
        ".hidden.png",
        "deeper/c.png",
        "deeper/.d.png",
    ):
        (tmp_path / name).touch()
    files = [file.rpartition("/")[2] for file in predict.find([f"{tmp_path}/{word}"])]
    assert sorted(files) == names


def test_files_are_read_as_they_are_needed(tmp_path):
    """Of endless files, a few batches more than were asked for; the next are decoded before the
    model is called."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8), np.uint8))
    model = bundle.open_bundle(write_bundle(tmp_path / "bundle"))
    taken = []

    def files():
        while True:
            taken.append(len(taken))
            yield str(tmp_path / ("a.png" if len(taken) % 7 else "missing.png"))

    answers = predict.predict(model, files(), batch_size=4)
    results = [next(answers)[1] for _ in range(30)]
    answers.close()
    assert [i for i, f in enumerate(results, 1) if isinstance(f, UnreadableImage)] == [
        7,
        14,
        21,
        28,
    ]
    assert len(taken) == 32 + 4 * AHEAD


def test_long_names_are_cut_in_the_table_alone(photos, tmp_path, capsys):
    names = [f"a class with a long name, number {i}" for i in range(10)]
    folder = write_bundle(tmp_path / "bundle", names)
    _, out, _ = run(capsys, "--bundle", folder, "--top=2", photos / "a.png")
    header, line = out.splitlines()
    assert line.count("a class with a long…") == 2 and line.index(str(photos)) == header.index(
        "file"
    )
    _, out, _ = run(capsys, "--bundle", folder, "--top=2", "--format=csv", photos / "a.png")
    assert {row["class"] for row in csv.DictReader(io.StringIO(out))} <= set(names)


def test_the_run_s_own_accuracy_is_repeated(tiny_run):
    """The classifier gives what the trainer's evaluation counted, image by image."""
    from vision import parallel
    from vision.data.pipeline import open_data
    from vision.evaluation.outputs import Forward, collect

    classifier = inference.from_run(tiny_run)
    mesh = parallel.make_mesh(1)
    data = open_data(classifier.config, mesh)
    outputs = collect(Forward(classifier, mesh), data.loaders["test"], 32)
    labels = outputs.labels
    logits = outputs.logits
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (labels, logits.argmax(-1)), 1)
    assert confusion.tolist() == json.loads((tiny_run / "result.json").read_text())["confusion"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("README.md",), "which model? Give --workdir RUN, --bundle DIR, or --config"),
        (("--config", "configs/digits.py"), "which images?"),
        (("--workdir", "nowhere"), "which images?"),
        (
            ("--workdir", "nowhere", "README.md"),
            "nowhere is not a run directory: it has no config.json",
        ),
        (("--workdir", "nowhere", "nothing.png"), "there is no file or folder nothing.png"),
        (("--workdir", "x", "--config", "configs/digits.py", "README.md"), "which model?"),
        (("--config", "configs/digits.py", "README.md"), "has no model.pretrained: train it"),
        (("--workdir", "x", "--bundle", "y", "README.md"), "which model?"),
        (("--bundle", "y", "--config", "configs/digits.py", "README.md"), "which model?"),
        (("--bundle", "nowhere", "README.md"), "there is no bundle nowhere"),
        (("--bundle", "configs", "README.md"), "configs is not a bundle: it has no bundle.json"),
        (("--bundle", "nowhere", "README.md", "nothing/*.png"), "no image matches nothing/*.png"),
        (("--bundle", "nowhere", "README.md", "*.md"), "no image matches *.md"),
        (("--bundle", "nowhere", "README.md", "configs"), "folder configs holds no images"),
        (("--workdir", "x", "--format", "xml", "README.md"), "--format = 'xml' is unknown"),
        (("--workdir", "x", "--top", "0", "README.md"), "--top must be at least 1"),
        (("--workdir", "x", "--unknown", "README.md"), "Unknown command line flag 'unknown'"),
    ],
)
def test_mistakes(argv, message, capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    code, _, err = run(capsys, *argv)
    assert code == 2 and err.startswith("error: ") and len(err.splitlines()) <= 2
    assert message in err


def test_help(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0 and "--batch_size" in out and "Classifies image files" in out


def test_a_run_of_four_devices_is_opened_on_one(tmp_path):
    """Where it was trained, and how its state was cut, does not matter to those who use it."""
    workdir = tmp_path / "run"
    root = REPOSITORY
    flags = [
        "--config.model.name=vit",
        "--config.model.variant=mu/4",
        "--config.augment.affine=False",
    ]
    argv = [
        "-m",
        "vision.main",
        "--config",
        "configs/digits.py:smoke",
        f"--workdir={workdir}",
        *flags,
    ]
    argv += ["--config.parallel.fsdp=4", "--config.log.progress=False"]
    printed = {}
    for devices, command in (
        (4, argv),
        (
            1,
            [
                "-m",
                "vision.predict",
                "--workdir",
                str(workdir),
                "--format=json",
                str(tmp_path / "a.png"),
            ],
        ),
    ):
        cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8), np.uint8))
        env = environment_of(devices)
        done = subprocess.run(
            [sys.executable, *command], cwd=root, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        printed[devices] = done.stdout
    assert len(json.loads(printed[1])["top"]) == 5


def test_every_format_is_read_or_named(tmp_path, capsys):
    """Photos of phones and browsers, and a link to nowhere, in a folder and by a pattern."""
    write_bundle(tmp_path / "bundle")
    photos = tmp_path / "photos"
    (photos / "@eaDir").mkdir(parents=True)
    image = Image.fromarray(np.full((9, 9, 3), 100, np.uint8))
    for name, kind in (("a.jfif", "JPEG"), ("b.AVIF", "AVIF"), ("c.jp2", "JPEG2000")):
        image.save(photos / name, kind)
    image.save(photos / "@eaDir" / "thumbnail.jpg")
    (photos / "d.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500))
    (photos / "e.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500))
    (photos / "f.jpg").symlink_to("nowhere.jpg")
    for files in (photos, photos / "*"):
        code, table, err = run(capsys, "--bundle", tmp_path / "bundle", files)
        names = [line.rpartition("/")[2] for line in table.splitlines()[1:]]
        assert code == 1 and sorted(names) == ["a.jfif", "b.AVIF", "c.jp2"]
        assert err.count("HEIC photos cannot be decoded: convert them, or pip install") == 2
        assert "f.jpg: No such file" in err and "3 of 6 files cannot be read" in err


def test_the_significant_bits_of_a_bundle(tmp_path, capsys):
    """A file that only training's bits can read shows that they are used."""
    config = {"data": {"source": "", "bits": 9}}
    write_bundle(tmp_path / "bundle", config=config)
    Image.fromarray(np.full((9, 9), 512, np.uint16)).save(tmp_path / "deep.png")
    code, _, err = run(capsys, "--bundle", tmp_path / "bundle", tmp_path / "deep.png")
    assert code == 1 and "its values reach 512, too large for data.bits=9" in err


def test_pictures_are_written_beside_the_table(tiny_run, photos, tmp_path, capsys):
    out = tmp_path / "pictures"
    code, table, _ = run(capsys, photos, "--workdir", tiny_run, "--pictures", out)
    assert code == 1 and len(table.splitlines()) == 4  # a head and three images; one is broken
    folder = out / "_" / photos.relative_to("/")
    written = {str(path.relative_to(folder)) for path in out.rglob("*") if path.is_file()}
    assert written == {"a.png.jpg", "b.jpg.jpg", "deeper/c.png.jpg"}


def test_heat_maps_are_beside_the_pictures(tiny_run, photos, tmp_path, capsys):
    out = tmp_path / "pictures"
    flags = ("--workdir", tiny_run, "--pictures", out)
    code, table, _ = run(capsys, photos / "a.png", photos / "b.jpg", *flags)
    assert code == 0
    with Image.open(next(out.rglob("a.png.jpg"))) as picture:
        width = picture.size[0]
    code, with_maps, _ = run(capsys, photos / "a.png", photos / "b.jpg", *flags, "--heat-map")
    assert code == 0 and with_maps == table
    classifier = inference.from_run(tiny_run)
    maps = heat_maps(classifier, "run", "--heat-map", "--heatmap")
    for name in ("a.png", "b.jpg"):
        image = decode(str(photos / name))
        seen = classifier.prepare(image)
        probabilities, _ = classifier.probabilities_and_embeddings(seen[None])
        heat = overlay(seen, maps(seen[None], probabilities.argmax(1))[0])
        ranking = predict.rank(classifier.classes, probabilities[0], 5, name)
        expected = np.asarray(annotated(image, ranking, heat, maps.caption), np.int16)
        with Image.open(next(out.rglob(f"{name}.jpg"))) as picture:
            assert picture.size[0] == 2 * width
            right = np.asarray(picture, np.int16)[:, width:]
        difference = np.abs(right - expected[:, width:]).mean((1, 2))
        assert difference[:width].mean() < 2  # JPEG's, of the map
        assert difference[width:].mean() < 2  # of the caption


def test_a_bundle_shows_its_own_heat_map_or_says_that_it_has_none(photos, tmp_path, capsys):
    folder = write_bundle(tmp_path / "bundle")
    flags = (photos / "a.png", "--bundle", folder, "--pictures", tmp_path / "out", "--heat-map")
    code, _, err = run(capsys, *flags)
    assert code == 2 and "has no heat maps: export it again with python -m vision.export" in err
    assert not list((tmp_path / "out").rglob("*.jpg"))
    code, _, err = run(capsys, photos / "a.png", "--bundle", folder, "--heat-map")
    assert code == 2 and "--heat-map needs --pictures DIR" in err


def test_the_map_is_that_of_the_image_and_its_class(tiny_run, photos):
    classifier = inference.from_run(tiny_run)
    maps = heat_maps(classifier, "run", "--heat-map", "--heatmap")
    files = [str(photos / name) for name in ("a.png", "broken.jpg", "b.jpg", "deeper/c.png")]
    answered = dict(predict.answers(classifier, files, decode, 2, heat=maps))
    assert isinstance(answered.pop(files[1]), UnreadableImage)
    for answer in answered.values():
        best = np.array([answer.probabilities.argmax()])
        expected = maps(answer.image[None], best)[0]
        np.testing.assert_allclose(answer.heat_map, expected, atol=1e-5)
