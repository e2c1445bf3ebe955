"""The server as a whole: it starts, answers on every port, and stops without losing an answer."""

import asyncio
import contextlib
import gc
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
import tritonclient.grpc as triton

from tests.conftest import REPOSITORY
from tests.support.live_server import serve
from tests.support.tiny_bundle import write_bundle, write_slow_bundle
from vision.errors import UserError
from vision.serving import __main__ as command
from vision.serving import server as module
from vision.serving.images import Decoder
from vision.serving.logs.telemetry import Telemetry
from vision.serving.models.repository import Repository
from vision.serving.request import Request
from vision.serving.server import LOOPBACK
from vision.serving.service import Service
from vision.serving.settings import Settings

pytestmark = pytest.mark.long

BODY = bytes(64)
HEAD = json.dumps(
    {
        "inputs": [
            {
                "name": "images",
                "datatype": "UINT8",
                "shape": [1, 8, 8, 1],
                "parameters": {"binary_data_size": 64},
            }
        ]
    }
).encode()
INFER = (
    "POST",
    "/v2/models/tiny/infer",
    HEAD + BODY,
    {"Inference-Header-Content-Length": str(len(HEAD))},
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    write_bundle(directory / "tiny" / "1")
    return directory


def address(live):
    return live.url.removeprefix("http://")


def ask(live, *request):
    """Returns (status, headers, JSON) of a request on a connection of its own."""
    connection = http.client.HTTPConnection(address(live), timeout=10)
    with contextlib.closing(connection):
        connection.request(*request)
        answer = connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read())


class Load:
    """Clients that ask again as soon as they have their answer, on connections that they keep.

    Attributes:
        answered: how many requests got a right answer.
        lost: what became of the others that were sent.
        refused: how many found no server to connect to.
    """

    def __init__(self, live, clients):
        self.answered = 0
        self.lost = []
        self.refused = 0
        self._live = live
        self._lock = threading.Lock()
        self.stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def join(self):
        for thread in self._threads:
            thread.join(30)

    def _ask(self):
        connection = http.client.HTTPConnection(address(self._live), timeout=20)
        while not self.stop.is_set():
            try:
                if connection.sock is None:
                    connection.connect()
            except ConnectionError:
                self.refused += 1
                return
            try:
                connection.request(*INFER)
                answer = connection.getresponse()
                right = answer.status == 200 and len(json.loads(answer.read())["outputs"]) == 4
            except Exception as error:
                right = False
                answer = error
            with self._lock:
                self.answered += right
                if not right:
                    self.lost.append(repr(answer))
                    return


def test_it_answers_on_every_port(models):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        admin = free.getsockname()[1]
    with serve(models, admin_port=admin) as live:
        assert ask(live, "GET", "/v2/health/ready")[0] == 200
        assert ask(live, *INFER)[1]["x-model-version"] == "1"
        with triton.InferenceServerClient(live.grpc) as client:
            assert client.is_server_ready() and client.is_model_ready("tiny")
        other = live._replace(url=f"http://127.0.0.1:{admin}")
        assert ask(other, "GET", "/v2/repository")[2]["tiny"]["serving"] == "1"
        assert ask(live, "GET", "/v2/repository")[0] == 404  # it is on its own port alone
        assert "server" not in {name.lower() for name in ask(live, "GET", "/v2")[1]}
        metrics = ask_text(live, "/metrics")
        assert (
            'vision_requests_total{code="200",model="tiny",protocol="rest",version="1"} 1.0'
            in metrics
        )
        assert 'vision_version_state{model="tiny",state="ready",version="1"} 1.0' in metrics


def ask_text(live, path):
    connection = http.client.HTTPConnection(address(live), timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().read().decode()


def test_a_stop_under_load_loses_no_answer(models):
    with serve(models) as live:
        load = Load(live, 8)
        time.sleep(1)
        live.process.send_signal(signal.SIGTERM)
        code = live.process.wait(20)
        load.join()
        assert code == 0 and load.lost == [] and load.refused == 8 and load.answered > 50


def begin(live):
    """Returns a connection on which a request's head and half of its body are sent."""
    connection = http.client.HTTPConnection(address(live), timeout=10)
    connection.putrequest("POST", INFER[1])
    connection.putheader("Content-Length", str(len(INFER[2])))
    connection.putheader(*next(iter(INFER[3].items())))
    connection.endheaders()
    connection.send(INFER[2][:80])
    time.sleep(0.2)
    return connection


def test_what_has_begun_is_answered_while_the_server_is_no_longer_ready(models):
    with serve(models) as live, contextlib.closing(begin(live)) as connection:
        idle = http.client.HTTPConnection(address(live), timeout=10)
        idle.request("GET", "/v2/health/ready")
        assert idle.getresponse().read() == b'{"ready": true}'
        live.process.send_signal(signal.SIGTERM)
        time.sleep(0.15)
        idle.request("GET", "/v2/health/ready")
        answer = idle.getresponse()
        assert answer.status == 503 and answer.headers["connection"] == "close"
        time.sleep(0.8)
        with pytest.raises(ConnectionRefusedError):
            ask(live, "GET", "/v2/health/live")
        connection.send(INFER[2][80:])
        assert connection.getresponse().status == 200
        assert live.process.wait(10) == 0


def test_a_stop_ends_after_its_time(models):
    with serve(models, drain=0.2, body_timeout=60) as live, contextlib.closing(begin(live)):
        begun = time.monotonic()
        live.process.send_signal(signal.SIGTERM)
        assert live.process.wait(10) == 0 and time.monotonic() - begun < 5


def test_a_second_signal_does_not_wait(models):
    with serve(models, drain=60, body_timeout=60) as live, contextlib.closing(begin(live)):
        live.process.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert live.process.poll() is None
        live.process.send_signal(signal.SIGTERM)
        assert live.process.wait(5) == -signal.SIGTERM


def test_a_stop_does_not_wait_for_a_version_that_is_being_loaded(tmp_path):
    write_bundle(tmp_path / "models/tiny/1")
    with serve(tmp_path / "models", poll=0.05, grpc_port=0) as live:
        folder = write_bundle(tmp_path / "models/tiny/2")
        os.truncate(folder / "model.onnx", 1 << 38)  # to hash it takes minutes
        deadline = time.monotonic() + 10
        while 'state="loading",version="2"' not in ask_text(live, "/metrics"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        live.process.send_signal(signal.SIGTERM)
        assert live.process.wait(10) == 0


def test_the_log_holds_no_key_and_no_image(models, tmp_path):
    (tmp_path / "keys").write_text("anna key-of-anna\n")
    (tmp_path / "settings.json").write_text(
        json.dumps({"keys": str(tmp_path / "keys"), "access_log": "/nowhere/at"})
    )
    log = tmp_path / "log"
    with serve(models, settings=tmp_path / "settings.json", access_log=log) as live:
        assert ask(live, *INFER)[0] == 401
        request = (
            *INFER[:3],
            INFER[3] | {"Authorization": "Bearer key-of-anna", "X-Request-Id": "r-1"},
        )
        assert ask(live, *request)[0] == 200
        live.process.send_signal(signal.SIGTERM)
        live.process.wait(20)
    first, second = map(json.loads, log.read_text().splitlines())
    assert first["code"] == 401 and (second["code"], second["key"], second["id"]) == (
        200,
        "anna",
        "r-1",
    )
    assert (
        second["seconds"] > 0
        and second["bytes"] == len(INFER[2])
        and "key-of-anna" not in log.read_text()
    )


def test_tls_on_both_ports(models, tmp_path):
    files = {"tls_certificate": tmp_path / "certificate.pem", "tls_key": tmp_path / "key.pem"}
    curve = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=localhost",
    ]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    out = ["-out", files["tls_certificate"], "-keyout", files["tls_key"]]
    subprocess.run(
        ["openssl", "req", "-x509", *curve, *names, *out], check=True, capture_output=True
    )
    with serve(models, **files) as live:
        context = ssl.create_default_context(cafile=files["tls_certificate"])
        port = int(live.url.rpartition(":")[2])
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
        connection.request(*INFER)
        answer = connection.getresponse()
        assert (
            answer.status == 200 and "strict-transport-security" in answer.headers and answer.read()
        )
        connection.close()
        with triton.InferenceServerClient(
            live.grpc, ssl=True, root_certificates=files["tls_certificate"]
        ) as client:
            assert client.is_server_ready()


def run(*argv):
    """Returns (exit code, stderr) of the server's command, which must end by itself."""
    argv = [sys.executable, "-m", "vision.serving", *map(str, argv)]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def test_a_users_mistake_is_one_line_and_exit_code_2(models):
    code, text = run(f"--models={models / 'none'}")
    assert code == 2 and text == f"error: there is no directory --models {models / 'none'}\n"


def fail(settings):
    with pytest.raises(UserError) as error:
        asyncio.run(module.serve(settings, ready=lambda line: pytest.fail(line)))
    return str(error.value)


def test_ports_that_are_taken(models):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        fields = {"models": str(models), "access_log": "", "http_port": 0, "grpc_port": 0}
        for name in ("http_port", "admin_port", "grpc_port"):
            text = fail(Settings(**fields | {name: port}))
            assert f"--{name.replace('_', '-')} {port} cannot be opened on 127.0.0.1" in text


def test_a_host_that_is_not_this_machine(models):
    text = fail(
        Settings(models=str(models), host="no.such.host.invalid", http_port=0, access_log="")
    )
    assert "--http-port 0 cannot be opened on no.such.host.invalid" in text


def test_a_directory_without_a_model(tmp_path):
    settings = Settings(models=str(tmp_path), http_port=0, grpc_port=0, access_log="")
    assert "has no bundle at MODEL/VERSION/ that can be served" in fail(settings)
    write_bundle(tmp_path / "tiny" / "1")
    (tmp_path / "tiny" / "1" / "model.onnx").write_bytes(b"no model")
    assert "tiny 1: tiny/1/model.onnx has changed since it was exported" in fail(settings)


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGTERM, 0.2), (signal.SIGINT, 0.7)])
def test_a_stop_while_the_first_version_is_loaded_is_no_crash(tmp_path, number, seconds):
    """The thread that is in ONNX Runtime's code then must not be torn down there."""
    write_slow_bundle(tmp_path / "slow" / "1", width=2048, depth=240)  # takes seconds to warm up
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "vision.serving",
        f"--models={tmp_path}",
        f"--http-port={port}",
        "--grpc-port=0",
    ]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 20
    while socket.socket().connect_ex((LOOPBACK, port)):  # it listens just before it loads
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    time.sleep(seconds)
    process.send_signal(number)
    assert process.communicate(timeout=20)[0] == "" and process.returncode == 0


def test_what_is_unloaded_is_freed_though_it_was_frozen(models):
    """The collector passes over what `gc.freeze` has seen, so a version must be in no circle when
    it goes."""

    async def test():
        settings = Settings(models=str(models), access_log="", threads=1)
        telemetry = Telemetry(settings)
        repository = Repository(settings, telemetry)
        await repository.start()
        service = Service(repository, Decoder(settings), telemetry)
        await service.classify(Request("tiny", np.zeros((1, 8, 8, 1), np.uint8)))
        version = repository.get("tiny")
        parts = [weakref.ref(part) for part in (version, version.batcher, version.bundle)]
        del version
        gc.collect()
        gc.freeze()
        try:
            await repository.unload("tiny", "1")
            await asyncio.sleep(0.2)
            return [part() for part in parts]
        finally:
            gc.unfreeze()
            await repository.close()
            telemetry.close()

    assert asyncio.run(test()) == [None] * 3


def test_flags_are_looked_at_before_the_server_is_loaded(capsys):
    with pytest.raises(UserError, match="did you mean|Did you mean"):
        command.main(["--model=x"])
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert "python -m vision.serving --models" in capsys.readouterr().out


def test_answers_do_not_wait_for_acknowledgments():
    """Not on asyncio's own loop either, which does not see to it for such a socket."""

    async def accept():
        with module._listen("127.0.0.1", 0, "--http-port") as listener:
            loop = asyncio.get_running_loop()
            _, writer = await asyncio.open_connection(*listener.getsockname())
            connection, _ = await loop.sock_accept(listener)
            with connection:
                writer.close()
                return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    assert asyncio.run(accept()) == 1
