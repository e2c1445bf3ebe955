"""What decoding would lose is said before training: bits, colors, pages; or is kept."""

import io
import pickle

import cv2
import numpy as np
import pytest
from PIL import Image

from vision import parallel
from vision.config import default
from vision.data.__main__ import main
from vision.data.decode import UnreadableImage, decode
from vision.data.findings import summarize
from vision.data.pipeline import open_data
from vision.data.sources import open_splits
from vision.errors import UserError

RAMP = np.arange(0, 111, dtype=np.uint16).reshape(1, 111).repeat(111, 0)


def write(root, images, extension="png", **options):
    for number, image in enumerate(images):
        for name in ("cat", "dog"):
            (root / name).mkdir(parents=True, exist_ok=True)
            file = root / name / f"{number}.{extension}"
            if image.ndim == 3 and image.dtype == np.uint16:
                file.write_bytes(cv2.imencode(".png", image)[1].tobytes())
            else:
                Image.fromarray(image).save(file, **options)
    return f"folder:{root}"


def config(source, **changes):
    c = default()
    c.data.source = source
    c.data.update(changes)
    return c


def findings(source, **changes):
    return summarize(open_data(config(source, **changes), parallel.make_mesh(1)).findings)


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_twelve_bits_are_said_and_kept(tmp_path, capsys, extension):
    source = write(tmp_path, [RAMP * 32] * 10, extension)
    note = "20 16-bit images use 12 bits, so few gray values are left: set data.bits=12: "
    main(["info", source])
    assert note in capsys.readouterr().out
    assert " 16-bit images use 12 bits, so few gray values are left" in findings(source)[0]
    assert findings(source, bits=12) == []
    before = open_splits(source)["all"][0]["image"]
    after = open_splits(source, 12)["all"]
    assert len(np.unique(before)) == 14 and len(np.unique(after[0]["image"])) == 111
    np.testing.assert_array_equal(after[0]["image"][..., 0], RAMP * 2)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(after))[3]["image"][..., 0], RAMP * 2)


def test_every_bit_depth(tmp_path):
    for bits in range(8, 17):
        largest = (1 << bits) - 1
        values = np.array([[0, largest]], np.uint16)
        for image in (values, np.stack([values] * 3, -1)):
            write(tmp_path, [image])
            data = (tmp_path / "cat" / "0.png").read_bytes()
            pixels = decode(data, bits=bits)
            assert pixels.tolist() == [[[0] * pixels.shape[2], [255] * pixels.shape[2]]]
            if bits > 8:
                with pytest.raises(UnreadableImage, match=f"its values reach {largest:,}, too"):
                    decode(data, bits=bits - 1)
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16)
    file = io.BytesIO()
    Image.fromarray(eight).save(file, "PNG")
    np.testing.assert_array_equal(decode(file.getvalue(), bits=12)[..., 0], eight)


def test_a_format_that_states_its_depth():
    for largest in (1023, 4095, 65535):
        values = np.linspace(0, largest, 16).astype(">u2")
        data = b"P5 4 4 %d\n" % largest + values.tobytes()
        for bits in (0, 12):
            np.testing.assert_array_equal(decode(data, bits=bits).ravel(), np.arange(0, 256, 17))


def test_full_depth_and_ordinary_images_are_not_named(tmp_path):
    assert findings(write(tmp_path / "a", [RAMP * 590] * 6)) == []
    assert findings(write(tmp_path / "b", [RAMP.astype(np.uint8)] * 6)) == []
    with pytest.raises(UserError, match=r"data.bits must be 0 or in \[8, 16\], got 7"):
        from vision.config.validate import validate

        validate(config("digits", bits=7))


def test_pages_are_named(tmp_path):
    page = Image.fromarray(RAMP.astype(np.uint8))
    pages = {"save_all": True, "append_images": [page] * 4}
    notes = findings(write(tmp_path, [RAMP.astype(np.uint8)] * 6, "tif", **pages))
    assert len(notes) == 1
    assert " files have several frames or pages; only the first is used: " in notes[0]


def test_one_color_image_among_many_gray_ones_decides(tmp_path):
    gray = np.zeros((8, 8), np.uint8)
    source = write(tmp_path, [gray] * 60)
    assert open_data(config(source), parallel.make_mesh(1)).channels == 1
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "dog" / "07.png")
    data = open_data(config(source, fractions=(0.98, 0.01, 0.01)), parallel.make_mesh(1))
    assert data.channels == 3 and data.loaders["train"].data["image"].shape[-1] == 3


def test_a_training_split_with_one_class(tmp_path):
    """In a table, which has no folders to look at."""
    write(tmp_path, [RAMP.astype(np.uint8)] * 3)
    rows = [f"cat/{i}.png,cat,train" for i in range(3)] + ["dog/0.png,dog,test"]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,split", *rows]))
    for run in (
        lambda: main(["info", f"csv:{tmp_path / 't.csv'}"]),
        lambda: open_data(config(f"csv:{tmp_path / 't.csv'}"), parallel.make_mesh(1)),
    ):
        with pytest.raises(UserError, match=r"the train split has a single class \('cat'\)"):
            run()
