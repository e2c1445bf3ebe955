"""Grad-CAM of EfficientNet-Lite0 on real photos points at what the network looks at: deleting it
first costs more."""

import tarfile

import cv2
import numpy as np

from tests.conftest import REPOSITORY
from vision import inference
from vision.config.load import load
from vision.data.decode import decode
from vision.evaluation.report import explain

STEP = 10  # every tenth of the 200 photos


def test_grad_cam_deletes_what_counts(shared_data):
    classifier = inference.from_config(
        load(str(REPOSITORY / "configs/efficientnet_lite_imagenet.py"))
    )
    with tarfile.open(shared_data / "imagenet_samples.tar") as archive:
        members = sorted(
            (m for m in archive if m.name.lower().endswith((".jpg", ".jpeg"))), key=lambda m: m.name
        )
        chosen = members[::STEP]
        images = np.stack(
            [classifier.prepare(decode(archive.extractfile(m).read())) for m in chosen]
        )
    assert len(images) == 20
    classes = classifier(images)[0].argmax(-1)
    heat = explain.explainer(classifier)(images, classes)
    random = np.random.default_rng(0)
    orders = {
        "hot": heat,
        "pixels": random.random(heat.shape),
        # as smooth as Grad-CAM's, whose last map has 7 x 7 positions
        "cells": np.stack([cv2.resize(random.random((7, 7)), heat.shape[1:]) for _ in images]),
    }
    curves = {
        name: explain.deletion_curves(classifier, images, order, classes)
        for name, order in orders.items()
    }
    areas = {name: explain.area_under(curve) for name, curve in curves.items()}
    for name in ("pixels", "cells"):
        np.testing.assert_allclose(curves[name][:, [0, -1]], curves["hot"][:, [0, -1]], rtol=1e-6)
        # of all 200 photos: 0.60 and 0.57 of it
        assert areas["hot"].mean() < 0.8 * areas[name].mean()
        assert (areas["hot"] < areas[name]).mean() >= 0.7  # of all 200 photos: 0.81 and 0.88
