"""Tables and annotations as Excel, Kaggle, Label Studio, Roboflow and CVAT write them."""

import collections
import json
import os

import numpy as np
import pytest
from PIL import Image

from vision.audit.__main__ import main as audit
from vision.data.__main__ import main
from vision.data.sources import open_splits
from vision.errors import UserError

PETS = ("cat", "dog")


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for name in PETS:
        (tmp_path / "img" / name).mkdir(parents=True)
        for i in range(4):
            pixels = random.integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(pixels).save(tmp_path / "img" / name / f"{i}.jpg")
    return tmp_path


def rows(form):
    """Returns lines with {path} such as img/cat/0, {pet} and a 1 in {cat} or {dog}."""
    return [
        form.format(path=f"img/{pet}/{i}", pet=pet, cat=int(pet == "cat"), dog=int(pet == "dog"))
        for pet in PETS
        for i in range(4)
    ]


def write(folder, lines, query="", encoding="utf-8"):
    (folder / "table.csv").write_bytes("\n".join([*lines, ""]).encode(encoding))
    return f"csv:{folder / 'table.csv'}{query}"


def count(spec):
    """Returns {class: images}."""
    source = open_splits(spec)["all"]
    for index in range(len(source)):
        assert source.classes[source[index]["label"]] in source.name(index)
    return dict(collections.Counter(source.classes[label] for label in source.labels))


CHOICES = '1,"{{""choices"": [""{pet}""]}}",/data/upload/1/{path}.jpg'


@pytest.mark.parametrize(
    "header, form, query",
    [
        ("path,label,,", "{path}.jpg,{pet},,", ""),
        ("path,label", "{path}.jpg,{pet},,", ""),
        (",path,label", "7,{path}.jpg,{pet}", ""),
        ("sep=;\npath;label", "{path}.jpg;{pet}", ""),
        ("sep=|\npath|label", "{path}.jpg|{pet}", ""),
        ("id,breed", "{path},{pet}", "?path=id&label=breed"),
        ("path,label", "{pet}/../../{path}.jpg,{pet}", "?folder=img"),
        ("filename, cat, dog", "{path}.jpg, {cat}, {dog}", "?path=filename"),
        ("image,width,cat,dog", "{path},7,{cat}.0,{dog}.0", "?path=image"),
        ("annotator,choice,image", CHOICES, "?path=image&label=choice"),
        ("path,label", "/data/local-files/?d=elsewhere/{path}.jpg,{pet}", ""),
        ("path,label", "https://host/tasks/{path}.jpg?token=a/b,{pet}", ""),
        ("path,label", r"C:\Users\me\{path}.jpg,{pet}", ""),
    ],
)
def test_tables_of_other_programs(folder, header, form, query):
    assert count(write(folder, [header, *rows(form)], query)) == {"cat": 4, "dog": 4}


def test_encodings_of_excel(folder):
    lines = ["path\tlabel", *rows("{path}.jpg\t{pet}")]
    for encoding in ("utf-16", "utf-8-sig"):
        assert count(write(folder, lines, encoding=encoding)) == {"cat": 4, "dog": 4}
    lines = ["path,label", *rows("{path}.jpg,ü{pet}")]
    with pytest.raises(UserError, match=r"table.csv, line 2 is not UTF-8: save it as 'CSV UTF-8'"):
        open_splits(write(folder, lines, encoding="latin-1"))


def test_names_in_another_unicode_form(folder):
    os.rename(folder / "img/cat/0.jpg", folder / "img/cat/e\u0301t\u00e9.jpg")
    lines = ["path,label", "img/cat/\u00e9t\u00e9.jpg,cat", *rows("{path}.jpg,{pet}")[1:]]
    missing = open_splits(write(folder, lines))["all"].findings
    assert [finding.kind for finding in missing] == ["files named in the table do not exist"]
    os.rename(folder / "img/cat/e\u0301t\u00e9.jpg", folder / "img/cat/e\u0301te\u0301.jpg")
    assert count(write(folder, lines)) == {"cat": 4, "dog": 4}


def test_what_is_lost_or_guessed_is_said(folder, capsys):
    lines = ["note,path,label,", *rows("x,/elsewhere/{path}.jpg,{pet},seen")]
    lines[1] = '1,img/cat/0.jpg,"{""choices"": [""cat"", ""indoor""]}",'
    main(["info", write(folder, lines)])
    page = capsys.readouterr().out
    assert "7 all; 2 classes" in page
    assert (
        "note: rows have several labels and are left out: " in page
        and "line 2: 'cat', 'indoor'" in page
    )
    assert "note: 7 paths are from another disk or server" in page
    assert "note: columns without a name are left out: " in page and "column 4" in page
    joined = ["path,label", *rows("{path}.jpg,{pet}")]
    joined[1] = "img/cat/0.jpg,cat|dog"
    (finding,) = open_splits(write(folder, joined))["all"].findings
    assert str(finding) == "'cat|dog': 1 times" and "several labels joined" in finding.kind


def test_columns_of_several_ones_are_not_classes(folder):
    lines = ["path,cat,dog", *rows("{path}.jpg,1,1")]
    with pytest.raises(UserError, match="has no column 'label'"):
        open_splits(write(folder, lines))
    lines = ["path,cat,dog", *rows("{path}.jpg,{cat},{dog}"), "img/none.jpg,0,0"]
    findings = open_splits(write(folder, lines))["all"].findings
    assert [finding.kind for finding in findings if finding.lost] == ["rows have no label"]
    with pytest.raises(UserError, match="has no column 'breed'"):
        open_splits(write(folder, lines, "?label=breed"))


def test_the_error_says_where_the_files_are(folder):
    lines = ["path,label", *(line.removeprefix("img/") for line in rows("{path},{pet}"))]
    message = (
        "none of the 8 files .* exist, beginning with .*cat/0. img/cat/0 does: add .folder=img"
    )
    with pytest.raises(UserError, match=message):
        open_splits(write(folder, lines))


def test_the_audit_reads_its_own_table_of_old_names(folder, tmp_path):
    """Names in Latin-1, as old archives unpack them."""
    old = os.fsencode(folder) + b"/img/H\xfcndin"
    os.rename(folder / "img" / "dog", old)
    os.rename(old + b"/0.jpg", old + b"/\xe9.jpg")
    data = f"folder:{folder / 'img'}"
    audit(["--data", data, "--out", str(tmp_path / "audit"), "--apply"])
    before = open_splits(data)["all"]
    after = open_splits(f"csv:{tmp_path / 'audit' / 'cleaned.csv'}")
    assert after["train"].classes == before.classes == ("H\udcfcndin", "cat")
    names = [os.path.realpath(s.name(i)) for s in after.values() for i in range(len(s))]
    assert sorted(names) == sorted(map(os.path.realpath, map(before.name, range(len(before)))))


def coco(folder, form, **changes):
    """Writes a COCO file, each annotation changed by `form`, and returns the source's name."""
    images = []
    annotations = []
    for label, pet in enumerate(PETS):
        for i in range(4):
            number = 10 * label + i
            images.append({"id": number, "file_name": f"img/{pet}/{i}.jpg"})
            plain = {"id": number, "image_id": number, "category_id": 7 * label}
            annotations += form(plain)
    categories = [{"id": 7 * i, "name": name} for i, name in enumerate((*PETS, "crowd", "thing"))]
    content = {"images": images, "annotations": annotations, "categories": categories} | changes
    for image in content["images"]:
        image["file_name"] = changes.get("prefix", "") + image["file_name"]
    (folder / "a.json").write_text(json.dumps(content))
    return f"coco:{folder / 'a.json'}"


UNUSED = r"attributes are not used: \?attribute=NAME .* species: cat, dog"
BOX = {"bbox": [1, 1, 4, 4], "iscrowd": 0}


@pytest.mark.parametrize("extra", [{}, {"bbox": []}, {"bbox": [0, 0, 0, 0], "area": 0}])
def test_coco_labels_without_boxes(folder, extra):
    spec = coco(folder, lambda plain: [plain | extra])
    assert count(spec) == {"cat": 4, "dog": 4}
    with pytest.raises(UserError, match="labels but no boxes: leave out .boxes=crop"):
        open_splits(f"{spec}?boxes=crop")


def test_coco_crowds(folder):
    crowd = {"category_id": 14, "bbox": [0, 0, 16, 16], "iscrowd": 1}
    spec = coco(folder, lambda plain: [plain | BOX, plain | crowd])
    assert count(spec) == count(f"{spec}?boxes=crop") == {"cat": 4, "dog": 4}
    kinds = collections.Counter(f.kind for f in open_splits(spec)["all"].findings)
    assert kinds["crowds are not objects and are left out"] == 8


@pytest.mark.parametrize("prefix", ["D:\\data\\", "/mnt/cluster/", "http://host:80/x/"])
def test_coco_files_of_another_machine(folder, prefix):
    spec = coco(folder, lambda plain: [plain | BOX], prefix=prefix)
    assert count(spec) == {"cat": 4, "dog": 4}
    assert "another disk or server" in open_splits(spec)["all"].findings[0].kind


def test_coco_attributes(folder):
    def species(plain):
        text = PETS[plain["category_id"] > 0]
        return [plain | BOX | {"category_id": 21, "attributes": {"species": text, "hidden": False}}]

    spec = coco(folder, species)
    with pytest.raises(UserError, match=UNUSED):
        open_splits(spec)
    assert count(f"{spec}?attribute=species") == {"cat": 4, "dog": 4}
    with pytest.raises(UserError, match="attribute 'specie': choose from 'species'"):
        open_splits(f"{spec}?attribute=specie")


def test_cvat_attributes(folder):
    lines = ["<annotations>"]
    for number, path in enumerate(rows("{path}.jpg")):
        pet = PETS["dog" in path]
        attributes = f'<attribute name="species">{pet}</attribute><attribute name="hidden">false'
        box = f'<box label="animal" xtl="1" ytl="1" xbr="8" ybr="8">{attributes}</attribute></box>'
        lines.append(f'<image name="{path}" width="32" height="32">{box}</image>')
        if number == 1:
            lines[-1] = lines[-1].replace('name="img', r'name="D:\me\img')
        if number == 0:
            lines[-1] = lines[-1].replace("box", "tag")
    (folder / "a.xml").write_text("\n".join([*lines, "</annotations>"]))
    spec = f"cvat:{folder / 'a.xml'}"
    with pytest.raises(UserError, match=UNUSED):
        open_splits(spec)
    assert count(f"{spec}?attribute=species") == {"cat": 4, "dog": 4}
    with pytest.raises(UserError, match="no object has the attribute 'breed': choose from "):
        open_splits(f"{spec}?attribute=breed")
