"""Measures the throughput and latency of the model server, beside other servers and bare ONNX
Runtime, in turn.

    python -m scripts.bench.serving BUNDLE --seconds 20 --rounds 3    # a minute each; 25 minutes
    python -m scripts.bench.serving BUNDLE --photo photo.jpg          # JPEG instead of pixels
    python -m scripts.bench.serving BUNDLE --rivals litserve=PYTHON,bentoml=PYTHON,fastapi=PYTHON

A closed loop of clients sends one image per request over persistent connections; every server
answers with the five best classes. Servers run on the first core with one thread for the model, one
at a time; the clients run on the last core. The rivals (`experiments/serving/serving_rivals.py`)
run in environments of their own, with the Python that --rivals names; those not named are left out.
`ratio` is relative to `bare`: ONNX Runtime at its best batch on the same core, for JPEG with one
decoding of the same image before each.
"""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from scripts.bench import common
from vision import cli
from vision.errors import RunError

RIVALS = common.ROOT / "experiments" / "serving" / "serving_rivals.py"
BATCHES = (1, 2, 4, 8, 16, 32, 64)
START = 60  # seconds that a server may take to start
# columns that are not printed: they are the same in every row
HIDDEN = ("date", "commit", "device", "python", "onnxruntime", "label", "goal")


def main(argv):
    p = make_parser(__doc__, "load")
    p.add_argument("--clients", default="1,8,32,64")
    p.add_argument(
        "--seconds",
        type=float,
        default=20,
        help="seconds per server and number of clients in a round",
    )
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--rivals", default="", help="NAME=PYTHON,...: fastapi, litserve, bentoml")
    a = p.parse_args(argv)
    first, *_, last = sorted(os.sched_getaffinity(0))
    servers = {"vision": sys.executable} | dict(
        part.split("=") for part in a.rivals.split(",") if part
    )
    bare = []
    measured = {}
    for _ in range(a.rounds):
        bare.append(_bare(a, first))
        for name, python in servers.items():
            with serve(name, python, a, first) as (port, request, _):
                for clients in map(int, a.clients.split(",")):
                    figures = load(port, request, clients, a.seconds, last)
                    measured.setdefault((name, clients), []).append(figures)
    rows = list(_rows(a, bare, measured))
    common.print_table([{k: v for k, v in row.items() if k not in HIDDEN} for row in rows])
    common.write_rows(a.csv, rows)


def make_parser(doc, name):
    """Returns the parser of a benchmark of servers; `name` is the CSV file's."""
    p = common.make_parser(doc, name, "experiments/serving")
    p.add_argument("bundle", type=pathlib.Path)
    p.add_argument(
        "--photo", type=pathlib.Path, help="JPEG to send; default: pixels at the model's size"
    )
    return p


def _rows(a, bare, measured):
    """Yields a row for each server and number of clients: medians over the rounds."""
    facts = common.facts(a)
    for name in ("jax", "jaxlib", "flax", "torch"):
        del facts[name]
    facts["onnxruntime"] = importlib.metadata.version("onnxruntime")
    bare_speed = statistics.median(bare)
    for (name, clients), rounds in measured.items():
        speed = statistics.median(figures["requests_per_second"] for figures in rounds)
        failed = sum(
            count
            for figures in rounds
            for status, count in figures["answers"].items()
            if status != "200"
        )
        yield facts | {
            "server": name,
            "input": "jpeg" if a.photo else "tensor",
            "clients": clients,
            "seconds": a.seconds,
            "rounds": a.rounds,
            "images_per_second": speed,
            "p50_ms": statistics.median(figures["p50"] for figures in rounds),
            "p99_ms": statistics.median(figures["p99"] for figures in rounds),
            "failed": failed,
            "bare": bare_speed,
            "ratio": speed / bare_speed,
        }


def _bare(a, core):
    """Returns images/s of the bare model, with a decoding of the photo for each if there is one."""
    arguments = f"{str(a.bundle)!r}, {str(a.photo or '')!r}"
    code = f"from scripts.bench.serving import bare; bare({arguments})"
    return float(_pinned([sys.executable, "-c", code], core))


def bare(bundle, photo):
    """Prints images/s of a bundle's model at its best batch, with a decoding per image unless
    `photo` is ""."""
    from vision.bundle.directory import open_bundle
    from vision.data.decode import decode

    model = open_bundle(bundle)
    random = np.random.default_rng(0)
    seconds = []
    for size in BATCHES:
        images = random.integers(
            0, 256, (size, model.image_size, model.image_size, model.channels), np.uint8
        )
        calls = [
            _time(lambda images=images: model.probabilities_and_embeddings(images))
            for _ in range(8)
        ]
        seconds.append(min(calls) / size)
    best = min(seconds)
    if photo:
        data = pathlib.Path(photo).read_bytes()
        best += min(_time(lambda: model.prepare(decode(data))) for _ in range(50))
    print(1 / best)


def _time(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@contextlib.contextmanager
def serve(name, python, a, core, start=("-m", "vision.serving"), flags=()):
    """Runs a server on a core; yields (its port, a request for it as bytes, its process).

    Args:
        name: of the server; "vision" is this one.
        python: its interpreter.
        a: the flags, of which it takes the bundle and the photo.
        core: the core.
        start: the words that start this server.
        flags: more flags of this server.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder, "log")
        if name == "vision":
            shutil.copytree(a.bundle, pathlib.Path(folder, "models", "model", "1"))
            command = [python, *start, f"--models={folder}/models", f"--http-port={port}"]
            command += ["--grpc-port=0", "--access-log=", "--threads=1", *flags]
        else:
            command = [
                python,
                str(RIVALS),
                name,
                str(a.bundle.resolve()),
                "jpeg" if a.photo else "tensor",
                str(port),
            ]
        with log.open("w") as file:
            command = ["taskset", "-c", str(core), *command]
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            request = _request(name, a, port)
            _wait(port, request, process, log)
            yield port, request, process
        finally:
            process.terminate()
            process.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # processes that it started and left


def _wait(port, request, process, log):
    """Waits until a server answers a request."""
    end = time.monotonic() + START
    while time.monotonic() < end and process.poll() is None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), timeout=5) as connection,
        ):
            connection.sendall(request)
            if connection.recv(64).startswith(b"HTTP/1.1 200"):
                return
        time.sleep(0.2)
    raise RunError(f"the server does not answer: {log.read_text()[-2000:]}")


def _request(name, a, port):
    """Returns a complete HTTP request, as bytes, in the form that a server expects."""
    manifest = json.loads((a.bundle / "bundle.json").read_text())
    side = manifest["image_size"]
    channels = manifest["channels"]
    if a.photo:
        body = a.photo.read_bytes()
    else:
        shape = (1, side, side, channels)
        body = np.random.default_rng(0).integers(0, 256, shape, np.uint8).tobytes()
    headers = {}
    path = "/predict"
    if name == "vision" and a.photo:
        path = "/classify/model"
        headers = {"Content-Type": "image/jpeg"}
    elif name == "vision":
        tensor = {
            "name": "images",
            "shape": [1, side, side, channels],
            "datatype": "UINT8",
            "parameters": {"binary_data_size": len(body)},
        }
        head = json.dumps({"inputs": [tensor]}).encode()
        path = "/v2/models/model/infer"
        headers = {"Inference-Header-Content-Length": len(head)}
        headers["Content-Type"] = "application/octet-stream"
        body = head + body
    elif name in ("litserve", "bentoml"):
        edge = b"--edge"
        field = b"file" if name == "litserve" else b"files"
        head = b'\r\nContent-Disposition: form-data; name="%s"; filename="a.jpg"\r\n' % field
        body = edge + head + b"Content-Type: image/jpeg\r\n\r\n" + body + b"\r\n" + edge
        body = body + b"--\r\n"
        headers = {"Content-Type": "multipart/form-data; boundary=edge"}
    else:
        headers["Content-Type"] = "application/octet-stream"
    headers |= {"Host": f"127.0.0.1:{port}", "Content-Length": len(body)}
    lines = [
        f"POST {path} HTTP/1.1",
        *(f"{key}: {value}" for key, value in headers.items()),
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + body


def load(port, request, clients, seconds, core):
    """Returns the figures of `scripts.bench.http_load` on a core, after a warm-up of one second.

    "sent" is the number of requests, with those of the warm-up.
    """
    with tempfile.NamedTemporaryFile() as file:
        file.write(request)
        file.flush()
        command = [sys.executable, "-m", "scripts.bench.http_load", f"127.0.0.1:{port}", file.name]
        command += [f"--clients={clients}"]
        warm_up = json.loads(_pinned([*command, "--seconds=1"], core))
        figures = json.loads(_pinned([*command, f"--seconds={seconds}"], core))
    answers = (*warm_up["answers"].values(), *figures["answers"].values())
    return figures | {"sent": sum(answers)}


def _pinned(command, core):
    """Runs a command on one core; returns its output."""
    return subprocess.run(
        ["taskset", "-c", str(core), *command], check=True, capture_output=True, text=True
    ).stdout


if __name__ == "__main__":
    cli.run(main)
