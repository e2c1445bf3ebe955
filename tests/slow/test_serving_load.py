"""The server at four times what it can do, and stopped while clients ask: nothing breaks, grows or
gets lost."""

import asyncio
import json
import signal
import threading
import time

import grpc
import numpy as np
import pandas as pd
import psutil
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.support.live_server import Client, serve
from tests.support.tiny_bundle import write_slow_bundle

# images in a request, and in the server's queue
IMAGES = 8
QUEUE = 64
SECONDS = 60.0  # of overload
WORKERS = 64  # connections of the load's generator


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    write_slow_bundle(directory / "slow" / "1")
    return directory


def request(images=IMAGES):
    tensor = {"name": "images", "datatype": "UINT8", "shape": [images, 8, 8, 1]}
    head = json.dumps(
        {"inputs": [tensor | {"parameters": {"binary_data_size": images * 64}}]}
    ).encode()
    body = head + np.random.default_rng(0).integers(0, 256, images * 64, np.uint8).tobytes()
    lines = f"POST /v2/models/slow/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
    return f"{lines}Inference-Header-Content-Length: {len(head)}\r\n\r\n".encode() + body


async def closed_loop(port, clients, seconds):
    """Returns answers a second to clients who each ask again as soon as they have theirs."""
    data = request()
    stop = time.monotonic() + seconds
    count = 0

    async def ask():
        nonlocal count
        client = Client(port)
        while time.monotonic() < stop:
            status, *_ = await client.ask(data)
            assert status == 200
            count += 1
        client.close()

    begun = time.monotonic()
    await asyncio.gather(*(ask() for _ in range(clients)))
    return count / (time.monotonic() - begun)


async def open_loop(port, rate, seconds):
    """Returns [(when it was sent, status, headers, seconds)] of requests that come at a rate
    whatever the answers."""
    data = request()
    tokens = asyncio.Queue()
    answers = []

    async def work():
        client = Client(port)
        while (due := await tokens.get()) is not None:
            begun = time.monotonic()
            status, head, _ = await client.ask(data)
            answers.append((due, status, head, time.monotonic() - begun))
        client.close()

    workers = [asyncio.create_task(work()) for _ in range(WORKERS)]
    begun = time.monotonic()
    for i in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, begun + i / rate - time.monotonic()))
        tokens.put_nowait(time.monotonic() - begun)
    for _ in workers:
        tokens.put_nowait(None)
    await asyncio.gather(*workers)
    return answers


async def recovery(port, unloaded):
    """Returns seconds until an answer takes no longer than twice the usual time."""
    client = Client(port)
    begun = time.monotonic()
    data = request()
    while time.monotonic() - begun < 10:
        sent = time.monotonic()
        status, *_ = await client.ask(data)
        if status == 200 and time.monotonic() - sent <= 2 * unloaded + 0.02:
            break
    client.close()
    return time.monotonic() - begun


def test_four_times_its_capacity(models):
    with serve(models, max_queue=QUEUE, max_images=IMAGES, grpc_port=0) as live:
        port = int(live.url.rpartition(":")[2])
        process = psutil.Process(live.process.pid)

        async def test():
            await closed_loop(port, 2, 2.0)
            capacity = await closed_loop(port, 2 + QUEUE // IMAGES // 2, 4.0)
            alone = 1 / await closed_loop(port, 1, 2.0)
            early = await open_loop(port, 4 * capacity, 3.0)
            memory = process.memory_info().rss
            late = await open_loop(port, 4 * capacity, SECONDS)
            return (
                capacity,
                alone,
                early + late,
                process.memory_info().rss - memory,
                await recovery(port, alone),
            )

        capacity, alone, answers, growth, recovered = asyncio.run(test())
        assert {status for _, status, *_ in answers} == {200, 429}
        assert all("retry-after: " in head for _, status, head, _ in answers if status == 429)
        accepted = np.array([seconds for _, status, _, seconds in answers if status == 200])
        offered = len(answers) / (3.0 + SECONDS)
        answered = len(accepted) / (3.0 + SECONDS)
        p99 = np.quantile(accepted, 0.99)
        print(
            f"capacity {capacity:.0f} requests/s of {IMAGES} images; "
            f"offered {offered:.0f}, answered {answered:.0f}; "
            f"p50 {np.median(accepted):.3f} s, p99 {p99:.3f} s, alone {alone:.3f} s; "
            f"memory grew by {growth / 2**20:.1f} MiB; recovered in {recovered:.2f} s"
        )
        assert answered > 0.6 * capacity  # refusing costs little
        # Who is let in waits for a full queue and the batch before it, at most; twice that, on a
        # machine of others.
        assert p99 < 2 * (QUEUE / IMAGES + 4) / capacity + 0.25
        assert growth < 32 * 2**20 and recovered < 2


async def stop_under_load(live, keeps):
    """Stops a server that 32 clients ask; returns (right answers, what became of other requests,
    clients refused)."""
    port = int(live.url.rpartition(":")[2])
    data = request(1)
    answered = 0
    lost = []
    refused = 0

    async def ask():
        nonlocal answered, refused
        client = Client(port)
        while True:
            try:
                status, *_ = await client.ask(data)
            except ConnectionRefusedError:
                refused += 1
                return
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                lost.append(repr(error))
                return
            if status == 200:
                answered += 1
            else:
                lost.append(status)
            if not keeps:
                client.close()

    tasks = [asyncio.create_task(ask()) for _ in range(32)]
    await asyncio.sleep(2)
    live.process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(asyncio.gather(*tasks), 30)
    return answered, lost, refused


@pytest.mark.parametrize("keeps", [True, False])
def test_a_stop_under_load_loses_no_answer(models, keeps):
    """Three times: clients that keep their connections, and such that open one for each request."""
    for _ in range(3):
        with serve(models, grpc_port=0) as live:
            answered, lost, refused = asyncio.run(stop_under_load(live, keeps))
            assert live.process.wait(20) == 0
            assert lost == [] and refused == 32 and answered > 100


def test_a_stop_under_load_loses_no_call(models):
    """The same by gRPC, whose server would cancel calls that come as it stops."""
    message = service_pb2.ModelInferRequest(
        model_name="slow",
        inputs=[{"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 1]}],
        raw_input_contents=[bytes(64)],
    )
    with serve(models) as live:
        answered = []
        ends = []

        def ask():
            with grpc.insecure_channel(
                live.grpc, options=[("grpc.use_local_subchannel_pool", 1)]
            ) as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                try:
                    while stub.ModelInfer(message, timeout=20).model_version == "1":
                        answered.append(1)
                except grpc.RpcError as error:
                    ends.append((error.code().name, error.details()))

        threads = [threading.Thread(target=ask) for _ in range(12)]
        [thread.start() for thread in threads]
        time.sleep(2)
        live.process.send_signal(signal.SIGTERM)
        [thread.join(30) for thread in threads]
        assert live.process.wait(20) == 0 and len(answered) > 100
        assert ends == [("UNAVAILABLE", "the server is not ready or is stopping")] * 12


def test_a_crash_loses_only_what_no_file_has(models, tmp_path):
    log = tmp_path / "predictions"
    with serve(models, grpc_port=0, prediction_log=log, prediction_rows=40) as live:
        port = int(live.url.rpartition(":")[2])
        rate = asyncio.run(closed_loop(port, 4, 3.0))
        live.process.kill()
        live.process.wait(20)
    parts = [pd.read_parquet(path) for path in sorted(log.glob("*.parquet"))]
    assert {len(part) for part in parts} == {40}
    rows = pd.read_parquet(log)
    # of its last second, some
    assert len(rows) == 40 * len(parts) > IMAGES * rate * 3.0 - 40 - IMAGES * rate * 1.0
    assert (
        rows["time"].is_monotonic_increasing
        and (rows.groupby("id").size().iloc[:-1] <= IMAGES).all()
    )
