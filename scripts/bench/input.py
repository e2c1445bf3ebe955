"""How fast images come in: decoding and cropping, here and elsewhere, in one run, round by round in
turn.

    python -m scripts.bench.input --data ../shared/data/imagenet_samples.tar
    python -m scripts.bench.input --data photos --torch-python PATH --workers 8

Four comparisons, all of JPEG files cut to a random 8 to 100 % of their area and resized to
--image-size:

    decode                                 one core, the files' bytes in RAM: vision.data.decode
                                           against bare libraries
    feed                                   --workers processes, batches on the device: the trainer's
                                           WorkerLoader against torch's DataLoader with PIL
    feed against bare decode               WorkerLoader against a bare loop in as many processes,
                                           which keeps no image
    feed of a pack against bare decode     the same for a `packed:` source of the files; the loop
                                           still reads the files

The bare libraries are simplejpeg and cv2, which vision.data.decode itself stands on, so that
`decode` shows what its checks cost, and the last two what it costs to make batches and bring them
to the device. Averaging over areas (cv2, here) and an antialiased bilinear filter (PIL) are of the
same quality. Without torch, or PIL beside it, `feed` shows one side. The last line is `ratio: R`,
of `feed`, or of `decode` where feed has none.
"""

import contextlib
import itertools
import math
import multiprocessing
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
    p.add_argument(
        "--data", default="../shared/data/imagenet_samples.tar", help="folder or tar of JPEG files"
    )
    p.add_argument("--image-size", type=int, default=224)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--batches", type=int, default=30, help="of each timing of the feed")
    p.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count(),
        help="processes of each side; default: all cores",
    )
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument(
        "--torch-python",
        default="",
        metavar="PATH",
        help="interpreter with torch; default: this one",
    )
    a = p.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        files = _files(a.data, folder)
        tree = _tree(files, folder)
        rows = [_decode_row(a, files), _feed_row(a, files, tree)]
        bare = [
            _bare_row(a, files, "feed", tree),
            _bare_row(a, files, "feed of a pack", _packed(tree, folder)),
        ]
    common.print_table(
        [
            {k: v for k, v in row.items() if k not in ("date", "commit", "device")}
            for row in rows + bare
        ]
    )
    common.write_rows(a.csv, rows + bare)
    print(f"ratio: {next(row['ratio'] for row in reversed(rows) if row['ratio'] is not None):.2f}")


def _decode_row(a, files):
    import cv2

    contents = [file.read_bytes() for file in files]
    cv2.setNumThreads(1)  # per core means one core, also inside cv2
    sides = {
        name: lambda crop=crop: _time(crop, contents, a.image_size)
        for name, crop in DECODERS.items()
    }
    seconds = common.alternate(sides, a.rounds)
    speeds = {name: len(contents) / statistics.median(found) for name, found in seconds.items()}
    return _row(a, "decode", 1, len(files), seconds, speeds, "simplejpeg + cv2", common.facts(a))


def _feed_row(a, files, source):
    from experiments.speed.torch_side import TorchSide

    with contextlib.ExitStack() as stack:
        feed = stack.enter_context(contextlib.closing(Feed(a, source)))
        sides = {"ours": feed.run}
        facts = common.facts(a)
        try:
            names = [str(file) for file in files] * math.ceil(a.batch / len(files))
            spec = {
                "files": names,
                "batch": a.batch,
                "image_size": a.image_size,
                "workers": a.workers,
            }
            side = stack.enter_context(TorchSide(a.torch_python, "input", **spec))
            sides["theirs"], facts = side.run, common.facts(a, side.facts["torch"])
        except UserError as error:
            print(f"skipped: {error}")
        return _feeds(a, "feed", files, sides, "torch DataLoader, PIL", facts)


def _bare_row(a, files, what, source):
    with (
        contextlib.closing(Feed(a, source)) as feed,
        contextlib.closing(BareLoops(a, files)) as bare,
    ):
        sides = {"ours": feed.run, "theirs": bare.run}
        return _feeds(
            a,
            f"{what} against bare decode",
            files,
            sides,
            "simplejpeg + cv2 processes",
            common.facts(a),
        )


def _feeds(a, what, files, sides, against, facts):
    """Times the sides, functions that take a number of batches and return seconds, and returns the
    row."""
    seconds = common.alternate(
        {name: lambda run=run: run(a.batches) for name, run in sides.items()}, a.rounds
    )
    images = a.batches * a.batch
    speeds = {name: images / statistics.median(found) for name, found in seconds.items()}
    return _row(a, what, a.workers, len(files), seconds, speeds, against, facts)


def _row(a, what, processes, files, seconds, speeds, against, facts):
    cores = min(max(processes, 1), len(os.sched_getaffinity(0)))
    both = {"ratio": None, "ratio_of_best": None}
    if "theirs" in seconds:
        both = common.compare(seconds, "ours", "theirs")
    figures = {}
    for name in ("ours", "theirs"):
        figures[f"{name}_images_per_second"] = speeds.get(name)
        figures[f"{name}_per_core"] = speeds[name] / cores if name in speeds else None
    setting = {
        "what": what,
        "against": against,
        "image_size": a.image_size,
        "processes": processes,
        "cores": cores,
    }
    return (
        facts
        | {"device": common.cpu_name()}
        | setting
        | {"files": files, "rounds": a.rounds}
        | both
        | figures
    )


class Feed:
    """The trainer's own way from files to batches on the device.

    Grain's workers run ahead, so what they have ready is used up before the clock starts, and after
    it stops they get the time to make it ready again: they shall not run in the other side's time.
    """

    def __init__(self, a, source):
        from vision import parallel
        from vision.config import default
        from vision.data.pipeline import open_data

        c = default()
        c.data.source = source
        c.data.image_size = a.image_size
        c.data.channels = 3
        c.data.random_crop_area = AREA
        c.data.workers = a.workers
        c.data.resident_gib = 0.0
        data = open_data(c, parallel.make_mesh(1))
        # of `WorkerLoader`: some seven a worker, and one on the device
        self._ahead = 8 * a.workers + 1
        self._steps = a.rounds * (a.batches + self._ahead) + 2 * self._ahead
        self._batches = data.feeds["train"].train_batches(
            [(i, 1) for i in range(self._steps)], a.batch
        )

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


class BareLoops:
    """Processes that read, decode and crop files, and nothing else: what the feed could reach if it
    cost nothing."""

    def __init__(self, a, files):
        context = multiprocessing.get_context("spawn")
        self._ends = []
        self._processes = []
        self._a = a
        for _ in range(max(1, a.workers)):
            ours, theirs = context.Pipe()
            self._ends.append(ours)
            process = context.Process(
                target=_bare_loop, args=(theirs, files, a.image_size), daemon=True
            )
            process.start()
            self._processes.append(process)
        for end in self._ends:
            end.recv()  # it has imported what it needs

    def run(self, batches):
        """Returns the seconds until all processes together have made so many batches of images."""
        shares = [
            len(part)
            for part in np.array_split(np.arange(batches * self._a.batch), len(self._ends))
        ]
        start = time.perf_counter()
        for end, share in zip(self._ends, shares, strict=True):
            end.send(share)
        for end in self._ends:
            end.recv()
        return time.perf_counter() - start

    def close(self):
        """Ends the processes."""
        for process in self._processes:
            process.terminate()


def _bare_loop(end, files, size):
    import cv2

    cv2.setNumThreads(1)
    order = itertools.cycle(files)
    rng = np.random.default_rng(os.getpid())
    _bare(next(order).read_bytes(), size, rng)
    end.send("ready")
    while True:
        for _ in range(end.recv()):
            _bare(next(order).read_bytes(), size, rng)
        end.send("done")


def _time(crop, contents, size):
    """Returns the seconds in which `crop` makes each file's bytes an image; the random crops are
    the same each time."""
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

    from experiments.speed.torch_worker import random_box

    image = simplejpeg.decode_jpeg(content, "RGB")
    left, top, right, bottom = random_box(*image.shape[:2], rng)
    part = image[top:bottom, left:right]
    shrinks = part.shape[0] >= size and part.shape[1] >= size
    return cv2.resize(
        part, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )


DECODERS = {"ours": _ours, "theirs": _bare}


def _tree(files, folder):
    """Returns a source over links to the files: all to train on, in two classes, for a classifier
    needs as many."""
    for i, file in enumerate(files):
        for split in ("train", "val", "test"):
            place = folder / "tree" / split / f"class{i % 2}"
            place.mkdir(parents=True, exist_ok=True)
            if split == "train" or i < 4:
                (place / f"{i}{file.suffix}").symlink_to(file.resolve())
    return f"folder:{folder / 'tree'}"


def _packed(source, folder):
    """Returns a source over a pack of another."""
    from vision.data.pack import pack
    from vision.data.sources import open_splits

    pack(source, open_splits(source), folder / "packed")
    return f"packed:{folder / 'packed'}"


def _files(data, folder):
    """Returns the paths of all JPEG files of a folder or a tar, which is unpacked into `folder`."""
    source = pathlib.Path(data).expanduser()
    if source.is_file() and tarfile.is_tarfile(source):
        with tarfile.open(source) as tar:
            tar.extractall(folder / "files", filter="data")
        source = folder / "files"
    files = sorted(file for file in source.rglob("*") if file.suffix.lower() in SUFFIXES)
    if len(files) < 8:
        raise UserError(
            f"--data {data}: needs a folder or a tar with 8 or more JPEG files, found {len(files)}"
        )
    return files


if __name__ == "__main__":
    cli.run(main)
