"""Drift on the metrics endpoint: one window at a time, of versions that have a reference."""

import dataclasses

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.answering import answer
from tests.support.drifting import draw
from vision.reference import features, quality, statistics
from vision.reference.sketch import sketch
from vision.serving.logs import drift_metrics
from vision.serving.logs.drift_metrics import DriftMetrics, Rows
from vision.serving.logs.telemetry import Telemetry
from vision.serving.request import Answer, Description, Request
from vision.serving.settings import Settings

CLASSES = ("a", "b", "c", "d")
WINDOWS = "vision_drift_windows_total"


@pytest.fixture(scope="module")
def reference():
    random = np.random.default_rng(0)
    return {"drift": statistics.describe(*draw(500, random))}


def answers(reference, count, shift=0.0, seed=1, version="1"):
    """Returns (answer, rows) of a request of `count` images."""
    looks, probabilities, embeddings = draw(count, np.random.default_rng(seed), shift)
    description = Description(looks, f"print {version}", reference)
    answer = Answer("pets", version, CLASSES, probabilities, embeddings, {}, None, description)
    best, numbers = features.outputs(probabilities)
    values = np.concatenate([looks, numbers], 1)
    return answer, Rows(values, best, sketch(embeddings), np.full(count, 1000.0 + seed))


def values_of(metrics):
    """Returns {(name, *labels' values): value}."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in metrics.collect()
        for sample in family.samples
    }


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(drift_metrics, "PERIOD", 0.0)


def test_a_full_window_is_compared(reference, at_once):
    metrics = DriftMetrics(200)
    metrics.add(*answers(reference, 150))
    assert values_of(metrics) == {(WINDOWS, "pets", "1"): 0}
    metrics.add(*answers(reference, 150, seed=2))
    calm = values_of(metrics)
    assert calm[WINDOWS, "pets", "1"] == 1
    assert calm["vision_drift_window_end_seconds", "pets", "1"] == 1002
    assert calm["vision_drift_alarm", "pets", "1", "brightness"] == 0
    assert 0 < calm["vision_drift_divergence", "pets", "1", "brightness", "kl"] < 0.2
    metrics.add(*answers(reference, 250, shift=1.0, seed=3))
    drifted = values_of(metrics)
    assert drifted[WINDOWS, "pets", "1"] == 2
    assert drifted["vision_drift_alarm", "pets", "1", "brightness"] == 1
    assert drifted["vision_drift_divergence", "pets", "1", "brightness", "kl"] > 0.2
    assert drifted["vision_drift_p_value", "pets", "1", "brightness"] <= 0.01
    assert ("vision_drift_alarm", "pets", "1", "aspect_ratio") not in drifted  # one value only


def test_the_accuracy_of_a_full_window_is_estimated(reference, at_once):
    """By CBPE: the mean over its rows of the accuracy that the reference's confidence meant."""
    probabilities = answer(800, np.random.default_rng(0))
    contents = reference | {"quality": quality.describe(*probabilities)}
    metrics = DriftMetrics(200)
    key = "vision_quality_estimated_accuracy", "pets", "1"
    windows = [answers(contents, 150), answers(contents, 150, seed=2)]
    metrics.add(*windows[0])
    assert key not in values_of(metrics)
    metrics.add(*windows[1])
    knots = contents["quality"]["cbpe"]
    confidence = np.concatenate([rows.values[:, 7] for _, rows in windows]).astype(np.float64)
    expected = np.interp(confidence, knots["confidence"], knots["accuracy"]).mean()
    assert values_of(metrics)[key] == pytest.approx(expected)
    metrics.add(*answers(reference, 250, version="2"))
    shown = values_of(metrics)
    assert ("vision_drift_alarm", "pets", "2", "brightness") in shown  # drift without quality
    assert ("vision_quality_estimated_accuracy", "pets", "2") not in shown
    metrics.keep([])
    assert values_of(metrics) == {}


def test_a_window_takes_a_minute_at_least(reference):
    metrics = DriftMetrics(10)
    metrics.add(*answers(reference, 500))
    assert values_of(metrics) == {(WINDOWS, "pets", "1"): 0}


@pytest.mark.parametrize("contents", [None, {}, {"drift": {"format": 99}}, {"drift": 3}])
def test_a_bundle_without_a_reference_has_no_series(contents, at_once):
    metrics = DriftMetrics(10)
    metrics.add(*answers(contents, 50))
    assert values_of(metrics) == {}


def test_answers_without_a_description_are_passed_over(reference, at_once):
    metrics = DriftMetrics(10)
    answer, rows = answers(reference, 50)
    metrics.add(dataclasses.replace(answer, description=None), rows)
    assert values_of(metrics) == {}


def test_a_version_that_is_replaced_begins_again(reference, at_once):
    metrics = DriftMetrics(100)
    metrics.add(*answers(reference, 120))
    answer, rows = answers(reference, 60, shift=1.0)
    replaced = answer.description._replace(fingerprint="another")
    metrics.add(dataclasses.replace(answer, description=replaced), rows)
    assert values_of(metrics) == {(WINDOWS, "pets", "1"): 0}
    metrics.add(*answers(reference, 120, version="2"))
    metrics.keep([("pets", "1")])
    assert ("pets", "2") not in {key[1:3] for key in values_of(metrics)}


def test_the_server_shows_it(reference, tmp_path, at_once):
    settings = Settings(
        access_log="", prediction_log=str(tmp_path), drift_window=100, prediction_minutes=60.0
    )
    telemetry = Telemetry(settings)
    answer, _ = answers(reference, 150, shift=1.0)
    telemetry.answered(Request("pets", [b""] * 150, id="r"), answer)
    telemetry.close()
    families = text_string_to_metric_families(telemetry.exposition()[0].decode())
    alarms = {
        sample.labels["feature"]: sample.value
        for family in families
        for sample in family.samples
        if sample.name == "vision_drift_alarm"
    }
    assert alarms["brightness"] == 1 and alarms["embedding_mmd"] == 1
    assert len(list(tmp_path.glob("*.parquet"))) == 1


def test_a_fault_of_the_comparison_loses_no_row(reference, tmp_path, at_once, monkeypatch, capsys):
    def fail(*_, **__):
        raise ValueError("a bug")

    monkeypatch.setattr(drift_metrics, "assess", fail)
    telemetry = Telemetry(Settings(access_log="", prediction_log=str(tmp_path), drift_window=100))
    answer, _ = answers(reference, 150)
    telemetry.answered(Request("pets", [b""] * 150, id="r"), answer)
    telemetry.close()
    assert "a bug" in capsys.readouterr().err
    shown = telemetry.exposition()[0].decode()
    assert 'vision_log_lost{log="prediction"} 0.0' in shown
    # VisionDriftNotMeasured counts windows that were compared
    assert f'{WINDOWS}{{model="pets",version="1"}} 0.0' in shown


def test_it_can_be_switched_off(tmp_path):
    telemetry = Telemetry(Settings(access_log="", prediction_log=str(tmp_path), drift_window=0))
    telemetry.close()
    assert b"vision_drift" not in telemetry.exposition()[0]
