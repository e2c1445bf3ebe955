"""Columns of a table as numbers: what they hold, what is missing, and what is refused."""

import numpy as np
import pytest

from vision.data import columns
from vision.data.columns import Category, Columns, Number, columns_of
from vision.errors import UserError

CELLS = {
    "age": ["3", "5", "", "NA", "10.0"],
    "ward": ["2", "1", "2", "10", ""],
    "site": ["b", "a", " b ", None, "c"],
    "empty": ["", "", "", "", ""],
}


def learn(text, cells=CELLS):
    return columns.learn(columns.parse(text), cells)


def test_the_kind_follows_from_the_values_or_is_said():
    learned = learn("age, site,ward:category")
    assert [number.name for number in learned.numbers] == ["age"]
    assert learned.numbers[0].mean == pytest.approx(np.mean([3, 5, 10]))
    assert learned.numbers[0].std == pytest.approx(np.std([3, 5, 10]))
    assert learned.categories == (
        Category("site", ("a", "b", "c")),
        Category("ward", ("1", "10", "2")),
    )
    assert learned.names == ("age", "site", "ward")


def test_cells_become_numbers_and_places():
    fields, findings = learn("age,site").encode(CELLS)
    np.testing.assert_array_equal(fields["numbers"][:, 0], [3, 5, np.nan, np.nan, 10])
    np.testing.assert_array_equal(fields["categories"][:, 0], [2, 1, 2, 0, 3])
    assert fields["numbers"].dtype == np.float32 and fields["categories"].dtype == np.int32
    assert findings == []


def test_a_new_value_counts_as_missing_and_is_reported():
    fields, findings = learn("site").encode({"site": ["a", "z"]}, "photo {}".format)
    assert fields["categories"].tolist() == [[1], [0]]
    assert [str(finding) for finding in findings] == ["photo 1: site = z"]


def test_numbers_of_parquet_and_texts_of_csv_are_the_same():
    texts, _ = learn("age").encode({"age": ["3", "", "1.5"]})
    values, _ = learn("age").encode({"age": [3, None, np.float32(1.5)]})
    np.testing.assert_array_equal(texts["numbers"], values["numbers"])
    missing, _ = learn("age").encode({"age": [float("nan")]})
    assert np.isnan(missing["numbers"]).all()


def test_a_name_that_is_a_number_is_one_name_however_it_comes():
    learned = learn("ward:category", {"ward": ["1", "2"]})
    assert learned == learn("ward:category", {"ward": [1, 2.0]})
    fields, findings = learned.encode({"ward": [1.0, "2", 2]})
    assert fields["categories"].tolist() == [[1], [2], [2]] and not findings


def test_what_python_alone_reads_as_a_number_is_a_name():
    assert learn("code", {"code": ["1_0", "2_0"]}).categories[0].values == ("1_0", "2_0")


def test_a_constant_column_is_not_divided_by_zero():
    learned = learn("x", {"x": ["4", "4"]})
    assert learned.numbers == (Number("x", 4.0, 1.0),)


def test_they_come_back_from_the_options_of_a_config():
    learned = learn("age,site")
    lists = {
        "numbers": [list(number) for number in learned.numbers],
        "categories": [[name, list(values)] for name, values in learned.categories],
    }
    assert columns_of(lists) == learned and columns_of({}) == Columns()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("age,age", "list different column names"),
        ("age,,site", "list different column names"),
        ("text", "reserved names are image, images, text"),
        ("age:nummer", "data.columns, kind of 'age'"),
    ],
)
def test_a_wrong_list_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        columns.parse(text)


def test_a_column_of_nothing_or_of_anything_is_refused():
    with pytest.raises(UserError, match="'empty' has 0 different values"):
        learn("empty")
    with pytest.raises(UserError, match="'empty' has no number"):
        learn("empty:number")
    many = {"note": [f"text {i}" for i in range(1001)]}
    with pytest.raises(UserError, match=r"1,001 different values.*\?text=note"):
        learn("note", many)


@pytest.mark.parametrize("cell", ["old", "inf", "1e60"])
def test_a_cell_that_is_not_a_number_is_named(cell):
    with pytest.raises(UserError, match=f"column 'age' of row 1 must be a number.*{cell}"):
        learn("age").encode({"age": ["1", cell]})


def test_a_source_without_the_column_is_refused():
    class Source:
        labels = np.zeros(2, int)

        def __len__(self):
            return 2

        def column_names(self):
            return ["age"]

        def column_values(self, name):
            return [1, 2]

    assert columns.read(Source(), ["age"], "csv:a") == {"age": [1, 2]}
    with pytest.raises(UserError, match=r"csv:a has no column 'site'.*its columns are age"):
        columns.read(Source(), ["age", "site"], "csv:a")
