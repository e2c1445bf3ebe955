"""The numbers that the log has of images that came as pixels, few or many in a request."""

import urllib.parse

import numpy as np
import pandas as pd
import pytest
import tritonclient.http as triton

from tests.support.live_server import serve
from tests.support.tiny_bundle import write_bundle
from vision.reference import appearance
from vision.serving import service
from vision.serving.logs.prediction_log import PredictionLog
from vision.serving.request import Answer, Description, Request

SIDE = 8
LARGE = service.SMALL // SIDE**2 + 1  # gray images of a request that the log does not measure


def pixels(count, seed, channels=1):
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, channels), np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_server_logs_what_a_client_sent(channels, tmp_path):
    """A few images are measured by the log, many where images are decoded."""
    write_bundle(tmp_path / "models" / "tiny" / "1", channels=channels)
    sent = [pixels(count, i, channels) for i, count in enumerate((1, LARGE // channels + 1, 3))]
    most = {"max_images": 2 * LARGE, "max_queue": 2 * LARGE}
    flags = {"grpc_port": 0, "prediction_log": tmp_path / "log"} | most
    with serve(tmp_path / "models", **flags) as live:
        client = triton.InferenceServerClient(urllib.parse.urlsplit(live.url).netloc)
        for images in sent:
            given = triton.InferInput("images", images.shape, "UINT8")
            given.set_data_from_numpy(images)
            client.infer("tiny", [given])
        client.close()
    rows = pd.read_parquet(tmp_path / "log")
    requests = [group for _, group in rows.sort_values(["time", "image"]).groupby("id", sort=False)]
    for group, images in zip(requests, sent, strict=True):
        logged = group[list(appearance.NAMES)]
        alone = [appearance.measure(image) for image in images]
        np.testing.assert_array_equal(logged.to_numpy(np.float32), np.stack(alone))


def test_the_log_measures_what_waits_among_what_is_measured(tmp_path):
    """Each answer's rows get its own numbers, and waiting pixels count as memory."""
    log = PredictionLog(tmp_path, 100, 60.0)
    expected = []
    for seed, count in enumerate((2, 1, 3)):
        images = pixels(count, seed)
        numbers = appearance.measure_all(images)
        expected.append(numbers)
        parts = (numbers, None) if seed == 1 else (None, images)
        description = Description(parts[0], "print", None, parts[1])
        answer = Answer(
            "pets",
            "1",
            ("cat", "dog"),
            np.full((count, 2), 0.5, np.float32),
            np.zeros((count, 4), np.float32),
            {},
        )
        answer.description = description
        log.put(Request("pets", images, id=str(seed)), answer, shadow=False)
    assert log._answer_bytes.taken > 5 * SIDE**2
    log.write(everything=True)
    assert log._answer_bytes.taken == log._answer_bytes.freed
    logged = pd.read_parquet(tmp_path)[list(appearance.NAMES)].to_numpy(np.float32)
    np.testing.assert_array_equal(logged, np.concatenate(expected))
