"""Captions of every kind of source, good and bad, and those that are made from class names."""

import gzip
import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vision.data.changes import change
from vision.data.findings import summarize
from vision.data.sources import open_splits
from vision.data.splits import Joined, Subset, make_splits
from vision.data.texts import (
    EMPTY,
    NOT_UTF8,
    from_classes,
    parse_templates,
    templates_of,
    texts_of,
)
from vision.errors import UserError

CAPTIONS = ["two cats", "", "Ein Hünd", "a dog, and “more”", " 猫 ", "last"]
LABELS = ["cat", "cat", "dog", "dog", "cat", "dog"]
KEPT = ["two cats", "Ein Hünd", "a dog, and “more”", "猫", "last"]


def png(number):
    stream = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_csv(folder, captions=CAPTIONS):
    lines = ["path;label;title;note"]
    for number, (caption, label) in enumerate(zip(captions, LABELS, strict=True)):
        (folder / f"{number}.png").write_bytes(png(number))
        lines.append(f"{number}.png;{label};{caption};x")
    data = "\n".join(lines).encode("utf-8", "surrogateescape")
    (folder / "table.csv").write_bytes(data)
    return f"csv:{folder / 'table.csv'}?text=title"


def write_parquet(folder, captions=CAPTIONS):
    values = [c.encode("utf-8", "surrogateescape") for c in captions]
    columns = {
        "image": pa.array([png(number) for number in range(len(captions))], pa.binary()),
        # A view, not a cast: Arrow writes texts that are not UTF-8 without a word.
        "title": pa.array(values, pa.binary()).view(pa.string()),
        "label": LABELS,
    }
    pq.write_table(pa.table(columns), folder / "table.parquet")
    return f"parquet:{folder / 'table.parquet'}?text=title&label=label"


def write_wds(folder, captions=CAPTIONS):
    with tarfile.open(folder / "shard-000.tar", "w") as archive:
        for number, (caption, label) in enumerate(zip(captions, LABELS, strict=True)):
            data = caption.encode("utf-8", "surrogateescape")
            members = {"png": png(number), "txt": data, "cls": label.encode()}
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{number:03}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return f"wds:{folder / 'shard-000.tar'}"


def write_coco(folder, captions=CAPTIONS):
    names = sorted(set(LABELS))
    images = []
    objects = []
    annotations = []
    (folder / "images").mkdir()
    for number, (caption, label) in enumerate(zip(captions, LABELS, strict=True)):
        (folder / "images" / f"{number}.png").write_bytes(png(number))
        images.append({"id": number, "file_name": f"{number}.png", "width": 6, "height": 6})
        category = names.index(label)
        objects.append({"image_id": number, "category_id": category, "bbox": [0, 0, 6, 6]})
        annotations.append({"image_id": number, "caption": caption})
        annotations.append({"image_id": number, "caption": "another one"})
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    tree = {"images": images, "annotations": objects, "categories": categories}
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(tree))
    tree = {"images": images, "annotations": annotations}
    (folder / "annotations" / "captions_train.json").write_text(json.dumps(tree))
    return f"coco:{folder / 'annotations' / 'instances_train.json'}?text=captions"


WRITERS = {"csv": write_csv, "parquet": write_parquet, "wds": write_wds, "coco": write_coco}


def the(parts):
    (source,) = parts.values()
    return source


def lines(source):
    return "\n".join(summarize(source.findings))


@pytest.mark.parametrize("kind", WRITERS)
def test_captions_belong_to_their_images(kind, tmp_path):
    source = the(open_splits(WRITERS[kind](tmp_path)))
    assert source.texts.tolist() == KEPT and len(source) == 5
    assert [source.classes[label] for label in source.labels] == ["cat", "dog", "dog", "cat", "dog"]
    for place, number in enumerate((0, 2, 3, 4, 5)):
        pixels = np.random.default_rng(number).integers(0, 256, (6, 6, 3), np.uint8)
        np.testing.assert_array_equal(source[place]["image"], pixels)
    assert EMPTY in lines(source)
    (lost,) = [finding for finding in source.findings if finding.lost]
    assert lost.kind == EMPTY


@pytest.mark.parametrize("kind", ["parquet", "wds"])
def test_captions_that_are_not_utf8_are_left_out(kind, tmp_path):
    source = the(open_splits(WRITERS[kind](tmp_path, ["a", "caf\udce9", *CAPTIONS[2:]])))
    assert source.texts.tolist() == ["a", *KEPT[1:]]
    assert NOT_UTF8 in lines(source)


def test_a_table_that_is_not_utf8(tmp_path):
    spec = write_csv(tmp_path, ["a", "caf\udce9", *CAPTIONS[2:]])
    with pytest.raises(UserError, match="line 3 is not UTF-8: save it as 'CSV UTF-8'"):
        open_splits(spec)


@pytest.mark.parametrize("kind", WRITERS)
def test_no_caption_at_all(kind, tmp_path):
    spec = WRITERS[kind](tmp_path, [""] * 6)
    with pytest.raises(UserError, match="none of the 6 images has a caption in UTF-8"):
        open_splits(spec)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("csv", "has no caption column 'nothing'; its columns: 'title', 'note'"),
        ("parquet", "has no caption column 'nothing'; its text columns are: 'title', 'lab"),
        ("wds", "no .json has the caption key 'nothing'"),
    ],
)
def test_a_column_that_is_missing(kind, message, tmp_path):
    spec = WRITERS[kind](tmp_path).partition("?")[0]
    with pytest.raises(UserError) as error:
        open_splits(f"{spec}?text=nothing")
    assert message in str(error.value)


def test_coco_reads_captions_only(tmp_path):
    spec = write_coco(tmp_path).partition("?")[0]
    with pytest.raises(
        UserError, match="text must be one of '', 'captions', got 'caption'|did you"
    ):
        open_splits(f"{spec}?text=caption")


def test_coco_without_captions_beside(tmp_path):
    spec = write_coco(tmp_path)
    (tmp_path / "annotations" / "captions_train.json").unlink()
    with pytest.raises(UserError, match="has no captions file next to it: .text=captions reads"):
        open_splits(spec)
    with pytest.raises(UserError, match="leave out .boxes=crop"):
        open_splits(f"{spec}&boxes=crop")


def test_coco_says_that_it_uses_the_first_caption(tmp_path):
    assert "6 of 12" in lines(the(open_splits(write_coco(tmp_path))))


def test_captions_follow_every_selection(tmp_path):
    spec = write_csv(tmp_path, ["a", "b", "c", "d", "e", "f"])
    source = the(open_splits(spec))
    assert Subset(source, [4, 1]).texts.tolist() == ["e", "b"]
    assert Joined([source, Subset(source, [0])]).texts.tolist() == [*"abcdef", "a"]
    without = Subset(source, [0])
    without.texts = None
    assert Joined([source, without]).texts.tolist() == [*"abcdef", None]
    assert texts_of(Subset(Joined([source, without]), [6])) is None
    assert Joined([without, without]).texts is None
    splits = make_splits({"all": source}, (0.4, 0.3, 0.3), split_by="position")
    noisy = change(splits, f"{spec}&flip_labels=0.5")
    for split in noisy.values():
        assert [int(split.name(i)[-5]) for i in range(len(split))] == [
            "abcdef".index(text) for text in split.texts
        ]


class TestWebDataset:
    def write(self, path, members):
        path.parent.mkdir(exist_ok=True, parents=True)
        with tarfile.open(path, "w") as archive:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))

    def test_splits_ranges_and_json(self, tmp_path):
        for split in ("train", "val"):
            for shard in range(2):
                members = {}
                for i in range(3):
                    number = 3 * shard + i
                    record = {"caption": f"{split} {number}", "label": i % 2, "other": "x"}
                    members[f"dir.a/{number}.jpeg.PNG"] = png(number)
                    members[f"dir.a/{number}.json"] = json.dumps(record).encode()
                self.write(tmp_path / f"{split}-{shard:03}.tar", members)
        parts = open_splits(f"wds:{tmp_path}")
        assert {part: len(source) for part, source in parts.items()} == {"train": 6, "val": 6}
        assert parts["val"].texts.tolist() == [f"val {i}" for i in range(6)]
        assert (
            parts["train"].classes == ("0", "1") and parts["train"].labels.tolist() == [0, 1, 0] * 2
        )
        one = the(open_splits(f"wds:{tmp_path}/train-{{000..001}}.tar?text=other"))
        assert one.texts.tolist() == ["x"] * 6
        assert one.keys()[3] == "train-001.tar/dir.a/3.jpeg.PNG"
        with pytest.raises(UserError, match="there is no file .*train-002.tar, which"):
            open_splits(f"wds:{tmp_path}/train-{{000..004}}.tar")

    def test_names_of_numbers_and_what_is_odd(self, tmp_path):
        members = {"a.png": png(0), "a.cls": b"0", "a.png2": b"", "b.png": png(1), "b.cls": b"1\n"}
        members |= {"c.txt": b"alone", "d.png": png(2), "e.png": png(3), "e.json": b"[1]"}
        members |= {"a.jpg": png(4), "f.png": png(5), "f.cls": b"7"}
        self.write(tmp_path / "x.tar", members)
        (tmp_path / "classes.txt").write_text("cat\ndog\n")
        source = the(open_splits(f"wds:{tmp_path}/x.tar"))
        assert source.classes == ("cat", "dog") and len(source) == 2
        assert getattr(source, "texts", None) is None
        text = lines(source)
        for words in ("the same name", "no matching image", "not JSON objects", "no label"):
            assert words in text

    @pytest.mark.parametrize("damage", ["cut", "gzip", "empty", "text"])
    def test_what_is_no_archive(self, damage, tmp_path):
        self.write(tmp_path / "x.tar", {f"{i}.png": png(i) for i in range(2)})
        data = (tmp_path / "x.tar").read_bytes()
        changed = {"cut": data[:700], "gzip": gzip.compress(data), "empty": b"", "text": b"x" * 99}
        (tmp_path / "x.tar").write_bytes(changed[damage])
        with pytest.raises(UserError, match="x.tar|class"):
            open_splits(f"wds:{tmp_path}/x.tar")

    def test_no_file(self, tmp_path):
        with pytest.raises(UserError, match="matches no file: write wds:FILE.tar, wds:FOLDER"):
            open_splits(f"wds:{tmp_path}/*.tar")


class TestTemplates:
    def test_each_image_draws_one(self):
        source = Subset(open_splits("digits")["all"], np.arange(300))
        texts = from_classes(source, ("a {}.", "the_{}"), 3)
        assert texts.tolist() == from_classes(source, ("a {}.", "the_{}"), 3).tolist()
        names = [source.classes[label] for label in source.labels]
        assert set(texts) == {form.format(n) for n in names for form in ("a {}.", "the_{}")}
        assert all(name in text for name, text in zip(names, texts, strict=True))
        share = np.mean([text.startswith("the") for text in texts])
        assert 0.4 < share < 0.6

    @pytest.mark.parametrize("text", ["a photo", "{} and {}", "a {}| |x"], ids=["none", "two", "x"])
    def test_a_template_without_its_place(self, text):
        with pytest.raises(UserError, match="text.templates: each template must have one {}"):
            templates_of(text)

    def test_none(self):
        assert templates_of("") == ()
        with pytest.raises(UserError, match="--templates x has no template"):
            parse_templates("--templates x", ["", " "])
