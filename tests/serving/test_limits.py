"""What is held in memory at a time."""

import threading
import time

from vision.serving.limits import PixelBudget


def test_images_are_decoded_side_by_side_only_as_far_as_they_fit():
    budget = PixelBudget(100)
    lock = threading.Lock()
    used = 0
    highest = 0
    most = 0
    active = 0

    def decode(pixels):
        nonlocal used, highest, most, active
        with budget.reserve(pixels):
            with lock:
                used += pixels
                active += 1
                highest = max(highest, used if active > 1 else 0)
                most = max(most, active)
            time.sleep(0.002)
            with lock:
                used -= pixels
                active -= 1

    sizes = [10, 60, 30, 250, 5, 90, 40] * 10
    threads = [threading.Thread(target=decode, args=(pixels,)) for pixels in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert used == active == 0 and most > 1 and 60 < highest <= 100


def test_small_images_do_not_keep_a_large_one_waiting():
    budget = PixelBudget(100)
    decoded = threading.Event()
    stop = threading.Event()

    def small():
        while not stop.is_set():
            with budget.reserve(40):
                time.sleep(0.002)

    def large():
        with budget.reserve(100):
            decoded.set()

    threads = [threading.Thread(target=small) for _ in range(3)]
    threads.append(threading.Thread(target=large))
    for thread in threads:
        thread.start()
    assert decoded.wait(5)
    stop.set()
    for thread in threads:
        thread.join(5)
