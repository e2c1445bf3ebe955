"""What `vision.predict` does for images that are cut into tiles: its flags, its maps."""

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from absl import flags

from vision.data.decode import UnreadableImage
from vision.data.inputs import require_images_alone
from vision.errors import UserError
from vision.support.lock import locked
from vision.support.outputs import check_outside
from vision.support.progress import print_line
from vision.tiles import maps, stream
from vision.tiles.decision import TiledPrediction
from vision.tiles.grid import KEYS, ROUNDING, Tiling, check_normal, tiling_of


class Options(NamedTuple):
    """What the flags ask for.

    Attributes:
        tiling: how images are cut.
        maps: directory of maps; "" for none.
    """

    tiling: Tiling
    maps: str


class Classified(NamedTuple):
    """What was decided on an image file.

    Attributes:
        prediction: of its tiles.
        map: path of its map; "" if none was written.
    """

    prediction: TiledPrediction
    map: str


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of tiles."""
    text = "cut images into tiles with this side, in pixels, and decide from all of them"
    flags.DEFINE_integer("tiles", None, text, flag_values=values)
    text = "with --tiles, the fraction of a tile's side that overlaps the next tile"
    flags.DEFINE_float("overlap", Tiling.overlap, text, flag_values=values)
    text = "with --tiles, the class of images without defects"
    flags.DEFINE_string("normal", None, text, flag_values=values)
    text = "with --normal, the probability that another class must exceed in a tile"
    flags.DEFINE_float("defect-threshold", Tiling.defect_threshold, text, flag_values=values)
    text = "with --tiles, directory for a map of each image's classes: a picture and an .npz file"
    flags.DEFINE_string("maps", "", text, flag_values=values)


def from_flags(values: flags.FlagValues, words: Sequence[str]) -> Options | None:
    """Returns the `Options` of the flags; None without --tiles.

    Args:
        values: the parsed flags.
        words: what names the images.

    Raises:
        UserError: a flag is out of range, or means nothing without another.
    """
    given = {
        key: values[_spelled(key)].value
        for key in KEYS
        if values[_spelled(key)].present and values[_spelled(key)].value is not None
    }
    tiling = tiling_of(given, _flag)
    if tiling is None:
        if values.maps:
            raise UserError("--maps needs --tiles, the side of a tile in pixels")
        return None
    check_outside("--maps", values.maps, words)
    return Options(tiling, values.maps)


def check_model(model: stream.Model, fields: Sequence[str], options: Options) -> None:
    """Checks that a model can do what the options ask for, and says what it does not see.

    Args:
        model: the model.
        fields: what its batches have beside the image.
        options: of the flags.

    Raises:
        UserError: it takes more than images, or does not have the normal class.
    """
    require_images_alone(fields, "--tiles")
    check_normal(options.tiling, model.classes, _flag)
    seen = getattr(model, "seen", model.resize["crop_fraction"])
    if options.tiling.overlap < 1 - seen - ROUNDING:
        print_line(
            f"note: the model sees the central {100 * seen:.3g} % of a tile's side, so it misses "
            f"places between tiles: give --overlap {math.ceil(1000 * (1 - seen)) / 1000:g} or more"
        )


def classify(
    model: stream.Model, files: Iterable[str], options: Options, batch_size: int
) -> Iterator[tuple[str, Classified | UnreadableImage]]:
    """Yields each file with what was decided, in order, once its map is written.

    Args:
        model: a model that passed `check_model`.
        files: paths.
        options: of the flags.
        batch_size: tiles in a batch.
    """
    with contextlib.ExitStack() as stack:
        if options.maps:
            stack.enter_context(locked(options.maps, "--maps"))
        for tiled in stream.classify(model, files, options.tiling, batch_size):
            if isinstance(tiled, UnreadableImage):
                yield tiled.name, tiled
                continue
            place = maps.write(options.maps, tiled) if options.maps else ""
            yield tiled.file, Classified(tiled.prediction, place)


def _spelled(key):
    return key.replace("_", "-")


def _flag(key):
    return f"--{_spelled(key)}"
