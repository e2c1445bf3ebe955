"""Every page, made by its command from small real data, is accessible on a desktop and a phone, in
light and in dark. That of the inspection case: test_steel_defects.py, the exported page:
test_web.py."""

import shutil

import numpy as np
import pytest

from tests.evaluation.conftest import LITTLE, evaluate
from tests.monitoring.conftest import START, Writer, photos
from tests.monitoring.conftest import watched as watched  # a fixture
from tests.monitoring.quality.conftest import Served
from tests.monitoring.quality.conftest import bundle as bundle  # a fixture
from tests.monitoring.rollout.conftest import Site, look
from tests.runs.made import make_run
from tests.support import ab_logs
from tests.support.axe import check_accessible
from tests.support.commands import exit_code
from tests.support.live_server import serve
from tests.support.search_command import SPACE, arguments
from tests.support.tiny_bundle import write_bundle
from tests.synthesize.test_synthesize import gan_config
from vision.audit import __main__ as audit
from vision.compression import report as compression
from vision.evaluation.compare import __main__ as compare
from vision.monitoring import collect, drift
from vision.monitoring.abtest import __main__ as abtest
from vision.monitoring.quality import __main__ as quality
from vision.runs import __main__ as runs
from vision.search import __main__ as search
from vision.serving.logs.kept_images import KeepRules
from vision.synthesize import __main__ as synthesize
from vision.training.run import run

DIGITS = [str(digit) for digit in range(10)]


@pytest.fixture(scope="module")
def evaluated(tiny_run, tmp_path_factory):
    """A copy of the run that has been evaluated, with everything that can be measured."""
    folder = shutil.copytree(tiny_run, tmp_path_factory.mktemp("evaluated") / "run")
    assert evaluate("--workdir", folder, **LITTLE) == 0
    return folder


def write_log(folder, served, monkeypatch):
    """Writes a log of 450 images, of which the last 150 are darker, and some are kept."""
    keep = KeepRules(share=0.1, seconds=1e12)
    writing = Writer(folder / "log", served[1], monkeypatch, rows=250, keep=keep)
    writing.put(photos(300, 3), START + np.arange(300))
    writing.put(photos(150, 4, light=0.6), START + 300 + np.arange(150))
    writing.close()
    return [f"--bundle={served[0]}", f"--log={folder / 'log'}", f"--out={folder}", "--window=150"]


def test_evaluation(evaluated, tmp_path):
    check_accessible((evaluated / "evaluation/report.html").as_uri(), tmp_path)


def test_comparison(evaluated, tmp_path):
    other = shutil.copytree(evaluated, tmp_path / "other")
    assert exit_code(compare.main, evaluated, other, "--split=test", "--out", tmp_path) == 0
    check_accessible((tmp_path / "comparison.html").as_uri(), tmp_path)


def test_audit(tmp_path):
    assert exit_code(audit.main, "--data=digits", f"--out={tmp_path}") == 0
    check_accessible((tmp_path / "report.html").as_uri(), tmp_path)


def test_runs(tmp_path):
    for seed, accuracy in enumerate((0.97, 0.99)):
        make_run(tmp_path / f"runs/vit-{seed}", accuracy, model__name="vit", seed=seed)
    make_run(tmp_path / "runs/resnet", None, ((10, 0.25), (40, 0.5)), model__name="resnet")
    assert exit_code(runs.main, tmp_path / "runs", "--out", tmp_path) == 0
    check_accessible((tmp_path / "report.html").as_uri(), tmp_path)


def test_search(tmp_path):
    out = tmp_path / "study"
    flags = (f"--space={SPACE}", "--trials=2", "--repeat=1", "--seeds=0,1")
    assert exit_code(search.main, *arguments(out, *flags)) == 0
    check_accessible((out / "report.html").as_uri(), tmp_path)


def test_compression(tmp_path):
    for name in ("first", "second"):
        write_bundle(tmp_path / name, DIGITS, 8, 1)
    argv = (tmp_path / "first", tmp_path / "second", "--data=digits", "--split=test")
    assert exit_code(compression.main, *argv, "--out", tmp_path / "out") == 0
    check_accessible((tmp_path / "out/report.html").as_uri(), tmp_path)


def test_synthesis(tmp_path):
    run(gan_config("digits?imbalance=4"), tmp_path / "run")
    argv = ("--workdir", tmp_path / "run", "--out", tmp_path / "made", "--balance")
    assert exit_code(synthesize.main, *argv) == 0
    check_accessible((tmp_path / "made/report.html").as_uri(), tmp_path)


def test_drift(watched, tmp_path, monkeypatch):
    assert exit_code(drift.main, *write_log(tmp_path, watched, monkeypatch)) == 0
    check_accessible((tmp_path / "report.html").as_uri(), tmp_path)


def test_images_to_label(watched, tmp_path, monkeypatch):
    (tmp_path / "made").mkdir()
    argv = write_log(tmp_path / "made", watched, monkeypatch)
    out = tmp_path / "collected"
    assert exit_code(collect.main, *argv, f"--out={out}", "--count=12") == 0
    check_accessible((out / "report.html").as_uri(), tmp_path)


def test_quality(bundle, tmp_path, monkeypatch):
    served = Served(tmp_path, bundle[0].fingerprint, monkeypatch)
    served.put(800, START)
    served.put(400, START + 80, wrong=0.3)
    served.close()
    argv = (f"--bundle={bundle[1] / 'bundle'}", f"--log={tmp_path / 'log'}", f"--out={tmp_path}")
    assert exit_code(quality.main, *argv, f"--labels={served.label()}", "--window=200") == 0
    check_accessible((tmp_path / "report.html").as_uri(), tmp_path)


def test_ab_test(tmp_path):
    columns, truth = ab_logs.draw(np.random.default_rng(0), 3000, (0.84, 0.9), images=2)
    columns["confidence"] = np.linspace(0.7, 0.9, len(truth)).astype(np.float32)
    ab_logs.write(tmp_path / "log", columns)
    ab_logs.write_labels(tmp_path / "labels.csv", columns["id"], columns["image"], truth)
    argv = ("analyze", f"--log={tmp_path / 'log'}", "--model=pets", "--old=1", "--new=2")
    argv += (f"--labels={tmp_path / 'labels.csv'}", "--sequential", "--effect=0.03")
    argv += ("--guardrail=confidence:-0.02", f"--out={tmp_path}")
    assert exit_code(abtest.main, *argv) == 0
    check_accessible((tmp_path / "report.html").as_uri(), tmp_path)


def test_rollout(tmp_path):
    site = Site(tmp_path)
    try:
        controller = site.begin()
        for _ in range(20):
            if look(controller)[0] == "finish":
                break
            site.serve(700)
    finally:
        site.close()
    check_accessible((site.out / "report.html").as_uri(), tmp_path)


def test_pages_of_the_server(tmp_path):
    write_bundle(tmp_path / "models/digits/1", DIGITS, 8, 1)
    with serve(tmp_path / "models", grpc_port=0) as live:
        for path in ("/", "/docs"):
            check_accessible(live.url + path, tmp_path)
