"""Drawings by their pixels, by their titles, or by both, with and without missing titles."""

from experiments.run import Row

DATA = "runs/titles"
CONFIG = "configs/fusion_openclipart.py:{data}"
# Themes are in one split as a whole, so another division tests something else: two of them gave
# 27 and 58 % by the images alone.
FLAGS = {"data.split_seed": 0}


def _row(name: str, way: str, file: str = "all") -> Row:
    titles = "" if file == "all" else ", a tenth of the titles missing"
    return Row(name + titles, f"{CONFIG}/{file}.parquet:{way}", FLAGS)


ROWS = (
    _row("image alone", "image"),
    _row("title alone", "title"),
    _row("both, late", "both:late"),
    _row("both, gated", "both:gated"),
    _row("both, attention", "both:attention"),
    _row("title alone", "title", "tenth"),
    _row("both, late", "both:late", "tenth"),
    _row("both, gated", "both:gated", "tenth"),
    _row("both, attention", "both:attention", "tenth"),
)
