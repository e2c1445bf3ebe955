"""Two workers on one study, killed at random and started again: no trial lost, none twice."""

import contextlib
import json
import os
import pathlib
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import optuna
import pytest
from optuna.trial import TrialState

from tests.support.search_command import REPOSITORY, SPACE, start
from vision.search.queue import DIED, LOST, PLACE, latest
from vision.search.storage import open_storage

TRIALS = 40
KILLS = 6
LONGEST = 1800  # seconds


def free_port():
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


@contextlib.contextmanager
def journal(folder):
    yield ""


@contextlib.contextmanager
def proxy(folder, port=0):
    """Optuna's gRPC proxy before an SQLite file, as the command serves it."""
    port = port or free_port()
    command = [sys.executable, "-m", "vision.search.serve", f"--port={port}"]
    command.append(f"--storage=sqlite:///{folder}/study.db")
    server = subprocess.Popen(command, cwd=REPOSITORY)
    try:
        yield f"grpc://localhost:{port}"
    finally:
        server.terminate()
        server.wait(30)


@contextlib.contextmanager
def postgresql(folder):
    """A PostgreSQL of its own; as root it runs as a user that may start one."""
    pytest.importorskip("psycopg2", reason="no driver for PostgreSQL: pip install psycopg2-binary")
    programs = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not programs:
        pytest.skip("no PostgreSQL is installed: apt-get install postgresql")
    # Not in `folder`, into which no other user may look.
    data = pathlib.Path(tempfile.mkdtemp(prefix="postgresql-"))
    port = free_port()
    user = {}
    if os.getuid() == 0:
        account = pwd.getpwnam("postgres")
        os.chown(data, account.pw_uid, account.pw_gid)
        user = {"user": "postgres"}
    control = [str(programs[-1]), "-D", str(data), "-w"]
    initialize = ["initdb", "-o", "--username=study --auth=trust"]
    options = ["start", "-o", f"-p {port} -k {data} -c listen_addresses=localhost"]
    subprocess.run([*control, *initialize], check=True, cwd="/", **user)
    log = data / "log"
    subprocess.run([*control, *options, "-l", str(log)], check=True, cwd="/", **user)
    try:
        yield f"postgresql://study@localhost:{port}/postgres"
    finally:
        subprocess.run([*control, "stop", "-m", "immediate"], check=True, cwd="/", **user)
        shutil.rmtree(data)


@pytest.mark.parametrize("storage", [journal, proxy, postgresql], ids=lambda f: f.__name__)
def test_two_workers_are_killed_again_and_again(storage, tmp_path):
    out = tmp_path / "study"
    draw = random.Random(7)
    with storage(tmp_path) as url:
        flags = [f"--space={SPACE}", f"--trials={TRIALS}", f"--storage={url}"]
        workers = [start(out, *flags), start(out, *flags)]
        began = time.monotonic()
        kills = 0
        next_kill = began + draw.uniform(5, 25)
        try:
            while any(worker.poll() is None for worker in workers):
                assert time.monotonic() - began < LONGEST
                if kills < KILLS and time.monotonic() > next_kill:
                    number = draw.randrange(2)
                    if workers[number].poll() is None:
                        workers[number].send_signal(signal.SIGKILL)
                        workers[number].wait()
                        kills += 1
                        workers[number] = start(out, *flags)
                    next_kill = time.monotonic() + draw.uniform(3, 20)
                time.sleep(0.1)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        assert [worker.returncode for worker in workers] == [0, 0]
        opened = open_storage(url, out)
        trials = optuna.load_study(study_name="study", storage=opened).trials
    check(out, trials)
    print(f"{kills} kills, {len(trials) - TRIALS} trials taken up again")


def check(out, trials):
    """Every place has one result, of the parameters that were drawn for it once."""
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.FAIL}
    places = [trial.user_attrs[PLACE] for trial in trials if trial.state == TrialState.COMPLETE]
    assert sorted(places) == list(range(TRIALS))
    for trial in trials:
        if trial.state == TrialState.FAIL:
            assert trial.user_attrs[LOST] == DIED
    newest = latest(trials, TRIALS)
    for trial in trials:
        final = newest[trial.user_attrs[PLACE]]
        assert trial.params.items() <= final.params.items()  # those of the first attempt
    folders = sorted(path.name for path in (out / "trials").iterdir())
    assert folders == [f"{place:04d}" for place in range(TRIALS)]
    for place, trial in newest.items():
        result = json.loads((out / "trials" / f"{place:04d}" / "result.json").read_text())
        assert result["config"]["optimizer"]["learning_rate"] == trial.params["learning_rate"]
        assert result["steps"] == trial.user_attrs["steps"]
    table = (out / "trials.csv").read_text().splitlines()
    assert len(table) == TRIALS + 1
    assert all(line.split(",")[1] == "complete" for line in table[1:])
    shutil.rmtree(out)


def test_workers_of_one_command_are_replaced_and_stopped(tmp_path):
    """A child that is killed is started again; SIGTERM lets all save; the same command goes on."""
    out = tmp_path / "study"
    flags = [f"--space={SPACE}", "--trials=16", "--workers=2"]
    crew = start(out, *flags, stdout=subprocess.PIPE, text=True)
    lines = []
    for line in crew.stdout:
        lines.append(line)
        if line.startswith("trial 0002"):
            os.kill(workers_of(crew.pid)[0], signal.SIGKILL)
        if line.startswith("trial 0005"):
            crew.send_signal(signal.SIGTERM)
    assert crew.wait(120) == 0
    assert any("another one continues its trial" in line for line in lines)
    assert lines[-1] == "interrupted: run the same command to continue\n"
    assert not (out / "trials.csv").exists()
    assert start(out, *flags).wait(LONGEST) == 0
    trials = optuna.load_study(study_name="study", storage=open_storage("", out)).trials
    complete = [t.user_attrs[PLACE] for t in trials if t.state == TrialState.COMPLETE]
    assert sorted(complete) == list(range(16))


def test_a_proxy_that_is_restarted_ends_no_worker(tmp_path):
    """Nor the command that started the workers, which counts their trials."""
    out = tmp_path / "study"
    port = free_port()
    flags = [f"--space={SPACE}", "--trials=6", "--workers=2"]
    flags.append(f"--storage=grpc://localhost:{port}")
    with contextlib.ExitStack() as first:
        first.enter_context(proxy(tmp_path, port))
        wait_for(port)
        crew = start(out, *flags, stdout=subprocess.PIPE, text=True)
        for line in crew.stdout:
            if line.startswith("trial "):
                break
    time.sleep(10)  # longer than the command takes to count again
    with proxy(tmp_path, port):
        rest = crew.stdout.read()
        assert crew.wait(LONGEST) == 0, rest
    assert json.loads((out / "results.json").read_text())["trials"] == {"complete": 6}


def wait_for(port):
    """Waits until something listens on a port of this machine."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port)):
            return
        time.sleep(0.5)
    raise TimeoutError


def workers_of(pid):
    """Returns the worker processes of a command: not Python's own helpers."""
    children = []
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        children += map(int, path.read_text().split())
    commands = {child: pathlib.Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
    return [child for child, command in commands.items() if b"spawn_main" in command]
