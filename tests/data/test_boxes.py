"""Pascal VOC, CVAT and COCO: where images lie, what a box means, what is odd; and steel's defects
as they come."""

import json
import pickle
import re
import tarfile

import numpy as np
import pytest
from PIL import Image

from tests.data.boxes import HEIGHT, WIDTH, labels, names_by_kind, voc, where, write_image
from vision.data.decode import decode
from vision.data.findings import summarize
from vision.data.sources import open_splits
from vision.data.untrusted_xml import parse_xml
from vision.errors import UserError


@pytest.fixture(scope="module")
def steel(shared_data, tmp_path_factory):
    """All 1,770 annotations and images of NEU."""
    root = tmp_path_factory.mktemp("neu")
    with tarfile.open(shared_data / "neu_det.tar") as tar:
        tar.extractall(root, filter="data")
    return root / "neu_det"


def test_steel_by_its_main_defect(steel):
    source = open_splits(f"voc:{steel}")["all"]
    assert len(source) == 1770 and len(source.classes) == 6
    misnamed = {
        name: label
        for name, label in labels(source).items()
        if re.sub(r"_\d+\.jpg", "", name) != label
    }
    # The largest defect in these is not the one that their files are named after.
    assert len(misnamed) == 10 and all(name.startswith("scratches") for name in misnamed)
    (line,) = summarize(source.findings)
    assert line.startswith("121 images contain objects of several classes")
    image = np.asarray(Image.open(source.name(5)))
    np.testing.assert_array_equal(source[5]["image"], image.reshape(200, 200, -1))
    with open(source.name(5), "rb") as file:
        assert source.file(5) == file.read()


def test_steel_by_its_defects(steel):
    source = open_splits(f"voc:{steel}?boxes=crop&margin=0")["all"]
    objects = [f.read_text().count("<object>") for f in (steel / "annotations").iterdir()]
    assert len(source) == sum(objects) == 4126 and not source.findings
    assert (source.boxes >= 0).all() and (source.boxes <= 200).all()
    row = next(i for i in range(len(source)) if source.name(i).endswith("crazing_1.jpg#1"))
    photo = np.asarray(Image.open(steel / "images" / "crazing_1.jpg")).reshape(200, 200, -1)
    again = pickle.loads(pickle.dumps(source))[row]
    # xmin 2, ymin 2, xmax 193, ymax 194, from 1
    np.testing.assert_array_equal(again["image"], photo[1:194, 1:193])
    assert source.classes[again["label"]] == "crazing" and source.file(row) is None


def test_crops_have_their_margin_inside_the_image(tmp_path):
    write_image(tmp_path / "1.png")
    voc(
        tmp_path / "1.xml",
        "1.png",
        ("a", (11, 11, 30, 20)),
        ("b", (91, 1, 100, 60)),
        ("b", (50, 50, 50, 50)),
    )
    for margin, expected in {
        "0": [(10, 10, 30, 20), (90, 0, 100, 60), (49, 49, 50, 50)],
        "0.5": [(0, 5, 40, 25), (85, 0, 100, 60), (48, 48, 51, 51)],
    }.items():
        source = open_splits(f"voc:{tmp_path}?boxes=crop&margin={margin}")["all"]
        assert [where(source[i]["image"]) for i in range(3)] == expected
        assert [source.name(i) for i in range(3)] == [f"{tmp_path}/1.png#{i}" for i in (1, 2, 3)]
    for margin in ("-1", "x", "nan"):
        with pytest.raises(UserError, match=r"margin must be in \[0, 10\], the share"):
            open_splits(f"voc:{tmp_path}?boxes=crop&margin={margin}")
    with pytest.raises(UserError, match="boxes = 'crops' is unknown .did you mean 'crop'"):
        open_splits(f"voc:{tmp_path}?boxes=crops")


def test_what_is_odd_about_boxes(tmp_path):
    write_image(tmp_path / "turned.jpg", exif=_turned())
    write_image(tmp_path / "odd.png")
    write_image(tmp_path / "none.png")
    voc(
        tmp_path / "odd.xml",
        "odd.png",
        ("cat", (-20, 1, 30, 30)),
        ("dog", (0, 1, 101, 60)),  # within the pixel by which writers differ
        ("dog", (101, 1, 120, 30)),
        ("dog", (20, 20, 10, 30)),
        ("dog", ("x", 20, 10, 30)),
        ("dog", ("nan", 20, 10, 30)),
        ("", (1, 1, 10, 10)),
        (" Dog", (1, 1, 10, 10)),
        size=(50, 30),
    )
    voc(tmp_path / "turned.xml", "turned.jpg", ("cat", (1, 51, 60, 100)), size=(HEIGHT, WIDTH))
    voc(tmp_path / "none.xml", "none.png", size=(0, 0))
    splits = open_splits(f"voc:{tmp_path}?boxes=crop&margin=0")
    assert list(labels(splits["all"])) == ["odd.png#1", "odd.png#2", "odd.png#8", "turned.jpg#1"]
    assert splits["all"][3]["image"].shape == (50, 60, 3)  # EXIF makes it 60 x 100
    kinds = {
        "labels had leading or trailing whitespace, which is removed": ["' Dog'"],
        "annotated sizes differ from the file's": ["odd.png"],
        "boxes extend outside their image and are clipped": ["odd.png#1"],
        "boxes are empty or outside their image": ["odd.png#3", "odd.png#4"],
        "objects have no readable box": ["odd.png#5", "odd.png#6"],
        "objects have no label": ["odd.png#7"],
        "classes are spelled in several ways and stay separate": ["Dog"],
    }
    assert names_by_kind(splits) == kinds
    main = open_splits(f"voc:{tmp_path}")
    assert labels(main["all"]) == {"odd.png": "dog", "turned.jpg": "cat"}
    more = {
        "images have no objects": ["none.png"],
        "classes are not the main object of any image": ["Dog"],
    }
    more |= {"images contain objects of several classes: labeled by the largest": ["odd.png"]}
    assert names_by_kind(main) == {k: v for k, v in kinds.items() if "spelled" not in k} | more


def _turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_xml_is_only_elements():
    assert parse_xml("<a b='1'>é<c/></a>".encode()).find("c") is not None
    assert (
        parse_xml('<?xml version="1.0" encoding="latin-1"?><a>é</a>'.encode("latin-1")).text == "é"
    )
    for bad in (
        b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
        b'<?xml version="1.0" encoding="gbk"?><a/>',
        b'<?xml version="1.0" encoding="klingon"?><a/>',
        b"<a>&x;</a>",
        b"",
    ):
        with pytest.raises(ValueError, match="line 1"):
            parse_xml(bad)


CVAT = """<annotations><version>1.1</version>
<image id="0" name="deep/1.png" subset="Train" width="100" height="60">
  <box label="cat" xtl="10" ytl="20" xbr="30" ybr="40" rotation="90"/>
  <polygon label="dog" points="1.5,2;50,2.5;50,30"/><points label="dog" points="7,8"/>
  <mask label="cat" left="5" top="6" width="7" height="8" rle="1,2"/>
  <ellipse label="cat" cx="50" cy="30" rx="10" ry="5"/>
  <cuboid label="cat" xtl1="1" ytl1="2" xbl1="1" ybl1="9" xtr1="8" ytr1="2" xbr1="8" ybr1="9"
    xtl2="3" ytl2="1"/>
  <skeleton label="dog"><points label="nose" points="1,2"/>
    <points label="tail" points="20,22"/></skeleton>
</image>
<image id="1" name="2.png" subset="test" width="100" height="60"><tag label="bird"/>
  <box label="cat" xtl="10" ytl="20" xbr="30" ybr="40"/></image>
<image id="2" name="gone.png" subset="test" width="1" height="1"/>
</annotations>"""


def test_cvat_has_many_shapes(tmp_path):
    write_image(tmp_path / "images" / "deep" / "1.png")
    write_image(tmp_path / "images" / "test" / "2.png")
    (tmp_path / "annotations.xml").write_text(CVAT)
    for spec in (f"cvat:{tmp_path}", f"cvat:{tmp_path / 'annotations.xml'}"):
        splits = open_splits(spec)
        assert {k: labels(v) for k, v in splits.items()} == {
            "train": {"1.png": "dog"},
            "test": {"2.png": "bird"},
        }
    assert names_by_kind(splits)["annotated images do not exist"] == ["gone.png"]
    crops = open_splits(f"cvat:{tmp_path}?boxes=crop&margin=0")
    boxes = [
        (10, 20, 30, 40),
        (1, 2, 50, 30),
        (5, 6, 12, 14),
        (40, 25, 60, 35),
        (1, 1, 8, 9),
        (1, 2, 20, 22),
    ]
    assert crops["train"].boxes.tolist() == [list(box) for box in boxes]
    # a point has no inside
    assert names_by_kind(crops)["boxes are empty or outside their image"] == ["1.png#3"]


def test_coco_places_and_oddities(tmp_path):
    def annotations(*images):
        things = [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [10, 20, 30, 30]},
            {
                "id": 2,
                "image_id": 1,
                "category_id": 3,
                "bbox": [],
                "segmentation": [[0, 0, 5, 0, 5, 8]],
            },
            {
                "id": 3,
                "image_id": 1,
                "category_id": 3,
                "segmentation": {"counts": "abc", "size": [60, 100]},
            },
            {"id": 4, "image_id": 1, "category_id": 9, "bbox": [1, 1, 2, 2]},
            {"id": 5, "image_id": 99, "category_id": 3, "bbox": [1, 1, 2, 2]},
            {"id": 6, "image_id": 2, "category_id": 3, "bbox": [1.5, 1.5, 2, 2], "iscrowd": 0},
        ]
        categories = [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}, {"id": 8, "name": "bird"}]
        listed = [
            {"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT}
            for i, name in enumerate(images, 1)
        ]
        return json.dumps({"images": listed, "annotations": things, "categories": categories})

    for place in (
        "train2017/{}.png",
        "images/{}.png",
        "images/train/{}.png",
        "images/train2017/{}.png",
        "annotations/{}.png",
    ):
        root = tmp_path / place.replace("/", "_")
        write_image(root / place.format("a"))
        write_image(root / place.format("b"))
        file = root / "annotations" / "instances_train2017.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(annotations("a.png", "b.png"))
        splits = open_splits(f"coco:{root}")
        assert {k: labels(v) for k, v in splits.items()} == {
            "train": {"a.png": "cat", "b.png": "dog"}
        }
    assert names_by_kind(splits) == {
        "objects refer to unknown images": ["instances_train2017.json, image 99"],
        "categories have no objects": ["bird"],
        "objects have no readable box": ["a.png#3"],
        "objects have no label": ["a.png#4"],
        "images contain objects of several classes: labeled by the largest": ["a.png"],
    }
    crops = open_splits(f"coco:{file}?boxes=crop&margin=0")["all"]
    assert crops.boxes.tolist() == [[10, 20, 40, 50], [0, 0, 5, 8], [1, 1, 4, 4]]
    (root / "annotations" / "instances_train2014.json").write_text(annotations("a.png"))
    with pytest.raises(
        UserError,
        match="has two files for train: instances_train2014.json and instances_train2017.json",
    ):
        open_splits(f"coco:{root}")

    for split in ("train", "valid"):
        write_image(tmp_path / "roboflow" / split / "a.png")
        write_image(tmp_path / "roboflow" / split / "b.png")
        (tmp_path / "roboflow" / split / "_annotations.coco.json").write_text(
            annotations("a.png", "b.png")
        )
    assert {k: len(v) for k, v in open_splits(f"coco:{tmp_path / 'roboflow'}").items()} == {
        "train": 2,
        "val": 2,
    }


def test_mistakes_are_named(tmp_path):
    files = {
        "a.xml": "<annotations><image>",
        "b.xml": "<annotation/>",
        "c.xml": "<annotations><track/></annotations>",
        "d.xml": "<annotations><image name='1.png' subset='week 3'/></annotations>",
        "a.json": '{"images": [',
        "b.json": "[]",
        "c.json": '{"images": [], "annotations": []}',
        "d.json": '{"images": [{"id": [], "file_name": "x"}], "annotations": [], "categories": []}',
        "e.json": '{"images": [], "annotations": [], "categories": []}',
        "f.json": '{"images": [{"id": 1, "file_name": "x"}, {"id": 1, "file_name": "y"}], '
        '"annotations": [], "categories": []}',
        "g.json": '{"images": [], "annotations": [], '
        '"categories": [{"id": 1, "name": "x"}, {"id": 1, "name": "y"}]}',
        "h.json": '{"images": [' + "9" * 5000 + "]}",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    cases = {
        "cvat:{}/a.xml": "a.xml: line 1, column 21: no element found",
        "cvat:{}/b.xml": "begins with <annotation> instead of CVAT's <annotations>",
        "cvat:{}/c.xml": "CVAT for video",
        "cvat:{}/d.xml": "subset of '1.png' must be one of train, val",
        "cvat:{}/none.xml": "none.xml': No such file",
        "coco:{}/a.json": "a.json, line 1, column 13",
        "coco:{}/b.json": "is not in COCO format",
        "coco:{}/c.json": "'categories' is missing",
        "coco:{}/d.json": "is not in COCO format",
        "coco:{}/e.json": "0 class(es) with images",
        "coco:{}/f.json": "has two images with the id 1",
        "coco:{}/g.json": "has two categories with the id 1",
        "coco:{}/h.json": "is not in COCO format",
        "coco:{}": "has neither annotations/instances_train.json nor train/_annotations.coco.json",
        "voc:{}/none": "none' does not exist",
        "voc:": "'' does not exist",
        "coco:": "has neither annotations",
    }
    for spec, message in cases.items():
        with pytest.raises(UserError) as error:
            open_splits(spec.format(tmp_path))
        assert message in str(error.value), error.value


@pytest.mark.parametrize("orientation", range(2, 9))
def test_boxes_of_a_turned_image(tmp_path, orientation):
    """As decoded, or as it is stored, which its annotated size tells: the crop shows the same
    either way."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("decoded", "stored"):
        write_image(tmp_path / f"{name}.png", exif=exif)
    voc(tmp_path / "stored.xml", "stored.png", ("a", (11, 21, 40, 30)), ("b", (1, 1, 9, 9)))
    photo = decode(str(tmp_path / "decoded.png"))
    rows, columns = np.nonzero(
        (photo[..., 0] >= 10) & (photo[..., 0] < 40) & (photo[..., 1] >= 20) & (photo[..., 1] < 30)
    )
    box = (columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1)
    voc(
        tmp_path / "decoded.xml",
        "decoded.png",
        ("a", box),
        ("b", (1, 1, 9, 9)),
        size=photo.shape[1::-1],
    )
    splits = open_splits(f"voc:{tmp_path}?boxes=crop&margin=0")
    decoded, stored = (splits["all"][i]["image"] for i in (0, 2))
    assert decoded.shape[:2] == ((30, 10) if orientation >= 5 else (10, 30))
    if orientation >= 5:  # below, both sizes are the same
        np.testing.assert_array_equal(stored, decoded)
        assert names_by_kind(splits) == {
            "images are annotated before EXIF rotation: boxes are rotated too": ["stored.png"]
        }
