"""What is read of a server's metrics, and of what is not such a server."""

import http.server
import threading

import pytest

from tests.monitoring.rollout.conftest import look
from vision.monitoring.rollout import server

DRIFT = """
vision_drift_alarm{model="pets",version="2",feature="size"} 1.0
vision_drift_alarm{model="pets",version="2",feature="class"} 0.0
vision_drift_window_end_seconds{model="pets",version="2"} 99.0
vision_drift_alarm{model="cars",version="2",feature="size"} 1.0
"""


def test_counts_are_of_the_model_alone(site):
    site.answer("1", 3, seconds=0.003)
    site.answer("2", 2, seconds=3.0, failed=4)
    site.extra = DRIFT
    seen = server.ask(site.url, "pets")
    assert seen.counts["1"]["answered"] == 3 and "failed" not in seen.counts["1"]
    assert (seen.counts["2"]["answered"], seen.counts["2"]["failed"]) == (2, 4)
    assert (seen.counts["1"]["le 0.004"], seen.counts["1"]["le 0.002"]) == (3, 0)
    assert (seen.counts["2"]["le 2.0"], seen.counts["2"]["le inf"]) == (0, 2)
    assert (seen.states, seen.serving) == ({"1": "ready", "2": "ready"}, "1")
    assert seen.alarms == {"2": {"size": True, "class": False}}
    assert seen.ended == {"2": 99.0} and abs(seen.clock) <= 60
    assert server.ask(site.url, "cars").counts == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<html>", "is not in Prometheus' format"),
        ('a{b="c', "is not in Prometheus' format"),
        ("", "has no vision_ready: it is not of a model server"),
        ("up 1\n", "has no vision_ready: it is not of a model server"),
    ],
)
def test_what_is_not_a_model_server_is_said(text, message):
    with pytest.raises(server.Unreachable, match=message):
        server.parse(text, "http://a", "pets")


@pytest.fixture
def other():
    """(URL, requests' Authorization): a server that wants a key, then sends half a body."""
    keys = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            keys.append(self.headers["Authorization"])
            self.send_response(200 if keys[-1] else 401)
            self.send_header("Content-Length", "1000")
            self.send_header("Date", "Thu, 01 Jan 2015 00:00:00 GMT")
            self.end_headers()
            self.wfile.write(b"vision_ready 1")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}", keys
        made.shutdown()
        thread.join()


def test_a_key_is_sent_and_half_an_answer_is_none(other):
    url, keys = other
    with pytest.raises(server.Unreachable, match="says 401"):
        server.ask(url, "pets")
    with pytest.raises(server.Unreachable, match="broke off after 14 characters"):
        server.ask(url, "pets", "secret")
    assert keys == [None, "Bearer secret"]


def test_a_servers_clock_that_is_wrong_is_a_doubt_about_its_log(site, monkeypatch):
    controller = site.begin(log=site.out)
    look(controller)
    ask = server.ask
    monkeypatch.setattr(server, "ask", lambda *a: ask(*a)._replace(clock=-90.0))
    assert "is -90 s off this machine's" in look(controller)[1]
