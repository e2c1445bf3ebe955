"""A real Prometheus and Alertmanager beside a real server under traffic: every panel has data, and
drift reaches a webhook.

The committed configuration is used, with shorter times and the test's own addresses.
"""

import contextlib
import http.server
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

import numpy as np
import pytest
import yaml

from scripts.monitoring import dashboard
from tests.conftest import REPOSITORY
from tests.monitoring.conftest import photos, reference_of
from tests.support.live_server import serve
from tests.support.tiny_bundle import write_bundle
from vision.bundle.directory import open_bundle
from vision.reference.quality import describe
from vision.serving.client import Client

FOLDER = REPOSITORY / "scripts" / "monitoring"
TOOLS = ("prometheus", "prometheus-alertmanager", "promtool")
CLASSES = [f"class {i}" for i in range(10)]
PATIENCE = 240  # seconds: a window of drift takes a minute at least


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def running(log, command):
    """Runs a command, whose output goes to a file, until the context ends."""
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=REPOSITORY)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            finally:
                process.kill()


def get(url, **parameters):
    query = urllib.parse.urlencode(parameters, doseq=True)
    with urllib.request.urlopen(f"{url}?{query}" if query else url, timeout=30) as answer:
        return answer.read()


def until(condition, seconds=PATIENCE):
    """Returns the first value of `condition()` that is true, within the time; else its last."""
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(1)
    return value


def is_ready(address):
    with contextlib.suppress(OSError):
        return get(f"http://{address}/-/ready")
    return b""


def logs(root):
    return "\n".join(path.read_text()[-2000:] for path in root.glob("*.log"))


class Webhook:
    """Receives what Alertmanager sends: [(path, alert)]."""

    def __init__(self):
        received = self.received = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                received.extend((self.path, alert) for alert in message["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def firing(self, name):
        return [
            (path, alert)
            for path, alert in list(self.received)
            if alert["labels"]["alertname"] == name and alert["status"] == "firing"
        ]


class Traffic:
    """Asks a server again and again, in a thread; `light` below 1 darkens the images.

    Attributes:
        labels: a file that gets the true class of every image: 90 % of the answers are right.
    """

    def __init__(self, url, labels, bundle):
        self.light = 1.0
        self.asked = 0
        self._url = url
        self._labels = labels
        self._bundle = bundle
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self):
        random = np.random.default_rng(0)
        with Client(self._url) as client, open(self._labels, "w") as file:
            file.write("id,image,label\n")
            while not self._stop.wait(0.2):
                images = photos(8, 1000 + self.asked, self.light)
                best = self._bundle.probabilities_and_embeddings(images)[0].argmax(1)
                changed = random.random(8) < 0.1
                name = client.classify(images, "pets")[0].id
                for place, label in enumerate(np.where(changed, (best + 1) % 10, best)):
                    file.write(f"{name},{place},{CLASSES[label]}\n")
                file.flush()
                if self.asked % 10 == 0:
                    with contextlib.suppress(Exception):
                        client.classify(b"no image", "pets")
                self.asked += 1

    def close(self):
        self._stop.set()
        self._thread.join(30)


def write_models(root):
    """Writes three versions of a model that can be served, the third of which is a shadow, and a
    fourth that cannot."""
    plain = open_bundle(write_bundle(root / "plain"))
    unseen = photos(600, 2)
    reference = reference_of(plain, photos(1000, 1), unseen)
    probabilities = plain.probabilities_and_embeddings(unseen)[0]
    truth = probabilities.argmax(1)
    truth[::10] = (truth[::10] + 1) % len(CLASSES)
    reference["quality"] = describe(probabilities, truth)
    for version in "123":
        write_bundle(root / "models" / "pets" / version, reference=reference)
    bad = root / "models" / "pets" / "4"
    bad.mkdir()
    (bad / "bundle.json").write_text("{}")
    (root / "models" / "pets" / "traffic.json").write_text(
        '{"weights": {"1": 80, "2": 20}, "shadow": "3"}'
    )
    return root / "models", plain


def write_config(root, targets, alertmanager, webhook):
    """Writes the committed configuration with these addresses, and with times of a second."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [alertmanager]
    jobs = [job for job in config["scrape_configs"] if job["job_name"] in targets]
    for job in jobs:
        job.pop("scrape_interval", None)
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    config["scrape_configs"] = jobs
    (root / "rules").mkdir()
    for path in config["rule_files"]:
        rules = yaml.safe_load((FOLDER / path).read_text())
        for rule in (rule for group in rules["groups"] for rule in group["rules"]):
            if "for" in rule:
                rule["for"] = "1s"
        (root / path).write_text(yaml.safe_dump(rules))
    (root / "prometheus.yml").write_text(yaml.safe_dump(config))
    text = (FOLDER / "alertmanager.yml").read_text()
    text = text.replace("http://webhook.example.com", webhook)
    (root / "alertmanager.yml").write_text(re.sub(r"(group_\w+): \d+[sm]", r"\1: 1s", text))


class Stack:
    """All that runs: addresses, the webhook and the traffic."""

    def __init__(self, server, prometheus, webhook, traffic):
        self.server = server.url
        self.process = server.process
        self.prometheus = f"http://{prometheus}/api/v1"
        self.webhook = webhook
        self.traffic = traffic

    def ask(self, path, **parameters):
        answer = json.loads(get(f"{self.prometheus}/{path}", **parameters))
        assert answer["status"] == "success"
        return answer["data"]

    def has_data(self, expr, instant=False):
        """Returns whether a query of the dashboard has a number, as Grafana would ask."""
        expr = expr.replace("$__rate_interval", "15s")
        expr = expr.replace("$model", ".*").replace("$version", ".*")
        if instant:
            return bool(self.ask("query", query=expr)["result"])
        now = time.time()
        result = self.ask("query_range", query=expr, start=now - 600, end=now, step=1)["result"]
        return any(value != "NaN" for series in result for _, value in series["values"])


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt-get install prometheus prometheus-alertmanager")
    root = tmp_path_factory.mktemp("stack")
    models, plain = write_models(root)
    webhook = Webhook()
    prometheus, alertmanager, quality = (f"127.0.0.1:{free_port()}" for _ in range(3))
    flags = {"prediction_log": root / "log", "prediction_minutes": 0.05, "drift_window": 200}
    with contextlib.ExitStack() as running_programs:
        live = running_programs.enter_context(serve(models, **flags))
        targets = {"vision": live.url.removeprefix("http://")}
        traffic = Traffic(live.url, root / "labels.csv", plain)
        running_programs.callback(traffic.close)
        commands = [
            [
                "prometheus-alertmanager",
                f"--config.file={root}/alertmanager.yml",
                f"--storage.path={root}/alerts",
                f"--web.listen-address={alertmanager}",
                "--cluster.listen-address=",
            ],
            [
                "prometheus",
                f"--config.file={root}/prometheus.yml",
                f"--storage.tsdb.path={root}/series",
                f"--web.listen-address={prometheus}",
            ],
        ]
        targets["vision-quality"] = quality
        where = [
            f"--bundle={models}/pets/1",
            f"--log={root}/log",
            f"--labels={root}/labels.csv",
        ]
        command = [sys.executable, "-m", "vision.monitoring.quality", *where]
        commands.append([*command, f"--listen={quality}", "--every=5", "--window=400"])
        write_config(root, targets, alertmanager, webhook.url)
        for place, command in enumerate(commands):
            running_programs.enter_context(running(root / f"{place}.log", command))
        for program in (alertmanager, prometheus):
            assert until(lambda program=program: is_ready(program), 60), logs(root)
        yield Stack(live, prometheus, webhook, traffic)
    webhook.server.shutdown()


def panels(is_quality):
    """Returns [(title, query, whether it asks for the latest value only)] of the dashboard."""
    document = json.loads(dashboard.FILE.read_text())
    queries = [
        (panel["title"], target["expr"], target["instant"])
        for panel in document["panels"]
        for target in panel.get("targets", ())
    ]
    queries += [(mark["name"], mark["expr"], False) for mark in document["annotations"]["list"]]
    return [query for query in queries if ("vision_quality_" in query[1]) == is_quality]


def without_data(stack, queries):
    """Waits until all queries have data; returns those that still have none."""
    waiting = list(queries)

    def all_have():
        waiting[:] = [query for query in waiting if not stack.has_data(*query[1:])]
        return not waiting

    until(all_have)
    return waiting


def test_every_panel_has_data_and_calm_images_do_not_alarm(stack):
    assert without_data(stack, panels(is_quality=False)) == []
    assert len(panels(is_quality=False)) > 30
    assert stack.traffic.asked > 50
    assert stack.webhook.firing("VisionDrift") == []
    for variable in json.loads(dashboard.FILE.read_text())["templating"]["list"]:
        if match := re.fullmatch(r"label_values\((.+), (\w+)\)", variable.get("query", "")):
            series = match[1].replace("$model", ".*")
            values = stack.ask(f"label/{match[2]}/values", **{"match[]": series})
            assert values == {"model": ["pets"], "version": ["1", "2", "3", "4"]}[match[2]]


def test_every_panel_of_quality_has_data(stack):
    assert without_data(stack, panels(is_quality=True)) == []
    assert len(panels(is_quality=True)) > 8


def test_promtool_takes_the_metrics_and_prometheus_the_rules(stack):
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=get(f"{stack.server}/metrics"),
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
    rules = [rule for group in stack.ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 20
    assert [rule for rule in rules if rule["health"] != "ok"] == []
    assert {target["health"] for target in stack.ask("targets")["activeTargets"]} == {"up"}


def test_a_version_that_is_refused_is_a_ticket(stack):
    """And nothing else wakes anyone: before the first scrape there was no server, and a machine
    that runs other tests is slow."""
    (path, alert), *_ = until(lambda: stack.webhook.firing("VisionVersionRefused"), 30)
    assert path == "/ticket"
    assert alert["annotations"]["summary"] == "Version 4 of pets cannot be loaded"
    pages = {
        alert["labels"]["alertname"] for path, alert in stack.webhook.received if path == "/page"
    }
    assert pages <= {"VisionDown", "VisionSlow"}


def test_drift_reaches_the_webhook(stack):
    def features():
        alerts = stack.webhook.firing("VisionDrift")
        return {alert["labels"]["feature"]: (path, alert) for path, alert in alerts}

    assert features() == {}
    begun = time.monotonic()
    stack.traffic.light = 0.5
    assert until(lambda: "brightness" in features()), "no alert within the time"
    print(f"an alert {time.monotonic() - begun:.0f} s after the light changed")
    path, alert = features()["brightness"]
    assert path == "/ticket" and alert["labels"]["severity"] == "ticket"
    assert re.fullmatch(r"brightness of pets [123] has drifted", alert["annotations"]["summary"])
    assert "python -m vision.monitoring.drift" in alert["annotations"]["description"]
    firing = stack.ask("alerts")["alerts"]
    assert "VisionDrift" in {alert["labels"]["alertname"] for alert in firing}


def test_a_server_that_ends_is_a_page(stack):
    stack.traffic.close()
    before = len(stack.webhook.firing("VisionDown"))
    stack.process.send_signal(signal.SIGTERM)
    assert until(lambda: len(stack.webhook.firing("VisionDown")) > before, 60)
    assert stack.webhook.firing("VisionDown")[-1][0] == "/page"
