"""Storages: which are refused, what is said, and what happens while one has gone away."""

import contextlib
import os
import signal
import socket
import threading

import optuna
import pytest
from optuna.storages._grpc.server import make_server

from tests.search.requests import request
from tests.support.commands import refusal
from tests.support.search_command import SPACE, arguments
from vision.errors import UserError
from vision.search import __main__ as command
from vision.search import serve
from vision.search.queue import exclusively
from vision.search.storage import (
    StorageGone,
    explained,
    hidden,
    is_unreachable,
    open_storage,
    patiently,
    remembering,
    reopen_storage,
    sole_user,
)
from vision.search.study import open_search
from vision.search.trial import _check_free
from vision.support import signals


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("grpc://localhost:1", "cannot reach --storage grpc://localhost:1"),
        ("grpc://localhost:99999", "port of --storage must be at most 65,535"),
        ("grpc:/localhost", "the form is grpc://HOST:PORT"),
        ("redis://localhost", "is unknown: give journal:FILE"),
        ("study.db", "is unknown"),
        ("sqlite:////no/such/folder/x.db", "unable to open database file"),
    ],
)
def test_what_cannot_be_opened(url, part, tmp_path, monkeypatch):
    monkeypatch.setattr("vision.search.storage.ANSWER", 0.3)
    with pytest.raises(UserError) as error:
        open_storage(url, tmp_path)
    assert part in str(error.value)
    assert len(str(error.value).splitlines()) <= 2


def _refuse(*_, **__):
    raise ConnectionError("GRPC connection timeout")


def test_postgresql_that_is_not_there(tmp_path):
    pytest.importorskip("psycopg2")
    with pytest.raises(UserError) as error:
        open_storage("postgresql://me:secret@localhost:1/studies", tmp_path)
    assert "Connection refused" in str(error.value)
    assert "secret" not in str(error.value)


def test_sqlite_serves_one_worker(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    with pytest.raises(UserError, match=r"SQLite cannot serve 2 workers"):
        open_storage(url, tmp_path, workers=2)
    assert open_storage(url, tmp_path, workers=1).get_all_studies() == []


def test_two_processes_do_not_share_an_sqlite_file(tmp_path, capsys):
    """Nor a search and what serves the file, whatever their directories and studies are."""
    url = f"sqlite:///{tmp_path}/study.db"
    (tmp_path / "link").symlink_to(tmp_path)
    same = f"sqlite:///{tmp_path}/link/study.db?timeout=9"
    flags = (f"--space={SPACE}", "--trials=1")
    with sole_user(url):
        for main, argv in (
            (command.main, arguments(tmp_path / "out", f"--storage={same}", *flags)),
            (serve.main, [f"--storage={same}", "--port=1"]),
        ):
            message = refusal(main, capsys, *argv)
            assert "is in use by another process, and SQLite serves only one" in message
            assert "vision.search.serve" in message
        with sole_user(f"sqlite:///{tmp_path}/other.db"), sole_user("journal:x"), sole_user(""):
            pass
    with sole_user(same):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_an_sqlite_url_with_a_wrong_port_is_refused(tmp_path, capsys):
    flags = ("--storage=sqlite://x:y/z", f"--space={SPACE}", "--trials=1")
    message = refusal(command.main, capsys, *arguments(tmp_path / "out", *flags))
    assert message.startswith("cannot open --storage sqlite://x:y/z: ")


def test_a_directory_may_be_called_in_use(tmp_path):
    """A lock that cannot be made there is not mistaken for another process's."""
    folder = tmp_path / "in use"
    folder.mkdir()
    (folder / "file").touch()
    with pytest.raises(UserError, match="which is a file"), exclusively(folder / "file"):
        raise AssertionError
    for name in (".study.db.lock", ".lock"):
        (folder / name).symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="cannot write to --storage"):
        sole_user(f"sqlite:///{folder}/study.db").__enter__()
    with pytest.raises(UserError, match="cannot write to --workdir"):
        _check_free(folder)


def test_a_file_that_is_no_journal(tmp_path):
    (tmp_path / "x.log").write_text("hello\nworld\n")
    with pytest.raises(UserError, match=r"is not an Optuna journal"):
        open_storage(f"journal:{tmp_path}/x.log", tmp_path)


def test_two_studies_under_one_name(tmp_path):
    storage = open_storage("", tmp_path)
    open_search(request(tmp_path), storage)
    open_search(request(tmp_path, trials=9, workers=3), storage)  # it may go on in another way
    other = tmp_path / "other.py"
    other.write_text(
        "def space(trial, config):\n    config.optimizer.b1 = trial.suggest_float('b1', 0.1, 0.2)\n"
    )
    config = request(tmp_path).config
    config.train.batch_size = 7
    for changes, part in (
        ({"space": str(other)}, "searches another space than"),
        ({"objectives": {"val/loss": "min"}}, "has the objective val/accuracy:max"),
        ({"seed": 3}, "has --seed 0"),
        ({"values": config.to_dict()}, "train.batch_size is 128 there, 7 here"),
        ({"name": "b"}, "has the study 'study', not 'b'"),
        ({"out": tmp_path / "b"}, "belongs to another --out"),
    ):
        with pytest.raises(UserError) as error:
            open_search(request(**({"out": tmp_path} | changes)), storage)
        assert part in str(error.value)
        assert len(str(error.value).splitlines()) <= 2


def test_a_storage_that_comes_back_is_waited_for():
    answers = iter([ConnectionError("gone"), ConnectionError("gone"), 7])

    def call():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patiently(call) == 7
    with pytest.raises(StorageGone, match=r"has not answered"):
        patiently(_refuse, patience=0)
    with pytest.raises(ZeroDivisionError):
        patiently(lambda: 1 / 0)
    assert not is_unreachable(KeyError("x"))


@contextlib.contextmanager
def served(storage, port):
    """Optuna's gRPC proxy of a storage, in this process."""
    server = make_server(storage, "localhost", port)
    server.start()
    try:
        yield
    finally:
        server.stop(0).wait()


def test_a_proxy_that_goes_away_and_comes_back(tmp_path):
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    url = f"grpc://localhost:{port}"
    kept = optuna.storages.InMemoryStorage()
    with served(kept, port):
        storage = open_storage(url, tmp_path)
        job = open_search(request(tmp_path, trials=3), storage)
        job.queue.fill()
        waiting = remembering(lambda: len(job.queue.trials()))
        assert waiting() == 3
    assert waiting() == 3
    with pytest.raises(StorageGone) as error, explained():
        job.queue.latest()
    assert "failed to connect" in str(error.value).lower()
    assert len(str(error.value).splitlines()) == 1
    with pytest.raises(UserError, match="must be"), explained():
        raise UserError("a key must be lower")
    opened = []
    thread = threading.Thread(target=lambda: opened.append(reopen_storage(url, tmp_path)))
    thread.start()
    with served(kept, port):
        thread.join(60)
        assert [study.study_name for study in opened[0].get_all_studies()] == ["study"]
        assert patiently(job.queue.ended) == 0


def test_a_signal_ends_the_wait():
    with signals.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StorageGone, match="for 0 s"):
            patiently(_refuse)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@db/x", "postgresql://me:***@db/x"),
        ("postgresql+psycopg2://me:secret@db:5432/x", "postgresql+psycopg2://me:***@db:5432/x"),
        ("postgresql://me:my@secret@db/x", "postgresql://me:***@db/x"),
        ("postgresql://:secret@db/x", "postgresql://:***@db/x"),
        ("postgresql://db/x?user=me&password=secret", "postgresql://db/x?user=me&password=***"),
        (
            "postgresql://db/x?sslpassword=secret&user=me",
            "postgresql://db/x?sslpassword=***&user=me",
        ),
        ("mysql://me:secret@db/x?PassWd=secret", "mysql://me:***@db/x?PassWd=***"),
        ("postgresql://me@db/x?sslmode=require", "postgresql://me@db/x?sslmode=require"),
        ("journal:x.log", "journal:x.log"),
        ("grpc://host:13000", "grpc://host:13000"),
    ],
)
def test_passwords_are_not_shown(url, shown):
    assert hidden(url) == shown


def test_a_command_is_written_down_without_the_password():
    url = "postgresql://db/x?user=me&password=secret"
    for words in ([f"--storage={url}"], ["--storage", url]):
        written = command._command([*words, "--out=x"], url)
        assert "secret" not in written and "password=***" in written
