"""Pictures for people."""

import numpy as np

from vision.data.pictures import overlay


def test_overlay():
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    heat = np.zeros((9, 7), np.float32)
    heat[2:5, 3] = 1
    for picture in (image, image[..., :1]):
        shown = overlay(picture, heat)
        cold = shown[heat == 0]
        assert shown.shape == (9, 7, 3) and shown.dtype == np.uint8
        assert (cold == cold[:, :1]).all() and len(np.unique(cold)) > 20  # the picture, in gray
        assert (shown[2:5, 3, 0] > shown[2:5, 3, 2]).all()  # hot is yellow
