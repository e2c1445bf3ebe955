"""A run, its bundle and a server with it say the same of an image's tiles."""

import http.client
import json
import urllib.parse

import cv2
import numpy as np
import pytest

from tests.support.commands import exit_code, outcome
from tests.support.live_server import serve
from vision import predict
from vision.export import __main__ as export

TILES = {"tiles": 12, "overlap": 0.3, "normal": "7", "defect_threshold": 0.2}


@pytest.fixture(scope="module")
def models(tiny_run, tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    assert exit_code(export.main, f"--workdir={tiny_run}", f"--out={models / 'digits' / '1'}") == 0
    return models


def test_the_same_decisions_and_probabilities(tiny_run, models, tmp_path, capsys):
    image = np.random.default_rng(0).integers(0, 256, (50, 90), np.uint8)
    path = tmp_path / "line.png"
    cv2.imwrite(str(path), image)
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in TILES.items()]
    answers = []
    for model in ("--workdir", tiny_run), ("--bundle", models / "digits" / "1"):
        argv = (*model, *flags, "--format=json", "--top=10", path)
        code, out, err = outcome(predict.main, capsys, *argv)
        assert code == 0, err
        answers.append(json.loads(out))
    query = urllib.parse.urlencode(TILES | {"top_k": 10})
    with serve(models, grpc_port=0) as live:
        url = urllib.parse.urlsplit(live.url)
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
        connection.request("POST", f"/classify/digits?{query}", path.read_bytes())
        response = connection.getresponse()
        answers.append(json.loads(response.read()))
        connection.close()
    assert response.status == 200, answers[-1]
    first, *others = answers
    assert len(first["tiles"]) == 11 * 6
    for other in others:
        assert (other["class"], other["tile"]) == (first["class"], first["tile"])
        assert other["score"] == pytest.approx(first["score"], abs=1e-5)
        for one_tile, same_tile in zip(first["tiles"], other["tiles"], strict=True):
            assert one_tile["x"] == same_tile["x"] and one_tile["y"] == same_tile["y"]
            rows = [
                {entry["class"]: entry["probability"] for entry in tile["top"]}
                for tile in (one_tile, same_tile)
            ]
            assert rows[0] == pytest.approx(rows[1], abs=1e-5)
