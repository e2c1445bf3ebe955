"""A bundle takes the threads and the GPU that it is given."""

import os

import numpy as np
import pytest

from tests.bundle.test_directory import IMAGES, expected
from tests.support.tiny_bundle import write_bundle
from vision.bundle import directory as bundle
from vision.errors import UserError


@pytest.fixture
def sessions(monkeypatch):
    """The sessions of ONNX Runtime that were opened; with `sessions.gpu`, the CPU acts as a GPU."""
    import onnxruntime

    class Sessions(list):
        gpu = True

    opened = Sessions()

    class Session:
        def __init__(self, path, options, providers):
            self.real = onnxruntime_session(path, options, providers=["CPUExecutionProvider"])
            self.threads = options.intra_op_num_threads
            self.providers = providers
            self.sizes = []
            opened.append(self)

        def get_providers(self):
            return self.providers if opened.gpu else ["CPUExecutionProvider"]

        def run(self, names, feed):
            self.sizes += [len(array) for array in feed.values()]
            return self.real.run(names, feed)

        def __getattr__(self, name):
            return getattr(self.real, name)

    onnxruntime_session = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    return opened


def test_it_takes_the_threads_that_it_is_given(tmp_path, sessions):
    bundle.open_bundle(write_bundle(tmp_path), threads=3)
    bundle.open_bundle(tmp_path)
    assert [session.threads for session in sessions] == [3, len(os.sched_getaffinity(0))]


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_gets_few_sizes(tmp_path, sessions, monkeypatch, provider):
    """Powers of two, or the graph's own size; the padding does not show in the results."""
    import onnxruntime

    with pytest.raises(UserError, match="pip install onnxruntime-gpu"):
        bundle.open_bundle(write_bundle(tmp_path), provider=provider)
    names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    for batch, sizes in (("B", [1, 2, 4, 4, 8]), (3, [3, 3, 3, 3, 3, 3, 3])):
        model = bundle.open_bundle(
            write_bundle(tmp_path, model={"batch": batch}), provider=provider
        )
        sessions[-1].sizes.clear()
        for count in range(1, 6):
            ours = model.probabilities_and_embeddings(IMAGES[:count])
            for array, reference in zip(ours, expected(IMAGES[:count]), strict=True):
                np.testing.assert_allclose(array, reference, rtol=1e-4, atol=1e-6)
        assert sessions[-1].sizes == sizes
    sessions.gpu = False
    with pytest.raises(UserError, match="ExecutionProvider cannot start"):
        bundle.open_bundle(tmp_path, provider=provider)
