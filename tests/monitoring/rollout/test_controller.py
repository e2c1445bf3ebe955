"""A controller that looks once at a time, beside a server's real metrics."""

import contextlib
import dataclasses
import itertools
import json
import shutil
import socket
import threading
import time

import numpy as np
import pytest

from tests.monitoring.rollout.conftest import PLAN, look
from tests.support import ab_logs
from vision.errors import UserError
from vision.monitoring.rollout import controller as module
from vision.monitoring.rollout import state as states
from vision.monitoring.rollout.controller import Controller
from vision.monitoring.rollout.places import Pace


def resume(site, plan=PLAN):
    """Returns a controller that goes on from rollout.json, as after a kill."""
    state = states.load(site.out, plan)
    return Controller(plan, site.places(), Pace(0.05, 0.0, 60.0), state, lambda line: None)


def test_a_version_that_is_as_good_gets_everything(site):
    site.set_weights({"weights": {"1": 1}, "shadow": "3"})
    controller = site.begin()
    shares = []
    for _ in range(20):
        shares.append(site.weights["2"])
        action, _ = look(controller)
        if action == "finish":
            break
        site.serve(700)
    assert sorted(set(shares)) == [10, 50, 100] and shares == sorted(shares)
    assert site.weights == {"1": 0, "2": 100} and site.record["status"] == "done"
    shadow = json.loads((site.folder / "traffic.json").read_text())["shadow"]
    assert shadow == "3"  # nobody asked to change it
    page = (site.out / "report.html").read_text()
    assert "Done" in page and "errors" in page and "10 %" in page


@pytest.mark.parametrize(
    ("worse", "reason"),
    [({"failed": 60}, "of the requests failed"), ({"seconds": 0.2}, "p99 is")],
    ids=["errors", "p99"],
)
def test_a_worse_version_goes_back_for_good(site, worse, reason):
    controller = site.begin(webhook=f"{site.url}/hook")
    look(controller)
    site.serve(2500, **worse)
    action, why = look(controller)
    assert action == "roll back" and reason in why
    assert site.weights == {"1": 100, "2": 0} and site.record["status"] == "rolled back"
    assert site.posts[-1]["status"] == "rolled back" and reason in site.posts[-1]["text"]
    assert "Rolled back" in (site.out / "report.html").read_text()


def test_a_version_goes_back_even_if_that_cannot_be_recorded(site):
    controller = site.begin(webhook=f"{site.url}/hook")
    look(controller)
    site.serve(2500, failed=60)
    shutil.rmtree(site.out)
    with pytest.raises(OSError, match=str(site.out)):
        look(controller)
    assert site.weights == {"1": 100, "2": 0} and site.posts[-1]["status"] == "rolled back"


def test_all_traffic_that_is_slower_than_a_part_goes_back_too(site):
    """The old version's last counts are what the new one is compared with at 100 %."""
    controller = site.begin()
    while site.weights["2"] < 100:
        look(controller)
        site.serve(700)
    look(controller)
    site.serve(400, seconds=0.3)
    action, why = look(controller)
    assert action == "roll back" and "p99 is" in why and site.weights == {"1": 100, "2": 0}


def test_what_is_slow_is_chosen_from_answers_by_the_ratio(site):
    controller = site.begin()
    look(controller)
    site.answer("1", 0, failed=200)
    look(controller)
    assert site.record["slow"] == 0
    site.answer("1", 400, seconds=0.015)
    look(controller)
    twice = site.record["slow"]
    plan = dataclasses.replace(PLAN, limits=dataclasses.replace(PLAN.limits, p99=20.0))
    look(resume(site, plan))
    assert 0.03 <= twice < 0.1 and site.record["slow"] >= 0.3
    look(resume(site))
    assert site.record["slow"] == twice


def test_without_traffic_nothing_happens(site):
    controller = site.begin()
    actions = {look(controller)[0] for _ in range(10)}
    site.answer("1", 5000)  # of which the new one has none, so the split is wrong, too
    actions.add(look(controller)[0])
    assert actions == {"wait"} and site.weights == {"1": 90, "2": 10}


def test_a_broken_split_holds(site):
    controller = site.begin()
    look(controller)
    site.answer("1", 400)
    site.answer("2", 400)
    action, why = look(controller)
    assert action == "hold" and "not split as 90:10" in why
    assert site.record["status"] == "paused" and site.weights == {"1": 90, "2": 10}


def test_a_step_that_lasts_long_is_said_once(site, tmp_path):
    log = tmp_path / "log"
    log.mkdir()
    plan = dataclasses.replace(PLAN, guards=("errors", "disagreement"))
    controller = site.begin(plan, log=log, webhook=f"{site.url}/hook")
    controller.pace = Pace(0.05, 0.0, 0.001)
    look(controller)
    for _ in range(4):
        site.serve(4000)
        time.sleep(0.01)
        assert look(controller)[0] == "wait"
    (text,) = [post["text"] for post in site.posts]
    assert "wait: still, 0 s after the window: The log has 0 requests" in text


def test_a_server_that_is_down_pauses_after_some_looks(site):
    controller = site.begin()
    look(controller)
    site.serve(1000)
    site.down = True
    actions = [look(controller) for _ in range(4)]
    assert [action for action, _ in actions] == ["wait", "wait", "pause", "pause"]
    assert "503" in actions[-1][1] and site.record["status"] == "paused"
    site.down = False
    site.serve(2500)
    assert look(controller)[0] == "raise" and site.record["status"] == "running"


def test_a_log_that_cannot_be_read_pauses_and_alerts(site, tmp_path):
    log = tmp_path / "log"
    log.mkdir()
    plan = dataclasses.replace(PLAN, guards=("errors", "disagreement"))
    controller = site.begin(plan, log=log, webhook=f"{site.url}/hook")
    look(controller)
    (log / "predictions-20260101T000000.000000Z-0.parquet").write_text("not Parquet")
    actions = [look(controller)[0] for _ in range(3)]
    assert actions == ["wait", "wait", "pause"] and site.record["status"] == "paused"
    assert "the log or its labels cannot be read" in site.posts[-1]["text"]


def test_a_log_whose_clock_stepped_back_begins_the_step_again_once(site, tmp_path):
    log = tmp_path / "log"
    log.mkdir()
    plan = dataclasses.replace(PLAN, guards=("errors", "disagreement"))
    controller = site.begin(plan, log=log)
    look(controller)
    now = time.time()
    seconds = [now + 3, now + 1, now + 1.5]
    ab_logs.write(log, {"id": ["a", "b", "c"], "version": ["1", "1", "2"], "seconds": seconds})
    actions = [look(controller)[0] for _ in range(4)]
    assert actions == ["pause", "wait", "wait", "wait"]
    assert "clock went back by 2 s" in site.record["decisions"][1]["reason"]


def test_a_version_that_is_not_ready_pauses(site):
    controller = site.begin()
    look(controller)
    site.states_of["2"] = "loading"
    why = [look(controller)[1] for _ in range(3)][-1]
    assert "version 2 is loading" in why and why.startswith("Cannot tell")


def test_a_restarted_server_counts_on(site):
    controller = site.begin()
    look(controller)
    site.serve(1000)
    look(controller)
    site.restart()
    site.serve(500)
    look(controller)
    assert site.record["tallies"]["2"]["answered"] == 150
    site.serve(100)
    look(controller)
    assert site.record["tallies"]["2"]["answered"] == 160


def test_a_restart_that_no_look_saw_does_not_mix_counts(site):
    """More requests than before, but fewer that were fast: only that count fell."""
    site.answer("2", 100, seconds=0.003)
    controller = site.begin()
    look(controller)
    site.restart()
    site.answer("2", 80, seconds=0.003)
    site.answer("2", 130, seconds=0.03)
    look(controller)
    tally = site.record["tallies"]["2"]
    assert (tally["answered"], tally["le 0.004"], tally["le inf"]) == (210, 80, 210)


@pytest.mark.parametrize("started", [0.0, 1.0], ids=["again", "elsewhere"])
def test_counts_begin_at_0_if_a_process_or_a_version_did(started):
    state = states.State("pets", "1", "2", [10.0, 100.0], {}, {"1": 90, "2": 10}, None, 0.0)
    state.accumulate("a", {"1": {"answered": 50}, "2": {"answered": 9, "le inf": 9}}, 0.0)
    assert state.tallies == {}
    state.accumulate("a", {"1": {"answered": 70}, "2": {"answered": 8, "le inf": 10}}, started)
    old = 70 if started else 20  # the version alone was loaded again, or the process is another
    assert state.tallies == {"1": {"answered": old}, "2": {"answered": 8, "le inf": 10}}


def test_a_server_that_is_added_does_not_bring_its_history(site):
    site.answer("1", 5000)
    site.answer("2", 50)
    look(site.begin())
    site.serve(500)
    look(resume(site))
    controller = resume(site)
    servers = [site.url, site.url.replace("127.0.0.1", "localhost")]
    controller.places = site.places(servers=servers)
    look(controller)
    assert site.record["tallies"]["2"]["answered"] == 50


def test_after_a_kill_the_counts_go_on(site):
    look(site.begin())
    site.serve(1500)  # nobody looks meanwhile
    controller = resume(site)
    assert look(controller)[0] == "wait"
    assert site.record["tallies"]["2"]["answered"] == 150
    site.serve(1500)
    assert look(resume(site))[0] == "raise"


def test_a_kill_between_the_two_files_loses_nothing(site, monkeypatch):
    controller = site.begin()
    look(controller)
    site.serve(3500)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.traffic, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            look(controller)
    assert site.weights == {"1": 90, "2": 10} and site.record["weights"] == {"1": 50, "2": 50}
    look(resume(site))
    assert site.weights == {"1": 50, "2": 50} and site.record["step"] == 1


def test_weights_that_someone_else_changed_stay(site):
    controller = site.begin()
    look(controller)
    before = site.record
    site.set_weights({"weights": {"1": 50, "3": 50}})
    with pytest.raises(UserError, match=r"changed by someone else: it says 1: 50, 3: 50") as error:
        controller.look()
    assert len(str(error.value).splitlines()) == 2
    assert site.weights == {"1": 50, "3": 50} and site.record == before
    site.set_weights({"weights": {"1": 9, "2": 1}})  # restored, in other words
    assert look(resume(site))[0] == "wait"


def test_a_bundle_that_someone_replaced_stops_the_rollout(site):
    controller = site.begin()
    manifest = json.loads((site.folder / "2" / "bundle.json").read_text())
    manifest["sha256"]["model.onnx"] = "0" * 64
    (site.folder / "2" / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="has changed since the rollout began"):
        controller.look()


def test_a_clock_that_was_set_begins_the_step_again(site, monkeypatch):
    controller = site.begin()
    look(controller)
    site.serve(2000)
    look(controller)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 3600)
    action, why = look(controller)
    assert action == "pause" and "clock was set" in why
    look(controller)
    assert site.record["tallies"] == {} and site.weights == {"1": 90, "2": 10}
    site.serve(3500)
    assert look(controller)[0] == "raise"


def test_a_clock_that_was_set_back_while_nobody_looked_begins_the_step_again(site):
    look(site.begin())
    state = states.load(site.out, PLAN)
    state.updated_at += 3600
    states.save(site.out, state)
    controller = resume(site)
    controller.pace = Pace(0.05, 0.0, 0.0)  # gives up after one look
    controller.run()
    assert "clock was set" in site.record["reason"] and site.record["begun_at"] == 0


def test_a_clock_that_was_set_at_100_percent_keeps_what_the_old_version_had(site, monkeypatch):
    controller = site.begin()
    while site.weights["2"] < 100:
        look(controller)
        site.serve(700)
    look(controller)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 3600)
    assert look(controller)[0] == "pause"
    look(controller)
    site.serve(400, failed=100)
    action, why = look(controller)
    assert action == "roll back" and "of the requests failed" in why


def test_two_servers_are_added_up(site):
    controller = site.begin(servers=[site.url, site.url.replace("127.0.0.1", "localhost")])
    look(controller)
    site.serve(1000)
    look(controller)
    assert site.record["tallies"]["2"]["answered"] == 200


@pytest.fixture
def garbage():
    """URL of a server that does not speak HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(9999)
                connection.sendall(b"garbage\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        socket.create_connection(listener.getsockname()).close()  # if nobody else did
        thread.join()


@pytest.mark.parametrize("kind", ["gone", "garbage", "spaces"])
def test_a_webhook_that_fails_is_only_said(site, kind, garbage):
    lines = []
    urls = {"gone": "http://127.0.0.1:9/hook", "garbage": garbage, "spaces": "http://127.0.0.1/a b"}
    controller = site.begin(webhook=urls[kind])
    controller._show = lines.append
    look(controller)
    site.serve(3500)
    assert look(controller)[0] == "raise"
    assert lines[-1].startswith("--webhook cannot be reached")


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_weights_only_rise_and_a_rollback_is_final(site, seed):
    """Servers that fail, restart and get no traffic, and controllers that are killed."""
    random = np.random.default_rng(seed)
    controller = site.begin()
    look(controller)
    weights = [10]
    for _ in range(25):
        event = random.choice(["good", "bad", "down", "restart", "kill", "nothing"])
        site.down = event == "down"
        if event == "good":
            site.serve(int(random.integers(1, 1500)))
        elif event == "bad" and seed % 2:
            site.serve(800, failed=int(random.integers(0, 80)))
        elif event == "restart":
            site.restart()
        elif event == "kill":
            controller = resume(site)
        action, _ = look(controller)
        weights.append(site.weights["2"])
        if action in ("raise", "roll back"):
            assert site.record["decisions"][-1]["answers"] >= PLAN.min_answers
        if site.record["status"] in ("done", "rolled back"):
            break
    rising = weights[:-1] if weights[-1] == 0 else weights
    assert set(rising) <= {10, 50, 100} and rising == sorted(rising)
    assert all(later <= 5 * earlier for earlier, later in itertools.pairwise(rising))
    assert weights.count(0) == (site.record["status"] == "rolled back")
    assert (seed % 2 == 1) or site.record["status"] != "rolled back"
    assert site.record["weights"] == site.weights
