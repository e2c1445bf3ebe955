"""How far the host runs ahead of the device."""

import time

from vision.training.pace import Pace


class Result:
    """The result of a call on a device that takes its calls one after the other."""

    free_at = 0.0

    def __init__(self, seconds):
        Result.free_at = max(Result.free_at, time.perf_counter()) + seconds
        self._ready_at = Result.free_at

    def is_ready(self):
        return time.perf_counter() >= self._ready_at

    def block_until_ready(self):
        time.sleep(max(0, self._ready_at - time.perf_counter()))
        return self

    @property
    def seconds_left(self):
        return self._ready_at - time.perf_counter()


def test_two_slow_calls_are_in_flight():
    pace = Pace(seconds=0.01)
    for _ in range(5):
        result = Result(0.1)
        assert result.seconds_left < 2 * 0.1 + 0.02
        pace.add(result)
        assert result.seconds_left < 0.1 + 0.02


def test_a_second_of_fast_calls_is_in_flight():
    pace = Pace()
    for _ in range(1000):
        result = Result(0.002)
        pace.add(result)
    assert 0.5 < result.seconds_left < 2  # 1 unless this thread has to wait for others
    assert pace.limit() > 300
    pace.restart()
    assert pace.limit() == 2
