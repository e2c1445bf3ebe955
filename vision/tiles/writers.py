"""How `vision.predict` prints decisions on images that were cut into tiles."""

import json
from collections.abc import Sequence
from typing import IO

from vision.errors import printable
from vision.support.cells import Writer, column_width, fitted
from vision.tiles.command import Classified

PLACE = ("x", "y", "width", "height")  # columns of the tile that decided


class _Table:
    """Columns of equal width; the file comes last, since the longest path is not known yet."""

    def __init__(self, out: IO[str], classes: Sequence[str], top: int) -> None:
        self._out = out
        self._width = column_width(classes)
        cells = [f"{'decision':<{self._width + 8}}", f"{'tiles':>7}", *(f"{c:>6}" for c in PLACE)]
        print("  ".join([*cells, "file"]), file=out, flush=True)

    def __call__(self, file: str, classified: Classified) -> None:
        prediction = classified.prediction
        name, score = prediction.top(1)[0]
        tile = prediction.grid[prediction.decision.tile]
        cells = [f"{100 * score:5.1f} % {fitted(name, self._width)}", f"{len(prediction.grid):>7}"]
        cells += [f"{number:>6}" for number in tile]
        print("  ".join([*cells, printable(file)]), file=self._out, flush=True)


class _Csv:
    def __init__(self, out: IO[str], classes: Sequence[str], top: int) -> None:
        self._writer = Writer(out)
        self._writer.writerow(("file", "class", "score", "tiles", *PLACE))

    def __call__(self, file: str, classified: Classified) -> None:
        prediction = classified.prediction
        name, score = prediction.top(1)[0]
        tile = prediction.grid[prediction.decision.tile]
        self._writer.writerow((file, name, f"{score:.6f}", len(prediction.grid), *tile))


class _Json:
    def __init__(self, out: IO[str], classes: Sequence[str], top: int) -> None:
        self._out = out
        self._top = top

    def __call__(self, file: str, classified: Classified) -> None:
        prediction = classified.prediction
        document = {"file": file} | prediction.summary(self._top)
        if classified.map:
            document["map"] = classified.map
        numbers = range(len(prediction.grid))
        document["tiles"] = [prediction.tile(number, self._top) for number in numbers]
        print(json.dumps(document), file=self._out, flush=True)


WRITERS: dict[str, type] = {"table": _Table, "csv": _Csv, "json": _Json}
