"""Searches that train each network, or measure its latency in ONNX Runtime."""

import json

import pytest

from tests.search.architecture.conftest import SPACE, call, config, settings, supernet
from vision.models.layers.variants import choice_of, parse
from vision.search.architecture import __main__ as search
from vision.search.architecture import rank
from vision.search.architecture.costs import Latency, Task

__all__ = ["config", "supernet"]  # the fixtures
BUDGET = 100_000


def test_networks_that_are_trained_and_scored(config, tmp_path):
    argv = ("--config", config, "--trials=2", f"--budget={BUDGET}", "--sampler=tpe")
    argv += (
        "--scored=2",
        "--score=naswot",
        "--keep=0.9",
        "--beside=mobile_space:mu",
        f"--out={tmp_path / 'out'}",
    )
    lines = call(search, *argv)
    record = json.loads((tmp_path / "out" / "search.json").read_text())
    rows = record["rows"].values()
    assert len(rows) == 2 and all("score" in row for row in rows)
    for name, row in record["rows"].items():
        result = tmp_path / "out" / "runs" / name / "result.json"
        assert result.is_file() == ("accuracy" in row)
        parse(SPACE).check(choice_of(name))
    (beside,) = record["beside"]
    assert beside["title"] == "mobile_space:mu" and beside["macs"] > 0
    assert any(line.endswith(": mobile_space:mu") for line in lines)


def test_scores_choose_what_is_skipped(supernet, tmp_path):
    """A network is skipped exactly if its score is below that of half of the random ones."""
    flags = ("--score=grad_norm", "--keep=0.5", "--scored=3", "--sampler=random")
    argv = (f"--workdir={supernet}", f"--out={tmp_path / 'out'}", f"--budget={BUDGET}")
    call(search, *argv, *flags, "--trials=4")
    rows = json.loads((tmp_path / "out" / "search.json").read_text())["rows"].values()
    assert len(rows) == 4 and all(row["score"] > 0 for row in rows)
    skipped = [row["score"] for row in rows if "skipped" in row]
    judged = [row["score"] for row in rows if "accuracy" in row]
    assert len(skipped) + len(judged) == 4
    if skipped and judged:
        assert max(skipped) < min(judged)


def test_ranking(supernet, tmp_path):
    lines = call(
        rank,
        f"--workdir={supernet}",
        f"--out={tmp_path / 'out'}",
        "--networks=3",
        "--config.train.steps=2",
        "--config.train.eval_every=2",
    )
    record = json.loads((tmp_path / "out" / "ranking.json").read_text())
    assert len(record["networks"]) == 3 and -1 <= record["tau"] <= 1
    assert f"Kendall's tau {record['tau']:.3f}" in lines[-1]


def test_latency_in_onnx_runtime():
    """A network with forty times the multiply-adds takes longer than the reference."""
    pytest.importorskip("jax2onnx")
    task = Task(settings(), ("a", "b"), 24, 1)
    latency = Latency(task, ("mobile_space", "c8s2-w8e2-h16"), 1)
    assert latency.reference > 0
    assert latency(task.classifier("c32-w64d2k7e4-h64")) > 2 * latency.reference


def test_a_search_at_the_latency_of_another_architecture(supernet, tmp_path):
    """The best is measured within it, and no slower than what was predicted to be too slow."""
    pytest.importorskip("jax2onnx")
    out = tmp_path / "out"
    flags = ("--cost=latency", "--budget=mobile_space:mu", "--trials=4", "--measured=4")
    call(search, f"--workdir={supernet}", f"--out={out}", "--population=3", *flags)
    record = json.loads((out / "search.json").read_text())
    assert record["budget"] == record["latencies"]["mu"] > 0
    assert record["latencies"][record["best"]] <= record["budget"]
    both = [key for key in record["latencies"] if key.endswith(record["best"])]
    assert len(both) == 2  # it was measured again, and the longer one counts
    assert record["latencies"][record["best"]] == max(record["latencies"][key] for key in both)
    assert set(record["front"]) <= set(record["latencies"])
    assert record["prediction_error"] >= 0
