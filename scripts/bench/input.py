"""How fast images come in: decoding and cropping, here and elsewhere, in one run, round by round in turn.

    python -m scripts.bench.input --data ../shared/data/imagenet_samples.tar
    python -m scripts.bench.input --data photos --torch-python PATH --workers 8

Two comparisons, both of JPEG files cut to a random 8 to 100 % of their area and resized to --image-size:

    decode  one core, the files' bytes in RAM: vision.data.decode against bare simplejpeg and cv2
    feed    --workers processes, batches on the device: the trainer's LoadedFeed against torch's DataLoader with PIL

simplejpeg and cv2 are what vision.data.decode itself stands on, so that `decode` shows what its checks cost. Averaging
over areas (cv2, here) and an antialiased bilinear filter (PIL) are of the same quality. Without torch, or PIL beside
it, the second comparison shows one side. The last line is `ratio: R`, of `feed`, or of `decode` where feed has none.
"""

import contextlib
import math
import os
import pathlib
import statistics
import tarfile
import tempfile
import time

import numpy as np

from scripts.bench import common
from vision import cli
from vision.errors import UserError

SUFFIXES = (".jpg", ".jpeg")
AREA = (0.08, 1.0)


def main(argv):
    p = common.parser(__doc__, "input")
    p.add_argument("--data", default="../shared/data/imagenet_samples.tar", help="folder or tar of JPEG files")
    p.add_argument("--image-size", type=int, default=224)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--batches", type=int, default=30, help="of each timing of the feed")
    p.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of each side; default: all cores")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--torch-python", default="", metavar="PATH", help="interpreter with torch; default: this one")
    a = p.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        files = _files(a.data, pathlib.Path(folder))
        rows = [_decode_row(a, files), _feed_row(a, files, pathlib.Path(folder))]
    common.print_table([{k: v for k, v in row.items() if k not in ("date", "commit", "device")} for row in rows])
    common.write_rows(a.csv, rows)
    print(f"ratio: {next(row['ratio'] for row in reversed(rows) if row['ratio'] is not None):.2f}")


def _decode_row(a, files):
    import cv2

    contents = [file.read_bytes() for file in files]
    cv2.setNumThreads(1)  # per core means one core, also inside cv2
    sides = {name: lambda crop=crop: _time(crop, contents, a.image_size) for name, crop in DECODERS.items()}
    seconds = common.alternate(sides, a.rounds)
    speeds = {name: len(contents) / statistics.median(found) for name, found in seconds.items()}
    return _row(a, "decode", 1, len(files), seconds, speeds, "simplejpeg + cv2", common.facts(a))


def _feed_row(a, files, folder):
    from scripts.bench.torch_side import TorchSide

    with contextlib.ExitStack() as stack:
        feed = stack.enter_context(contextlib.closing(Feed(a, files, folder)))
        sides, facts = {"ours": feed.run}, common.facts(a)
        try:
            names = [str(file) for file in files] * math.ceil(a.batch / len(files))
            spec = {"files": names, "batch": a.batch, "image_size": a.image_size, "workers": a.workers}
            side = stack.enter_context(TorchSide(a.torch_python, "input", **spec))
            sides["theirs"], facts = side.run, common.facts(a, side.facts["torch"])
        except UserError as error:
            print(f"skipped: {error}")
        runs = {name: lambda run=run: run(a.batches) for name, run in sides.items()}
        seconds = common.alternate(runs, a.rounds)
    images = a.batches * a.batch
    speeds = {name: images / statistics.median(found) for name, found in seconds.items()}
    return _row(a, "feed", a.workers, len(files), seconds, speeds, "torch DataLoader, PIL", facts)


def _row(a, what, processes, files, seconds, speeds, against, facts):
    cores = min(max(processes, 1), len(os.sched_getaffinity(0)))
    both = {"ratio": None, "ratio_of_best": None}
    if "theirs" in seconds:
        both = common.compare(seconds, "ours", "theirs")
    figures = {}
    for name in ("ours", "theirs"):
        figures[f"{name}_images_per_second"] = speeds.get(name)
        figures[f"{name}_per_core"] = speeds[name] / cores if name in speeds else None
    setting = {"what": what, "against": against, "image_size": a.image_size, "processes": processes, "cores": cores}
    return facts | {"device": common.cpu_name()} | setting | {"files": files, "rounds": a.rounds} | both | figures


class Feed:
    """The trainer's own way from files to batches on the device.

    Grain's workers run ahead, so what they have ready is used up before the clock starts, and after it stops they get
    the time to make it ready again: they shall not run in the other side's time.
    """

    def __init__(self, a, files, folder):
        from vision import parallel
        from vision.config import default
        from vision.data.pipeline import open_data

        for i, file in enumerate(files):  # two classes, for a classifier's data need as many
            for split in ("train", "val", "test"):
                place = folder / "tree" / split / f"class{i % 2}"
                place.mkdir(parents=True, exist_ok=True)
                if split == "train" or i < 4:
                    (place / f"{i}{file.suffix}").symlink_to(file.resolve())
        c = default()
        c.data.source, c.data.image_size, c.data.channels = f"folder:{folder / 'tree'}", a.image_size, 3
        c.data.random_crop_area, c.data.workers, c.data.resident_gib = AREA, a.workers, 0.0
        data = open_data(c, parallel.make_mesh(1))
        self._ahead = 8 * a.workers + 1  # of `LoadedFeed`: some seven a worker, and one on the device
        self._steps = a.rounds * (a.batches + self._ahead) + 2 * self._ahead
        self._batches = data.feeds["train"].train_batches([(i, 1) for i in range(self._steps)], a.batch)

    def run(self, batches):
        """Returns the seconds until so many batches are on the device."""
        filling = self._take(self._ahead)
        seconds = self._take(batches)
        time.sleep(min(10.0, 2 * filling))
        return seconds

    def close(self):
        """Ends the workers."""
        self._batches.close()

    def _take(self, count):
        import jax

        start = time.perf_counter()
        for _ in range(count):
            jax.block_until_ready(next(self._batches))
        return time.perf_counter() - start


def _time(crop, contents, size):
    """Returns the seconds in which `crop` makes each file's bytes an image; the random crops are the same each time."""
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for content in contents:
        crop(content, size, rng)
    return time.perf_counter() - start


def _ours(content, size, rng):
    from vision.data.decode import decode, resize_crop

    return resize_crop(decode(content, 3), size, 1.0, rng, AREA)


def _bare(content, size, rng):
    import cv2
    import simplejpeg

    from scripts.bench.torch_worker import random_box

    image = simplejpeg.decode_jpeg(content, "RGB")
    left, top, right, bottom = random_box(*image.shape[:2], rng)
    part = image[top:bottom, left:right]
    shrinks = part.shape[0] >= size and part.shape[1] >= size
    return cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


DECODERS = {"ours": _ours, "theirs": _bare}


def _files(data, folder):
    """Returns the paths of all JPEG files of a folder or a tar, which is unpacked into `folder`."""
    source = pathlib.Path(data).expanduser()
    if source.is_file() and tarfile.is_tarfile(source):
        with tarfile.open(source) as tar:
            tar.extractall(folder / "files", filter="data")
        source = folder / "files"
    files = sorted(file for file in source.rglob("*") if file.suffix.lower() in SUFFIXES)
    if len(files) < 8:
        raise UserError(f"--data {data}: needs a folder or a tar with 8 or more JPEG files, found {len(files)}")
    return files


if __name__ == "__main__":
    cli.run(main)
