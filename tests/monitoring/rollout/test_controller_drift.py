"""A controller beside a server's metrics of drift."""

import time

from tests.monitoring.rollout.conftest import look
from vision.monitoring.rollout import drift
from vision.monitoring.rollout.server import Report

ALARM = 'vision_drift_alarm{model="pets",version="%s",feature="brightness"} 1\n'


ENDED = 'vision_drift_window_end_seconds{model="pets",version="%s"} %f\n'


def windows_of(versions):
    """Returns the metrics of windows that end now."""
    return "".join(ENDED % (version, time.time()) for version in versions)


def test_drift_of_the_new_version_alone_goes_back_after_two_windows(site):
    controller = site.begin()
    look(controller)
    site.serve(2000)
    for versions in ("12", "2"):
        alarms = "".join(ALARM % version for version in versions)
        site.extra = alarms + windows_of("12")
        action, why = look(controller)
        look(controller)  # the same window once more
    assert action == "wait" and "drift" in why  # the first window drifted for both
    site.extra = ALARM % "2" + windows_of("12")
    action, why = look(controller)
    assert action == "roll back" and "brightness in 2 windows in a row" in why


def test_drift_is_not_counted_without_a_window_of_the_old_version(site):
    controller = site.begin()
    begun = time.time()
    look(controller)
    site.serve(2000)
    for old in ("", ENDED % ("1", begun - 60), ENDED % ("1", begun - 60)):
        site.extra = ALARM % "2" + windows_of("2") + old
        action, why = look(controller)
        assert action == "wait" and "drift" not in why


def test_at_100_percent_drift_is_not_compared(site):
    """The old version's latest window is of the time when it had traffic."""
    controller = site.begin()
    while site.weights["2"] < 100:
        look(controller)
        site.serve(700)
    look(controller)
    site.serve(200)
    for _ in range(3):
        site.extra = ALARM % "2" + windows_of("12")
        assert look(controller)[0] == "wait"


def test_an_old_alarm_of_one_server_does_not_count_with_another_ones_windows():
    alarms = {"1": {"size": False}, "2": {"size": True}}
    calm = {"1": {"size": False}, "2": {"size": False}}
    runs = {}
    for end in (1010.0, 1020.0, 1030.0):
        for url, alarm, ended in (("a", calm, end), ("b", alarms, 1005.0)):
            seen = Report({}, {}, "", alarm, {"1": ended, "2": ended}, 0.0, True, 0.0)
            runs[url] = drift.follow(runs.get(url, {}), seen, "1", "2", 1000.0)
    reading = drift.reading(runs, 500.0)
    assert reading.p == 1 and reading.note == "size in 1 window"
    assert drift.reading({"a": runs["a"]}, 500.0).units == 500  # calm, and measured
    assert drift.reading({"a": {}}, 500.0).units == 0
