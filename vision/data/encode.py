"""How an image becomes a record of a pack: its file's bytes, or a PNG or JPEG made from it."""

import dataclasses
from collections.abc import Iterable, Mapping

import cv2
import simplejpeg

from vision.data.decode import UnreadableImage, decode
from vision.data.records import make_example
from vision.data.sources import Source
from vision.errors import check_count, check_range


@dataclasses.dataclass(frozen=True)
class Options:
    """How images are packed.

    Attributes:
        shard_mib: approximate size of a file of records.
        shorter_side: images with a longer shorter side are shrunk to this many pixels, by averaging
            over areas; 0 never shrinks.
        quality: quality of the JPEG that a shrunk JPEG becomes, 1 to 100; any other shrunk image
            becomes a PNG.
    """

    shard_mib: int = 256
    shorter_side: int = 0
    quality: int = 95

    def __post_init__(self):
        check_count("--shard-mib", self.shard_mib, 1, 2**20)
        rule = "a number of pixels up to 65,536, or 0 to keep the images' size"
        check_range("--shorter-side", self.shorter_side, 0 <= self.shorter_side <= 65_536, rule)
        check_range("--quality", self.quality, 1 <= self.quality <= 100, "in [1, 100]")


def encode_chunk(
    state: tuple[Mapping[str, Source], Options], task: tuple[str, Iterable[int]]
) -> list[bytes | UnreadableImage]:
    """Returns the record of each image of a chunk, or its `UnreadableImage`.

    Args:
        state: ({part: source}, options).
        task: (part, positions in it).
    """
    parts, options = state
    part, indices = task
    source = parts[part]
    records: list[bytes | UnreadableImage] = []
    for index in indices:
        try:
            data = encode(source, index, options)
        except UnreadableImage as error:
            records.append(UnreadableImage(error.reason, error.name or source.name(index)))
            continue
        name = source.name(index).encode("utf-8", "surrogateescape")
        features: dict[str, bytes | int] = {
            "image/encoded": data,
            "image/name": name,
            "label": int(source.labels[index]),
        }
        records.append(make_example(features))
    return records


def encode(source: Source, index: int, options: Options) -> bytes:
    """Returns the bytes of an image's file as packed; raises `UnreadableImage`."""
    data = source.file(index)
    if data is None:
        image = source[index]["image"]
    else:
        image = decode(data, name=source.name(index), bits=getattr(source, "bits", 0))
    shrinks = options.shorter_side and min(image.shape[:2]) > options.shorter_side
    if data is not None and not shrinks:
        return data
    if shrinks:
        image = _shrink(image, options.shorter_side)
    if data is None or not data.startswith(b"\xff\xd8"):
        return cv2.imencode(".png", image if image.shape[2] == 1 else image[..., ::-1])[1].tobytes()
    if image.shape[2] == 1:
        return simplejpeg.encode_jpeg(image, options.quality, "GRAY", "Gray")
    return simplejpeg.encode_jpeg(image, options.quality, "RGB", "420")


def _shrink(image, shorter_side):
    height, width, channels = image.shape
    scale = shorter_side / min(height, width)
    size = (round(width * scale), round(height * scale))
    shrunk = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return shrunk.reshape(size[1], size[0], channels)
