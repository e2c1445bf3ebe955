"""A .tflite file says what it takes and returns, and has its class names; it computes the same."""

import shutil
import zipfile

import flatbuffers
import jax
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers.number_types import Float32Flags, Int8Flags, Uint8Flags, Uint32Flags
from flatbuffers.table import Table

from tests.support.programs import images, program_of
from vision.bundle.runtimes import open_model
from vision.errors import UserError
from vision.export import tflite
from vision.export.tflite_int8 import quantize
from vision.export.tflite_metadata import attach, check_labels

KERNEL = np.random.default_rng(0).normal(size=(192, 10)).astype(np.float32)


def dense(images):
    """A model of RGB images whose weights are worth halving."""
    embedding = (images.reshape(images.shape[0], -1) / np.float32(255)) @ KERNEL
    return jax.nn.softmax(embedding), embedding


@pytest.fixture(scope="module")
def program():
    return program_of(dense, size=8, channels=3)


@pytest.fixture(scope="module")
def plain(program, tmp_path_factory):
    """{precision: a file without metadata}."""
    folder = tmp_path_factory.mktemp("plain")
    files = {name: folder / f"{name}.tflite" for name in ("float32", "float16", "int8")}
    tflite.write(program, files["float32"])
    tflite.to_float16(files["float32"], files["float16"])
    quantize(files["float32"], files["int8"], images(40, 8))
    return files


@pytest.fixture(params=["float32", "float16", "int8"])
def pair(request, program, plain, tmp_path):
    """(a file without metadata, the same with it)."""
    described = shutil.copy(plain[request.param], tmp_path / tflite.NAME)
    attach(program, described)
    return plain[request.param], described


def test_it_computes_the_same_bits(pair):
    before, after = (open_model(path).run(images(5, 8)) for path in pair)
    for ours, theirs in zip(after, before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert before[0].max(1).min() > 0.1


def test_its_labels_are_in_a_zip_archive(pair, program):
    with zipfile.ZipFile(pair[1]) as archive:
        (entry,) = archive.infolist()
        assert entry.compress_type == zipfile.ZIP_STORED  # MediaPipe reads nothing else
        assert archive.read("labels.txt").decode().splitlines() == list(program.classes)


def test_equal_exports_are_equal_files(pair, program, tmp_path):
    again = shutil.copy(pair[0], tmp_path / "again.tflite")
    attach(program, again)
    assert again.read_bytes() == pair[1].read_bytes()


def test_weights_are_aligned_as_the_schema_says(pair):
    model = schema.Model.GetRootAs(pair[1].read_bytes(), 0)
    starts = [
        buffer._tab.Vector(buffer._tab.Offset(4))
        for buffer in map(model.Buffers, range(model.BuffersLength()))
        if not buffer.DataIsNone()
    ]
    assert len(starts) > 3 and {start % 16 for start in starts} == {0}


class Reader:
    """Fields of a table of a flatbuffer, by their number in metadata_schema.fbs."""

    def __init__(self, table):
        self.table = table

    def _offset(self, field):
        return self.table.Offset(4 + 2 * field)

    def number(self, field, flags):
        offset = self._offset(field)
        return self.table.Get(flags, offset + self.table.Pos) if offset else 0

    def text(self, field):
        return self.table.String(self._offset(field) + self.table.Pos).decode()

    def below(self, field):
        indirect = self.table.Indirect(self._offset(field) + self.table.Pos)
        return Reader(Table(self.table.Bytes, indirect))

    def tables(self, field):
        offset = self._offset(field)
        start = self.table.Vector(offset)
        positions = [start + 4 * i for i in range(self.table.VectorLen(offset))]
        return [Reader(Table(self.table.Bytes, self.table.Indirect(p))) for p in positions]

    def floats(self, field):
        offset = self._offset(field)
        start = self.table.Vector(offset)
        count = self.table.VectorLen(offset)
        return [self.table.Get(Float32Flags, start + 4 * i) for i in range(count)]


def metadata_of(path):
    """Returns the `Reader` of a file's metadata."""
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    entries = [model.Metadata(i) for i in range(model.MetadataLength())]
    (entry,) = [entry for entry in entries if entry.Name() == b"TFLITE_METADATA"]
    data = model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
    assert data[4:8] == b"M001"
    root = flatbuffers.encode.Get(flatbuffers.packer.uoffset, data, 0)
    return Reader(Table(bytearray(data), root))


def test_its_metadata_name_the_image_the_probabilities_and_the_labels(pair):
    root = metadata_of(pair[1])
    assert root.text(0) == "Image classifier" and "10 classes" in root.text(1)
    assert root.text(7) == "1.0.0"  # min_parser_version
    (graph,) = root.tables(3)
    (image,) = graph.tables(2)
    assert image.text(0) == "images"
    content = image.below(3)
    assert content.number(0, Uint8Flags) == 2  # ImageProperties
    assert content.below(1).number(0, Int8Flags) == 1  # RGB
    assert [content.below(1).below(1).number(i, Uint32Flags) for i in (0, 1)] == [8, 8]
    (unit,) = image.tables(4)
    assert unit.number(0, Uint8Flags) == 1  # NormalizationOptions
    assert (unit.below(1).floats(0), unit.below(1).floats(1)) == ([0.0], [1.0])
    outputs = {tensor.text(0): tensor for tensor in graph.tables(3)}
    assert list(outputs) == order_of_outputs(pair[1])
    (labels,) = outputs["probabilities"].tables(6)
    assert labels.text(0) == "labels.txt" and labels.number(2, Int8Flags) == 2  # AXIS_LABELS
    assert not outputs["embedding"]._offset(6)


def order_of_outputs(path):
    """Returns the names that a file's signature gives its outputs, in the order of the graph."""
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    signature = model.SignatureDefs(0)
    outputs = [signature.Outputs(i) for i in range(signature.OutputsLength())]
    names = {output.TensorIndex(): output.Name().decode() for output in outputs}
    return [names[int(index)] for index in model.Subgraphs(0).OutputsAsNumpy()]


def test_gray_models_say_so(tmp_path):
    gray = program_of(lambda x: dense(x.repeat(3, axis=-1)), size=8, channels=1)
    tflite.write(gray, tmp_path / tflite.NAME)
    attach(gray, tmp_path / tflite.NAME)
    (image,) = metadata_of(tmp_path / tflite.NAME).tables(3)[0].tables(2)
    assert image.below(3).below(1).number(0, Int8Flags) == 2  # GRAYSCALE


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\0b", " "])
def test_classes_that_cannot_be_labels(name):
    check_labels(["naïve 犬", "a b", "a,b"])
    with pytest.raises(UserError, match=r"^the class '.*' cannot be a label of a \.tflite"):
        check_labels(["cat", name])
