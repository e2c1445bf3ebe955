"""What Prometheus is shown, and a loop that outlives a look that fails."""

import http.client
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.monitoring.conftest import START
from vision.errors import UserError
from vision.monitoring.cutting import Span
from vision.monitoring.quality import exporter
from vision.monitoring.quality.analysis import Request, analyze, signature
from vision.monitoring.quality.decay import Limits
from vision.monitoring.quality.exporter import QualityMetrics, parse_address


@pytest.fixture
def request_of(bundle, tmp_path):
    """`request_of(labels, rows)`: what is to be looked at."""

    def make(labels, rows=200):
        folder = bundle[1] / "bundle"
        return Request(folder, tmp_path / "log", labels, str(rows), Span(rows, 0), 50, Limits())

    return make


def values_of(families):
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_metrics_are_those_of_the_record(decayed, request_of):
    metrics = QualityMetrics()
    metrics.update(analyze(request_of(decayed)).record)
    shown = values_of(metrics.collect())
    window = analyze(request_of(decayed)).record["versions"][0]["windows"][-1]
    key = ("zoo", "3")
    assert shown["vision_quality_accuracy", *key] == window["accuracy"]["value"]
    assert shown["vision_quality_accuracy_low", *key] == window["accuracy"]["low"]
    assert shown["vision_quality_accuracy_high", *key] == window["accuracy"]["high"]
    assert shown["vision_quality_recall", *key, "cat"] == window["recall"]["cat"]["value"]
    error = window["calibration"]["error"]["value"]
    assert shown["vision_quality_calibration_error", *key] == error
    assert shown["vision_quality_labels", *key] == 200
    assert shown["vision_quality_alarm", *key] == 1
    assert shown["vision_quality_window_end_seconds", *key] == START + 119


def test_without_enough_labels_only_their_number_is_shown(decayed, request_of):
    metrics = QualityMetrics()
    assert set(values_of(metrics.collect())) == {("vision_quality_failed_looks_total",)}
    metrics.update(analyze(request_of(None)).record)
    names = {key[0] for key in values_of(metrics.collect())}
    others = {"vision_quality_looked_seconds", "vision_quality_failed_looks_total"}
    assert names - others == {"vision_quality_labels"}


class Stop(BaseException):
    pass


def test_it_goes_on_after_a_look_that_fails(decayed, request_of, capsys):
    """Scraped over HTTP after each look."""
    record = analyze(request_of(decayed)).record
    lines = []
    scraped = []

    def look():
        if len(scraped) >= 2:
            raise Stop
        port = int(lines[0].split(":")[2].partition("/")[0])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        scraped.append(values_of(text_string_to_metric_families(text)))
        if len(scraped) == 2:
            raise UserError("the log is gone")
        return record

    threads = threading.active_count()
    with pytest.raises(Stop):
        exporter.listen(("127.0.0.1", 0), 0.0, look, lines.append)
    assert ("vision_quality_alarm", "zoo", "3") not in scraped[0]
    assert scraped[1]["vision_quality_alarm", "zoo", "3"] == 1
    assert capsys.readouterr().err == "error: the log is gone\n"
    assert lines[0].startswith("quality at http://127.0.0.1:") and "every 0 s" in lines[0]
    assert threading.active_count() <= threads + 1  # the server's, which ends on its own


def test_the_signature_changes_with_the_files(decayed, served, request_of):
    request = request_of(decayed)
    before = signature(request)
    assert signature(request) == before
    served.put(100, START + 500)
    served.close()
    later = signature(request)
    assert later != before
    served.label(share=0.5)
    assert signature(request) != later


def test_addresses():
    assert parse_address("127.0.0.1:9109") == ("127.0.0.1", 9109)
    assert parse_address("[::1]:0") == ("::1", 0)
    for text in ("9109", ":9109", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "a:" + 5000 * "9"):
        with pytest.raises(UserError, match="--listen must be ADDRESS:PORT"):
            parse_address(text)
    with pytest.raises(UserError, match="cannot be opened"):
        exporter.listen(("192.0.2.1", 9109), 1.0, dict, print)
