"""A shadow answers for the log alone, and takes no room from what serves; what is no number is no
answer."""

import asyncio
import contextlib
import types

import numpy as np
import pytest

from vision.serving.models.batcher import Prediction
from vision.serving.request import Request
from vision.serving.service import SHADOWS, Service


class Version:
    """A version whose model answers once `go` is set."""

    def __init__(self, name, go=True):
        self.model = "digits"
        self.name = name
        self.go = asyncio.Event()
        self.bundle = types.SimpleNamespace(classes=("a", "b"), encoder=None, evidence=None)
        self.batcher = self
        if go:
            self.go.set()

    @contextlib.contextmanager
    def in_use(self):
        yield self

    async def submit(self, images):
        await self.go.wait()
        return Prediction(
            np.full((len(images), 2), 0.5, np.float32),
            np.zeros((len(images), 3), np.float32),
            0.0,
            0.0,
        )


class Decoder:
    async def prepare(self, images, bundle):
        return np.zeros((len(images), 8, 8, 1), np.uint8)


class Telemetry:
    def __init__(self):
        self.answers = []
        self.failures = []
        self.unanswered_by = []

    def answered(self, request, answer, shadow=False):
        self.answers.append((answer.version, shadow))

    def unanswered(self, version, error):
        self.unanswered_by.append((version.name, type(error).__name__))

    def shadow_failed(self, version, error):
        self.failures.append((version.name, type(error).__name__))


def served(requests, count):
    """Returns (shadow's answers, its failures) after requests of `count` images while the shadow
    hangs."""

    async def main():
        telemetry = Telemetry()
        live = Version("1")
        shadow = Version("2", go=False)
        repository = types.SimpleNamespace(pick=lambda *asked: (live, shadow))
        service = Service(repository, Decoder(), telemetry)
        for _ in range(requests):
            answer = await asyncio.wait_for(
                service.classify(Request("digits", [b"image"] * count)), 5
            )
            assert answer.version == "1"
        refused = len(telemetry.failures)
        shadow.go.set()
        await asyncio.gather(*service._shadow_tasks)
        followed = telemetry.answers.count(("2", True))
        await service.classify(Request("digits", [b"image"] * count))  # there is room again
        await asyncio.gather(*service._shadow_tasks)
        assert telemetry.answers.count(("2", True)) == followed + 1
        assert set(telemetry.failures) <= {("2", "TooMany")} and followed + refused == requests
        return followed, refused

    return asyncio.run(main())


def test_a_shadow_that_keeps_up_sees_every_request():
    assert served(SHADOWS[0], 1) == (SHADOWS[0], 0)


def test_a_shadow_that_hangs_holds_a_few_requests_and_no_more():
    assert served(100, 1) == (SHADOWS[0], 100 - SHADOWS[0])
    assert served(10, 30) == (SHADOWS[1] // 30, 10 - SHADOWS[1] // 30)
    assert served(3, 500) == (1, 2)  # a request of any size, where it is the only one


@pytest.mark.parametrize("broken", ["probabilities", "embedding"])
def test_what_is_no_number_is_no_answer(broken):
    async def main():
        version = Version("1")
        telemetry = Telemetry()
        answer = await version.submit(np.zeros((2, 8, 8, 1), np.uint8))
        getattr(answer, broken)[1, 0] = np.nan

        async def submit(images):
            return answer

        version.submit = submit
        service = Service(
            types.SimpleNamespace(pick=lambda *asked: (version, None)), Decoder(), telemetry
        )
        with pytest.raises(RuntimeError, match="version 1 of digits"):
            await service.classify(Request("digits", [b"image"] * 2))
        assert not telemetry.answers
        assert telemetry.unanswered_by == [("1", "RuntimeError")]

    asyncio.run(main())


def test_a_request_that_is_canceled_was_not_answered():
    async def main():
        telemetry = Telemetry()
        version = Version("1", go=False)
        service = Service(
            types.SimpleNamespace(pick=lambda *asked: (version, None)), Decoder(), telemetry
        )
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(service.classify(Request("digits", [b"image"])), 0.01)
        assert telemetry.unanswered_by == [("1", "CancelledError")]

    asyncio.run(main())
