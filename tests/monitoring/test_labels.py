"""Late labels: joined to the right rows of a log; what is wrong with a file of them is named."""

import datetime

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest

from tests.monitoring.conftest import START, photos
from vision.errors import UserError
from vision.monitoring import log as reading
from vision.monitoring.labels import join, no_labels, read_labels
from vision.monitoring.log import open_log

CLASSES = ("cat", "dog", "old bird")


@pytest.fixture
def file(tmp_path):
    """`file(text, name)` writes a file of labels; returns its path."""

    def write(text, name="labels.csv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_labels_are_joined_as_pandas_joins_them(writer, watched, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "ROWS", 7)
    writing = writer(rows=12)
    writing.put(photos(30, 5), START + np.arange(30))
    writing.put(photos(10, 6), START + 30 + np.arange(10), version="4")
    writing.close()
    random = np.random.default_rng(0)
    labels = pd.DataFrame({"id": [f"r{i}" for i in random.permutation(np.arange(1, 60))[:30]]})
    labels["label"] = random.choice(watched[1].classes, len(labels))
    labels["time"] = pd.to_datetime(START + 100 + np.arange(len(labels)), unit="s", utc=True)
    labels.to_parquet(tmp_path / "labels.parquet")
    expected = pd.read_parquet(tmp_path / "log").merge(labels, "left", "id", suffixes=("", "_of"))
    own = read_labels(tmp_path / "labels.parquet", watched[1].classes)
    parts = list(join(open_log(tmp_path / "log"), own))
    assert max(len(part.ids) for part in parts) <= 7

    def column(name):
        return np.concatenate([getattr(part, name) for part in parts])

    names = np.array([*own.classes, None], object)
    assert (
        names[column("truth")].tolist()
        == expected["label"].where(expected["label"].notna(), None).tolist()
    )
    assert names[column("predicted")].tolist() == expected["class"].tolist()
    assert column("ids").tolist() == expected["id"].tolist()
    assert column("versions").tolist() == ["3"] * 30 + ["4"] * 10
    assert set(column("models")) == {"pets"} and not column("shadow").any()
    np.testing.assert_allclose(column("seconds"), START + np.arange(40))
    moments = expected["time_of"].map(lambda t: np.nan if pd.isna(t) else t.timestamp())
    np.testing.assert_allclose(column("labeled_at"), moments)
    np.testing.assert_array_equal(column("values")[:, 0], expected["brightness"])
    np.testing.assert_array_equal(column("confidence"), expected["confidence"])
    joined = sum(len(part.labeled().ids) for part in parts)
    assert joined == expected["label"].notna().sum() == len(own) - own.unmatched > 0


def test_a_bundles_rows_alone_without_labels(writer, watched, tmp_path):
    writing = writer()
    writing.put(photos(4, 5), START + np.arange(4))
    writing.put(photos(3, 5), START + np.arange(3), version="4", description=None)
    writing.close()
    log = open_log(tmp_path / "log")
    bundle = watched[1]
    (part,) = join(log, no_labels(bundle.classes), bundle.fingerprint, ["entropy"])
    assert part.versions.tolist() == ["3"] * 4 and (part.truth == -1).all()
    assert part.values.shape == (4, 1) and np.isnan(part.labeled_at).all()
    assert len(part.labeled().ids) == 0


def test_the_index_in_the_request_counts(file, writer, tmp_path):
    writing = writer()
    writing.put(photos(2, 5), START + np.arange(2))
    writing.close()
    log = open_log(tmp_path / "log")
    own = read_labels(file("id,image,label\nr1,0,class 3\nr1,1,class 4\nr2,7,class 4\n"))
    (part,) = join(log, own)
    assert [own.classes[i] if i >= 0 else "" for i in part.truth] == ["class 3", ""]
    assert own.unmatched == 2


def test_labels_of_none_of_the_requests(file, writer, tmp_path):
    writing = writer()
    writing.put(photos(2, 5), START + np.arange(2))
    writing.close()
    own = read_labels(file("id,label\nx1,cat\nx2,dog\n"))
    with pytest.raises(UserError, match="none of 2 labels belongs to a request in --log .*'x1'"):
        list(join(open_log(tmp_path / "log"), own))


@pytest.mark.parametrize(
    "text",
    [
        "id;label\nr1;cat\nr2;dog\n",
        "\ufefflabel,id,note\ncat,r1,\ndog,r2,x\n",
        "id\tlabel\nr1\tcat\nr2\tdog\n",
    ],
    ids=["semicolons", "spreadsheet", "tabs"],
)
def test_tables_of_spreadsheets(file, text):
    own = read_labels(file(text), CLASSES)
    assert own.keys.to_pylist() == ["r1/0", "r2/0"] and own.truth.tolist() == [0, 1]


def test_a_folder_with_files_of_both_kinds(file, tmp_path):
    file("id,label,time\na,cat,2026-01-02T03:04:05Z\nb,,\nc,dog,17.5\n", "folder/1.csv")
    moment = datetime.datetime(2026, 1, 1)  # without a zone: UTC
    table = {"id": [1, 2, 1], "image": [0, 0, 0], "label": ["dog", "cat", "dog"], "time": moment}
    pd.DataFrame(table).astype({"label": "category"}).to_parquet(tmp_path / "folder" / "2.parquet")
    file("a,cat\n", "folder/.hidden.csv")
    own = read_labels(tmp_path / "folder", CLASSES)
    assert own.keys.to_pylist() == ["a/0", "c/0", "1/0", "2/0"]
    assert own.truth.tolist() == [0, 1, 1, 0] and own.blank == 1
    expected = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC).timestamp()
    assert own.seconds.tolist() == [expected, 17.5, 1767225600, 1767225600]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "has no rows"),
        ("id,label\n", "has no rows"),
        ("id,label\na,\n", "all 1 labels are empty"),
        ("request,label\na,cat\n", "has no column 'id', but 'request', 'label'"),
        ("id,class\na,cat\n", "has no column 'label'"),
        ("id,label\na,cta\n", r"no class 'cta' \(did you mean 'cat'\?\)"),
        (
            "id,label\na,cat\nb,dog\na,dog\n",
            "image 0 of request 'a' has two labels, 'cat' and 'dog'",
        ),
        ("id,image,label\na,-1,cat\n", "line 2: image must be its index in the request, got '-1'"),
        ("id,label,time\na,cat,\nb,cat,now\n", "line 3: time must be seconds .* got 'now'"),
        ("id,label\n,cat\n", "line 2 has no id"),
        ("id,label\na,cat,3\n", "line 2 has 3 cells, but the header has 2"),
    ],
)
def test_files_that_are_wrong(file, text, message):
    with pytest.raises(UserError, match=message) as error:
        read_labels(file(text), CLASSES)
    assert len(str(error.value).splitlines()) <= 2


def test_files_that_are_no_tables(tmp_path):
    latin = tmp_path / "latin.csv"
    latin.write_bytes("id,label\na,Kätzchen\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_labels(latin)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="not a complete Parquet file"):
        read_labels(broken)
    with pytest.raises(UserError, match="there is no file or folder --labels"):
        read_labels(tmp_path / "nowhere.csv")
    with pytest.raises(UserError, match=r"must be a folder, or a file \.csv"):
        read_labels(latin.rename(tmp_path / "labels.txt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no file of labels"):
        read_labels(tmp_path / "empty")


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"id": ["a"]}, "has no column 'label'"),
        ({"id": [], "label": []}, "has no rows"),
        ({"id": ["a", None], "label": ["cat", "dog"]}, "a row without an id"),
        ({"id": ["a"], "label": [["cat"]]}, "whose column label is text"),
        ({"id": ["a"], "label": ["cat"], "image": [1.5]}, "whose column image is indices"),
        ({"id": ["a"], "label": ["cat"], "image": [-1]}, "whose column image is indices"),
        ({"id": ["a"], "label": ["cat"], "time": [b"now"]}, "whose column time is timestamps"),
        ({"id": ["a"], "label": ["cat"], "time": ["now"]}, "time must be seconds"),
    ],
)
def test_parquet_that_is_wrong(tmp_path, columns, message):
    pd.DataFrame(columns).to_parquet(tmp_path / "labels.parquet")
    with pytest.raises(UserError, match=message) as error:
        read_labels(tmp_path / "labels.parquet", CLASSES)
    assert len(str(error.value).splitlines()) <= 2


def test_text_and_dates_of_parquet_are_read_as_those_of_csv(tmp_path):
    columns = {
        "id": pyarrow.array(["r1 ", "r2"]).dictionary_encode(),
        "label": [" cat", "dog\n"],
        "time": pyarrow.array([datetime.date(2026, 1, 2), None]),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "labels.parquet")
    own = read_labels(tmp_path / "labels.parquet", CLASSES)
    assert own.keys.to_pylist() == ["r1/0", "r2/0"]
    assert [own.classes[place] for place in own.truth] == ["cat", "dog"]
    assert own.seconds[0] == datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC).timestamp()


@pytest.mark.parametrize("name", ["x" * 300 + ".csv", "labels\0.csv"])
def test_names_that_no_file_can_have(tmp_path, name):
    with pytest.raises(UserError, match="cannot be read"):
        read_labels(tmp_path / name)
