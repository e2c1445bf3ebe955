"""Draws where an image shows which class: a heat map over the image, with a legend."""

import cv2
import numpy as np
from PIL import Image, ImageDraw

from vision.data.decode import to_channels
from vision.data.lettering import font
from vision.errors import printable
from vision.tiles.decision import TiledPrediction

LARGEST = 4_096  # pixels of a picture's longer side, at most
NARROWEST = 640  # pixels of its width, at least
OPACITY = 0.6  # of a color where its class is certain
# Colors that color-blind people can tell apart (Okabe and Ito 2008); the last is for all others.
COLORS = np.array(
    [
        *((213, 94, 0), (86, 180, 233), (240, 228, 66), (0, 158, 115)),
        *((204, 121, 167), (230, 159, 0), (0, 114, 178), (255, 0, 255)),
    ],
    np.uint8,
)
NAME = 24  # characters of a class in the legend
WHITE = (255, 255, 255)
BLACK = (0, 0, 0)


def draw(image: np.ndarray, prediction: TiledPrediction) -> np.ndarray:
    """Returns the picture of a prediction, uint8 (H, W, 3).

    The image is gray. A place has the color of its most probable class, apart from the normal one,
    as opaque as that class is probable there. The tile that decided has a frame.

    Args:
        image: uint8 (H, W, 1 or 3).
        prediction: of its tiles.
    """
    heat, best, strength = _heat(prediction)
    shown = _largest(best, strength, heat)
    color_of = np.full(len(prediction.classes), len(COLORS) - 1)
    color_of[shown] = range(len(shown))
    gray, scale = _resized(image)
    picture = _blend(gray, scale, heat, COLORS[color_of[best]], strength)
    _frame(picture, prediction, scale)
    entries = [(printable(prediction.classes[i], NAME), COLORS[color_of[i]]) for i in shown]
    if np.isin(best, shown, invert=True).any():
        entries.append(("other classes", COLORS[-1]))
    legend = _legend(_title(prediction), entries, max(NARROWEST, picture.shape[1]))
    canvas = np.full((len(picture) + len(legend), legend.shape[1], 3), 255, np.uint8)
    canvas[: len(picture), : picture.shape[1]] = picture
    canvas[len(picture) :] = legend
    return canvas


def _blend(gray, scale, heat, colors, strength):
    """Returns the image under the cells' colors (rows, columns, 3), uint8 (H, W, 3)."""
    columns = _cells(heat.x, gray.shape[1], scale)
    rows = _cells(heat.y, gray.shape[0], scale)
    opacity = (OPACITY * strength)[rows][:, columns, None]
    blended = np.round((1 - opacity) * gray + opacity * colors[rows][:, columns])
    return np.ascontiguousarray(blended, np.uint8)


def _heat(prediction):
    """Returns (defect map, most probable class of each cell, its probability), without the normal
    class."""
    heat = prediction.defect_map
    values = heat.probabilities.copy()
    if prediction.normal is not None:
        values[prediction.normal] = -1
    return heat, values.argmax(0), values.max(0)


def _largest(best, strength, heat):
    """Returns the classes that have a color of their own: those with the most weight, by area."""
    areas = np.diff(heat.y)[:, None] * np.diff(heat.x)
    weights = np.bincount(best.ravel(), (areas * strength).ravel())
    order = np.argsort(-weights, kind="stable")[: len(COLORS) - 1]
    return [int(i) for i in order if weights[i] > 0]


def _resized(image):
    """Returns (the image in gray, as large as it is drawn, uint8 (H, W, 1), its scale)."""
    gray = to_channels(image, 1)[..., 0]
    longer = max(gray.shape)
    scale = min(1.0, LARGEST / longer)
    if longer < NARROWEST:
        scale = float(-(-NARROWEST // longer))
    height, width = (max(1, round(scale * side)) for side in gray.shape)
    method = cv2.INTER_AREA if scale <= 1 else cv2.INTER_NEAREST
    return cv2.resize(gray, (width, height), interpolation=method)[..., None], scale


def _cells(edges, count, scale):
    """Returns the cell of each of `count` pixels, (count,)."""
    centers = (np.arange(count) + 0.5) / scale
    return np.clip(np.searchsorted(edges, centers, "right") - 1, 0, len(edges) - 2)


def _frame(picture, prediction, scale):
    x, y, width, height = prediction.grid[prediction.decision.tile]
    first = (round(scale * x), round(scale * y))
    last = (round(scale * (x + width)) - 1, round(scale * (y + height)) - 1)
    for thickness, color in ((5, BLACK), (2, WHITE)):
        cv2.rectangle(picture, first, last, color, thickness)


def _title(prediction):
    """Returns the first lines of the legend."""
    name, score = prediction.top(1)[0]
    x, y, width, height = prediction.grid[prediction.decision.tile]
    return (
        f"{printable(name, NAME)}, score {score:.3f}\n"
        f"decided by the framed tile of {len(prediction.grid):,}: {width} x {height} at x = {x}, "
        f"y = {y}"
    )


def _legend(title, entries, width):
    """Returns the legend, uint8 (H, width, 3): a title, and a scale for each (class, color)."""
    em = max(16, round(width / 110))  # pixels: legible when a wide picture is shrunk to a screen
    letters = font(em)
    line = round(1.75 * em)
    bar = 8 * em
    widest = max((letters.getlength(f"1 {name}") for name, _ in entries), default=0)
    column = 4 * em + bar + round(widest)
    across = max(1, width // column)
    rows = 2 + -(-len(entries) // across)
    legend = Image.new("RGB", (width, rows * line + em // 2), WHITE)
    canvas = ImageDraw.Draw(legend)
    canvas.multiline_text((em, em // 3), title, BLACK, letters, spacing=0.5 * em)
    for i, (name, color) in enumerate(entries):
        left = em + i % across * column
        top = em // 3 + (2 + i // across) * line
        canvas.text((left, top), "0", BLACK, letters)
        legend.paste(_scale(color, bar, em), (left + em, top + em // 8))
        canvas.text((left + em + bar + em // 2, top), f"1 {name}", BLACK, letters)
    return np.asarray(legend)


def _scale(color, width, height):
    """Returns a color's scale over middle gray, as opaque as it is in the picture."""
    opacity = OPACITY * np.linspace(0, 1, width)[:, None]
    row = np.round((1 - opacity) * 128 + opacity * color).astype(np.uint8)
    return Image.fromarray(np.broadcast_to(row, (height, width, 3)).copy())
