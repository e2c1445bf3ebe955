"""Windows against a plain loop over rows."""

import numpy as np
import pytest

from vision.monitoring.cutting import Cutter, Span


def cut(span, most, seconds, parts):
    cutter = Cutter(span, most, lambda number: [], lambda window, rows, at: window.extend(rows[at]))
    for places in np.array_split(np.arange(len(seconds)), parts):
        cutter.add(places, seconds[places])
    return cutter


@pytest.mark.parametrize("parts", [1, 4, 13])
@pytest.mark.parametrize("span", [Span(7, 0.0), Span(0, 10.0)])
def test_windows_are_those_of_a_loop(span, parts):
    random = np.random.default_rng(0)
    seconds = np.sort(random.uniform(0, 95, 50))
    expected = {}
    for place, moment in enumerate(seconds):
        number = place // 7 if span.rows else int(moment // 10)
        expected.setdefault(number, []).append(place)
    over = {
        number: rows
        for number, rows in expected.items()
        if (len(rows) == 7 if span.rows else 10 * (number + 1) <= 80)
    }
    cutter = cut(span, 100, seconds, parts)
    assert [list(map(int, window)) for window in cutter.full(80.0)] == list(over.values())
    assert cutter.late == 0


def test_the_oldest_are_forgotten_and_late_rows_counted():
    seconds = np.array([5, 15, 25, 35, 6, 45])
    cutter = cut(Span(0, 10.0), 2, seconds, 6)
    assert cutter.late == 1
    assert [list(map(int, window)) for window in cutter.full(1000.0)] == [[2], [3], [5]]
