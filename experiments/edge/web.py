"""The page of `--format web` in Chromium, beside the same bundle in Python: answers and times.

    python -m experiments.edge.web BUNDLE... --photos PHOTOS --csv experiments/edge/web.csv
    python -m experiments.edge.web BUNDLE --source mnist5k

Each bundle's folder web/ is served by a plain web server and opened in a headless Chromium, which
gets the images as files. Their probabilities are compared with those of `vision.bundle`, by which
`python -m vision.predict --bundle` answers. Of the rounds each image's shortest time counts, and of
the images the median: other programs on the machine only make times longer.
"""

import argparse
import contextlib
import csv
import functools
import http.server
import pathlib
import shutil
import statistics
import tempfile
import threading
import time

import cv2
import numpy as np

from vision import cli
from vision.bundle.directory import open_bundle
from vision.data.decode import decode
from vision.data.loading.sampler import spread
from vision.data.sources import open_splits
from vision.errors import UserError

FIELDS = ("bundle", "engine", "images", "same_class", "largest_difference")
FIELDS += ("start_ms", "decode_ms", "resize_ms", "model_ms", "python_model_ms", "loaded_mb")
READY = "document.getElementById('status').textContent === 'Nothing yet.'"
ISOLATED = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}
CLASSIFY = """
(async () => {{
  const {{ load }} = await import('/web/classifier.js');
  const {{ decode }} = await import('/web/decode.js');
  const classifier = await load(() => {{}});
  const blob = await (await fetch('/images/{}')).blob();
  const begun = performance.now();
  const image = {}(await decode(blob), classifier.about);
  const decoded = performance.now() - begun;
  const {{ probabilities, milliseconds }} = await classifier.classify(image);
  image.bitmap.close();
  milliseconds.decode = decoded;
  return {{ probabilities: [...probabilities], milliseconds }};
}})()
"""
AS_IT_IS = "((image) => image)"
# the same crop, scaled by the browser
CANVAS = """
((image, { image_size: size, resize }) => {
  const side = resize.crop_fraction * Math.min(image.width, image.height);
  const corner = [(image.width - side) / 2, (image.height - side) / 2];
  const context = new OffscreenCanvas(size, size).getContext('2d');
  context.imageSmoothingQuality = 'high';
  context.drawImage(image.bitmap, ...corner, side, side, 0, 0, size, size);
  const { data } = context.getImageData(0, 0, size, size);
  return { data, width: size, height: size, bitmap: image.bitmap };
})
"""
LOADED = """
performance.getEntriesByType('resource').filter(entry => !entry.name.includes('/images/'))
  .reduce((sum, entry) => sum + entry.decodedBodySize, 0)
"""


def main(argv):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("bundles", type=pathlib.Path, nargs="+")
    p.add_argument("--photos", type=pathlib.Path, help="folder of image files")
    p.add_argument("--source", help="a source of images, such as mnist5k, in place of --photos")
    p.add_argument("--count", type=int, default=50, help="images, from all over the folder")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", action="store_true", help="serve it isolated from other origins")
    p.add_argument("--canvas", action="store_true", help="resize by the browser, to compare")
    p.add_argument("--csv", type=pathlib.Path, help="file to add the rows to")
    a = p.parse_args(argv)
    if (a.photos is None) == (a.source is None):
        raise UserError("give either --photos FOLDER or --source SOURCE")
    with tempfile.TemporaryDirectory() as folder:
        images = pathlib.Path(folder, "images")
        images.mkdir()
        gather(images, a)
        print("  ".join(FIELDS))
        for bundle in a.bundles:
            row = measure(bundle, images, a.rounds, a.threads, a.canvas)
            print("  ".join(str(row[name]) for name in FIELDS), flush=True)
            if a.csv:
                add_row(a.csv, row)


def gather(folder, a):
    """Writes the images that are compared into a folder, named by their number."""
    if a.photos is not None:
        files = sorted(path for path in a.photos.rglob("*") if path.is_file())
        for number, index in enumerate(spread(a.count, len(files))):
            shutil.copyfile(files[index], folder / f"{number:03d}{files[index].suffix}")
        return
    splits = open_splits(a.source)
    source = splits["test" if "test" in splits else "all"]
    for number, index in enumerate(spread(a.count, len(source))):
        image = source[int(index)]["image"]
        pixels = image if image.shape[-1] == 1 else image[..., ::-1]
        cv2.imwrite(str(folder / f"{number:03d}.png"), pixels)


def measure(directory, images, rounds, threads=False, canvas=False):
    """Returns one row: a bundle's page beside the bundle."""
    from tests.support.browser import browse

    bundle = open_bundle(directory, threads=1)
    files = sorted(images.iterdir())
    expected = []
    python_ms = []
    for file in files:
        batch = bundle.prepare(decode(file))[None]
        milliseconds = []
        for _ in range(rounds):
            begun = time.perf_counter()
            answer = bundle.probabilities_and_embeddings(batch)[0][0]
            milliseconds.append(1000 * (time.perf_counter() - begun))
        expected.append(answer)
        python_ms.append(min(milliseconds))
    with serving(directory / "web", images, ISOLATED if threads else {}) as url:
        begun = time.perf_counter()
        with browse(url) as page:
            page.wait(READY, 120)
            start_ms = 1000 * (time.perf_counter() - begun)
            scripts = [CLASSIFY.format(f.name, CANVAS if canvas else AS_IT_IS) for f in files]
            runs = [[page.evaluate(script) for script in scripts] for _ in range(rounds)]
            engine = page.evaluate("document.getElementById('about').textContent").split(" by ")[-1]
            loaded = page.evaluate(LOADED)
    answers = np.array([run["probabilities"] for run in runs[0]])
    wanted = np.array(expected)
    row = {
        "bundle": directory.name,
        "engine": engine.rstrip(".") + (", canvas" if canvas else ""),
        "images": len(files),
        "same_class": int((answers.argmax(1) == wanted.argmax(1)).sum()),
        "largest_difference": f"{np.abs(answers - wanted).max():.1e}",
        "start_ms": round(start_ms),
        "python_model_ms": round(statistics.median(python_ms), 1),
        "loaded_mb": round(loaded / 1e6, 1),
    }
    for part in ("decode", "resize", "model"):
        shortest = [min(run[i]["milliseconds"][part] for run in runs) for i in range(len(files))]
        row[f"{part}_ms"] = round(statistics.median(shortest), 1)
    return row


@contextlib.contextmanager
def serving(web, images, headers):
    """Yields the URL of a page on a static web server, which has the images beside it."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def end_headers(self):
            for name, value in headers.items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, *words):
            pass

    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "web").symlink_to(web.resolve())
        pathlib.Path(folder, "images").symlink_to(images.resolve())
        handler = functools.partial(Handler, directory=folder)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/web/"
        finally:
            server.shutdown()
            server.server_close()


def add_row(path, row):
    """Adds a row to a CSV file."""
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if is_new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    cli.run(main)
