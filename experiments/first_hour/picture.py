"""Makes the picture of README.md: an evaluation report, from its top to pictures of its images.

    python -m experiments.first_hour.picture --workdir runs/picture

Trains and evaluates configs/digits.py, unless that is done, and writes docs/pictures/evaluation.png
as Chromium draws the report, without the sections of tables and plots that lie between its top and
its pictures. The digits are scikit-learn's, of UCI (CC BY 4.0), which README names beside it.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import tempfile

from PIL import Image

from experiments.commands import call
from vision import cli
from vision.errors import RunError, UserError

REPOSITORY = pathlib.Path(__file__).parent.parent.parent
OUT = REPOSITORY / "docs" / "pictures" / "evaluation.png"
SHOWN = "examples"  # the section of the hardest and easiest images of each class, the worst first
WIDTH = 1280  # of a window that has room for the contents, and for three images in a row
HEIGHT = 798  # to the end of the first row
LARGEST = 150_000  # bytes
COLORS = 256
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SECTION = re.compile(r'<h2 id="([\w-]+)">.*?(?=<h2 id=|</main>|</body>)', re.DOTALL)


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
    picture = screenshot(shortened(report.read_text()))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(COLORS).save(OUT, optimize=True)
    print(f"{OUT}: {OUT.stat().st_size:,} bytes")
    if OUT.stat().st_size > LARGEST:
        raise RunError(f"{OUT} is larger than {LARGEST:,} bytes")


def shortened(page: str) -> str:
    """Returns the HTML of a report with its top and only the section that the picture shows."""
    return SECTION.sub(lambda section: section[0] if section[1] == SHOWN else "", page)


def screenshot(page: str) -> Image.Image:
    """Returns the top of a page, given as HTML, as a headless browser draws it."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise UserError(f"needs a browser: install one of {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory() as place:
        source = pathlib.Path(place, "page.html")
        source.write_text(page)
        file = pathlib.Path(place, "page.png")
        words = [browser, "--headless", "--no-sandbox", "--hide-scrollbars"]
        words += [f"--screenshot={file}", f"--window-size={WIDTH},{HEIGHT}"]
        subprocess.run([*words, source.absolute().as_uri()], check=True, capture_output=True)
        return Image.open(file).convert("RGB")


if __name__ == "__main__":
    cli.run(main)
