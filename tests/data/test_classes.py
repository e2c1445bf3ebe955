"""Other classes by a source's name: `?classes=` and `?rename=` of every kind of source."""

import csv
import pickle

import numpy as np
import pytest
from PIL import Image

from vision import cli
from vision.audit.apply import unchanged
from vision.config import default
from vision.data import __main__ as data_main
from vision.data.classes import decode, encode, read_renaming, renaming
from vision.data.identity import base_of, keys_of
from vision.data.pipeline import named_splits
from vision.data.sources import compose, open_splits, parse
from vision.errors import UserError

NAMES = ("a,b", "cat", "dog", "k:v=1&x?%2C")  # the first and last need an escape
RENAMED = "rename=2:two,7:seven"
KINDS = ("folder", "csv", "arrays", "parquet", "hf", "packed")


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    """Returns {kind: source} of the same 40 images, 10 of each class, pixels 5 times their number.

    In each class, images 0 to 9 belong to patients 0 to 4.
    """
    root = tmp_path_factory.mktemp("classes")
    rows = []
    for number in range(40):
        path = root / "photos" / NAMES[number // 10] / f"p{number % 5}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((3, 3), 5 * number, np.uint8)).save(path)
        rows.append((path, NAMES[number // 10], f"p{number % 5}"))
    with (root / "table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "patient"])
        table.writerows((path.relative_to(root), name, who) for path, name, who in rows)
    images = np.stack([np.full((3, 3), 5 * i, np.uint8) for i in range(40)])
    labels = np.array([name for _, name, _ in rows])
    patients = [who for _, _, who in rows]
    numbers = np.array([int(who[1:]) for who in patients])
    np.savez(root / "a.npz", images=images, labels=labels, fields_patient=numbers)
    specs = {
        "folder": f"folder:{root}/photos?level=1&group=folder:1",
        "csv": f"csv:{root}/table.csv?group=patient",
        "arrays": f"arrays:{root}/a.npz?group=patient",
    }
    data_main.main(["pack", specs["folder"], f"{root}/pack", "--workers=1"])
    return specs | {"packed": f"packed:{root}/pack"} | _tables(root, rows)


def _tables(root, rows):
    """Returns {kind: source} of those kinds whose packages are installed."""
    columns = {"label": [name for _, name, _ in rows], "patient": [who for _, _, who in rows]}
    specs = {}
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return specs
    images = [path.read_bytes() for path, _, _ in rows]
    pq.write_table(pa.table({"image": images} | columns), root / "table.parquet")
    specs["parquet"] = f"parquet:{root}/table.parquet?group=patient"
    try:
        import datasets
    except ImportError:
        return specs
    features = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=list(NAMES)),
        "patient": datasets.Value("string"),
    }
    values = {"image": [str(path) for path, _, _ in rows]} | columns
    datasets.Dataset.from_dict(values, datasets.Features(features)).save_to_disk(str(root / "hub"))
    return specs | {"hf": f"hf:{root}/hub?group=patient"}


def with_options(spec, **more):
    kind, argument, options = parse(spec)
    return compose(kind, argument, options | more)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(specs, kind):
    """Images, labels, names, keys and groups are those of the same images in the plain source."""
    if kind not in specs:
        pytest.skip(f"the package that reads {kind} is not installed")
    spec = specs[kind]
    plain = open_splits(spec)["all"]
    pairs = {NAMES[3]: "pet", NAMES[1]: "pet", NAMES[0]: "new,name"}
    options = {"classes": ",".join(map(encode, NAMES[::-1][:1] + NAMES[:2]))}
    options["rename"] = renaming(pairs)
    source = pickle.loads(pickle.dumps(open_splits(with_options(spec, **options))["all"]))
    assert plain.classes == NAMES and source.classes == ("new,name", "pet")
    rows = np.flatnonzero(plain.labels != 2)
    np.testing.assert_array_equal(source.labels, np.array([0, 1, -1, 1])[plain.labels[rows]])
    assert source.labels.dtype == np.int32 and len(source) == 30
    for i in (0, 9, 10, 29):
        np.testing.assert_array_equal(source[i]["image"], plain[int(rows[i])]["image"])
        assert source[i]["label"] == source.labels[i]
        assert source.name(i) == plain.name(int(rows[i]))
        assert source.file(i) == plain.file(int(rows[i]))
    np.testing.assert_array_equal(keys_of(source, "all"), keys_of(plain, "all")[rows])
    base, base_rows = base_of(source)
    plain_base, plain_rows = base_of(plain)
    expected = plain_base.group_names[plain_rows][rows]
    np.testing.assert_array_equal(base.group_names[base_rows], expected)
    assert len(set(expected)) == 5
    for name, values in plain.fields.items() if hasattr(plain, "fields") else ():
        np.testing.assert_array_equal(source.fields[name], values[rows])


def test_a_split_has_the_same_images_by_name(specs):
    """Without groups, a folder's images stay in the split that their names' hashes say."""
    c = default().data
    c.source = specs["folder"].partition("&")[0]
    plain, _ = named_splits(c, 0)
    c.source += f"&rename=cat:Cat,{encode(NAMES[0])}:first"
    renamed, _ = named_splits(c, 0)
    for name in ("train", "val", "test"):
        assert keys_of(renamed[name], "all").tolist() == keys_of(plain[name], "all").tolist()
        np.testing.assert_array_equal(renamed[name].labels, plain[name].labels)
    assert renamed["train"].classes == ("first", "Cat", "dog", NAMES[3])


def test_changes_count_the_new_classes():
    c = default().data
    c.source = "digits?classes=0,1,2,3&rename=0:even,2:even&imbalance=4&flip_labels=0.5"
    splits, _ = named_splits(c, 0)
    assert splits["test"].classes == ("even", "1", "3")
    counts = np.bincount(splits["train"].labels, minlength=3)
    assert len(splits["train"]) < 0.7 * 725 and counts.min() > 0  # 4, 2 and 1 parts, half flipped
    digits = open_splits("digits")["all"].labels
    base, rows = base_of(splits["test"])
    expected = np.array([0, 1, 0, 2])[digits[rows]]
    np.testing.assert_array_equal(splits["test"].labels, expected)


def test_significant_bits_reach_the_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pixels = np.full((2, 2), 2**11, np.uint16)  # half of 12 bits
        Image.fromarray(pixels).save(tmp_path / name / "x.png")
    source = open_splits(f"folder:{tmp_path}?rename=a:A", 12)["all"]
    assert source.bits == 12 and source[0]["image"].max() == 128


def test_a_class_may_be_gone_when_data_are_looked_at_again():
    spec = "digits?classes=1,2,33&rename=44:x"
    with pytest.raises(UserError, match=r"no class '33' \(did you mean '3'\?\)"):
        open_splits(spec)
    source = open_splits(spec, fewest_classes=1)["all"]
    assert source.classes == ("1", "2")
    assert [finding.name for finding in source.findings] == ["33", "44"]


def test_pictures_without_labels(specs):
    """Of a folder that is read without labels, `?classes=` still chooses; names do not matter."""
    spec = specs["folder"].partition("?")[0]
    assert len(open_splits(f"{spec}?classes=cat&level=1", fewest_classes=0)["all"]) == 10
    assert len(open_splits(f"{spec}?rename=cat:x", fewest_classes=0)["all"]) == 40


def test_names_survive_the_escape():
    names = [*NAMES, "100%", "%41", "é ü", "a\udcff"]
    assert [decode(encode(name)) for name in names] == names
    pairs = dict(zip(names, reversed(names), strict=True))
    text = renaming(pairs)
    assert read_renaming(text, "") == pairs
    spec = compose("folder", "what?/x", {"group": "regex:(a?)/", "rename": text})
    assert parse(spec) == ("folder", "what?/x", {"group": "regex:(a?)/", "rename": text})
    assert compose("digits", "", {}) == "digits"


BAD = {
    "unknown": ("classes=cats,dog", r"there is no class 'cats' \(did you mean 'cat'\?\)"),
    "unknown old name": (
        "rename=dgo:x",
        r"no class 'dgo' \(did you mean 'dog'\?\); classes are a,b",
    ),
    "twice": ("classes=cat,dog,cat", "names the class 'cat' twice"),
    "empty": ("classes=cat,", "has an empty name"),
    "no colon": ("rename=cat", "must be OLD:NEW"),
    "two colons": ("rename=cat:a:b", "must be OLD:NEW"),
    "no new name": ("rename=cat:", "must be OLD:NEW"),
    "two names": ("rename=cat:a,cat:b", "gives the class 'cat' two names"),
    "another's name": ("rename=cat:dog", "to merge them, also write dog:dog"),
    "one left": ("classes=cat", "has 1 class.* but a classifier needs two"),
    "one of two": ("classes=cat,dog&rename=cat:pet,dog:pet", "a classifier needs two"),
    "misspelled": ("class=cat", "'class' is unknown .did you mean 'classes'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be(specs, case):
    option, message = BAD[case]
    with pytest.raises(UserError, match=message):
        open_splits(f"{specs['folder']}&{option}")


def test_commands(specs, tmp_path, capsys):
    """`info` and `pack` show the new classes; a table may refer to images by their new numbers."""
    options = f"classes=cat,dog,{encode(NAMES[0])}&rename=cat:pet,dog:pet"
    spec = f"{specs['folder']}&{options}"
    cli.run(data_main.main, ["info", spec])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(": 30 all; 2 classes")
    assert [line.split() for line in lines[2:4]] == [["a,b", "10"], ["pet", "20"]]
    cli.run(data_main.main, ["pack", spec, str(tmp_path / "pack"), "--workers=1"])
    packed = open_splits(f"packed:{tmp_path / 'pack'}")["all"]
    source = open_splits(spec)["all"]
    assert packed.classes == source.classes == ("a,b", "pet")
    np.testing.assert_array_equal(packed.labels, source.labels)
    assert packed.keys() == keys_of(source, "all").tolist()
    audited = unchanged(f"digits?classes=2,7&flip_labels=0.1&seed=1&{RENAMED}")
    assert audited == f"digits?classes=2,7&{RENAMED}"
    rows = f'"{audited}",all,0,a\n"{audited}",all,3,b\n'
    (tmp_path / "t.csv").write_text(f"source,part,index,label\n{rows}")
    table = open_splits(f"csv:{tmp_path}/t.csv")["all"]
    sevens = np.flatnonzero(np.isin(open_splits("digits")["all"].labels, (2, 7)))
    assert [table.name(i) for i in range(2)] == [f"digits[{sevens[i]}]" for i in (0, 3)]


def test_a_name_without_its_changes_keeps_a_pattern():
    assert unchanged("folder:a?group=regex:(a?)/&seed=1") == "folder:a?group=regex:(a?)/"
