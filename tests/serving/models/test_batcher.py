"""No answer is lost, swapped or computed for nobody, whatever the sizes, times and cancelations."""

import asyncio
import gc
import itertools
import time
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.models.batching import Model, check, images, serve
from vision.serving.errors import Refused, TooLarge, TooMany, Unavailable

REQUESTS = st.lists(
    st.tuples(
        st.integers(1, 9),  # images
        st.sampled_from([0, 0, 0.0005, 0.003]),  # seconds before it comes
        st.sampled_from([None, None, None, 0, 0.0005, 0.003]),  # seconds until it is canceled
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(REQUESTS, st.integers(1, 8), st.sampled_from([0, 0.001, 0.003]), st.sampled_from([0, 0.001]))
def test_each_gets_its_own_answer(requests, max_batch, seconds, max_delay):
    """Each image once at most, a request's in their order, requests in that of their coming; no
    batch is too large."""
    model = Model(seconds)
    starts = np.cumsum([0] + [count for count, _, _ in requests]).tolist()

    async def submit_one(batcher, first, count, cancel):
        task = asyncio.create_task(batcher.submit(images(first, count)))
        if cancel is not None:
            await asyncio.sleep(cancel)
            task.cancel()
        try:
            check(await task, first, count)
        except asyncio.CancelledError:
            assert cancel is not None

    async def scenario(batcher):
        tasks = []
        for (count, before, cancel), first in zip(requests, starts, strict=False):
            await asyncio.sleep(before)
            tasks.append(asyncio.create_task(submit_one(batcher, first, count, cancel)))
        await asyncio.gather(*tasks)

    _, sizes = serve(scenario, model, max_batch=max_batch, max_delay=max_delay)
    run = sum(model.batches, [])
    assert len(set(run)) == len(run)
    for start, stop in itertools.pairwise(starts):
        mine = [number for number in run if start <= number < stop]
        assert mine == list(range(start, start + len(mine)))
    begun = [number for number in run if number in starts]
    assert begun == sorted(begun)
    lasting = sum(count for count, _, gone in requests if gone is None)
    assert lasting <= len(run)
    assert all(0 < len(batch) <= max_batch for batch in model.batches) and sizes == [
        len(b) for b in model.batches
    ]


def test_requests_take_turns():
    """One of several batches gives one at a time; what is left of the last is filled with
    others'."""
    model = Model()

    async def scenario(batcher):
        model.go.clear()
        tasks = [asyncio.create_task(batcher.submit(images(0)))]
        await asyncio.sleep(0.05)
        requests = ((10, 5), (20, 1), (30, 1), (40, 4), (50, 1))
        tasks += [
            asyncio.create_task(batcher.submit(images(first, count))) for first, count in requests
        ]
        await asyncio.sleep(0.05)
        model.go.set()
        for (first, count), answer in zip(
            ((0, 1), *requests), await asyncio.gather(*tasks), strict=True
        ):
            check(answer, first, count)

    serve(scenario, model, max_batch=2)
    assert model.batches == [[0], [10, 11], [20, 30], [40, 41], [50], [12, 13], [42, 43], [14]]


def test_a_request_of_many_images_does_not_hold_up_single_ones():
    model = Model(0.005)

    async def scenario(batcher):
        many = asyncio.create_task(batcher.submit(images(100, 64)))
        await asyncio.sleep(0.02)
        for i in range(5):
            before = len(model.batches)
            check(await batcher.submit(images(i)), i)
            # two may end or begin meanwhile, and it waits for a turn
            assert model.batches.index([i]) <= before + 3
        many.cancel()
        await asyncio.wait([many])

    serve(scenario, model, max_batch=1)


def test_what_cannot_be_answered_in_time_is_refused():
    model = Model(0.05)

    async def scenario(batcher):
        first = asyncio.create_task(batcher.submit(images(0, 64)))  # nothing is known yet
        await asyncio.sleep(0.02)
        first.cancel()
        check(await batcher.submit(images(1)), 1)
        with pytest.raises(
            TooLarge,
            match="64 images would take about .* seconds, and the timeout is 1: send fewer",
        ):
            await batcher.submit(images(0, 64))
        check(await batcher.submit(images(2, 2)), 2, 2)

        model.go.clear()
        tasks = [asyncio.create_task(batcher.submit(images(i))) for i in range(60)]
        await asyncio.sleep(0)
        refused = [task.exception() for task in tasks if task.done()]
        assert 5 < len(refused) < 55 and not any(task.done() for task in tasks[:5])
        assert all(isinstance(error, TooMany) and 1 < error.retry_after < 60 for error in refused)
        assert "too many for an answer within 1 seconds" in refused[0].message
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        model.go.set()

        batcher._measured -= 1  # long ago: nothing else would ever renew it
        late = asyncio.create_task(batcher.submit(images(0, 64)))
        await asyncio.sleep(0)
        assert not late.done()
        late.cancel()

    serve(scenario, model, max_batch=1, timeout=1.0)


def test_by_turns_many_images_that_wait_do_not_refuse_a_few():
    model = Model()

    async def scenario(batcher):
        model.go.clear()
        batcher._per_image = 0.02
        batcher._measured = time.perf_counter()
        requests = ((100, 60), (200, 30), (300, 30), (400, 1))
        tasks = [
            asyncio.create_task(batcher.submit(images(first, count))) for first, count in requests
        ]
        await asyncio.sleep(0)
        with pytest.raises(TooMany, match="12[01] images are waiting, too many"):
            await batcher.submit(images(0, 60))
        model.go.set()
        for (first, count), answer in zip(requests, await asyncio.gather(*tasks), strict=True):
            check(answer, first, count)

    serve(scenario, model, max_batch=1, timeout=1.0)


def test_a_run_of_few_images_does_not_say_how_long_many_take():
    """A model that takes as long for one as for a batch; and one that was slow at first."""
    model = Model(0.05)

    async def scenario(batcher):
        for i in range(3):
            check(await batcher.submit(images(i)), i)
        check(await batcher.submit(images(10, 64)), 10, 64)

    serve(scenario, model, max_batch=64, timeout=1.0)
    model.seconds = 0.3

    async def slow_at_first(batcher):
        check(await batcher.submit(images(0, 2)), 0, 2)
        with pytest.raises(TooLarge):
            await batcher.submit(images(0, 30))
        model.seconds = 0
        for i in range(15):
            check(await batcher.submit(images(i)), i)
        check(await batcher.submit(images(0, 30)), 0, 30)

    serve(slow_at_first, model, max_batch=2, timeout=1.0)


def test_what_came_during_a_run_goes_at_once_in_full_batches():
    model = Model()

    async def scenario(batcher):
        model.go.clear()
        tasks = [asyncio.create_task(batcher.submit(images(0)))]
        await asyncio.sleep(0.05)
        tasks += [asyncio.create_task(batcher.submit(images(i))) for i in range(1, 41)]
        await asyncio.sleep(0.05)
        model.go.set()
        begun = time.perf_counter()
        for i, answer in enumerate(await asyncio.gather(*tasks)):
            check(answer, i)
        assert time.perf_counter() - begun < 2

    _, sizes = serve(scenario, model, max_batch=8, max_delay=10.0)
    assert sizes == [1, 8, 8, 8, 8, 8]


def test_a_client_that_is_alone_never_waits():
    async def scenario(batcher):
        begun = time.perf_counter()
        for i in range(20):
            check(await batcher.submit(images(i)), i)
        assert time.perf_counter() - begun < 2

    _, sizes = serve(scenario, Model(0.001), max_delay=10.0)
    assert sizes == [1] * 20


def test_clients_that_come_back_are_waited_for():
    """Two who ask again when they have their answer share a run, although the second came when the
    first one's ran."""

    async def client(batcher, number):
        await asyncio.sleep(0.015 * number)
        for _ in range(20):
            check(await batcher.submit(images(number)), number)

    async def scenario(batcher):
        await asyncio.gather(client(batcher, 0), client(batcher, 1))

    _, sizes = serve(scenario, Model(0.03), max_delay=1.0)
    assert sum(sizes) == 40 and len(sizes) < 30


def test_a_full_queue_refuses_and_recovers():
    model = Model()

    async def scenario(batcher):
        model.go.clear()
        tasks = [asyncio.create_task(batcher.submit(images(0)))]
        await asyncio.sleep(0.05)
        tasks += [asyncio.create_task(batcher.submit(images(2 * i + 1, 2))) for i in range(4)]
        await asyncio.sleep(0)
        assert batcher.waiting == 8
        with pytest.raises(TooMany) as refused:
            await batcher.submit(images(0, 3))
        assert refused.value.status == 429 and 0 < refused.value.retry_after < 5
        tasks.append(asyncio.create_task(batcher.submit(images(9, 2))))  # for two there is room
        with pytest.raises(TooLarge, match="at most 10"):
            await batcher.submit(images(0, 11))
        with pytest.raises(Refused, match="no image"):
            await batcher.submit(images(0, 0))
        model.go.set()
        check((await asyncio.gather(*tasks))[-1], 9, 2)
        check(await batcher.submit(images(5, 10)), 5, 10)

    serve(scenario, model, max_batch=4, max_queue=10, max_images=10)


def test_who_went_away_costs_nothing_and_makes_room():
    model = Model()

    async def scenario(batcher):
        model.go.clear()
        first = asyncio.create_task(batcher.submit(images(0)))
        await asyncio.sleep(0.05)
        gone = [asyncio.create_task(batcher.submit(images(10 * i, 10))) for i in range(1, 11)]
        await asyncio.sleep(0)
        assert batcher.waiting == 100
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        assert batcher.waiting == 0
        last = asyncio.create_task(batcher.submit(images(500, 100)))
        await asyncio.sleep(0)
        model.go.set()
        check(await first, 0)
        check(await last, 500, 100)

    serve(scenario, model, max_queue=100, max_images=100)
    assert sum(model.batches, []) == [0, *range(500, 600)]


@pytest.mark.parametrize("failure", [ValueError("no memory"), None])
def test_it_goes_on_after_a_run_that_fails(failure):
    """One that raises, or gives fewer answers than there were images."""
    model = Model()

    async def scenario(batcher):
        batcher._run = (
            (lambda images: [array[:1] for array in model(images)]) if failure is None else model
        )
        model.failures = [failure] if failure else []
        outcomes = await asyncio.gather(
            *(batcher.submit(images(i, 2)) for i in (0, 2)), return_exceptions=True
        )
        failed = [error for error in outcomes if isinstance(error, RuntimeError)]
        assert failed and all("version 2 of digits has failed" in str(error) for error in failed)
        assert all(isinstance(error.__cause__, ValueError) for error in failed)
        batcher._run = model
        check(await batcher.submit(images(7)), 7)

    serve(scenario, model)


def test_what_has_failed_is_not_kept():
    """An error's traceback has the frames of those who waited for it: a cycle would keep their
    images for long."""
    model = Model()

    async def scenario(batcher):
        given = images(0, 5)
        kept = weakref.ref(given)
        model.failures = [ValueError("no memory")]
        with pytest.raises(RuntimeError, match="has failed"):
            await batcher.submit(given)
        del given
        check(await batcher.submit(images(7)), 7)  # until then the thread has the last batch
        assert kept() is None

    gc.disable()
    try:
        serve(scenario, model, max_batch=2)
    finally:
        gc.enable()


def test_closing_answers_what_waits_and_takes_no_more():
    model = Model(0.002)

    async def scenario(batcher):
        tasks = [asyncio.create_task(batcher.submit(images(3 * i, 3))) for i in range(20)]
        await asyncio.sleep(0)
        await asyncio.gather(batcher.close(), batcher.close())
        assert all(task.done() for task in tasks)
        batcher._thread.join(5)
        assert not batcher._thread.is_alive()
        for i, task in enumerate(tasks):
            check(task.result(), 3 * i, 3)
        with pytest.raises(Unavailable, match="being unloaded"):
            await batcher.submit(images(0))

    serve(scenario, model, max_batch=4)
