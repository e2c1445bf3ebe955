"""Makes the picture of README.md: the top of an evaluation report.

    python -m experiments.first_hour.picture --workdir runs/picture

Trains and evaluates configs/digits.py, unless that is done, and writes docs/pictures/evaluation.png
as Chromium draws it. No image is in it: the digits are scikit-learn's, of UCI (CC BY 4.0), and any
that a picture shows would need that said beside it.
"""

import argparse
import pathlib
import shutil
import subprocess
import tempfile

from PIL import Image

from experiments.commands import call
from vision import cli
from vision.errors import RunError, UserError

REPOSITORY = pathlib.Path(__file__).parent.parent.parent
OUT = REPOSITORY / "docs" / "pictures" / "evaluation.png"
WIDTH = 1000
HEIGHT = 430  # to the end of what the report finds
LARGEST = 150_000  # bytes
COLORS = 128
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main(argv):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/picture"))
    run = p.parse_args(argv).workdir
    words = ("--config", "configs/digits.py", f"--workdir={run}")
    call("vision.main", *words, output=run / "result.json")
    report = run / "evaluation" / "report.html"
    call("vision.evaluation", f"--workdir={run}", output=report)
    picture = screenshot(report)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(COLORS).save(OUT, optimize=True)
    print(f"{OUT}: {OUT.stat().st_size:,} bytes")
    if OUT.stat().st_size > LARGEST:
        raise RunError(f"{OUT} is larger than {LARGEST:,} bytes")


def screenshot(page: pathlib.Path) -> Image.Image:
    """Returns the top of a page as a headless browser draws it."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise UserError(f"needs a browser: install one of {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory() as place:
        file = pathlib.Path(place, "page.png")
        words = [browser, "--headless", "--no-sandbox", "--hide-scrollbars"]
        words += [f"--screenshot={file}", f"--window-size={WIDTH},{HEIGHT}"]
        subprocess.run([*words, page.absolute().as_uri()], check=True, capture_output=True)
        return Image.open(file).convert("RGB")


if __name__ == "__main__":
    cli.run(main)
