"""Makes the picture of README.md: the evaluation report of drawings in six classes.

    python -m experiments.first_hour.picture openclipart.parquet --workdir runs/picture
    python -m experiments.first_hour.picture openclipart.parquet --workdir runs/picture --top 900

Writes docs/pictures/evaluation.png. The drawings are Open Clip Art's, which are in the public
domain; one of each title, so that no theme of icons is in two splits. EfficientNet-Lite0's head
learns for seconds, and Chromium draws the page. --top says how far down the picture begins.
"""

import argparse
import io
import pathlib
import shutil
import subprocess
import tempfile

import pyarrow.parquet
from PIL import Image

from experiments.commands import call
from vision import cli
from vision.errors import RunError, UserError

REPOSITORY = pathlib.Path(__file__).parent.parent.parent
OUT = REPOSITORY / "docs" / "pictures" / "evaluation.png"
CLASSES = ("animals", "food", "people", "plants", "tools", "transportation")
MOST = 150  # drawings of a class
WIDTH = 1000
HEIGHT = 620
LARGEST = 150_000  # bytes
COLORS = 128
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main(argv):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("drawings", type=pathlib.Path, help="openclipart.parquet")
    p.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/picture"))
    p.add_argument("--top", type=int, default=0, help="pixels of the page above the picture")
    a = p.parse_args(argv)
    folder = a.workdir / "drawings"
    run = a.workdir / "run"
    if not folder.is_dir():
        extract(a.drawings, folder)
    config = f"configs/transfer_folder.py:{folder}:head"
    keys = {"data.image_size": 96, "log.progress": False}
    words = ("--config", config, f"--workdir={run}")
    call("vision.main", *words, config=keys, output=run / "result.json")
    report = run / "evaluation" / "report.html"
    call("vision.evaluation", f"--workdir={run}", output=report)
    picture = screenshot(report, a.top)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(COLORS).save(OUT, optimize=True)
    print(f"{OUT}: {OUT.stat().st_size:,} bytes")
    if OUT.stat().st_size > LARGEST:
        raise RunError(f"{OUT} is larger than {LARGEST:,} bytes: choose another --top")


def extract(table: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes drawings into FOLDER/CLASS/NUMBER.png, at most one of each title."""
    columns = pyarrow.parquet.read_table(table)
    titles = set()
    counts = dict.fromkeys(CLASSES, 0)
    for row in columns.to_pylist():
        name = row["label"]
        if name in counts and counts[name] < MOST and row["text"] not in titles:
            titles.add(row["text"])
            file = folder / name / f"{counts[name]:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB").save(file)
            counts[name] += 1


def screenshot(page: pathlib.Path, top: int) -> Image.Image:
    """Returns a part of a page as a headless browser draws it."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise UserError(f"needs a browser: install one of {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory() as place:
        file = pathlib.Path(place, "page.png")
        words = [browser, "--headless", "--no-sandbox", "--hide-scrollbars"]
        words += [f"--screenshot={file}", f"--window-size={WIDTH},{top + HEIGHT}"]
        subprocess.run([*words, page.absolute().as_uri()], check=True, capture_output=True)
        return Image.open(file).convert("RGB").crop((0, top, WIDTH, top + HEIGHT))


if __name__ == "__main__":
    cli.run(main)
