"""How often drift alarms, and how much of it: real images behind a real server.

    python -m experiments.drift.run --fashion fashion-mnist --neu neu_det.tar    # an hour
    python -m experiments.drift.run --fashion fashion-mnist --windows 5          # shorter

Writes results.csv and the table of README.md; what is there is not measured again.

For each data set one class is left out, a `cnn:small` is trained on the others, exported and
served. The server gets the test images, once as they are and once for each kind of change and each
severity, as PNG files, and writes its prediction log. Windows are then drawn from the log's rows
without replacement and compared with the bundle's reference as `vision.monitoring.drift` does.

Darkened: pixels times 0.9, 0.8, 0.7, 0.6, 0.5. Blurred and noisier: ImageNet-C's defocus blur and
Gaussian noise (`vision.evaluation.corruptions`). Rotated: by 5, 10, 15, 20, 30 degrees, to a side
drawn for each image. New class: 5, 10, 20, 40, 80 % of a window are images of the class that was
left out.
"""

import argparse
import base64
import dataclasses
import gzip
import itertools
import json
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.request

import cv2
import numpy as np

from experiments.commands import call
from experiments.neu import sort_by_class
from experiments.table import read_rows, write_rows
from vision import cli
from vision.bundle.directory import MANIFEST, read_manifest
from vision.data.decode import decode
from vision.errors import UserError
from vision.monitoring.log import open_log
from vision.monitoring.windows import COLUMNS, Rows, Selector
from vision.reference.statistics import parse
from vision.reference.verdict import assess
from vision.reference.window import Window
from vision.support.files import replacing, write_json

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results.csv"
SEVERITIES = (1, 2, 3, 4, 5)
DARKER = (0.9, 0.8, 0.7, 0.6, 0.5)
DEGREES = (5, 10, 15, 20, 30)
NEW_SHARES = (0.05, 0.1, 0.2, 0.4, 0.8)
KINDS = ("darkened", "blurred", "noisier", "rotated", "new class")
SIZES = (200, 1000)
NULL_WINDOWS = 100
IMAGES_AT_A_TIME = 32
RULES = ("tests", "KL 0.2")
COLUMNS_OF_RESULTS = ("data", "change", "severity", "size", "windows", *RULES, "features")


@dataclasses.dataclass
class Data:
    """A data set as folders.

    Attributes:
        name: of the data set.
        side: of the model's images, pixels.
        channels: of the model's images.
        left_out: the class that the model does not know.
        counts: images of each class for train and val; the others are for test.
        steps: of the training.
    """

    name: str
    side: int
    channels: int
    left_out: str
    counts: tuple[int, int]
    steps: int


FASHION = Data("fashion-mnist", 28, 1, "8", (1000, 300), 600)
NEU = Data("neu", 32, 1, "scratches", (40, 50), 300)


def main(argv):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--fashion", type=pathlib.Path, help="folder of Fashion-MNIST's four files")
    p.add_argument("--neu", type=pathlib.Path, help="neu_det.tar")
    p.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/drift"))
    p.add_argument("--windows", type=int, default=10, help="windows of each change")
    p.add_argument("--images", type=int, default=1500, help="images of each change, at most")
    a = p.parse_args(argv)
    for data, place in ((FASHION, a.fashion), (NEU, a.neu)):
        if place is None:
            continue
        folder = a.workdir / data.name
        images = read_fashion(place) if data is FASHION else read_neu(place, a.workdir / "photos")
        tests, strangers = divide(data, images, folder / "images")
        train(data, folder)
        if not (folder / "sources.json").is_file():
            write_json(folder / "sources.json", serve_all(data, folder, tests, strangers, a.images))
        measure(data, folder, a.windows)


def read_fashion(folder):
    """Returns {class: images}, of the test split first."""
    by_class = {}
    for name in ("t10k", "train"):
        images = _idx(folder / f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)
        labels = _idx(folder / f"{name}-labels-idx1-ubyte.gz", 8)
        for label in range(10):
            by_class.setdefault(str(label), []).append(images[labels == label])
    return {label: np.concatenate(parts) for label, parts in by_class.items()}


def _idx(path, start):
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=start)


def read_neu(tar, folder):
    """Returns {class: images}."""
    photos = sort_by_class(tar, folder)
    return {
        place.name: np.stack([decode(file, 1) for file in sorted(place.glob("*.jpg"))])
        for place in sorted(photos.iterdir())
    }


def divide(data, images, folder):
    """Writes train/, val/ and test/ as folders of PNG files; returns the test images and those of
    the class that was left out."""
    tests = []
    order = np.random.default_rng(0)
    training, validation = data.counts
    for label, rows in images.items():
        if label == data.left_out:
            continue
        if data is FASHION:  # its own test split comes first
            tests.append(rows[:1000])
            rest = rows[1000:]
        else:
            rows = rows[order.permutation(len(rows))]
            tests.append(rows[training + validation :])
            rest = rows[: training + validation]
        for split, part in (
            ("train", rest[:training]),
            ("val", rest[training : training + validation]),
            ("test", tests[-1]),
        ):
            place = folder / split / f"class {label}"
            if not place.is_dir():
                place.mkdir(parents=True)
                for i, image in enumerate(part):
                    cv2.imwrite(str(place / f"{i}.png"), image)
    every = np.concatenate(tests)
    return every[order.permutation(len(every))], images[data.left_out][:1000]


def train(data, folder):
    """Trains and exports the model, unless that was done."""
    run = folder / "run"
    bundle = folder / "models" / data.name / "1"
    if (bundle / MANIFEST).is_file():
        return
    config = f"configs/gan_folder.py:{folder / 'images'}:{data.side}:classifier"
    flags = {"data.channels": data.channels, "train.steps": data.steps, "train.eval_every": 300}
    call("vision.main", f"--config={config}", f"--workdir={run}", config=flags)
    call("vision.export", f"--workdir={run}", f"--out={bundle}")


def serve_all(data, folder, tests, strangers, count):
    """Sends the images of every change to a server that logs them.

    Returns:
        [[change, severity, images]], in the order of the log.
    """
    log = folder / "log"
    if log.is_dir():
        raise UserError(f"{log} is incomplete: remove it")
    command = [sys.executable, "-m", "vision.serving", f"--models={folder / 'models'}"]
    flags = ["--http-port=0", "--grpc-port=0", "--access-log=", f"--prediction-log={log}"]
    server = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, text=True)
    try:
        url = re.search(r"at (http://\S+?)(,|\s|$)", server.stdout.readline())[1]
        sources = []
        begun = time.monotonic()
        for change, severity, images in changes(tests, strangers, count):
            for start in range(0, len(images), IMAGES_AT_A_TIME):
                send(url, data.name, images[start : start + IMAGES_AT_A_TIME])
            sources.append([change, severity, len(images)])
        images = sum(source[2] for source in sources)
        print(f"{data.name}: {images:,} images in {time.monotonic() - begun:.0f} s", flush=True)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    return sources


def send(url, model, images):
    """Sends images as PNG files in one request of the protocol V1."""
    files = [base64.b64encode(cv2.imencode(".png", image)[1]).decode() for image in images]
    body = json.dumps({"instances": [{"b64": file} for file in files]}).encode()
    address = f"{url}/v1/models/{model}:predict"
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(address, body, headers)) as answer:
        assert len(json.load(answer)["predictions"]) == len(images)


def changes(tests, strangers, count):
    """Yields (change, severity, uint8 (N, H, W, 1))."""
    yield "none", 0, tests
    yield "left out", 0, strangers
    some = tests[:count]
    for severity in SEVERITIES:
        yield "darkened", severity, np.round(some * DARKER[severity - 1]).astype(np.uint8)
        yield "rotated", severity, rotated(some, DEGREES[severity - 1])
        for kind, name in (("blurred", "defocus_blur"), ("noisier", "gaussian_noise")):
            yield kind, severity, corrupted(name, some, severity)


def corrupted(name, images, severity):
    import jax

    from vision.evaluation.corruptions import corrupt

    parts = np.array_split(images, max(1, len(images) // 100))
    keys = jax.random.split(jax.random.key(severity), len(parts))
    results = [corrupt(name, part, severity, key) for part, key in zip(parts, keys, strict=True)]
    return np.concatenate([np.asarray(part) for part in results]).astype(np.uint8)


def rotated(images, degrees):
    sides = np.random.default_rng(degrees).choice([-1, 1], len(images))
    results = []
    for image, side in zip(images, sides, strict=True):
        height, width = image.shape[:2]
        center = (width - 1) / 2, (height - 1) / 2
        matrix = cv2.getRotationMatrix2D(center, side * degrees, 1)
        turned = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
        results.append(turned[..., None])
    return np.stack(results)


def measure(data, folder, windows):
    """Adds the lines of a data set that are missing to results.csv, and renews the table."""
    manifest = read_manifest(folder / "models" / data.name / "1")
    reference = parse(manifest.reference, len(manifest.classes), folder)
    sources = json.loads((folder / "sources.json").read_text())
    pools = read_pools(folder / "log", manifest, sources)
    cases = [("none", 0, size) for size in SIZES]
    # the most telling ones first
    changed = itertools.product(SIZES, (3, 5, 1, 4, 2), KINDS)
    cases += [(kind, severity, size) for size, severity, kind in changed]
    for change, severity, size in cases:
        key = (data.name, change, str(severity), str(size))
        if key in {
            tuple(line[name] for name in COLUMNS_OF_RESULTS[:4]) for line in read_rows(RESULTS)
        }:
            continue
        verdicts = []
        for number in range(NULL_WINDOWS if change == "none" else windows):
            random = np.random.default_rng([size, severity, number])
            rows = draw(pools, change, severity, size, random)
            window = Window(reference, number)
            window.add(rows.values, rows.classes, rows.sketches, rows.seconds)
            verdicts.append(assess(reference, window, seed=number))
        line = dict(zip(COLUMNS_OF_RESULTS[:4], key, strict=True)) | summary(verdicts)
        print(line, flush=True)
        write([*read_rows(RESULTS), line])  # read again: the other data set may be measured beside


def read_pools(directory, manifest, sources):
    """Returns {(change, severity): its `Rows`}."""
    selector = Selector(manifest.fingerprint, tuple(manifest.classes))
    parts = [selector.select(batch) for batch in open_log(directory).batches(COLUMNS)]
    rows = Rows(*(np.concatenate([part[i] for part in parts]) for i in range(4)), {})
    if len(rows.seconds) != sum(source[2] for source in sources):
        raise UserError(f"{directory} is incomplete: remove it and sources.json")
    ends = np.cumsum([source[2] for source in sources])
    return {
        (change, severity): rows.part(np.arange(end - count, end))
        for (change, severity, count), end in zip(sources, ends, strict=True)
    }


def draw(pools, change, severity, size, random):
    """Returns a window's rows."""
    if change != "new class":
        pool = pools[change, severity]
        return pool.part(np.sort(random.choice(len(pool.seconds), size, replace=False)))
    strangers = min(round(NEW_SHARES[severity - 1] * size), len(pools["left out", 0].seconds))
    parts = [
        pools[key].part(np.sort(random.choice(len(pools[key].seconds), count, replace=False)))
        for key, count in ((("none", 0), size - strangers), (("left out", 0), strangers))
    ]
    return Rows(*(np.concatenate([part[i] for part in parts]) for i in range(4)), {})


def summary(verdicts):
    """Returns how many windows alarm by each rule, and the features that do most often."""
    by_kl = sum(
        any(measures.get("kl_alarm") for measures in verdict["features"].values())
        for verdict in verdicts
    )
    names = [
        name
        for verdict in verdicts
        for name, measures in verdict["features"].items()
        if measures.get("alarm")
    ]
    often = sorted(set(names), key=lambda name: -names.count(name))[:3]
    alarms = sum(verdict["alarm"] for verdict in verdicts)
    return {
        "windows": len(verdicts),
        "tests": alarms,
        "KL 0.2": by_kl,
        "features": " ".join(f"{name}:{names.count(name)}" for name in often),
    }


def write(lines):
    """Writes results.csv, sorted, and the table of README.md."""
    order = ("none", *KINDS)
    lines.sort(key=lambda line: (line["data"], order.index(line["change"]), int(line["severity"])))
    write_rows(RESULTS, COLUMNS_OF_RESULTS, lines)
    heads = " | ".join(f"{size:,} images" for size in SIZES)
    text = [f"| data | change | severity | {heads} |", "|---|---|---|" + "---|" * len(SIZES)]
    cells = {}
    for line in lines:
        key = line["data"], line["change"], line["severity"]
        shares = [f"{100 * int(line[rule]) / int(line['windows']):.0f}" for rule in RULES]
        cells.setdefault(key, {})[int(line["size"])] = " / ".join(shares)
    for key, by_size in cells.items():
        row = [*map(str, key), *(by_size.get(size, "not run") for size in SIZES)]
        text.append(f"| {' | '.join(row)} |")
    page = (HERE / "README.md").read_text()
    table = "\n".join(["<!-- results -->", *text, "<!-- end -->"])
    page = re.sub(r"<!-- results -->.*<!-- end -->", lambda _: table, page, flags=re.DOTALL)
    with replacing(HERE / "README.md") as file:
        file.write(page)


if __name__ == "__main__":
    cli.run(main)
