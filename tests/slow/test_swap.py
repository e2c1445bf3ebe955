"""Twenty versions take over from each other while clients ask without a pause: no request fails,
none is mixed up.

In one process, where all that is loaded can be counted, and by REST and gRPC as clients see it.
"""

import asyncio
import collections
import gc
import itertools
import json
import shutil
import threading

import grpc
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.support.live_server import Client
from tests.support.live_server import serve as serve_live
from tests.support.repositories import Telemetry, until
from tests.support.tiny_bundle import RESIZE, weights, write_bundle
from vision import inference
from vision.bundle.directory import Manifest, write_manifest
from vision.serving.models.repository import Repository
from vision.serving.settings import Settings

SWAPS = 20
CLIENTS = 16
IMAGES = np.random.default_rng(1).integers(0, 256, (64, 8, 8, 1), np.uint8)


def write(folder, number):
    """Writes a bundle whose logits are `number` times those of the tiny one, and moves it to its
    place."""
    hidden = write_bundle(folder.with_name(f".{folder.name}"))
    model = onnx.load(hidden / "model.onnx")
    second = next(array for array in model.graph.initializer if array.name == "second")
    second.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(second) * np.float32(number), "second")
    )
    onnx.save(model, hidden / "model.onnx")
    classes = [f"class {i}" for i in range(10)]
    write_manifest(hidden, Manifest(classes, image_size=8, channels=1, resize=RESIZE))
    hidden.rename(folder)


def expected():
    """Returns the probabilities that each version gives each image."""
    first, second = weights()
    logits = IMAGES.reshape(len(IMAGES), -1).astype(np.float64) @ first @ second
    return {str(n): inference.softmax(logits * n) for n in range(1, SWAPS + 2)}


async def client(repository, number, answers, stop):
    """Asks again as soon as it has an answer."""
    for i in itertools.count(number):
        if stop.is_set():
            return
        start = i % 60
        count = i % 4 + 1
        version, shadow = repository.pick("digits", key=f"{number} {i}")
        with version.in_use():
            answer = await version.batcher.submit(IMAGES[start : start + count])
        answers.append((version.name, start, answer.probabilities, shadow))


def serve(folder, scenario):
    async def main():
        repository = Repository(
            Settings(models=str(folder), poll=0.02, threads=1, max_batch=8), Telemetry()
        )
        await repository.start()
        watch = asyncio.create_task(repository.watch())
        answers = []
        stop = asyncio.Event()
        clients = [
            asyncio.create_task(client(repository, i, answers, stop)) for i in range(CLIENTS)
        ]
        try:
            await scenario(repository, answers)
        finally:
            stop.set()
            done = await asyncio.gather(*clients, return_exceptions=True)
            await repository.close()
            watch.cancel()
        assert done == [None] * CLIENTS  # nobody has met an error
        return answers

    return asyncio.run(main())


def check(answers, reference):
    for name, start, probabilities, _ in answers:
        np.testing.assert_allclose(
            probabilities, reference[name][start : start + len(probabilities)], atol=1e-4
        )


def test_no_request_fails_while_versions_are_swapped(tmp_path):
    (tmp_path / "digits").mkdir()
    write(tmp_path / "digits/1", 1)
    threads = threading.active_count()

    async def scenario(repository, answers):
        for number in range(2, SWAPS + 2):
            write(tmp_path / f"digits/{number}", number)
            await until(lambda: repository.pick("digits")[0].name == str(number))  # noqa: B023
            shutil.rmtree(tmp_path / f"digits/{number - 1}")
            await until(lambda: repository.models() == {"digits": [str(number)]})  # noqa: B023
            seen = len(answers)
            await until(lambda: len(answers) > seen + 50)  # noqa: B023
        gc.collect()
        open_sessions = sum(
            isinstance(instance, onnxruntime.InferenceSession) for instance in gc.get_objects()
        )
        assert open_sessions <= 2  # those that went are gone from memory too

    answers = serve(tmp_path, scenario)
    check(answers, expected())
    assert {name for name, *_ in answers} == {str(n) for n in range(1, SWAPS + 2)}
    assert threading.active_count() <= threads + 1


def test_a_canary_gets_its_share_under_load_and_a_bad_version_none(tmp_path):
    (tmp_path / "digits").mkdir()
    for number in (1, 2, 3):
        write(tmp_path / f"digits/{number}", number)
    (tmp_path / "digits/traffic.json").write_text('{"weights": {"1": 90, "2": 10}, "shadow": "3"}')

    async def scenario(repository, answers):
        await until(lambda: len(answers) > 10_000)
        write(tmp_path / "digits/4", 4)
        (tmp_path / "digits/5").mkdir()
        (tmp_path / "digits/5/bundle.json").write_text("{}")
        await until(
            lambda: repository.states()["digits"]["versions"].get("5", {}).get("state") == "refused"
        )

    answers = serve(tmp_path, scenario)
    check(answers, expected())
    share = np.mean([name == "2" for name, *_ in answers])
    assert share == pytest.approx(0.1, abs=0.02) and {name for name, *_ in answers} == {"1", "2"}
    assert {shadow.name for *_, shadow in answers} == {"3"}


IMAGE = IMAGES[:1]
INPUT = {"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 1]}


async def ask_by_rest(port, answers, stop):
    """Asks for all probabilities, again and again, on a connection of its own."""
    head = json.dumps(
        {
            "inputs": [INPUT | {"data": IMAGE.ravel().tolist()}],
            "outputs": [{"name": "probabilities"}],
        }
    )
    lines = (
        f"POST /v2/models/digits/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(head)}\r\n\r\n"
    )
    client = Client(port)
    while not stop.is_set():
        status, _, body = await client.ask((lines + head).encode())
        answer = json.loads(body)
        answers.append(
            (
                status,
                answer.get("model_version"),
                answer["outputs"][0]["data"] if status == 200 else answer,
            )
        )
    client.close()


async def ask_by_grpc(address, answers, stop):
    message = service_pb2.ModelInferRequest(
        model_name="digits",
        inputs=[INPUT],
        outputs=[{"name": "probabilities"}],
        raw_input_contents=[IMAGE.tobytes()],
    )
    async with grpc.aio.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        while not stop.is_set():
            try:
                answer = await stub.ModelInfer(message)
                answers.append(
                    (200, answer.model_version, np.frombuffer(answer.raw_output_contents[0], "<f4"))
                )
            except grpc.RpcError as error:
                answers.append((error.code(), "", error.details()))


def live(folder, scenario):
    """Runs `scenario(answers)` while eight clients ask a server by REST and eight by gRPC; returns
    their answers."""
    answers = []

    async def main(server):
        stop = asyncio.Event()
        port = int(server.url.rpartition(":")[2])
        clients = [ask_by_rest(port, answers, stop) for _ in range(8)]
        clients += [ask_by_grpc(server.grpc, answers, stop) for _ in range(8)]
        tasks = [asyncio.create_task(client) for client in clients]
        try:
            await scenario(answers)
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    with serve_live(folder, poll=0.05) as server:
        asyncio.run(main(server))
    assert {status for status, *_ in answers} == {200}, [
        answer for answer in answers if answer[0] != 200
    ][:3]
    reference = expected()
    for _, version, probabilities in answers:
        np.testing.assert_allclose(probabilities, reference[version][0], atol=1e-4)
    return collections.Counter(version for _, version, _ in answers)


def test_clients_see_nothing_of_twenty_swaps(tmp_path):
    (tmp_path / "digits").mkdir()
    write(tmp_path / "digits/1", 1)

    async def scenario(answers):
        for number in range(2, SWAPS + 2):
            write(tmp_path / f"digits/{number}", number)
            await until(lambda: answers and answers[-1][1] == str(number))  # noqa: B023
            shutil.rmtree(tmp_path / f"digits/{number - 1}")
            seen = len(answers)
            await until(lambda: len(answers) > seen + 50)  # noqa: B023

    counts = live(tmp_path, scenario)
    print(f"{counts.total()} answers, none failed, by {len(counts)} versions")
    assert set(counts) == {str(n) for n in range(1, SWAPS + 2)}


def test_clients_see_a_canary_that_grows(tmp_path):
    """Its weight changes in traffic.json while they ask: a tenth, then a half, then all."""
    (tmp_path / "digits").mkdir()
    for number in (1, 2):
        write(tmp_path / f"digits/{number}", number)
    shares = []

    async def scenario(answers):
        for weight in (10, 50, 100):
            hidden = tmp_path / "digits/.traffic.json"
            hidden.write_text(json.dumps({"weights": {"1": 100 - weight, "2": weight}}))
            hidden.rename(tmp_path / "digits/traffic.json")
            await asyncio.sleep(0.5)
            seen = len(answers)
            await until(lambda: len(answers) > seen + 5_000)  # noqa: B023
            shares.append(np.mean([version == "2" for _, version, _ in answers[seen:]]))

    live(tmp_path, scenario)
    print("shares of the canary", shares)
    np.testing.assert_allclose(shares, [0.1, 0.5, 1.0], atol=0.02)
