"""Times the input pipeline, decoding and cropping, against other libraries, in one run and in turn.

    python -m scripts.bench.input --data ../shared/data/imagenet_samples.tar
    python -m scripts.bench.input --data photos --torch-python PATH --workers 8

Four comparisons, all on JPEG files cropped to a random 8 to 100 % of their area and resized to
--image-size:

    decode                                 one core, the files' bytes in RAM: vision.data.decode
                                           against bare libraries
    feed                                   --workers processes, batches on the device: the trainer's
                                           WorkerLoader against torch's DataLoader with PIL
    feed against bare decode               WorkerLoader against a bare loop in as many processes,
                                           which keeps no image
    feed of a pack against bare decode     the same for a `packed:` source of the files; the bare
                                           loop still reads the files

The bare libraries are simplejpeg and cv2, on which vision.data.decode is built, so `decode` shows
the cost of its checks, and the last two comparisons the cost of making batches and copying them to
the device. Area averaging (cv2, ours) and an antialiased bilinear filter (PIL) are of the same
quality. Without torch and PIL, `feed` shows one side. The last line is `ratio: R`, that of `feed`,
or of `decode` if feed has none.
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
HIDDEN = ("date", "commit", "device")  # columns that are not printed


def main(argv):
    p = common.make_parser(__doc__, "input")
    p.add_argument(
        "--data", default="../shared/data/imagenet_samples.tar", help="folder or tar of JPEG files"
    )
    p.add_argument("--image-size", type=int, default=224)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--batches", type=int, default=30, help="batches per timing of the feed")
    p.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count(),
        help="processes of each side; default: all cores",
    )
    p.add_argument("--rounds", type=int, default=5)
    common.add_torch_python(p)
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
        [{key: value for key, value in row.items() if key not in HIDDEN} for row in rows + bare]
    )
    common.write_rows(a.csv, rows + bare)
    ratio = next(row["ratio"] for row in reversed(rows) if row["ratio"] is not None)
    print(f"ratio: {ratio:.2f}")


def _decode_row(a, files):
    import cv2

    contents = [file.read_bytes() for file in files]
    cv2.setNumThreads(1)  # one core means one inside cv2 too
    sides = {
        name: lambda crop=crop: _time(crop, contents, a.image_size)
        for name, crop in DECODERS.items()
    }
    seconds = common.alternate(sides, a.rounds)
    speeds = {name: len(contents) / statistics.median(times) for name, times in seconds.items()}
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
            sides["theirs"] = side.run
            facts = common.facts(a, side.facts["torch"])
        except UserError as error:
            print(f"skipped: {error}")
        return _time_feeds(a, "feed", files, sides, "torch DataLoader, PIL", facts)


def _bare_row(a, files, what, source):
    with (
        contextlib.closing(Feed(a, source)) as feed,
        contextlib.closing(BareLoops(a, files)) as bare,
    ):
        sides = {"ours": feed.run, "theirs": bare.run}
        facts = common.facts(a)
        what = f"{what} against bare decode"
        return _time_feeds(a, what, files, sides, "simplejpeg + cv2 processes", facts)


def _time_feeds(a, what, files, sides, against, facts):
    """Times the sides and returns the row.

    Args:
        sides: {name: function of a number of batches that returns seconds}.
    """
    runs = {name: lambda run=run: run(a.batches) for name, run in sides.items()}
    seconds = common.alternate(runs, a.rounds)
    images = a.batches * a.batch
    speeds = {name: images / statistics.median(times) for name, times in seconds.items()}
    return _row(a, what, a.workers, len(files), seconds, speeds, against, facts)


def _row(a, what, processes, files, seconds, speeds, against, facts):
    cores = min(max(processes, 1), len(os.sched_getaffinity(0)))
    ratios = {"ratio": None, "ratio_of_best": None}
    if "theirs" in seconds:
        ratios = common.compare(seconds, "ours", "theirs")
    figures = {}
    for name in ("ours", "theirs"):
        figures[f"{name}_images_per_second"] = speeds.get(name)
        figures[f"{name}_per_core"] = speeds[name] / cores if name in speeds else None
    setting = {
        "device": common.cpu_name(),
        "what": what,
        "against": against,
        "image_size": a.image_size,
        "processes": processes,
        "cores": cores,
        "files": files,
        "rounds": a.rounds,
    }
    return facts | setting | ratios | figures


class Feed:
    """The trainer's own path from files to batches on the device.

    Grain's workers prefetch, so their prefetched batches are consumed before the clock starts, and
    after it stops they get the time to refill: they must not run during the other side's turn.
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
        # batches that `WorkerLoader` prefetches: about seven per worker, and one on the device
        self._ahead = 8 * a.workers + 1
        self._steps = a.rounds * (a.batches + self._ahead) + 2 * self._ahead
        plan = [(i, 1) for i in range(self._steps)]
        self._batches = data.loaders["train"].train_batches(plan, a.batch)

    def run(self, batches):
        """Returns the seconds until `batches` batches are on the device."""
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
    """Processes that only read, decode and crop files: an upper bound for the feed."""

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
            end.recv()  # its imports are done

    def run(self, batches):
        """Returns the seconds until the processes together have made `batches` batches."""
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
    endless_files = itertools.cycle(files)
    rng = np.random.default_rng(os.getpid())
    _bare(next(endless_files).read_bytes(), size, rng)
    end.send("ready")
    while True:
        for _ in range(end.recv()):
            _bare(next(endless_files).read_bytes(), size, rng)
        end.send("done")


def _time(crop, contents, size):
    """Returns the seconds that `crop` takes for all files; the random crops are the same each
    time."""
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
    """Returns a source over links to the files: all in train, in two classes, the least that a
    classifier needs."""
    for i, file in enumerate(files):
        for split in ("train", "val", "test"):
            class_folder = folder / "tree" / split / f"class{i % 2}"
            class_folder.mkdir(parents=True, exist_ok=True)
            if split == "train" or i < 4:
                (class_folder / f"{i}{file.suffix}").symlink_to(file.resolve())
    return f"folder:{folder / 'tree'}"


def _packed(source, folder):
    """Returns a source over a pack of another."""
    from vision.data.pack import pack
    from vision.data.sources import open_splits

    pack(source, open_splits(source), folder / "packed")
    return f"packed:{folder / 'packed'}"


def _files(data, folder):
    """Returns the paths of all JPEG files in a folder or a tar, which is unpacked into `folder`."""
    source = pathlib.Path(data).expanduser()
    if source.is_file() and tarfile.is_tarfile(source):
        with tarfile.open(source) as tar:
            tar.extractall(folder / "files", filter="data")
        source = folder / "files"
    files = sorted(file for file in source.rglob("*") if file.suffix.lower() in SUFFIXES)
    if len(files) < 8:
        raise UserError(
            f"--data {data} must be a folder or a tar with at least 8 JPEG files, got {len(files)}"
        )
    return files


if __name__ == "__main__":
    cli.run(main)
