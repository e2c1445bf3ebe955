"""The parsers of other people's files, each with a small valid input: see `parsers`."""

import io
import json
import pathlib
import struct
import tarfile
import tempfile
import zipfile
from typing import Any

import numpy as np

from experiments.reliability.parsers import (
    IMAGES,
    SIDE,
    Parser,
    encoded,
    photos,
    pixels,
    read_source,
)
from vision.data.decode import decode, read_header
from vision.support.files import write_json

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")


def _coco(folder):
    paths = photos(folder)
    images = [
        {"id": number, "file_name": path.name, "width": SIDE, "height": SIDE}
        for number, path in enumerate(paths)
    ]
    annotations: list[dict[str, Any]] = [
        {"id": n, "image_id": n, "category_id": n % 2, "bbox": [1, 1, 5, 6.5], "iscrowd": 0}
        for n in range(IMAGES)
    ]
    annotations[1] = annotations[1] | {"bbox": [], "segmentation": [[1, 1, 5, 1, 5, 5]]}
    categories = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    tree = {"images": images, "annotations": annotations, "categories": categories}
    file = folder / "labels.json"
    file.write_text(json.dumps(tree))
    return file, lambda: (read_source(f"coco:{file}"), read_source(f"coco:{file}?boxes=crop"))


def _cvat(folder):
    box = '<box label="{}" xtl="1.5" ytl="2" xbr="9" ybr="8" rotation="30.0"></box>'
    shapes = '<polygon label="{}" points="1,1;5,1;5,5"></polygon>'
    shapes += '<mask label="{}" left="1" top="1" width="3" height="3" rle="1,2"></mask>'
    shapes += '<ellipse label="{}" cx="5" cy="5" rx="2" ry="1"></ellipse>'
    images = "\n".join(
        f'<image id="{n}" name="{path.name}" width="{SIDE}" height="{SIDE}">'
        f"{(box + shapes).replace('{}', 'ab'[n % 2])}</image>"
        for n, path in enumerate(photos(folder))
    )
    file = folder / "labels.xml"
    file.write_text(f"<?xml version='1.0'?>\n<annotations>\n{images}\n</annotations>")
    return file, lambda: (read_source(f"cvat:{file}"), read_source(f"cvat:{file}?boxes=crop"))


def _voc(folder):
    corners = "<xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax>"
    size = f"<size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size>"
    (folder / "annotations").mkdir()
    for n, path in enumerate(photos(folder)):
        found = f"<object><name>{'ab'[n % 2]}</name><bndbox>{corners}</bndbox></object>"
        text = f"<annotation><filename>{path.name}</filename>{size}{found}</annotation>"
        (folder / "annotations" / f"{path.stem}.xml").write_text(text)
    file = folder / "annotations" / "0.xml"
    return file, lambda: (read_source(f"voc:{folder}"), read_source(f"voc:{folder}?boxes=crop"))


def _voc_lists(folder):
    _voc(folder)
    file = folder / "ImageSets" / "Main" / "train.txt"
    file.parent.mkdir(parents=True)
    file.write_text("".join(f"{number}\n" for number in range(IMAGES)))
    return file, lambda: read_source(f"voc:{folder}")


def _csv(folder):
    lines = ["path,label,split,annotator"]
    for n, path in enumerate(photos(folder)):
        lines.append(f"images/{path.name},{'ab'[n % 2]},{('train', 'test')[n // 4]},anna")
    file = folder / "labels.csv"
    file.write_text("\n".join(lines) + "\n")
    return file, lambda: read_source(f"csv:{file}")


def _csv_references(folder):
    lines = ["source;part;index;label"]
    lines += [f"digits;all;{n};{'ab'[n % 2]}" for n in range(IMAGES)]
    file = folder / "labels.csv"
    file.write_text("\n".join(lines) + "\n")
    return file, lambda: read_source(f"csv:{file}")


def _parquet(folder, labels=None):
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [{"bytes": encoded(number=n), "path": None} for n in range(IMAGES)]
    column = labels or [n % 2 for n in range(IMAGES)]
    feature = {"features": {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}}
    table = pa.table({"image": images, "label": column})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": feature})})
    pq.write_table(table, folder / "a.parquet", row_group_size=4)
    return folder / "a.parquet", lambda: read_source(f"parquet:{folder / 'a.parquet'}")


def _parquet_captions(folder):
    file, _ = _parquet_texts(folder)
    return file, lambda: read_source(f"parquet:{file}?text=label&label=label")


def _wds(folder):
    file = folder / "shard.tar"
    with tarfile.open(file, "w") as archive:
        for number in range(IMAGES):
            label = "ab"[number % 2].encode()
            members = {"png": encoded(number=number), "cls": label, "txt": b"a caption"}
            members["json"] = b'{"caption": "another", "label": 1}'
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{number}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return file, lambda: read_source(f"wds:{file}")


def _coco_captions(folder):
    file, _ = _coco(folder)
    images = [{"id": n, "file_name": f"{n}.png"} for n in range(IMAGES)]
    captions = [{"image_id": n, "caption": f"image {n}"} for n in range(IMAGES)]
    path = file.with_name(f"captions_{file.name.removeprefix('instances_')}")
    write_json(path, {"images": images, "annotations": captions})
    return path, lambda: read_source(f"coco:{file}?text=captions")


def _parquet_texts(folder):
    return _parquet(folder, ["ab"[n % 2] for n in range(IMAGES)])


def _arrays(folder):
    arrays: dict[str, Any] = {"images": np.stack([pixels(n) for n in range(IMAGES)])}
    arrays |= {"labels": np.arange(IMAGES) % 2, "classes": np.array(["cat", "dog"])}
    arrays["split"] = np.array(["train"] * 4 + ["test"] * 2)
    np.savez_compressed(folder / "a.npz", **arrays)
    return folder / "a.npz", lambda: read_source(f"arrays:{folder / 'a.npz'}")


def _image(kind):
    def prepare(folder):
        file = folder / f"image.{kind.lower()}"
        file.write_bytes(encoded(kind, **({"exif": _exif()} if kind == "JPEG" else {})))

        def read():
            read_header(file)
            decode(file)

        return file, read

    return prepare


def _exif():
    entry = struct.pack("<HHII", 0x0112, 3, 1, 6)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + b"\0\0\0\0"


def _arrays_of_weights():
    return {"a.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "a.bias": np.ones(3, "f4")}


def _weights(name):
    def prepare(folder):
        from safetensors.numpy import save_file

        from vision.models.weights.files import read

        file = folder / name
        arrays = _arrays_of_weights()
        if file.suffix == ".npz":
            np.savez(file, **arrays)
        elif file.suffix == ".safetensors":
            save_file(arrays, file)
        else:
            file.write_bytes(_torch_archive(arrays) if name == "new.pth" else _torch_old(arrays))
        return file, lambda: read(file)

    return prepare


def _pickle(arrays, opening=b"\x80\x02"):
    """Returns the pickle of a state dict, as PyTorch writes it."""
    text = b"X"
    out = [opening, b"ccollections\nOrderedDict\n)R("]
    for key, (name, array) in enumerate(arrays.items()):
        for word in (name,):
            out.append(text + struct.pack("<I", len(word)) + word.encode())
        strides = [stride // array.itemsize for stride in array.strides]
        out.append(b"ctorch._utils\n_rebuild_tensor_v2\n((")
        for word in ("storage",):
            out.append(text + struct.pack("<I", len(word)) + word.encode())
        out.append(b"ctorch\nFloatStorage\n")
        for word in (str(key), "cpu"):
            out.append(text + struct.pack("<I", len(word)) + word.encode())
        out.append(b"J" + struct.pack("<i", array.size) + b"tQK\0")
        for numbers in (array.shape, strides):
            out.append(b"(" + b"".join(b"K" + bytes([n]) for n in numbers) + b"t")
        out.append(b"\x89ccollections\nOrderedDict\n)RtR")
    return b"".join([*out, b"u."])


def _torch_archive(arrays):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", _pickle(arrays))
        archive.writestr("archive/byteorder", b"little")
        for key, array in enumerate(arrays.values()):
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", b"3\n")
    return stream.getvalue()


def _torch_old(arrays):
    import pickle

    first = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    parts = [pickle.dumps(value, protocol=2) for value in first]
    # the older layout names a view after each storage
    parts.append(_pickle(arrays).replace(b"tQK\0", b"NtQK\0"))
    parts.append(pickle.dumps([str(key) for key in range(len(arrays))], protocol=2))
    parts += [struct.pack("<Q", array.size) + array.tobytes() for array in arrays.values()]
    return b"".join(parts)


def _timm(folder):
    from vision.models import vit
    from vision.models.weights import pretrained

    cfg = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 32, 32], "crop_pct": 0.9}
    cfg |= {"interpolation": "bicubic", "num_classes": 2}
    tree = {"architecture": "vit", "pretrained_cfg": cfg, "label_names": ["a", "b"]}
    (folder / "config.json").write_text(json.dumps(tree))
    (folder / "model.safetensors").write_bytes(b"")
    spec = str(folder / "model.safetensors")
    return folder / "config.json", lambda: pretrained.describe(spec, vit, "Ti/4")


def _tfds(name):
    def prepare(folder):
        import os

        import tensorflow_datasets as tfds

        class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = {"image": tfds.features.Image(shape=(SIDE, SIDE, 3))}
                features["label"] = tfds.features.ClassLabel(names=["a", "b"])
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(features),
                    supervised_keys=("image", "label"),
                )

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples()}

            def _generate_examples(self):
                for n in range(IMAGES):
                    yield n, {"image": io.BytesIO(encoded(number=n)), "label": n % 2}

        tfds.disable_progress_bar()
        builder = Tiny(data_dir=folder, file_format="array_record")
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
        os.environ["TFDS_DATA_DIR"] = str(folder)
        read_source("tfds:tiny")  # writes the cache of labels
        file = next((folder / "tiny" / "1.0.0").glob(name))

        def read():
            if "labels" not in name:
                for cache in file.parent.glob("vision_labels_*"):
                    cache.unlink()
            read_source("tfds:tiny")

        return file, read

    return prepare


def _hub(name):
    def prepare(folder):
        import datasets

        datasets.disable_progress_bars()
        columns: dict[str, Any] = {"label": [n % 2 for n in range(IMAGES)]}
        columns["image"] = [{"bytes": encoded(number=n), "path": None} for n in range(IMAGES)]
        features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
        dataset = datasets.Dataset.from_dict(columns, datasets.Features(features))
        dataset.save_to_disk(folder / "saved")
        file = next((folder / "saved").glob(name))
        return file, lambda: read_source(f"hf:{folder / 'saved'}")

    return prepare


def _example(folder):
    from vision.data.records import make_example, parse_example

    file = folder / "record"
    features: dict[str, bytes | int] = {"image/encoded": encoded(), "image/name": b"a", "label": 1}
    file.write_bytes(make_example(features))

    def read():
        from vision.data.records import bytes_of
        from vision.support.reading import parsing

        with parsing(file):
            bytes_of(parse_example(file.read_bytes()), "image/encoded")

    return file, read


def _answers(name):
    """Returns what prepares a file of answers to a collection of images."""

    def prepare(folder):
        from vision.monitoring.labeling.answers import take_back
        from vision.monitoring.labeling.collection import TABLE, Item, write_record
        from vision.monitoring.labeling.tasks import write_tasks

        items = [
            Item(f"images/{path.name}", f"request {i}", 0, "ab"[i % 2], 0.9, 0.3, ["far"])
            for i, path in enumerate(photos(folder))
        ]
        write_record(folder, items, {"classes": ["a", "b"]})
        write_tasks(folder, "photos", items, ["a", "b"], "0123")
        file = folder / name
        if name == TABLE:
            file.write_text("path,label\n" + "".join(f"{item.path},a\n" for item in items))
        elif name == "label_studio.json":
            tasks = json.loads(file.read_text())
            write_json(file, [{"data": t["data"], "annotations": t["predictions"]} for t in tasks])
        copy = file.with_name(f"answers{file.suffix}")
        file.replace(copy)
        return copy, lambda: take_back(copy, folder)

    return prepare


FOREIGN = {
    "answers of CVAT": Parser("xml", _answers("cvat.xml")),
    "answers of Label Studio": Parser("json", _answers("label_studio.json")),
    "answers in a table": Parser("text", _answers("images.csv")),
    "coco": Parser("json", _coco),
    "cvat": Parser("xml", _cvat),
    "voc": Parser("xml", _voc),
    "voc lists": Parser("text", _voc_lists),
    "csv": Parser("text", _csv),
    "csv of references": Parser("text", _csv_references),
    "parquet": Parser("parquet", _parquet),
    "parquet of texts": Parser("parquet", _parquet_texts),
    "parquet captions": Parser("parquet", _parquet_captions),
    "coco captions": Parser("json", _coco_captions),
    "tar shards": Parser("bytes", _wds),
    "arrays": Parser("zip", _arrays),
    "weights .npz": Parser("zip", _weights("weights.npz")),
    "weights .safetensors": Parser("safetensors", _weights("weights.safetensors")),
    "weights .pth": Parser("zip", _weights("new.pth")),
    "weights .pth before 1.6": Parser("bytes", _weights("old.pth")),
    "timm config": Parser("json", _timm),
    "tf.train.Example": Parser("bytes", _example),
    "tfds features": Parser("json", _tfds("features.json")),
    "tfds info": Parser("json", _tfds("dataset_info.json")),
    "tfds records": Parser("bytes", _tfds("*.array_record*")),
    "tfds labels": Parser("zip", _tfds("vision_labels_*.npz")),
    "hub info": Parser("json", _hub("dataset_info.json")),
    "hub state": Parser("json", _hub("state.json")),
    "hub data": Parser("bytes", _hub("*.arrow")),
}
FOREIGN |= {f"image {kind}": Parser("image", _image(kind)) for kind in FORMATS}


def scratch() -> tempfile.TemporaryDirectory:
    """Returns a folder for one parser's files, which is removed at the end."""
    return tempfile.TemporaryDirectory(prefix="mutations-")


def place(folder: str, name: str) -> pathlib.Path:
    """Returns a new folder for a parser inside another."""
    path = pathlib.Path(folder, name.replace(" ", "-").replace(".", "-"))
    path.mkdir(parents=True)
    return path
