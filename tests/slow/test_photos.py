"""All 200 ImageNet photos through the command, with EfficientNet-Lite0's real weights."""

import csv
import io
import tarfile

import numpy as np

from tests.support.references import FOLDER
from vision import cli, predict
from vision.models.weights.published import imagenet_classes


def test_every_photo_is_classified_as_torch_does(shared_data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(FOLDER.parent.parent.parent)
    with tarfile.open(shared_data / "imagenet_samples.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    cli.run(
        predict.main,
        ["--config=configs/efficientnet_lite_imagenet.py", "--format=csv", str(tmp_path)],
    )
    predicted = {}
    for row in csv.DictReader(io.StringIO(capsys.readouterr().out)):
        predicted.setdefault(row["file"].rpartition("/")[2], []).append(row["class"])
    with np.load(FOLDER / "efficientnet_lite0_photos.npz") as file:
        tops = zip(file["names"], file["top"], strict=True)
        expected = {name: [imagenet_classes()[i][1] for i in top] for name, top in tops}
    assert predicted == expected
    synsets = {name: synset for synset, name in imagenet_classes()}
    right = [[synsets[c] in file for c in classes] for file, classes in predicted.items()]
    assert (len(right), sum(r[0] for r in right), sum(map(any, right))) == (200, 176, 196)
