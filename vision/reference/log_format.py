"""The format of the prediction log: what a server writes and `vision.monitoring.log` reads.

`pandas.read_parquet(DIRECTORY)` reads all of its files too. A row is an image, or one tile of an
image that was cut into tiles, which then counts as an image that came as pixels:

time         UTC, microseconds
id           the request's identifier
model        the model's name
version      the version that answered
bundle       the first 16 hexadecimal digits of the SHA-256 of the model's file, which
             `vision.bundle.directory.Bundle.fingerprint` has too
shadow       whether the answer was only logged
image        its index in the request, from 0; a tile's number, row by row
class        the most probable class
confidence   the class's probability, float32
entropy      of all probabilities, nats, float32
brightness, contrast, sharpness, colorfulness, saturation, aspect_ratio, size
             `vision.reference.appearance.measure`, float32; the last two are null for images that
             came as pixels of the model's size
sketch       16 float16: `vision.reference.sketch.sketch` of the embedding
sha256       of the image as it came, encoded or pixels; null unless --log-hashes
kept         file that the image is kept in, below `IMAGES`; null unless --keep-images chose it
unsure       whether the answer was unsure; null without a rule for that. Files of earlier servers
             do not have this column, and whatever reads format 2 does without it

Changes since format 1: `bundle`, `entropy`, the seven columns of the image, and `kept`.

The files' metadata has the versions of the format and of the sketch, `vision_predictions` and
`sketch`. Files are named predictions-TIME-PROCESS-NUMBER.parquet after the time at which they were
written, so their names sort by time.
"""

from collections.abc import Iterable
from typing import Any

from vision.reference import appearance
from vision.reference.sketch import DIMENSIONS, SKETCH

FORMAT = "2"
FORMAT_KEY = "vision_predictions"
SKETCH_KEY = "sketch"
PATTERN = "predictions-*.parquet"
OPTIONAL = ("unsure",)  # columns that a file need not have
IMAGES = "_images"  # folder beside the files; readers of Parquet pass over names with a "_"


def loggable(names: Iterable[str]) -> tuple[str, ...]:
    """Returns names of classes as the log can hold them: a class named after a folder whose name is
    not UTF-8 has surrogates."""
    return tuple(name.encode("utf-8", "replace").decode() for name in names)


def schema(arrow: Any) -> Any:
    """Returns the PyArrow schema of a file; `arrow` is the module `pyarrow`."""
    kinds = {
        "time": arrow.timestamp("us", tz="UTC"),
        "id": arrow.string(),
        "model": arrow.string(),
        "version": arrow.string(),
        "bundle": arrow.string(),
        "shadow": arrow.bool_(),
        "image": arrow.int32(),
        "class": arrow.string(),
        "confidence": arrow.float32(),
        "entropy": arrow.float32(),
        **{name: arrow.float32() for name in appearance.NAMES},
        "sketch": arrow.list_(arrow.float16(), DIMENSIONS),
        "sha256": arrow.string(),
        "kept": arrow.string(),
        "unsure": arrow.bool_(),
    }
    return arrow.schema(kinds, metadata={FORMAT_KEY: FORMAT, SKETCH_KEY: SKETCH})
