"""A gRPC server in this process, whose parts a test can look at and replace."""

import asyncio
import dataclasses
import socket
import threading
import time

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from vision.serving import rpc
from vision.serving.images import Decoder
from vision.serving.keys import ApiKeys
from vision.serving.logs.telemetry import Telemetry
from vision.serving.models.repository import Repository
from vision.serving.service import Service
from vision.serving.settings import Settings

SETTINGS = Settings(grpc_port=1, max_body=1_000_000, timeout=5.0, access_log="")


class Served:
    """A gRPC server in a thread of its own.

    Attributes:
        port: that it listens on.
        service, telemetry, calls: what it is made of.
        entries: of its access log.
    """

    def __init__(self, settings):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.settings = dataclasses.replace(settings, grpc_port=self.port)
        self.entries = []
        self._started = threading.Event()
        self.error = None
        self.calls = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self._started.wait(20)
        if self.error:
            raise self.error

    async def _serve(self):
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.telemetry = Telemetry(self.settings)
        self.telemetry.access = self.entries.append
        repository = Repository(self.settings, self.telemetry)
        try:
            await repository.start()
            self.telemetry.follow(repository)
            self.service = Service(repository, Decoder(self.settings), self.telemetry)
            self.calls = rpc.Calls(
                self.service, repository, ApiKeys(self.settings), self.telemetry, self.settings
            )
            server = rpc.build(self.calls, self.settings)
            await server.start()
            self._started.set()
            await self._stop.wait()
            await server.stop(1)
        except Exception as error:
            self.error = error
        finally:
            self._started.set()
            await repository.close()
            self.telemetry.close()

    def close(self):
        if not self.error:
            self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


def code_of(call, *arguments, **options):
    """Returns (code, message, trailing metadata) of a call that must fail."""
    with pytest.raises(grpc.RpcError) as error:
        call(*arguments, **options)
    return error.value.code().name, error.value.details(), dict(error.value.trailing_metadata())


def is_logged(served, code):
    """Whether a line of the log has a code, or gets one soon: after a failure the client hears of
    it first, and so the line of an earlier call may come too."""
    deadline = time.monotonic() + 5
    while (
        not (logged := code in [entry["code"] for entry in served.entries])
        and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    return logged


def pixels(count=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1), np.uint8)


def message(**fields):
    """Returns a ModelInferRequest of one image, with some fields in the place of others."""
    inputs = [{"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 1]}]
    return service_pb2.ModelInferRequest(
        **{"model_name": "tiny", "inputs": inputs, "raw_input_contents": [pixels(1).tobytes()]}
        | fields
    )
