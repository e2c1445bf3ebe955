"""Rules that Prometheus takes, a dashboard that is what its code says, names that exist on both
sides."""

import json
import pathlib
import re
import shutil
import subprocess

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from scripts.monitoring import dashboard
from tests.conftest import REPOSITORY
from tests.serving.logs.test_telemetry import Repository
from vision.monitoring.quality import exporter
from vision.serving import settings
from vision.serving.logs.telemetry import Telemetry

FOLDER = REPOSITORY / "scripts" / "monitoring"
TESTS = REPOSITORY / "tests" / "scripts" / "alert_rules.yml"
COMPOSE = yaml.safe_load((FOLDER / "docker-compose.yml").read_text())
RULES = [
    rule
    for name in ("recording", "alerts")
    for group in yaml.safe_load((FOLDER / "rules" / f"{name}.yml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
PANELS = json.loads(dashboard.FILE.read_text())["panels"]
DRAWN = [panel for panel in PANELS if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in DRAWN for target in panel["targets"]]
METRIC = re.compile(r"\b(?:model\w*:)?vision_[\w:]+")


@pytest.mark.parametrize(
    "command",
    [
        ["promtool", "check", "config", FOLDER / "prometheus.yml"],
        ["promtool", "check", "rules", *sorted((FOLDER / "rules").iterdir())],
        ["promtool", "test", "rules", TESTS],
        ["amtool", "check-config", FOLDER / "alertmanager.yml"],
    ],
    ids=lambda command: " ".join(command[:3] if command[0] == "promtool" else command[:2]),
)
def test_prometheus_takes_it(command):
    if not shutil.which(command[0]):
        pytest.skip(f"no {command[0]}: apt-get install prometheus prometheus-alertmanager")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_to_do_and_is_tested(name):
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"].keys() == {"summary", "description"}
    assert len(rule["annotations"]["description"].split()) > 10
    cases = [
        (case["alertname"], bool(case["exp_alerts"]))
        for group in yaml.safe_load(TESTS.read_text())["tests"]
        for case in group.get("alert_rule_test", ())
    ]
    assert (name, True) in cases and (name, False) in cases


def test_who_is_told():
    manager = yaml.safe_load((FOLDER / "alertmanager.yml").read_text())
    named = re.findall(r"Vision\w+", json.dumps(manager))
    assert named and set(named) <= set(ALERTS)
    receivers = {receiver["name"] for receiver in manager["receivers"]}
    routed = {route["receiver"] for route in (manager["route"], *manager["route"]["routes"])}
    assert routed == receivers == {"page", "ticket"}
    severities = {rule["labels"]["severity"] for rule in ALERTS.values()}
    matchers = [route["matchers"] for route in manager["route"]["routes"]]
    assert matchers == [['severity="page"']] and severities == {"page", "ticket"}


@pytest.fixture
def exposition(tmp_path):
    """What the server shows Prometheus before its first request."""
    telemetry = Telemetry(settings.Settings(access_log="", prediction_log=str(tmp_path)))
    telemetry.follow(Repository())
    text = telemetry.exposition()[0].decode()
    telemetry.close()
    return text


def metrics_of(text):
    """Returns the names of metrics, with the suffixes of histograms."""
    names = set()
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE):
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        names |= {name + suffix for suffix in suffixes}
    return names


def metrics_used():
    exprs = [rule["expr"] for rule in RULES] + QUERIES
    return {name for expr in exprs for name in METRIC.findall(expr)}


def test_rules_and_dashboard_name_metrics_that_exist(exposition):
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    used = {name for name in metrics_used() if not name.startswith("vision_quality_")}
    assert not used - recorded - metrics_of(exposition)
    assert recorded <= used


def test_they_name_metrics_of_quality_that_exist(exposition):
    registry = CollectorRegistry()
    registry.register(exporter.QualityMetrics())
    names = metrics_of(exposition) | metrics_of(generate_latest(registry).decode())
    assert {name for name in metrics_used() if name.startswith("vision_quality_")} <= names


def test_promtool_finds_nothing_to_say_about_the_metrics(exposition):
    if not shutil.which("promtool"):
        pytest.skip("no promtool: apt-get install prometheus")
    command = ["promtool", "check", "metrics"]
    done = subprocess.run(command, input=exposition, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_dashboard_is_what_its_code_says():
    assert dashboard.FILE.read_text() == dashboard.render(), (
        "python -m scripts.monitoring.dashboard"
    )


def test_the_command_writes_it(tmp_path, capsys):
    dashboard.main(["--out", str(tmp_path / "new" / "vision.json")])
    assert (tmp_path / "new" / "vision.json").read_text() == dashboard.render()
    assert capsys.readouterr().out == f"wrote {tmp_path}/new/vision.json\n"
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="error: .*/file/x.json cannot be written"):
        dashboard.main(["--out", str(tmp_path / "file" / "x.json")])


@pytest.mark.parametrize("panel", DRAWN, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_is(panel):
    assert len(panel["description"]) > 15
    if panel["type"] not in ("heatmap", "table"):
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults.get("unit") or defaults["mappings"]
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        assert panel["type"] in ("stat", "table") or "{{" in target["legendFormat"]


def test_panels_lie_side_by_side():
    taken = {}
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["id"]) == panel["id"], panel["title"]
    bottom = max(y for _, y in taken)
    assert {x for x, y in taken if y == bottom} == set(range(24))
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)


def test_thresholds_are_those_of_the_alerts():
    lines = {
        panel["title"]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"]
        for panel in DRAWN
        if panel["type"] in ("timeseries", "stat")
        and "thresholds" in panel["fieldConfig"]["defaults"]
    }
    for title, alert, scale in (
        ("Latency", "VisionSlow", 1),
        ("Share of the requests that fail", "VisionErrors", 1),
        ("Queue", "VisionQueueFull", 1),
        ("Age of the model", "VisionModelStale", 86_400),
        ("Since the latest window", "VisionDriftNotMeasured", 1),
    ):
        limit = re.search(r"> ([\d.]+)", ALERTS[alert]["expr"])[1]
        assert lines[title] == float(limit) * scale, title


def test_compose_mounts_what_is_there_and_gives_flags_that_exist():
    flags = {"--" + name.replace("_", "-") for name in settings.HINTS}
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (FOLDER / source).exists(), source
            elif not source.startswith("${"):
                assert source in COMPOSE["volumes"]
        if "build" in service:
            root = FOLDER / service["build"]["context"]
            assert (root / service["build"]["dockerfile"]).is_file()
    assert {flag.split("=")[0] for flag in COMPOSE["services"]["server"]["command"]} <= flags


def test_compose_s_services_are_those_that_prometheus_and_grafana_ask():
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    server, quality = config["scrape_configs"]
    groups = [server, config["alerting"]["alertmanagers"][0]]
    hosts = {group["static_configs"][0]["targets"][0].split(":")[0] for group in groups}
    hosts |= set(quality["dns_sd_configs"][0]["names"])
    provisioning = FOLDER / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    hosts.add(source["url"].removeprefix("http://").split(":")[0])
    assert hosts == {"server", "quality", "alertmanager", "prometheus"} <= set(COMPOSE["services"])
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    (provider,) = yaml.safe_load((provisioning / "dashboards/vision.yml").read_text())["providers"]
    mounts = dict(
        volume.split(":")[:2][::-1] for volume in COMPOSE["services"]["grafana"]["volumes"]
    )
    place = mounts[provider["options"]["path"]]
    assert (FOLDER / place / dashboard.FILE.name) == pathlib.Path(dashboard.FILE)
