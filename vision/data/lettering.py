"""Text in pictures: class names, numbers."""

import functools
import importlib.util
import pathlib

from PIL import ImageFont

from vision.errors import printable

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@functools.cache
def font(size: int, bold: bool = False) -> Font:
    """Returns a font: Matplotlib's DejaVu Sans, which has the letters of Europe, else Pillow's own.

    Neither has Chinese, Japanese or Korean characters, which become boxes.

    Args:
        size: pixels.
        bold: whether it is bold.
    """
    spec = importlib.util.find_spec("matplotlib")
    if spec is not None and spec.origin:
        folder = pathlib.Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
        file = folder / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
        if file.is_file():
            return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)


def fitted(text: str, letters: Font, width: int) -> str:
    """Returns a text on one line, cut with an ellipsis to a width in pixels."""
    text = printable(text, 400)
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
