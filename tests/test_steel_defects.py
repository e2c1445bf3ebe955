"""The inspection case: what a stopped call leaves, and its page however it ends. All of it:
tests/slow."""

import contextlib
import json
import pathlib
import re
import shutil
import time

import cv2
import numpy as np
import pytest

from experiments import minutes
from experiments.steel_defects import case, page, run
from experiments.steel_defects.case import NEW, OLD, SIZES, Case
from tests.monitoring.conftest import photos
from tests.support.commands import exit_code, refusal
from tests.support.tiny_bundle import write_bundle
from vision.bundle.directory import open_bundle
from vision.errors import RunError


@pytest.fixture
def small(tmp_path):
    """The case in an empty directory."""
    return Case(tmp_path / "neu_det.tar", tmp_path / "work", SIZES["smoke"])


class Stopped(Exception):
    """Ends a stage where a test has seen enough."""


def test_a_command_is_done_once_its_last_file_is_there(small, monkeypatch):
    """Many commands make --out before they begin: a kill leaves that directory."""
    outputs = []

    def call(module, *words, output=None, **_):
        """A command that was killed after it had made its directory, and is then given again."""
        for word in words:
            flag, _, value = word.partition("=")
            if flag in ("--out", "--workdir"):
                pathlib.Path(value).mkdir(parents=True, exist_ok=True)
                pathlib.Path(value, ".lock").touch()
        assert not output.exists(), f"{module} would be skipped: {output}"
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text("{}")
        outputs.append(output)

    monkeypatch.setattr(case, "call", call)
    for stage in (small.audit, small.train, small.evaluate, small.audit_again, small.compress):
        stage()
    assert len(outputs) == len(set(outputs)) > 10
    assert {output.suffix for output in outputs} == {".json"}


def test_traffic_is_counted_once(small, monkeypatch):
    """What stopped attempts have logged and labeled is gone before the server starts."""

    @contextlib.contextmanager
    def serving(models, log):
        left = [name for name in ("log", "rollout", "labels") if (small.folder / name).exists()]
        weights = json.loads((models / "steel" / "traffic.json").read_text())["weights"]
        raise Stopped(left, weights)
        yield

    monkeypatch.setattr(case, "call", lambda *words, **options: 0)
    monkeypatch.setattr(case, "serving", serving)
    small.bundle(OLD).mkdir(parents=True)

    def attempt():
        for name in ("log", "rollout", "labels"):
            (small.folder / name).mkdir(exist_ok=True)
        (small.models / "steel" / "traffic.json").write_text(
            json.dumps({"weights": {OLD: 50, NEW: 50}})
        )
        with pytest.raises(Stopped) as stopped:
            small.watch()
        return stopped.value.args

    assert attempt() == ([], {OLD: 100})
    small.stage("traffic", dict)
    assert attempt() == (["log"], {OLD: 100})
    small.stage("rollout", dict)
    assert attempt() == (["log", "rollout", "labels"], {OLD: 50, NEW: 50})


def test_minutes_are_those_of_all_attempts(small, monkeypatch):
    """A stage that is stopped goes on counting; a kill, which ends no block, loses a period."""
    monkeypatch.setattr(minutes, "PERIOD", 0.01)
    file = small.folder / "stages" / "audit.time"

    def stopped():
        time.sleep(0.5)
        assert minutes.read_minutes(file) > 0.3 / 60  # what a kill would leave now
        raise Stopped

    for _ in range(2):
        with pytest.raises(Stopped):
            small.stage("audit", stopped)
    assert small.minutes == {}
    assert small.stage("audit", lambda: time.sleep(0.5)) is None
    assert small.minutes["audit"] == pytest.approx(minutes.read_minutes(file), abs=0.005)
    assert minutes.read_minutes(file) > 1.5 / 60
    # The parts of a finished stage too, of which a later call runs none.
    small.stage("watch", lambda: small.stage("drift", dict))
    again = Case(small.tar, small.folder, small.size)
    assert list(again.minutes) == ["audit", "drift", "watch"]


def test_sizes_do_not_mix(small, capsys):
    small.begin()
    small.begin()
    words = (small.tar, f"--workdir={small.folder}")
    assert "has stages of another size" in refusal(run.main, capsys, *words)
    (small.folder / "size.json").unlink()
    small.stage("drift", dict)  # as an earlier version of the script left it
    assert "has stages of another size" in refusal(run.main, capsys, *words, "--size=smoke")
    message = refusal(run.main, capsys, *words, "--size=smoke", "--record")
    assert message.startswith("--record needs --size full, got smoke")


def share(value):
    return {"value": value, "low": value - 0.05, "high": value + 0.03}


def gate_of(passed):
    rules = [
        {"text": "old: loses at most 3 points", "passed": passed},
        {"text": "new: gains at least 0 points", "passed": True},
    ]
    data = {"old": {"accuracy": [0.9, 0.88], "images": 177}}
    return {"passed": passed, "rules": rules, "data": data | {"new": {"accuracy": [0.5, 0.8]}}}


def watch_of(stop=""):
    """What the service's stage returns; `stop` is where its story ends."""
    drift = {"alarm": True, "windows": [{"alarm": False}, {"alarm": True}]}
    results = {"served": {"before": 0.9, "later": 0.5}, "drift": drift, "labeled": 150}
    results |= {"gate": gate_of(True), "rollout": None, "test": None}
    if stop == "drift":
        drift["alarm"] = drift["windows"][1]["alarm"] = False
        return results | {"labeled": None, "gate": None}
    if stop == "gate":
        return results | {"gate": gate_of(False)}
    rollout = {"status": "done", "weights": {OLD: 0, NEW: 100}, "reason": "", "failed": 0}
    rollout |= {"answers": {OLD: 700, NEW: 600}}
    if stop == "rollout":
        rollout |= {"status": "rolled back", "weights": {OLD: 100, NEW: 0}, "reason": "Slow."}
        return results | {"rollout": rollout}
    measure = {"difference": 0.3, "sequence": {"low": -0.1, "high": 0.6}}
    test = {"verdict": {"decision": "continue"}, "measure": measure}
    return results | {"rollout": rollout, "test": test}


@pytest.fixture
def results(small):
    """{stage: what it returned}, with the pictures that the page shows."""
    for number, label in enumerate(("crazing", "no_defect", "patches")):
        folder = small.patches / "train" / label
        folder.mkdir(parents=True)
        image = np.full((64, 64), 60 * number, np.uint8)
        cv2.imwrite(str(folder / "a.png"), image)
    cv2.imwrite(str(small.folder / "map.png"), np.full((40, 160, 3), 90, np.uint8))
    kinds = ("duplicate", "near_duplicate", "blurred", "blank", "outlier", "wrong_label")
    audit = {"images": 1770, "counts": dict.fromkeys(kinds, 3), "embeddings": "pretrained"}
    point = {"miss_rate": share(0.1), "false_alarm_rate": share(0.2)}
    evaluation = {
        "metrics": {"accuracy": share(0.9), "balanced_accuracy": share(0.88)},
        "operating_point": {"wanted_recall": 0.99, "at_argmax": point, "at_threshold": point},
    }
    latency = {"p50": 1.5, "speedup": 2.0}
    model = {"title": "lite0", "accuracy": share(0.9), "bytes": 13_000_000, "macs": 31_000_000}
    model |= {"latency_1": latency, "latency_32": latency}
    picture = {"name": "01.png", "defects": 2, "score": 0.9, "is_right": True, "is_judged": True}
    picture |= {"tiles": 1785, "map": str(small.folder / "map.png")}
    scan = {"pictures": [picture], "threshold": 0.5, "bad": 1, "clean": 0, "misses": 0}
    parts = ("train", "val", "test", "before", "later", "tests")
    trained = {"accuracy": 0.9, "train_seconds": 90.0, "device": "1 x cpu"}
    return {
        "prepare": {"patches": dict.fromkeys(parts, 60)},
        "audit": audit,
        "train": dict.fromkeys(("resnet-cbam", "lite0"), trained),
        "evaluate": dict.fromkeys(("resnet-cbam", "lite0", "lite0-defect"), evaluation),
        "audit_again": audit | {"embeddings": "runs/lite0"},
        "compress": {"models": [model]},
        "scan": scan | {"false_alarms": 0, "defects": 2, "seen": 1},
        "watch": watch_of(),
    }


def finish(small, results):
    """Writes the records of stages."""
    for name, result in results.items():
        small.stage(name, lambda result=result: result)


@pytest.mark.parametrize(
    "stop,verdict,text",
    [
        ("", "The new version got 100 % of the traffic; 0 of 1,300", "becomes all of the traffic"),
        ("drift", "drift gives no alarm: nothing is learned.", "so nothing is learned."),
        ("gate", "Broken: old: loses at most 3 points.", "the gate does not let it pass."),
        ("rollout", "The new version was rolled back. Slow.", "a canary is rolled back."),
    ],
)
def test_the_page_tells_how_the_service_ended(small, results, stop, verdict, text):
    results["watch"] = watch_of(stop)
    finish(small, results)
    page.write(small, results)
    html = (small.folder / "report.html").read_text()
    assert verdict in html and text in html
    assert html.count('class="bad"') == bool(stop)
    assert ("one of the gate&#39;s test patches is 0.6 points" in html) == (stop != "drift")


@pytest.mark.parametrize("stop", ["", "drift", "gate", "rollout"])
def test_the_service_goes_as_far_as_it_can(small, monkeypatch, stop):
    wanted = watch_of(stop)
    stages = {"_ask": "served", "_drift": "drift", "_collect": "labeled", "_gate": "gate"}
    stages |= {"_roll_out": "rollout", "_analyze": "test"}
    for name, key in stages.items():
        monkeypatch.setattr(small, name, lambda *_, key=key: wanted[key])
    monkeypatch.setattr(small, "_learn", dict)
    assert small._improve("") == wanted
    assert (
        list(small.minutes)
        == {
            "": ["traffic", "drift", "collect", "learn", "gate", "rollout", "abtest"],
            "drift": ["traffic", "drift"],
            "gate": ["traffic", "drift", "collect", "learn", "gate"],
            "rollout": ["traffic", "drift", "collect", "learn", "gate", "rollout"],
        }[stop]
    )


def test_a_gate_that_says_no_is_a_result(small):
    """The images have the old model's answers as labels, so that the new one loses."""
    resize = {"crop_fraction": 1.0, "interpolation": "bilinear"}
    random = np.random.default_rng(5)
    other = [random.normal(size=shape).astype(np.float32) for shape in ((64, 6), (6, 2))]
    for name, matrices in (("lite0-pruned", None), ("next", other)):
        model = {"matrices": matrices}
        write_bundle(small.run(name), ["a", "b"], resize=resize, model=model)
    images = photos(60, 1)
    answers = open_bundle(small.run("lite0-pruned")).probabilities_and_embeddings(images)[0]
    rows = ["path,label,split"]
    for number, (image, label) in enumerate(zip(images, answers.argmax(1), strict=True)):
        for part in ("test", "tests"):
            file = small.patches / part / "ab"[label] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), image)
        rows.append(f"test/{'ab'[label]}/{number}.png,{'ab'[label]},test")
    (small.patches / "lab.csv").write_text("\n".join(rows) + "\n")
    gate = small._gate()
    assert gate["passed"] is False
    assert [rule["limit"] for rule in gate["rules"] if rule["kind"] == "max-loss"] == [case.LOSS]


def test_the_page_says_what_was_used(small, results):
    """Where the models were trained, and by what each audit has compared."""
    finish(small, results)
    results["train"] = {name: row | {"device": "1 x gpu"} for name, row in results["train"].items()}
    page.write(small, results)
    html = (small.folder / "report.html").read_text()
    assert "trained on 1 x gpu, jax" in html and "no GPU" not in html
    assert "<td>pictures, by ImageNet&#39;s EfficientNet-Lite0</td>" in html
    assert "<td>patches, by the trained EfficientNet-Lite0</td>" in html
    results["audit"] |= {"embeddings": "pixels"}
    page.write(small, results)
    assert "<td>pictures, by pixels</td>" in (small.folder / "report.html").read_text()


def test_the_tables_of_readme_are_written(small, results, tmp_path):
    finish(small, results)
    shutil.copy(page.HERE / "README.md", tmp_path)
    for _ in range(2):  # the second call replaces what the first has written
        page.record(small, results, tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "not run" not in text and text.count("<!-- end -->") == 8
    assert text.count("| ResNet-18 with CBAM | 90.0 % (85.0 to 93.0) |") == 1
    assert text.count("- The new version got 100 % of the traffic") == 1
    shown = re.findall(r"!\[.*\]\((.*)\)", text)
    assert shown == ["pictures/patches.jpg", "pictures/map.jpg"]
    assert all(cv2.imread(str(tmp_path / name)) is not None for name in shown)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table


def test_a_stage_that_fails_leaves_the_page_of_those_before(small, results, monkeypatch, capsys):
    """And the same call goes on with it."""
    for name in ("prepare", "audit", "train"):
        small.begin()
        small.stage(name, lambda name=name: results[name])

    def fail(_):
        raise RunError("the experiment ends here: vision.evaluation exited with code 1")

    monkeypatch.setattr(Case, "evaluate", fail)
    words = (small.tar, f"--workdir={small.folder}", "--size=smoke")
    assert exit_code(run.main, *words) == 1
    html = (small.folder / "report.html").read_text()
    assert "The stage evaluate has failed: the experiment ends here" in html
    assert "is right about 90.0 %" in html and '<h2 id="minutes"' in html
    assert '<h2 id="models"' not in html and '<h2 id="service"' not in html
    for name in ("evaluate", "audit_again", "compress", "scan", "watch"):
        monkeypatch.setattr(Case, name, lambda _, name=name: results[name])
    assert exit_code(run.main, *words) == 0
    html = (small.folder / "report.html").read_text()
    assert "The stage" not in html and html.count("<h2 ") == 7
