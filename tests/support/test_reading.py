"""Files that may be anything: what is wrong with them is said in one line, whatever it is."""

import io
import json
import os
import zipfile

import numpy as np
import pytest

from vision.errors import UserError, printable
from vision.support.arrays import read_npy, read_npz
from vision.support.reading import parsing, read_json
from vision.support.schema import NATURAL, SIDE, among, filled, mismatch, numbers_within

SCHEMA = {"classes": filled(str), "sizes": {str: NATURAL}, "rate?": (float, None)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "line 1, column 1"),
        (b'{"classes": ["a"]', "line 1, column 18"),
        (b"\xff\xfe\x00", "can't decode"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' * 100_000, "nested too deeply"),
        (b'{"rate": ' + b"9" * 5000 + b"}", "limit"),
        (b'{"classes": ["a"], "classes": ["b"]}', "'classes' is given twice"),
        (b"[]", "the file must be a mapping, got []"),
        (b"{}", "'classes' is missing"),
        (b'{"classes": []}', "classes must be a list of text, not empty, got []"),
        (b'{"classes": ["\\ud800"]}', "classes must be a list of text"),
        (b'{"classes": ["a"], "sizes": {"b": -1}}', "sizes.b must be an integer of at least 0"),
        (b'{"classes": ["a"], "sizes": {"b": true}}', "sizes.b must be"),
        (b'{"classes": ["a"], "sizes": {}, "rate": NaN}', "rate must be a finite number or null"),
        (b'{"classes": ["a"], "sizes": {}, "rate": 1e999}', "got inf"),
        (b'{"classes": ["a"], "sizes": {"b": 99999999999999999999}}', "sizes.b must be"),
        (b'{"classes": "\\u001b[31m", "sizes": {}}', r"got '\x1b[31m'"),
    ],
)
def test_damaged_json_is_told_in_one_line(tmp_path, text, message):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(UserError) as error:
        read_json(tmp_path / "a.json", SCHEMA, "repair it")
    assert message in str(error.value) and str(error.value).endswith(": repair it")
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 500


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 1 << 40)  # holds no byte on the disk
    cases = {".": "Is a directory"}
    cases |= {"pipe": "not an ordinary file", "large": "at most", "a\0": "null"}
    for name, message in (cases | {"none": "No such file"}).items():
        with pytest.raises(UserError, match=message):
            read_json(os.path.join(tmp_path, name))


def test_a_schema_reads_as_it_looks():
    assert mismatch({"classes": ["a"], "sizes": {}, "further": object()}, SCHEMA) is None
    assert mismatch(1, (int, None)) is mismatch(None, (int, None)) is None
    assert mismatch(True, int) and mismatch(1.0, int) and mismatch(2**63, int)
    assert mismatch(1, float) is None and mismatch(10**400, float) and mismatch(float("nan"), float)
    assert mismatch(True, among(1, 3)) and mismatch(70_000, SIDE) and mismatch("1", SIDE)
    assert mismatch("0.5", numbers_within(0, 1)) and mismatch(0.5, numbers_within(0, 1)) is None
    record = ({"file": str}, None)
    assert mismatch({"file": 1}, record, "sample") == "sample.file must be text, got 1"


def write_header(shape, dtype="'|u1'", data=b"") -> bytes:
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (write_header("(1099511627776, 1024)"), "an array of 1,125,899,906,842,624 bytes"),
        (write_header("(-4,)"), "negative"),
        (write_header("(1,)", "'|O'", b"cos\nsystem\n(S'true'\ntR."), "Python objects"),
        (write_header("(4,)", data=b"123"), "an array of 4 bytes, of which the file has 3"),
        (write_header("(" * 5000), ""),
        (b"\x93NUMPY\x09\x00", ""),
        (b"", ""),
    ],
)
def test_arrays_that_lie_are_refused_before_memory_is_taken(tmp_path, data, message):
    (tmp_path / "a.npy").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", data)
    for read, name in ((read_npy, "a.npy"), (read_npz, "a.npz")):
        with pytest.raises(UserError, match="is not a complete") as error:
            read(tmp_path / name)
        assert message in str(error.value)


def test_arrays_come_back(tmp_path):
    arrays = {
        "order": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "scalar": np.float32(3),
        "empty": np.zeros((0, 4), np.int8),
        "text": np.array(["a", "bc"]),
        "big_endian": np.arange(3, dtype=">u4"),
    }
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    for name, array in read_npz(tmp_path / "a.npz").items():
        np.testing.assert_array_equal(array, arrays[name])
        assert array.dtype == np.asarray(arrays[name]).dtype and array.flags.writeable
    np.save(tmp_path / "a.npy", arrays["order"])
    np.testing.assert_array_equal(read_npy(tmp_path / "a.npy"), arrays["order"])


def test_a_damaged_archive_is_told(tmp_path):
    stream = io.BytesIO()
    np.savez_compressed(stream, a=np.arange(1000))
    data = bytearray(stream.getvalue())
    data[len(data) // 2] ^= 255
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(UserError, match=r"is not a complete \.npz file of arrays .*: fetch it"):
        read_npz(tmp_path / "a.npz", "fetch it")


def test_no_error_of_a_parser_escapes():
    class PanicException(BaseException):  # as libraries written in Rust raise it
        pass

    for error in (
        ValueError("a\nb"),
        MemoryError(),
        RecursionError(),
        OSError(2, "gone"),
        KeyError(),
    ):
        with (
            pytest.raises(UserError, match="'file'|file is not a table"),
            parsing("file", "a table"),
        ):
            raise error
    with pytest.raises(UserError, match="its parser failed"), parsing("file", "a table"):
        raise PanicException
    with pytest.raises(KeyboardInterrupt), parsing("file"):
        raise KeyboardInterrupt


def test_text_from_files_does_not_command_the_terminal():
    assert printable("plain, Größe, 猫") == "plain, Größe, 猫"
    assert printable("a\x1b[2Jb\r\n\u202ec\u2028") == r"a\x1b[2Jb\r\n\u202ec\u2028"
    assert printable("a\n\tb", lines=True) == "a\n\tb" and printable("\x00", lines=True) == r"\x00"
    assert printable("x" * 50, 10) == "x" * 10 + " ..."
    assert json.loads(json.dumps(printable("👩‍🔬"))) == "👩‍🔬"  # joined by an invisible character
