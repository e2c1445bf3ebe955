"""Classifies image files by their tiles, in batches that pass over the ends of images.

Tiles are prepared as the model needs them, so that an image of any size keeps a few batches of them
in memory. Of decoded images there are `MOST_PIXELS` at most, or a single larger one, and the two
that follow.
"""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from vision.bundle.runtimes import batched
from vision.data.decode import UnreadableImage, decode
from vision.errors import UserError
from vision.support.ahead import load_ahead
from vision.tiles.decision import TiledPrediction
from vision.tiles.grid import Grid, Tiling, grid_of

MOST_TILES = 65_536  # of an image: their probabilities are kept until all are known
MOST_PIXELS = 2**26  # of the images that are being classified: 201 MB in color
NOTHING = np.empty((0, 0, 1), np.uint8)


class Model(Protocol):
    """What tiles need of a `vision.inference.Predictor`."""

    @property
    def classes(self) -> Sequence[str]: ...

    @property
    def config(self) -> Any: ...

    @property
    def resize(self) -> dict[str, Any]: ...

    def prepare(self, image: np.ndarray) -> np.ndarray: ...

    def probabilities_and_embeddings(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...


class TiledImage(NamedTuple):
    """An image file with what the model says of its tiles.

    Attributes:
        file: its path.
        image: uint8 (H, W, 1 or 3).
        prediction: of its tiles.
    """

    file: str
    image: np.ndarray
    prediction: TiledPrediction


@dataclasses.dataclass(eq=False)
class _Work:
    """An image whose tiles are being classified; `rows` are the probabilities of those that are."""

    file: str
    image: np.ndarray
    grid: Grid
    rows: list[np.ndarray] = dataclasses.field(default_factory=list)

    @property
    def pixels(self) -> int:
        return self.grid.width * self.grid.height


def classify(
    model: Model, files: Iterable[str], tiling: Tiling, batch_size: int
) -> Iterator[TiledImage | UnreadableImage]:
    """Yields each file's `TiledImage`, or why it cannot be read, in order.

    The next images are decoded while the model runs on the tiles of earlier ones.

    Args:
        model: the model, which takes images alone.
        files: paths.
        tiling: how images are cut.
        batch_size: tiles in a batch.
    """

    def load(file):
        try:
            image = decode(file, bits=model.config.data.bits)
            grid = grid_of(image.shape[1], image.shape[0], tiling, MOST_TILES)
        except UnreadableImage as error:
            return error
        except UserError as error:
            return UnreadableImage(str(error), file)
        return _Work(file, image, grid)

    under_way: collections.deque[_Work] = collections.deque()

    def tiles():
        for ((_, work),) in load_ahead(files, load, 1, ahead=1):
            if isinstance(work, UnreadableImage):
                yield work, 0
                continue
            # Empty places end a batch early, until enough of the earlier images are finished.
            while under_way and sum(w.pixels for w in under_way) + work.pixels > MOST_PIXELS:
                yield None, 0
            under_way.append(work)
            yield from ((work, number) for number in range(len(work.grid)))

    def prepare(part):
        work, number = part
        if not isinstance(work, _Work):
            return None
        return model.prepare(work.grid.cut(work.image, number))

    run = None
    for batch in load_ahead(tiles(), prepare, batch_size):
        # Every batch is padded to the size of the first, so that the model compiles once.
        run = run or batched(model.probabilities_and_embeddings, len(batch))
        prepared = [tile for _, tile in batch if tile is not None]
        rows = iter(run(np.stack(prepared))[0] if prepared else ())
        for (work, _), tile in batch:
            if tile is None:
                if work is not None:
                    yield work
                continue
            work.rows.append(next(rows))
            if len(work.rows) == len(work.grid):
                probabilities = np.stack(work.rows)
                under_way.popleft()
                prediction = TiledPrediction(tuple(model.classes), work.grid, tiling, probabilities)
                yield TiledImage(work.file, work.image, prediction)
                work.image = NOTHING  # the batch keeps the work for a while
