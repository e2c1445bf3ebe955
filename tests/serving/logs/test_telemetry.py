"""Metrics that Prometheus reads, and logs that never hold up who writes to them."""

import dataclasses
import io
import json
import os
import threading
import time

import numpy as np
import pandas as pd
import pytest
from prometheus_client.parser import text_string_to_metric_families

from vision.errors import UserError
from vision.serving.errors import NotFound, TooMany
from vision.serving.logs import telemetry as module
from vision.serving.logs.telemetry import AccessLog, Telemetry
from vision.serving.request import Answer, Request
from vision.serving.settings import Settings

QUIET = Settings(access_log="")


@dataclasses.dataclass
class Repository:
    """The little that the metrics ask of one."""

    ready: bool = True
    gone: tuple = ()

    def models(self):
        return {name: list(model_state["versions"]) for name, model_state in self.states().items()}

    def states(self):
        versions = {
            "1": {"state": "ready", "reason": ""},
            "2": {"state": "refused", "reason": "it is bad"},
        }
        there = {name: state for name, state in versions.items() if name not in self.gone}
        return {"pets": {"serving": "1", "versions": there}} if there else {}


@dataclasses.dataclass
class Version:
    model: str
    name: str


@pytest.fixture
def telemetry():
    quiet = Telemetry(QUIET)
    yield quiet
    quiet.close()


def answer(count=2, version="1"):
    probabilities = np.full((count, 2), 0.5, np.float32)
    seconds = {"decode": 0.003, "queue": 0.0007, "compute": 0.05}
    return Answer(
        "pets", version, ("cat", "dog"), probabilities, np.zeros((count, 4), np.float32), seconds
    )


def request(**fields):
    return Request("pets", [b"a", b"b"], id="r1", **fields)


def entry(**fields):
    return {"id": "r1", "model": "pets", "version": "1", "seconds": 0.06} | fields


def samples(telemetry):
    """Returns {(name, its labels' values): value} as Prometheus reads them."""
    data, content_type = telemetry.exposition()
    assert content_type.startswith("text/plain")
    families = text_string_to_metric_families(data.decode())
    return {
        (s.name, *(s.labels[k] for k in sorted(s.labels))): s.value
        for f in families
        for s in f.samples
    }


def test_answers_are_counted_by_protocol_model_version_and_code(telemetry):
    telemetry.answered(request(), answer())
    telemetry.answered(request(), answer(3))
    telemetry.answered(request(protocol="grpc"), answer(version="2"))
    counts = samples(telemetry)  # labels: code, model, protocol, version
    assert counts["vision_requests_total", "200", "pets", "rest", "1"] == 2
    assert counts["vision_requests_total", "OK", "pets", "grpc", "2"] == 1
    assert counts["vision_images_total", "pets", "1"] == 5


def test_stages_have_histograms(telemetry):
    telemetry.answered(request(), answer())
    telemetry.access(entry())
    values = samples(telemetry)
    for stage, seconds in {
        "decode": 0.003,
        "queue": 0.0007,
        "compute": 0.05,
        "total": 0.06,
    }.items():
        assert values["vision_stage_seconds_count", "pets", stage, "1"] == 1
        assert values["vision_stage_seconds_sum", "pets", stage, "1"] == pytest.approx(seconds)
    assert values["vision_stage_seconds_bucket", "0.004", "pets", "decode", "1"] == 1
    assert values["vision_stage_seconds_bucket", "0.002", "pets", "decode", "1"] == 0


def test_requests_that_found_no_version_have_no_total(telemetry):
    telemetry.access(entry(model="", version=""))
    assert not any(name == "vision_stage_seconds_count" for name, *_ in samples(telemetry))


def test_a_shadow_is_counted_apart(telemetry):
    telemetry.answered(request(), answer(version="3"), shadow=True)
    telemetry.shadow_failed(Version("pets", "3"), TooMany("full"))
    counts = samples(telemetry)
    assert counts["vision_shadow_requests_total", "pets", "answered", "3"] == 1
    assert counts["vision_shadow_requests_total", "pets", "TooMany", "3"] == 1
    assert not any(name == "vision_requests_total" for name, *_ in counts)


def test_failures_are_counted_by_version_without_mistakes_of_clients(telemetry):
    for error in (RuntimeError("bad"), TooMany("full"), NotFound("no such model"), TimeoutError()):
        telemetry.unanswered(Version("pets", "2"), error)
    telemetry.unanswered(Version("pets", "2"), RuntimeError("bad"))
    counts = samples(telemetry)
    names = {labels[0]: count for (name, *labels), count in counts.items() if "failures_t" in name}
    assert names == {"RuntimeError": 2, "TooMany": 1, "TimeoutError": 1}
    assert counts["vision_failures_total", "RuntimeError", "pets", "2"] == 2


def test_refusals_are_counted_by_the_protocols_own_codes(telemetry):
    telemetry.follow(Repository())
    telemetry.refused("rest", "pets", TooMany("full", 1.0))
    telemetry.refused("grpc", "pets", TooMany("full", 1.0))
    counts = samples(telemetry)
    assert counts["vision_requests_total", "429", "pets", "rest", ""] == 1
    assert counts["vision_requests_total", "RESOURCE_EXHAUSTED", "pets", "grpc", ""] == 1


def test_models_that_do_not_exist_make_no_series(telemetry):
    telemetry.follow(Repository())
    before = len(samples(telemetry))
    for i in range(100):
        telemetry.refused("rest", f"model {i}", NotFound("there is none"))
    counts = samples(telemetry)
    assert counts["vision_requests_total", "404", "", "rest", ""] == 100
    assert len(counts) <= before + 2  # the counter and when it was made


def test_the_series_of_a_version_go_with_it(telemetry):
    repository = Repository()
    telemetry.follow(repository)

    def ask(version):
        telemetry.answered(request(), answer(version=version))
        telemetry.answered(request(), answer(version=version), shadow=True)
        telemetry.batch("pets", version, 2, 0)
        telemetry.access(entry(version=version))
        telemetry.refused("rest", "pets", TooMany("full", 1.0))

    before = set(samples(telemetry))
    ask("1")
    alone = set(samples(telemetry))
    ask("2")
    both = set(samples(telemetry))
    # the refusal's counter and when it was made are the model's
    assert len(both - alone) == len(alone - before) - 2
    repository.gone = ("2",)
    assert len(samples(telemetry)) == len(alone) - 1  # its state
    telemetry.access(entry(version="2"))  # the last answer is sent
    assert not any(labels[-1] == "2" for labels in samples(telemetry))
    repository.gone = ("1", "2")
    assert "pets" not in {label for labels in samples(telemetry) for label in labels}
    assert telemetry._series == {}


def test_series_go_even_if_nobody_asks_for_the_metrics(telemetry):
    repository = Repository()
    telemetry.follow(repository)
    telemetry.answered(request(), answer(version="2"))
    repository.gone = ("2",)
    telemetry.answered(request(), answer(version="1"))
    assert {key[2] for key in telemetry._series} == {"1"}


def failure(text):
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


def test_the_same_error_is_shown_once_a_minute_and_counted(telemetry, capsys, monkeypatch):
    for _ in range(50):
        telemetry.failed("rest", "", failure("of one kind"))
        telemetry.failed("rest", "", failure("of another"))
    text = capsys.readouterr().err
    assert text.count("of one kind") == text.count("of another") == 1 and "more like it" not in text
    monkeypatch.setattr(module, "REPORT_EVERY", 0)
    telemetry.failed("rest", "", failure("of one kind"))
    assert "49 more like it were not shown in the 0 seconds before" in capsys.readouterr().err
    assert samples(telemetry)["vision_requests_total", "500", "", "rest", ""] == 101


def test_errors_of_many_kinds_fill_neither_memory_nor_stderr(telemetry, capsys, monkeypatch):
    monkeypatch.setattr(module, "KINDS", 10)
    for i in range(100):
        telemetry.failed("rest", "", failure(f"number {i}"))
    assert capsys.readouterr().err.count("ValueError: number") == 11  # one stands for the others
    assert len(telemetry._failures._kinds) == 11
    monkeypatch.setattr(module, "REPORT_EVERY", 0)
    telemetry.failed("rest", "", failure("later"))
    assert "ValueError: later" in capsys.readouterr().err and len(telemetry._failures._kinds) == 1


def test_an_error_of_ours_is_counted_and_shown_to_the_operator(telemetry, capsys):
    try:
        raise ValueError("deep inside")
    except ValueError as error:
        telemetry.failed("rest", "", error)
        telemetry.failed("grpc", "", error)
    counts = samples(telemetry)
    assert counts["vision_requests_total", "500", "", "rest", ""] == 1
    assert counts["vision_requests_total", "INTERNAL", "", "grpc", ""] == 1
    assert "ValueError: deep inside" in capsys.readouterr().err


def test_batches_and_the_queue(telemetry):
    telemetry.batch("pets", "1", 3, 17)
    telemetry.batch("pets", "1", 32, 0)
    values = samples(telemetry)
    assert values["vision_batch_images_bucket", "4.0", "pets", "1"] == 1
    assert values["vision_batch_images_sum", "pets", "1"] == 35
    assert values["vision_queue_images", "pets", "1"] == 0


def test_the_queue_has_a_limit_to_be_compared_with():
    quiet = Telemetry(dataclasses.replace(QUIET, max_queue=77))
    assert samples(quiet)["vision_queue_limit_images",] == 77
    quiet.close()


def test_versions_have_an_age(telemetry):
    telemetry.loaded(Version("pets", "1"), 1_700_000_000.5)
    telemetry.loaded(Version("pets", "1"), 1_700_000_001.5)  # its files were replaced
    assert samples(telemetry)["vision_version_written_seconds", "pets", "1"] == 1_700_000_001.5


def test_versions_are_shown_as_the_repository_has_them_now(telemetry):
    repository = Repository()
    telemetry.follow(repository)
    values = samples(telemetry)
    assert values["vision_version_state", "pets", "ready", "1"] == 1
    assert values["vision_version_state", "pets", "refused", "2"] == 1
    assert values["vision_version_serving", "pets", "1"] == 1
    assert values["vision_ready",] == 1
    repository.ready = False
    assert samples(telemetry)["vision_ready",] == 0


def test_the_process_is_measured_too(telemetry):
    assert samples(telemetry)["process_resident_memory_bytes",] > 1e6


def test_threads_may_count_at_once(telemetry):
    threads = [
        threading.Thread(target=lambda: [telemetry.batch("pets", "1", 1, 0) for _ in range(500)])
        for _ in "1234"
    ]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert samples(telemetry)["vision_batch_images_count", "pets", "1"] == 2000


def test_access_lines_are_json_in_their_order(tmp_path):
    telemetry = Telemetry(Settings(access_log=str(tmp_path / "access.jsonl")))
    for i in range(3000):
        telemetry.access(entry(id=f"r{i}", path="/v2/models/k\ud800\n/infer"))
    telemetry.close()
    lines = (tmp_path / "access.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [f"r{i}" for i in range(3000)]


def test_lines_are_written_within_the_second(tmp_path):
    path = tmp_path / "access.jsonl"
    telemetry = Telemetry(Settings(access_log=str(path)))
    telemetry.access(entry())
    deadline = time.monotonic() + 5
    while not path.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert json.loads(path.read_text())["id"] == "r1"
    telemetry.close()


def test_a_log_that_was_cut_goes_on(tmp_path):
    """What logrotate's copytruncate does."""
    log = AccessLog(tmp_path / "log")
    log.put({"n": 1})
    log.write()
    os.truncate(tmp_path / "log", 0)
    log.put({"n": 2})
    log.write(everything=True)
    assert (tmp_path / "log").read_text() == '{"n": 2}\n'


def test_a_reader_that_hangs_costs_lines_and_no_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "LINES", 10)
    log = AccessLog(tmp_path / "log")
    for i in range(25):
        log.put({"n": i})
    log.write(everything=True)
    assert log.lost == 15 and len((tmp_path / "log").read_text().splitlines()) == 10


class Full(io.StringIO):
    """A disk without room."""

    def write(self, text):
        raise OSError(28, "No space left on device")


def test_a_full_disk_is_told_of_once_and_ends_nothing(monkeypatch, capsys):
    monkeypatch.setattr(module, "PERIOD", 0.01)
    monkeypatch.setattr("sys.stdout", Full())
    telemetry = Telemetry(Settings(access_log="-"))
    for _ in range(3):
        telemetry.access(entry())
        time.sleep(0.03)
    telemetry.close()
    assert capsys.readouterr().err.count("the access log cannot be written") == 1
    assert samples(telemetry)["vision_log_lost", "access"] == 3


def test_predictions_go_to_parquet(tmp_path):
    telemetry = Telemetry(
        Settings(access_log="", prediction_log=str(tmp_path / "log"), log_hashes=True)
    )
    telemetry.answered(request(), answer())
    telemetry.answered(request(), answer(version="2"), shadow=True)
    telemetry.close()
    rows = pd.read_parquet(tmp_path / "log")
    assert (
        rows["version"].tolist() == ["1", "1", "2", "2"]
        and rows["shadow"].tolist() == [False] * 2 + [True] * 2
    )
    assert rows["sha256"].notna().all() and rows["confidence"].tolist() == [0.5] * 4


def test_a_log_that_cannot_be_opened(tmp_path):
    with pytest.raises(UserError, match="--access-log"):
        Telemetry(Settings(access_log=str(tmp_path / "missing" / "log")))


def test_counting_takes_microseconds(telemetry):
    asked = request()
    answered = answer()
    begun = time.perf_counter()
    for _ in range(1000):
        telemetry.answered(asked, answered)
    # 15 microseconds on a machine that does nothing else
    assert (time.perf_counter() - begun) / 1000 < 0.001
