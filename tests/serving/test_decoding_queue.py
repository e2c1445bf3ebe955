"""Images that wait to be decoded: in turn, in a bounded queue, and no longer than they may."""

import asyncio
import sys
import threading
import time

import numpy as np
import pytest

from tests.serving.test_images import bundle, encoded
from vision.serving.errors import TooMany
from vision.serving.images import Decoder
from vision.serving.settings import Settings


def test_images_wait_in_a_bounded_queue():
    """The pool is busy: what fits waits, what does not is refused, and a request that is canceled
    makes room again."""
    free = threading.Event()
    slow = bundle()
    slow.prepare = lambda image: free.wait(10) and np.zeros((8, 8, 3), np.uint8)

    async def run():
        decoder = Decoder(Settings(decode_threads=1, max_queue=4))
        first = asyncio.create_task(decoder.prepare([encoded()] * 3, slow))
        second = asyncio.create_task(decoder.prepare([encoded()], slow))
        await asyncio.sleep(0.1)
        with pytest.raises(TooMany):
            await decoder.prepare([encoded()], slow)
        second.cancel()
        await asyncio.wait([second])
        third = asyncio.create_task(decoder.prepare([encoded()], slow))
        await asyncio.sleep(0)
        free.set()
        batches = await asyncio.gather(first, third)
        decoder.close()
        return [len(images) for images in batches]

    assert asyncio.run(run()) == [3, 1]


def test_images_that_would_wait_longer_than_a_request_may_are_refused():
    free = threading.Event()
    slow = bundle()
    slow.prepare = lambda image: free.wait(10) and np.zeros((8, 8, 3), np.uint8)

    async def run():
        decoder = Decoder(Settings(decode_threads=1, timeout=5.0))
        decoder._seconds = 2.0  # as of photos of 50 megapixels
        waiting = [asyncio.create_task(decoder.prepare([encoded()], slow)) for _ in range(3)]
        await asyncio.sleep(0.05)
        with pytest.raises(TooMany, match="takes 6 seconds"):
            await decoder.prepare([encoded()], slow)
        free.set()
        await asyncio.gather(*waiting)
        decoder.close()

    asyncio.run(run())


def test_requests_take_turns():
    """One of many images that take their time does not hold up one that comes later."""
    order = []

    def noting(name):
        model = bundle()
        model.prepare = lambda image: (
            order.append(name) or time.sleep(0.01) or np.zeros((8, 8, 3), np.uint8)
        )
        return model

    async def run():
        decoder = Decoder(Settings(decode_threads=2))
        many = asyncio.create_task(decoder.prepare([encoded()] * 20, noting("many")))
        await asyncio.sleep(0.03)
        before = len(order)
        await decoder.prepare([encoded()], noting("one"))
        assert (await many).shape == (20, 8, 8, 3)
        decoder.close()
        return order.index("one") - before

    assert asyncio.run(run()) <= 4 and order.count("many") == 20


def test_what_has_been_decoded_waits_no_more():
    free = threading.Semaphore(0)
    slow = bundle()
    slow.prepare = lambda image: (
        free.acquire(timeout=10) and time.sleep(0.006) or np.zeros((8, 8, 3), np.uint8)
    )

    async def run():
        decoder = Decoder(Settings(decode_threads=1, max_queue=4))
        many = asyncio.create_task(decoder.prepare([encoded()] * 4, slow))
        await asyncio.sleep(0.02)
        with pytest.raises(TooMany):
            await decoder.prepare([encoded()], slow)
        free.release()
        async with asyncio.timeout(5):
            while decoder._waiting == 4:
                await asyncio.sleep(0.005)
        single = asyncio.create_task(decoder.prepare([encoded()], slow))
        await asyncio.sleep(0)
        free.release(4)
        assert len(await single) == 1 and len(await many) == 4 and decoder._waiting == 0
        decoder.close()

    asyncio.run(run())


@pytest.mark.parametrize("count", [1, 3])
def test_what_is_canceled_is_not_kept_until_a_thread_is_free(count):
    free = threading.Event()
    slow = bundle()
    slow.prepare = lambda image: free.wait(10) and np.zeros((8, 8, 3), np.uint8)

    async def run():
        decoder = Decoder(Settings(decode_threads=1))
        first = asyncio.create_task(decoder.prepare([encoded()], slow))
        await asyncio.sleep(0.05)
        data = encoded("BMP")
        before = sys.getrefcount(data)
        given = [data] * count
        second = asyncio.create_task(decoder.prepare(given, slow))
        await asyncio.sleep(0.05)
        assert sys.getrefcount(data) > before
        second.cancel()
        await asyncio.wait([second])
        assert given == [data] * count  # the log may still want it
        del second, given
        after = sys.getrefcount(data)
        free.set()
        await first
        assert decoder._waiting == 0
        decoder.close()
        return after - before

    assert asyncio.run(run()) == 0
