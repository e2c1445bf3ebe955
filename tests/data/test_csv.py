"""The table of images: what it opens, what it finds odd, and what it refuses, on steel's
photographs."""

import csv
import os
import pickle
import tarfile
from pathlib import PurePath

import numpy as np
import pytest

from vision.data.findings import summarize
from vision.data.pipeline import named_splits
from vision.data.sources import open_splits
from vision.errors import UserError


@pytest.fixture(scope="module")
def steel(shared_data, tmp_path_factory):
    """Four photographs of each of three defects, in one folder."""
    root = tmp_path_factory.mktemp("steel")
    with tarfile.open(shared_data / "neu_det.tar") as tar:
        for defect in ("crazing", "inclusion", "scratches"):
            for number in range(1, 5):
                data = tar.extractfile(f"neu_det/images/{defect}_{number}.jpg").read()
                (root / f"{defect}_{number}.jpg").write_bytes(data)
    return root


@pytest.fixture
def write(steel):
    """Writes a table beside the photographs, and returns the source's name."""

    def write(text, name="table.csv", **options):
        data = text if isinstance(text, bytes) else text.encode()
        (steel / name).write_bytes(data)
        return f"csv:{steel / name}" + (
            "?" + "&".join(f"{k}={v}" for k, v in options.items()) if options else ""
        )

    return write


def names(source):
    return [PurePath(source.name(i)).name for i in range(len(source))]


def findings_by_kind(splits):
    """Returns {kind: [what is found]}."""
    kinds = {}
    for finding in next(iter(splits.values())).findings:
        kinds.setdefault(finding.kind, []).append(finding)
    return kinds


def test_the_same_images_as_from_the_folder(steel, tmp_path, write):
    """With absolute and relative paths, written by the standard library's own writer."""
    for file in steel.glob("*.jpg"):
        folder = tmp_path / file.stem.rpartition("_")[0]
        folder.mkdir(exist_ok=True)
        os.symlink(file, folder / file.name)
    theirs = open_splits(f"folder:{tmp_path}")["all"]
    with (steel / "table.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["label", "path", "a, quoted"])
        for i in range(len(theirs)):
            path = theirs.name(i) if i % 2 else PurePath(theirs.name(i)).name
            writer.writerow([theirs.classes[theirs.labels[i]], path, f'"{i}"\nin two lines'])
    ours = open_splits(f"csv:{steel}/table.csv")["all"]
    ours = pickle.loads(pickle.dumps(ours))
    assert ours.classes == theirs.classes and ours.encoded and not ours.findings
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert ours.labels.dtype == np.int32
    assert ours.columns == {"a, quoted": tuple(f'"{i}"\nin two lines' for i in range(12))}
    for i in range(12):
        np.testing.assert_array_equal(ours[i]["image"], theirs[i]["image"])
        assert ours.file(i) == theirs.file(i) and ours[i]["label"] == theirs[i]["label"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_separators_marks_names_and_splits(write, delimiter):
    rows = [
        "filename,class,split,light",
        "crazing_1.jpg,c,TRAIN,dim",
        "scratches_1.jpg,s,Valid,",
        "",
        "inclusion_1.jpg,i,test,x",
    ]
    text = "\ufeff" + "\r\n".join(rows).replace(",", delimiter)
    splits = open_splits(write(text, path="filename", label="class"))
    assert {name: names(source) for name, source in splits.items()} == {
        "train": ["crazing_1.jpg"],
        "val": ["scratches_1.jpg"],
        "test": ["inclusion_1.jpg"],
    }
    assert splits["val"].labels.tolist() == [2] and splits["train"].columns == {"light": ("dim",)}
    assert splits["val"].classes == ("c", "i", "s") and not findings_by_kind(splits)


def test_the_separator_is_none_that_is_quoted(write):
    splits = open_splits(
        write(
            'path;label;"note, long, of, many"\n'
            f'crazing_1.jpg;{"1" * 5000};\nscratches_1.jpg;2;"a,b"\n'
        )
    )
    assert splits["all"].classes == ("1" * 5000, "2")  # no number that Python would take
    assert splits["all"].columns == {"note, long, of, many": ("", "a,b")}


def test_images_of_other_sources(write):
    numbers = open_splits("mnist5k")["all"]
    rows = "".join(f",mnist5k,all,{i},{numbers.labels[i]}\n" for i in range(0, 5000, 250))
    splits = open_splits(write("path,source,part,index,label\n" + rows + "crazing_1.jpg,,,,10\n"))
    source = pickle.loads(pickle.dumps(splits["all"]))
    assert source.classes == tuple(map(str, range(11)))  # by value, not "10" behind "1"
    for row, i in enumerate(range(0, 5000, 250)):
        np.testing.assert_array_equal(source[row]["image"], numbers[i]["image"])
        assert source.name(row) == f"mnist5k[{i}]" and source.file(row) is None
        assert source[row]["label"] == numbers.labels[i]
    assert source[20]["image"].shape == (200, 200, 3) and source.encoded
    small = open_splits(write("source,part,index,label\nmnist5k,all,20,a\ndigits,all,3,b\n"))["all"]
    assert not small.encoded and small[1]["image"].shape == (8, 8, 1)


def test_a_table_of_a_table_but_not_of_itself(write, steel):
    inner = write("path,label\ncrazing_1.jpg,a\nscratches_1.jpg,b\n", "inner.csv")
    outer = open_splits(
        write(f"source,part,index,label\n{inner},all,1,x\n{inner},all,0,y\n", "outer.csv")
    )["all"]
    assert names(outer) == ["scratches_1.jpg", "crazing_1.jpg"] and outer.file(0) == outer.sources[
        0
    ].file(1)
    for name, other in (("one.csv", "two.csv"), ("two.csv", "one.csv")):
        last = write(f"source,part,index,label\ncsv:{steel / other},all,0,a\n", name)
    with pytest.raises(UserError, match="refers to itself"):
        open_splits(last)


def test_annotators_vote(write):
    splits = open_splits(
        write(
            "path,label,annotator\n"
            "crazing_1.jpg,crazing,anna\ncrazing_1.jpg,scratches,bert\ncrazing_1.jpg,crazing,carl\n"
            "scratches_1.jpg,scratches,anna\nscratches_1.jpg,crazing,bert\n"
            "inclusion_1.jpg,,anna\ninclusion_1.jpg,inclusion,bert\n"
            "inclusion_2.jpg,,anna\n"
            "scratches_2.jpg,crazing,anna\nscratches_2.jpg,crazing,anna\nscratches_2.jpg,scratches,bert\n"
        )
    )
    source = splits["all"]
    labels = [source.classes[label] for label in source.labels]
    expected = {
        "crazing_1.jpg": "crazing",
        "scratches_1.jpg": "scratches",
        "inclusion_1.jpg": "inclusion",
    }
    assert dict(zip(names(source), labels, strict=True)) == expected | {
        "scratches_2.jpg": "crazing"
    }
    kinds = findings_by_kind(splits)
    assert [PurePath(f.name).name for f in kinds["images have tied votes"]] == [
        "scratches_1.jpg",
        "scratches_2.jpg",  # who says it twice has one vote
    ]
    assert [(f.name.partition(", ")[2], f.lost) for f in kinds["rows have no label"]] == [
        ("line 7", False),
        ("line 9", True),
    ]


def test_everything_odd_is_said(write, steel):
    splits = open_splits(
        write(
            "path,label,split\n"
            "crazing_1.jpg, Crazing ,train\n"
            "crazing_2.jpg,crazing,train\n"
            "crazing_3.jpg,crazing,train\n"
            "none.jpg,crazing,train\n"
            "deep\\none.jpg,crazing,train\n"
            ",crazing,train\n"
            "crazing_4.jpg, ,train\n"
            "scratches_1.jpg,scratches,train\n"
            "./scratches_1.jpg,scratches,train\n"
            "scratches_2.jpg,scratches,train\n"
            "scratches_2.jpg,scratches,test\n"
            "scratches_3.jpg,scratches,train\n"
            "scratches_3.jpg,crazing,train\n"
            f".\\inclusion_1.jpg,hot  dog,test\n{steel}/inclusion_2.jpg,hot dog,test\n"
        )
    )
    assert {name: names(source) for name, source in splits.items()} == {
        "train": ["crazing_1.jpg", "crazing_2.jpg", "crazing_3.jpg", "scratches_1.jpg"],
        "test": ["scratches_2.jpg", "inclusion_1.jpg", "inclusion_2.jpg"],
    }
    assert splits["test"].classes == ("Crazing", "crazing", "hot  dog", "hot dog", "scratches")
    kinds = findings_by_kind(splits)
    table = str(steel / "table.csv")
    lost = {
        kind: [str(f).replace(table, "table").replace(f"{steel}/", "") for f in some]
        for kind, some in kinds.items()
    }
    assert lost == {
        "labels had leading or trailing whitespace, which is removed": ["' Crazing ': 1 times"],
        "rows name no image": ["table, line 7"],
        "rows have no label": ["table, line 8"],
        "files named in the table do not exist": [
            "none.jpg: table, line 5",
            "deep/none.jpg: table, line 6",
        ],
        "rows repeat an image": [
            "table, line 10: as table, line 9",
            "table, line 12: as table, line 11",
        ],
        "images are in several splits": ["scratches_2.jpg: train, test: kept in test"],
        "images have several labels and are left out": ["scratches_3.jpg: 'scratches', 'crazing'"],
        "classes are spelled in several ways and stay separate": [
            "crazing: 'crazing' 6 times, 'Crazing' 1 times",
            "hot  dog: 'hot  dog' 1 times, 'hot dog' 1 times",
        ],
    }
    assert {kind for kind, some in kinds.items() if any(f.lost for f in some)} == {
        "rows name no image",
        "rows have no label",
        "files named in the table do not exist",
        "images have several labels and are left out",
    }
    assert len(summarize(splits["train"].findings)) == len(kinds)


def test_mistakes_are_named(write, steel):
    two = "crazing_1.jpg,a\nscratches_1.jpg,b\n"
    cases = {
        "no column 'path'; its first line contains 'file', 'label'": "file,label\n" + two,
        "no column 'label'": "path,lable\n" + two,
        "has no rows": "path,label\n\n",
        "has no rows:": "",
        "line 3 has 3 cells, but the header has 2": (
            "path,label\ncrazing_1.jpg,a\ncrazing_2.jpg,b,c\n"
        ),
        "two columns named 'label'": "path,label,label\nx,y,z\n",
        "table.csv, line 2 is not UTF-8": b"path,label\n\xfe\xfe,a\n"[:11] + b"x\xff,a\n",
        "line 2: unexpected end of data": 'path,label\ncrazing_1.jpg,"a\n',
        "line 3: split must be one of train, val": (
            "path,label,split\ncrazing_1.jpg,a,train\nx.jpg,b,\n"
        ),
        "1 class(es) with images": "path,label\ncrazing_1.jpg,a\nnone.jpg,b\n",
        "line 2: index must be 0 to 4999 for all of mnist5k, got '5000'": (
            "source,part,index,label\nmnist5k,all,5000,a\n"
        ),
        "all of mnist5k, got '-1'": "source,part,index,label\nmnist5k,all,-1,a\n",
        "line 2: part = 'train' is unknown": "source,part,index,label\nmnist5k,train,1,a\n",
        "line 2: an image of another source needs source, part": (
            "source,part,index,label\nmnist5k,,1,a\n"
        ),
        "line 2: an image must have a path, or a source": (
            "path,source,part,index,label\nx.jpg,mnist5k,all,1,a\n"
        ),
        "line 2: data.source = 'mnist' is unknown": "source,part,index,label\nmnist,all,1,a\n",
        "line 2: 'digits?seed=9' must not set 'seed'": (
            "source,part,index,label\ndigits?seed=9,all,1,a\n"
        ),
    }
    for message, text in cases.items():
        with pytest.raises(UserError) as error:
            open_splits(write(text))
        assert message in str(error.value), f"{error.value} instead of {message}"
        assert len(str(error.value).splitlines()) <= 2
    with pytest.raises(UserError, match="cannot read 'none.csv': No such file"):
        open_splits("csv:none.csv")
    with pytest.raises(UserError, match="the option of .*did you mean 'label'"):
        open_splits(write("path,label\n" + two, labels="x"))


def test_the_trainer_divides_it(write):
    """Labels are known without decoding, so a table is divided like any other source."""
    from vision.config import default

    rows = "".join(
        f"{defect}_{i}.jpg,{defect}\n"
        for defect in ("crazing", "scratches", "inclusion")
        for i in range(1, 5)
    )
    c = default()
    c.data.source = write("path,label\n" + rows + "none.jpg,crazing\n")
    splits, findings = named_splits(c.data, 0)
    assert sum(map(len, splits.values())) == 12 and [f.lost for f in findings] == [True]
