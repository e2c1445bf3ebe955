"""A bundle exported from a run, one image at a time; and memory over many files."""

import json
import os
import tarfile
import tracemalloc

import cv2
import numpy as np

from tests.support.tiny_bundle import write_bundle
from vision import cli, inference, predict
from vision.bundle import directory as bundle
from vision.data.decode import decode
from vision.export.bundle import export
from vision.export.options import ExportOptions


def test_an_exported_run_gives_what_the_run_gives(tiny_run, shared_data, tmp_path, capsys):
    classifier = inference.from_run(tiny_run)
    export(classifier, tmp_path / "bundle", ExportOptions(batch=1), report=lambda line: None)
    opened = bundle.open_bundle(tmp_path / "bundle")
    with tarfile.open(shared_data / "imagenet_samples.tar") as archive:
        photos = [decode(archive.extractfile(m).read()) for m in archive if m.isfile()][:40]
    images = np.stack([classifier.prepare(photo) for photo in photos])
    np.testing.assert_array_equal(np.stack([opened.prepare(photo) for photo in photos]), images)
    pairs = zip(
        classifier.probabilities_and_embeddings(images),
        opened.probabilities_and_embeddings(images),
        strict=True,
    )
    for ours, exported in pairs:
        np.testing.assert_allclose(exported, ours, atol=1e-5)
    for i, image in enumerate(images[:5]):
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
    answers = []
    for model in (("--workdir", tiny_run), ("--bundle", tmp_path / "bundle")):
        cli.run(predict.main, [*map(str, model), "--format=json", "--top=10", f"{tmp_path}/?.png"])
        lines = map(json.loads, capsys.readouterr().out.splitlines())
        answers.append(
            {line["file"]: {t["class"]: t["probability"] for t in line["top"]} for line in lines}
        )
    assert answers[0].keys() == answers[1].keys()
    for file, top in answers[0].items():
        assert all(abs(answers[1][file][name] - p) < 1e-5 for name, p in top.items())


def test_memory_does_not_grow_with_the_number_of_files(tmp_path):
    """20 folders of 1,000 images take what two take; the prepared images alone would be 200 MB
    more."""
    model = bundle.open_bundle(write_bundle(tmp_path / "bundle", side=64, channels=3))
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((16, 16, 3), np.uint8))
    for folder in range(20):
        (tmp_path / "photos" / f"{folder:02}").mkdir(parents=True)
        for i in range(1000):
            os.link(tmp_path / "a.png", tmp_path / "photos" / f"{folder:02}" / f"{i}.png")
    peaks = []
    for pattern in ("0[01]/*.png", ""):
        tracemalloc.start()
        predictions = predict.predict(
            model, predict.find([f"{tmp_path}/photos/{pattern}"]), batch_size=64
        )
        count = sum(1 for _ in predictions)
        peaks.append((count, tracemalloc.get_traced_memory()[1]))
        tracemalloc.stop()
    assert [count for count, _ in peaks] == [2_000, 20_000]
    assert peaks[1][1] < peaks[0][1] + 2e6
