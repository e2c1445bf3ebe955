"""The command as its user types it: one or two lines per mistake, and exit codes."""

import errno
import json

import numpy as np
import pytest
import yaml

from tests.monitoring.rollout.conftest import PLAN, look
from tests.support.commands import outcome
from vision.monitoring.rollout import state as states
from vision.monitoring.rollout import traffic
from vision.monitoring.rollout.__main__ import LOCK, main
from vision.monitoring.rollout.controller import Controller
from vision.reference import statistics
from vision.support.lock import locked

QUICK = ["--interval=0.05", "--settle=0"]


@pytest.fixture
def run(site, capsys):
    """Returns a function that runs the command, and returns (exit code, stdout, stderr)."""

    def run(*argv, **changes):
        flags = {
            "models": site.root,
            "model": "pets",
            "to": "2",
            "server": site.url,
            "out": site.out,
        } | changes
        given = [f"--{name}={value}" for name, value in flags.items() if value is not None]
        return outcome(main, capsys, *given, *QUICK, *argv)

    return run


def test_what_is_missing_or_wrong_is_said_at_once(run, site, tmp_path):
    (tmp_path / "file").write_text("")
    before = (site.folder / "traffic.json").read_bytes()
    for changes, argv, message in (
        ({"model": None}, [], "give --model NAME"),
        ({"server": None}, [], "give --server URL"),
        ({"server": "localhost:8080"}, [], "--server must be a URL"),
        ({"models": tmp_path / "none"}, [], "there is no directory --models"),
        ({"model": "pest"}, [], "(did you mean 'pets'?)"),
        ({"to": "3"}, [], "--to = '3' is unknown: choose from 1, 2"),
        ({}, ["--from=7"], "--from = '7' is unknown"),
        ({}, ["--from=2"], "--from and --to are both 2"),
        ({"to": "1"}, [], "version 1 of pets has the traffic already: give --from"),
        ({"to": "1"}, ["--from=2"], "gives traffic to 1 (1: 1)"),
        ({}, ["--steps=5,1,100"], "--steps must be percentages that rise to 100"),
        ({}, ["--window=soon"], "--window must be a number of rows, or a time"),
        ({}, ["--min-answers=0"], "--min-answers must be at least 1"),
        ({}, ["--errors=nan"], "--errors must be in [0.000001, 1]"),
        ({}, ["--guards=speed"], "--guards = 'speed' is unknown"),
        ({}, ["--guards=accuracy"], "--guards accuracy needs --labels"),
        ({}, ["--labels=labels"], "--labels needs --log"),
        ({}, [f"--log={tmp_path / 'none'}"], "there is no directory --log"),
        ({}, [f"--log={tmp_path}", f"--labels={tmp_path / 'none'}"], "must be a folder that"),
        ({"server": "http://127.0.0.1:9"}, [], "127.0.0.1:9 cannot be reached: Connection refus"),
        ({}, [f"--key-file={tmp_path / 'none'}"], "No such file"),
        ({}, ["--webhook=localhost:9/hook"], "--webhook must be a URL such as"),
        ({}, ["extra"], "unexpected argument 'extra'"),
    ):
        code, out, err = run(*argv, **changes)
        assert (code, out) == (2, ""), (changes, argv, err)
        assert message in err and len(err.splitlines()) <= 2 and "Traceback" not in err, err
    assert (site.folder / "traffic.json").read_bytes() == before and not site.out.exists()


def test_a_server_of_other_models_is_refused(run, site):
    site.states_of.pop("2")
    assert "does not have version 2 of pets: does it serve" in run()[2]
    site.states_of["2"] = "refused"
    code, _, err = run()
    assert code == 2 and "version 2 of pets is refused at" in err
    site.down = True
    assert "says 503" in run()[2]


def test_the_highest_version_has_the_traffic_if_nobody_says_else(run, site):
    (site.folder / "traffic.json").unlink()
    code, out, err = run("--from=1", "--dry-run")
    assert code == 0 and "would set the weights 1: 99, 2: 1" in out, err


def test_drift_is_guarded_if_servers_and_bundles_have_it(run, site):
    assert "has no reference to measure drift from" in run("--dry-run")[1]
    code, _, err = run("--dry-run", "--guards=drift")
    assert code == 2 and err.startswith("error: --guards drift cannot be read: ")
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(10), 50).astype(np.float32)
    looks = random.random((50, 7), np.float32)
    drift = statistics.describe(looks, probabilities, random.random((50, 6), np.float32))
    for version in ("1", "2"):
        file = site.folder / version / "bundle.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"reference": {"drift": drift}}))
    assert "servers compare windows only with --prediction-log" in run("--dry-run")[1]
    site.extra = "# TYPE vision_drift_alarm gauge\n"
    assert "drift" in run("--dry-run")[1].splitlines()[1]


def test_a_second_controller_is_refused(run, site, tmp_path):
    with locked(site.folder, "--model pets:", LOCK):
        code, out, err = run(out=tmp_path / "other")
    assert (code, out) == (2, "") and "in use by another process" in err
    assert len(err.splitlines()) == 1 and site.weights == {"1": 1}
    assert not (site.folder / LOCK).exists()


def test_a_dry_run_says_what_would_be_done_and_does_nothing(run, site):
    code, out, err = run("--dry-run")
    lines = out.splitlines()
    assert code == 0 and err == "" and len(lines) == 4
    assert lines[0].startswith("drift cannot be read, so it is not a guardrail: ")
    assert lines[1].startswith("pets: from version 1 to 2 by 1 %, 5 %, 25 %, 100 %")
    assert lines[2] == "guardrails: errors at most 0.01 more; p99 at most 2 times as long"
    assert lines[3] == "now: would set the weights 1: 99, 2: 1"
    assert site.weights == {"1": 1} and not site.out.exists()


def test_a_dry_run_of_a_rollout_in_progress(run, site):
    controller = site.begin()
    look(controller)
    site.serve(3500)
    before = (site.out / "rollout.json").read_bytes()
    flags = ["--steps=10,50,100", "--window=300", "--min-answers=150", "--dry-run"]
    code, out, _ = run(*flags)
    assert code == 0 and "now, at 10 %: raise: 350 requests" in out
    assert (site.out / "rollout.json").read_bytes() == before and site.weights["2"] == 10


def test_without_traffic_it_gives_up_and_the_same_command_continues(run, site):
    code, out, err = run("--patience=0.4")
    assert code == 3 and "error: the rollout stays at 1 %: " in err
    assert site.weights == {"1": 99, "2": 1} and site.record["status"] == "paused"
    code, out, _ = run("--patience=0.4")
    assert code == 3 and "\ncontinues at 1 % of the traffic" in out
    code, _, err = run("--steps=2,100")
    assert code == 2 and "is a rollout of pets from 1 to 2 by 1,5,25,100" in err


def test_a_full_disk_is_not_a_rollback(run, site, monkeypatch):
    save = states.save
    saved = []

    def save_twice(out, state):
        saved.append(state)
        if len(saved) > 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(out / states.FILE))
        save(out, state)

    monkeypatch.setattr(states, "save", save_twice)
    code, _, err = run(f"--webhook={site.url}/hook")
    assert code == 3 and "the rollout stopped: cannot write to --out" in err
    assert len(err.splitlines()) == 1 and "No space left" in site.posts[-1]["text"]
    assert site.weights == {"1": 99, "2": 1}


def test_a_kill_before_the_first_weights_loses_nothing(run, site, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    for name in ("write", "read"):  # before the weights are written, and after
        with monkeypatch.context() as patch:
            if name == "write":
                patch.setattr(traffic, "write", killed)
            else:
                patch.setattr(Controller, "look", killed)
            assert run()[0] == 130
        code, out, _ = run("--dry-run")
        assert code == 0 and "now, at 1 %: wait: The step has begun" in out


def test_a_version_that_went_back_stays_so(run, site):
    controller = site.begin()
    look(controller)
    site.serve(2500, failed=60)
    look(controller)
    record = site.record
    code, _, err = run("--steps=10,50,100")
    assert code == 1 and err.startswith(
        "error: version 2 of pets was rolled back. Version 2 is worse: "
    )
    assert site.record == record and site.weights == {"1": 100, "2": 0}


def test_a_damaged_state_is_kept(run, site):
    site.out.mkdir()
    (site.out / "rollout.json").write_text('{"format": 2, "model": "pets"}')
    code, _, err = run()
    assert code == 2 and "rollout.json" in err and "another --out" in err
    assert (site.out / "rollout.json").read_text() == '{"format": 2, "model": "pets"}'
    (site.out / "rollout.json").write_text('{"format": 9}')
    assert "is of format 9, but this version reads 2" in run()[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 99}, "'step' must be from 0 to 2 if it is running, got 99"),
        ({"step": -1}, "'step' must be from 0 to 2"),
        ({"status": "done"}, "'step' must be from 2 to 2 if it is done"),
        ({"weights": {}}, "'weights' must be those of the step"),
        ({"weights": {"1": 9, "2": 91}}, "'weights' must be those of the step"),
        ({"fingerprints": {}}, "'fingerprints' must be"),
        ({"tallies": {"1": {"le x": 3}}}, "tallies.1 must be counts"),
        ({"tallies": {"1": []}}, "tallies.1 must be counts"),
        ({"tallies": {"1": {"le 1": 3}}}, "tallies.1 must be counts"),
        ({"latest": {"a": {"1": {"answered": "3"}}}}, "latest.a.1 must be counts"),
        ({"updated_at": 1e300}, "updated_at must be a number from 0 to 1e+11"),
        ({"decisions": [{"readings": [{"name": "errors"}]}]}, "is missing"),
    ],
    ids=range(12),
)
def test_a_damaged_state_is_one_line(run, site, changes, message):
    look(site.begin())
    record = site.record
    if "decisions" in changes:
        changes = {"decisions": [record["decisions"][0] | changes["decisions"][0]]}
    text = json.dumps(record | changes)
    (site.out / "rollout.json").write_text(text)
    code, out, err = run("--steps=10,50,100", "--dry-run")
    assert (code, out, len(err.splitlines())) == (2, "", 1) and message in err, err
    assert "another --out" in err and (site.out / "rollout.json").read_text() == text


def test_weights_that_are_no_weights(run, site):
    site.set_weights({"weights": {"1": "all"}})
    code, _, err = run()
    assert code == 2 and "traffic.json" in err
    site.set_weights({"weights": {"1": 90, "2": 10}})
    assert "gives traffic to 2 (1: 90, 2: 10)" in run()[2]


@pytest.mark.parametrize("kind", ["argo", "kserve"])
def test_manifests_are_printed(run, kind):
    names = {"models": None, "server": None, "out": None}
    code, out, err = run("--from=1", f"--manifest={kind}", "--steps=2,20,100", **names)
    assert (code, err) == (0, "")
    documents = list(yaml.safe_load_all(out))
    if kind == "argo":
        template, rollout = documents
        steps = rollout["spec"]["strategy"]["canary"]["steps"]
        assert [step["setWeight"] for step in steps if "setWeight" in step] == [2, 20]
        named = steps[1]["analysis"]["templates"][0]["templateName"]
        assert template["metadata"]["name"] == named
        metrics = [metric["name"] for metric in template["spec"]["metrics"]]
        assert metrics == ["answers", "errors", "p99", "drift"]
    else:
        assert documents[0]["spec"]["predictor"]["canaryTrafficPercent"] == 2
    assert "give --from VERSION" in run(f"--manifest={kind}", **names)[2]


@pytest.mark.parametrize("kind", ["argo", "kserve"])
def test_names_that_kubernetes_refuses_are_not_printed(run, kind):
    flags = {"models": None, "server": None, "out": None}
    for model in ('größe "x"', "-pets", "a" * 53, "pets.v1"):
        code, out, err = run("--from=1", f"--manifest={kind}", **flags | {"model": model})
        assert (code, out, len(err.splitlines())) == (2, "", 1) and "a name in Kubernetes" in err
    code, _, err = run('--from=1"', f"--manifest={kind}", **flags)
    assert code == 2 and "cannot be in a manifest" in err


def test_the_state_is_plain_json(site):
    controller = site.begin()
    look(controller)
    site.answer("1", 1000, seconds=30.0)  # twice as long is beyond the histogram
    site.answer("2", 111, seconds=30.0)
    look(controller)
    text = (site.out / "rollout.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["slow"] == 1e9
    assert states.load(site.out, PLAN).slow == 1e9
