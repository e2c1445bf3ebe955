"""`python -m vision.predict --tiles`, against tiles cut by NumPy and predicted as files."""

import csv
import io
import itertools
import json
import weakref

import cv2
import numpy as np
import pytest

from tests.support.commands import outcome, refusal
from tests.support.tiny_bundle import write_bundle
from vision import predict
from vision.bundle.directory import open_bundle
from vision.errors import UserError
from vision.support.ahead import AHEAD
from vision.tiles import command, stream
from vision.tiles.grid import Tiling

CLASSES = [f"class {i}" for i in range(10)]
SIZE = (45, 61)  # rows and columns
# of tiles of 20 pixels with an overlap of a quarter
X = (0, 15, 30, 41)
Y = (0, 15, 25)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("tiles") / "bundle", CLASSES)


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """An image in color whose upper left quarter is bright."""
    image = np.random.default_rng(3).integers(0, 256, (*SIZE, 3), np.uint8)
    image[:20, :30] //= 4
    path = tmp_path_factory.mktemp("images") / "line.png"
    cv2.imwrite(str(path), image)
    return path


def run(capsys, *argv):
    code, out, err = outcome(predict.main, capsys, *argv)
    assert code == 0, err
    return out


@pytest.fixture
def expected(bundle, line, tmp_path, capsys):
    """[(x, y, probabilities)] of each tile as a file of its own."""
    image = cv2.imread(str(line))
    for y, x in itertools.product(Y, X):
        tile = image[y : y + 20, x : x + 20]
        cv2.imwrite(str(tmp_path / f"{y:02}-{x:02}.png"), tile)
    argv = ("--bundle", bundle, "--format=json", "--top=10", tmp_path)
    lines = [json.loads(text) for text in run(capsys, *argv).splitlines()]
    tiles = []
    for document, (y, x) in zip(lines, itertools.product(Y, X), strict=True):
        assert document["file"].endswith(f"{y:02}-{x:02}.png")
        rows = {entry["class"]: entry["probability"] for entry in document["top"]}
        tiles.append((x, y, np.array([rows[name] for name in CLASSES])))
    return tiles


def test_tiles_are_like_images_and_the_map_is_their_mean(expected, bundle, line, tmp_path, capsys):
    maps = tmp_path / "maps"
    argv = ("--bundle", bundle, "--tiles=20", "--format=json", "--top=10", f"--maps={maps}")
    document = json.loads(run(capsys, *argv, "--batch_size=5", line))
    assert (document["width"], document["height"]) == SIZE[::-1]
    sums = np.zeros((10, *SIZE))
    counts = np.zeros(SIZE)
    for tile, (x, y, probabilities) in zip(document["tiles"], expected, strict=True):
        assert (tile["x"], tile["y"], tile["width"], tile["height"]) == (x, y, 20, 20)
        rows = {entry["class"]: entry["probability"] for entry in tile["top"]}
        np.testing.assert_allclose([rows[name] for name in CLASSES], probabilities, atol=1e-6)
        sums[:, y : y + 20, x : x + 20] += probabilities[:, None, None]
        counts[y : y + 20, x : x + 20] += 1
    with np.load(document["map"]) as archive:
        heat = dict(archive)
    assert document["map"] == f"{maps}/_{line}.map.npz" and list(heat["classes"]) == CLASSES
    assert heat["probabilities"].dtype == np.float32
    pixels = heat["probabilities"].repeat(np.diff(heat["y"]), 1).repeat(np.diff(heat["x"]), 2)
    np.testing.assert_allclose(pixels, sums / counts, atol=1e-6)
    picture = cv2.imread(f"{maps}/_{line}.map.png")
    assert picture.shape[1] >= 640 and picture.shape[0] > 45 * 11  # enlarged, above a legend
    # nothing is left over, such as a lock or a temporary file
    assert sorted(p.name for p in maps.rglob("*") if p.is_file()) == [
        "line.png.map.npz",
        "line.png.map.png",
    ]


def test_the_decision_in_each_format(expected, bundle, line, capsys):
    every = np.array([probabilities for _, _, probabilities in expected])
    best = int(every.max(0).argmax())
    x, y, _ = expected[int(every[:, best].argmax())]
    argv = ("--bundle", bundle, "--tiles=20", line)
    document = json.loads(run(capsys, *argv, "--format=json", "--top=3"))
    assert document["class"] == CLASSES[best] == document["top"][0]["class"]
    assert document["score"] == pytest.approx(every.max(), abs=1e-6)
    assert document["tile"] == {"x": x, "y": y, "width": 20, "height": 20}
    assert len(document["top"]) == len(document["tiles"][0]["top"]) == 3 and "map" not in document
    (row,) = csv.DictReader(io.StringIO(run(capsys, *argv, "--format=csv")))
    assert float(row.pop("score")) == pytest.approx(every.max(), abs=1e-6)
    assert row == {
        "file": str(line),
        "class": CLASSES[best],
        "tiles": "12",
        "x": str(x),
        "y": str(y),
        "width": "20",
        "height": "20",
    }
    header, text = run(capsys, *argv).splitlines()
    assert header.split() == ["decision", "tiles", "x", "y", "width", "height", "file"]
    assert text.split() == [
        *(f"{100 * every.max():.1f}", "%", *CLASSES[best].split()),
        *("12", str(x), str(y), "20", "20", str(line)),
    ]
    assert text.index(str(line)) == header.index("file")


def test_a_normal_class_and_a_threshold(expected, bundle, line, capsys):
    every = np.array([probabilities for _, _, probabilities in expected])
    normal = int(every.max(0).argmax())
    defects = np.delete(every, normal, 1)
    greatest = defects.max()
    name = np.delete(CLASSES, normal)[defects.max(0).argmax()]
    x, y, _ = expected[int(defects.max(1).argmax())]
    argv = ("--bundle", bundle, "--tiles=20", "--format=json", f"--normal={CLASSES[normal]}", line)
    for threshold, label, score in (
        (greatest - 1e-3, name, greatest),
        (greatest + 1e-3, CLASSES[normal], 1 - greatest),
    ):
        document = json.loads(run(capsys, *argv, f"--defect-threshold={threshold}"))
        assert document["class"] == label
        assert document["score"] == pytest.approx(score, abs=1e-6)
        assert (document["tile"]["x"], document["tile"]["y"]) == (x, y)


def test_a_small_image_is_predicted_like_any_other(bundle, line, tmp_path, capsys):
    """One tile, though it is not square; and its neighbors in a batch change nothing."""
    small = cv2.imread(str(line))[:9, :17]
    cv2.imwrite(str(tmp_path / "small.png"), small)
    files = (line, tmp_path / "small.png", line)
    argv = ("--bundle", bundle, "--format=json", "--top=10")
    plain = json.loads(run(capsys, *argv, tmp_path / "small.png"))
    several = [json.loads(text) for text in run(capsys, *argv, "--tiles=20", *files).splitlines()]
    assert [len(document["tiles"]) for document in several] == [12, 1, 12]
    assert several[0] == several[2]
    (tile,) = several[1]["tiles"]
    assert [entry["class"] for entry in tile["top"]] == [entry["class"] for entry in plain["top"]]
    np.testing.assert_allclose(
        [entry["probability"] for entry in tile["top"]],
        [entry["probability"] for entry in plain["top"]],
        atol=1e-6,
    )
    assert tile["width"] == 17 and tile["height"] == 9


def test_unreadable_files_and_too_many_tiles_end_nothing(bundle, line, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(line.read_bytes()[:200])
    cv2.imwrite(str(tmp_path / "long.png"), np.zeros((2, 70_000), np.uint8))
    argv = ("--bundle", bundle, "--tiles=20", "--format=csv", f"--maps={tmp_path / 'maps'}")
    files = (tmp_path / "broken.png", tmp_path / "long.png", line)
    code, out, err = outcome(predict.main, capsys, *argv, *files)
    assert code == 1 and "error: 2 of 3 files cannot be read" in err
    assert f"unreadable: {tmp_path / 'broken.png'}: " in err
    message = "long.png: 70000 x 2 pixels make 69,999 tiles of 2, but at most 65,536 are allowed"
    assert message in err
    assert [row["file"] for row in csv.DictReader(io.StringIO(out))] == [str(line)]


def test_few_prepared_tiles_are_in_memory(bundle, tmp_path, monkeypatch):
    """Of 3,600 tiles, those of a few batches, and of endless files two images."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((488, 488), np.uint8))
    model = open_bundle(bundle)
    prepared = []
    prepare = model.prepare
    most = 0

    def counting(image):
        prepared.append(1)
        return prepare(image)

    def running(images):
        nonlocal most
        most = max(most, len(prepared))
        prepared[:] = prepared[len(images) :]
        return run_model(images)

    run_model = model.probabilities_and_embeddings
    monkeypatch.setattr(model, "prepare", counting)
    monkeypatch.setattr(model, "probabilities_and_embeddings", running)
    decoded = []

    def files():
        while True:
            decoded.append(1)
            yield str(tmp_path / "a.png")

    answers = stream.classify(model, files(), Tiling(8, 0.0), batch_size=50)
    for _ in range(2):
        assert len(next(answers).prediction.grid) == 61 * 61
    answers.close()
    assert most <= (AHEAD + 1) * 50 and len(decoded) <= 4


def test_few_images_of_one_tile_are_in_memory(bundle, tmp_path, monkeypatch, capsys):
    """As many as have so many pixels, not as many as fill a few batches."""
    random = np.random.default_rng(0)
    for number in range(20):
        cv2.imwrite(str(tmp_path / f"{number:02}.png"), random.integers(0, 256, (20, 20), np.uint8))
    argv = ("--bundle", bundle, "--tiles=20", "--format=json", "--batch_size=7", tmp_path)
    expected = run(capsys, *argv)
    monkeypatch.setattr(stream, "MOST_PIXELS", 3 * 20 * 20)
    assert run(capsys, *argv) == expected
    images = weakref.WeakValueDictionary()
    count = itertools.count()

    def remembering(file, **options):
        image = decode(file, **options)
        images[next(count)] = image
        return image

    decode = stream.decode
    monkeypatch.setattr(stream, "decode", remembering)
    files = itertools.cycle(map(str, sorted(tmp_path.glob("*.png"))))
    answers = stream.classify(open_bundle(bundle), files, Tiling(20, 0.0), batch_size=32)
    for number in range(60):
        assert next(answers).file.endswith(f"{number % 20:02}.png")
        assert len(images) <= 3 + 2 + 1  # under way, the next two, and the one that is answered
    answers.close()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--tiles=7",), "--tiles must be at least 8, got 7"),
        (("--tiles=20", "--overlap=0.95"), "--overlap must be in [0, 0.9], got 0.95"),
        (("--tiles=20", "--overlap=-0.1"), "--overlap must be in [0, 0.9], got -0.1"),
        (("--tiles=20", "--overlap=nan"), "--overlap must be in [0, 0.9], got nan"),
        (("--tiles=many",), "--tiles=many"),
        (("--overlap=0.5",), "--overlap needs --tiles"),
        (("--normal=class 1",), "--normal needs --tiles"),
        (("--maps=maps",), "--maps needs --tiles"),
        (("--tiles=20", "--defect-threshold=0.3"), "--defect-threshold needs --normal"),
        (("--tiles=20", "--normal=clas 1"), "--normal = 'clas 1' is unknown (did you mean"),
        (("--tiles=20", "--normal="), "--normal = '' is unknown"),
        (("--tiles=20", "--table=x.csv"), "give either --tiles or --table x.csv"),
        (("--tiles=20", "--pictures=out"), "--pictures out cannot go with --tiles: use --maps"),
        (("--tiles=20", "--unsure=rule"), "--unsure rule cannot go with --tiles: it is for images"),
        (("--tiles=20", "--unsure=0.9"), "--unsure 0.9 cannot go with --tiles"),
    ],
)
def test_mistakes(argv, message, bundle, line, capsys):
    assert message in refusal(predict.main, capsys, "--bundle", bundle, *argv, line)


@pytest.mark.parametrize(
    ("words", "maps"),
    [
        (("photos",), "photos"),
        (("photos",), "photos/maps"),
        (("photos/**/*.png",), "photos/new/maps"),
        (("photos/*.png",), "photos"),
        (("ph*/*.png",), "photos/maps"),
    ],
)
def test_maps_are_not_written_among_the_images(words, maps, bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    cv2.imwrite("photos/a.png", np.zeros((9, 9), np.uint8))
    argv = ("--bundle", bundle, "--tiles=8", f"--maps={maps}", *words)
    assert "looks for images: give a directory outside" in refusal(predict.main, capsys, *argv)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["a.png"]


def test_maps_lie_as_the_images_do_and_never_above(bundle, tmp_path, monkeypatch, capsys):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    cv2.imwrite("a.png", np.zeros((9, 9), np.uint8))
    cv2.imwrite("../a.png", np.zeros((9, 9), np.uint8))
    words = ("*.png", "./../a.png", here / "a.png")
    run(capsys, "--bundle", bundle, "--tiles=8", "--maps=maps", *words)
    names = {path.as_posix() for path in (here / "maps").rglob("*.npz")}
    root = (here / "maps").as_posix()
    absolute = f"{root}/_{here.as_posix()}/a.png.map.npz"
    assert names == {f"{root}/__/a.png.map.npz", f"{root}/a.png.map.npz", absolute}


def test_pictures_are_not_written_among_the_images(bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    cv2.imwrite("photos/a.png", np.zeros((9, 9), np.uint8))
    argv = ("--bundle", bundle, "--pictures=photos/looked_at", "photos")
    assert "--pictures photos/looked_at is where photos looks" in refusal(
        predict.main, capsys, *argv
    )
    run(capsys, "--bundle", bundle, "--pictures=looked_at", "photos")
    assert (tmp_path / "looked_at" / "photos" / "a.png.jpg").is_file()


def test_models_of_more_than_images_are_refused(bundle):
    model = open_bundle(bundle)
    options = command.Options(Tiling(20), "")
    command.check_model(model, (), options)
    with pytest.raises(UserError, match="--tiles needs a model that takes only images"):
        command.check_model(model, ("age",), options)


def test_what_lies_between_tiles_and_is_not_seen_is_told(bundle, line, capsys):
    """The model of these tests crops an eighth of the side of its images."""
    argv = ("--bundle", bundle, "--tiles=20", "--format=csv", line)
    for overlap, message in (("0.12", "--overlap 0.125 or more"), ("0.125", "")):
        code, _, err = outcome(predict.main, capsys, *argv, f"--overlap={overlap}")
        assert code == 0 and err.strip().endswith(message) and bool(err) == bool(message)
