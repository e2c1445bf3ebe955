"""The launchers of a search: what their workers' exit codes say, and that the manifests fit."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import yaml

from vision.search import serve
from vision.search.__main__ import main

LAUNCH = pathlib.Path(__file__).parents[2] / "scripts" / "launch"
WORKER = """#!{python}
import os, pathlib, signal, sys, time
out = pathlib.Path(next(a for a in sys.argv if a.startswith("--out=")).partition("=")[2])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if "--wait" in sys.argv:
    print("waiting", flush=True)
    time.sleep(60)
if "--fail" in sys.argv:
    sys.exit(2)
if "--done" in sys.argv:
    hours = [int(a.partition("=")[2]) for a in sys.argv if a.startswith("--hours=")]
    moment = time.time() + 3600 * sum(hours)
    (out / "results.new").write_text("[]")
    os.utime(out / "results.new", (moment, moment))
    os.replace(out / "results.new", out / "results.json")
"""


@pytest.fixture
def worker(tmp_path):
    """Stands for the interpreter: a program that ends as its arguments say."""
    program = tmp_path / "python"
    program.write_text(WORKER.format(python=sys.executable))
    program.chmod(0o755)

    def start(*arguments):
        environment = os.environ | {"PYTHON": str(program)}
        command = [LAUNCH / "search", f"--out={tmp_path}", *arguments]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    return start


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--done"], 0), ([], 75), (["--fail"], 2)], ids=["done", "not", "bad"]
)
def test_a_worker_says_whether_the_search_is_done(arguments, code, worker):
    assert worker(*arguments).wait(30) == code


@pytest.mark.parametrize("hours", [-3, 3], ids=["behind", "ahead"])
@pytest.mark.parametrize(("arguments", "code"), [(["--done"], 0), ([], 75)], ids=["done", "not"])
def test_the_clock_of_another_machine_changes_nothing(arguments, code, hours, worker, tmp_path):
    """The search is done if results.json was written again, whatever its time says."""
    results = tmp_path / "results.json"
    results.write_text("[]")
    moment = time.time() + 3600 * hours
    os.utime(results, (moment, moment))
    assert worker(f"--hours={hours}", *arguments).wait(30) == code


def test_a_worker_that_is_told_to_stop_exits_with_75(worker):
    process = worker("--wait")
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 75


def test_an_out_is_needed():
    done = subprocess.run([LAUNCH / "search", "--trials=3"], capture_output=True, text=True)
    assert done.returncode == 2 and "give --out DIR" in done.stderr


def test_the_manifest_fits_the_commands(monkeypatch):
    documents = list(yaml.safe_load_all((LAUNCH / "search.yaml").read_text()))
    manifests = {manifest["kind"]: manifest for manifest in documents}
    (container,) = manifests["Job"]["spec"]["template"]["spec"]["containers"]
    (storage,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    service = manifests["Service"]
    made = {}
    monkeypatch.chdir(LAUNCH.parents[1])
    monkeypatch.setattr(
        "vision.search.storage.open_storage", lambda *a: made.update(a=a) or _stop()
    )
    with pytest.raises(KeyboardInterrupt):
        main(container["args"])
    url, out, workers = made["a"]
    (port,) = [p["port"] for p in service["spec"]["ports"]]
    assert url == f"grpc://{service['metadata']['name']}:{port}"
    assert workers == 1
    mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    assert str(out).startswith(mounts["runs"])
    flags = dict(argument.removeprefix("--").split("=", 1) for argument in storage["args"])
    assert flags.keys() <= {"storage", "host", "port"} and int(flags["port"]) == port
    assert storage["command"][-1] == serve.__name__
    assert manifests["Deployment"]["spec"]["replicas"] == 1


def _stop():
    raise KeyboardInterrupt
