"""A model of two versions whose server is only its metrics: the real ones, of made-up requests."""

import http.server
import json
import re
import threading

import numpy as np
import pytest

from tests.support.tiny_bundle import write_bundle
from vision.monitoring.rollout import start
from vision.monitoring.rollout.controller import Controller
from vision.monitoring.rollout.places import Pace, Places
from vision.monitoring.rollout.plan import Plan
from vision.monitoring.windows import Span
from vision.serving.logs.telemetry import Telemetry
from vision.serving.request import Answer, Request
from vision.serving.settings import Settings

PLAN = Plan(
    "pets", "1", "2", (10.0, 50.0, 100.0), Span(300, 0.0), 150, 0, guards=("errors", "p99", "drift")
)


STARTED = re.compile(r"^(process_start_time_seconds) .*", re.MULTILINE)


class Version:
    def __init__(self, model, name):
        self.model = model
        self.name = name


class Site:
    """A models' directory, and what a server of it says.

    Attributes:
        root, folder, out: directories: of all models, of the model pets, of the rollout.
        url: the server's.
        states_of: {version: its state}.
        extra: further lines of the metrics.
        down: whether the server says 503 only.
        started: when the server's process started.
        posts: bodies of the messages to a webhook.
    """

    ready = True

    def __init__(self, root):
        self.root = root / "models"
        self.folder = self.root / "pets"
        self.out = root / "out"
        for version in ("1", "2"):
            write_bundle(self.folder / version)
        self.set_weights({"weights": {"1": 1}})
        self.states_of = {"1": "ready", "2": "ready"}
        self.extra = ""
        self.down = False
        self.posts = []
        self.started = 1_700_000_000
        self.restart()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def _handler(self):
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                text = site.telemetry.exposition()[0].decode() + site.extra
                body = STARTED.sub(f"\\1 {site.started}", text).encode()
                self.send_response(503 if site.down else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self):
                length = int(self.headers["Content-Length"])
                site.posts.append(json.loads(self.rfile.read(length)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        return Handler

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def restart(self):
        """Lets the server count from 0 again, as another process."""
        self.started += 1
        self.telemetry = Telemetry(Settings(access_log=""))
        self.telemetry.follow(self)

    def models(self):
        return {"pets": list(self.states_of)}

    def states(self):
        versions = {name: {"state": state, "reason": ""} for name, state in self.states_of.items()}
        return {"pets": {"serving": "1", "versions": versions}}

    @property
    def weights(self):
        return json.loads((self.folder / "traffic.json").read_text())["weights"]

    def set_weights(self, contents):
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "traffic.json").write_text(json.dumps(contents))

    @property
    def record(self):
        return json.loads((self.out / "rollout.json").read_text())

    def answer(self, version, count, seconds=0.015, failed=0):
        """Counts requests: answers that took so long, and failures."""
        probabilities = np.ones((1, 10), np.float32)
        result = Answer("pets", version, ("a",) * 10, probabilities, probabilities, {})
        entry = {"model": "pets", "version": version, "seconds": seconds}
        for _ in range(count):
            self.telemetry.answered(Request("pets", [b""], id="r"), result)
            self.telemetry.access(entry)
        for _ in range(failed):
            self.telemetry.unanswered(Version("pets", version), RuntimeError("bad"))

    def serve(self, count, **new):
        """Splits requests as traffic.json says; `new` is as in `answer`, of version 2."""
        weights = self.weights
        share = weights["2"] / sum(weights.values())
        self.answer("1", round(count * (1 - share)))
        self.answer("2", round(count * share), **new)

    def places(self, **changes):
        return Places(**{"folder": self.folder, "servers": [self.url], "out": self.out} | changes)

    def begin(self, plan=PLAN, **changes):
        """Returns a new controller, whose weights are set."""
        places = self.places(**changes)
        self.out.mkdir(exist_ok=True)
        state = start.begin(plan, places, start.ask_all(places, "pets"))
        controller = Controller(plan, places, Pace(0.05, 0.0, 60.0), state, lambda line: None)
        controller.follow_weights()
        return controller


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    yield made
    made.close()


def look(controller):
    """Lets a controller look and act once; returns the action and its reason."""
    decision = controller.look()
    controller.apply(decision)
    return str(decision.action), decision.reason
