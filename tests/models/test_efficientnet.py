"""The head of an EfficientNet."""

import numpy as np
import pytest

from vision.models.efficientnet import build
from vision.models.layers.streams import Streams


@pytest.mark.parametrize(("classes", "limit"), [(3, 1000**-0.5), (4000, 4000**-0.5)])
def test_few_classes_begin_with_small_logits(classes, limit):
    """TF's 1 / sqrt(classes) would begin with logits that transfer hardly recovers from."""
    model = build("mu", classes, rngs=Streams(0), channels=1)
    kernel = np.abs(np.asarray(model.head.kernel.get_value()))
    assert 0.9 * limit < kernel.max() < limit
