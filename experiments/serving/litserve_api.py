"""LitServe's side of `serving_rivals.py`, with its own batching.

It is a module because LitServe's worker processes import it.
"""

import litserve
import numpy as np
from serving_rivals import BATCH, DELAY, Model


class Api(litserve.LitAPI):
    def __init__(self, directory, kind):
        super().__init__(max_batch_size=BATCH, batch_timeout=DELAY)
        self.directory = directory
        self.kind = kind

    def setup(self, device):
        self.model = Model(self.directory)

    def decode_request(self, request):
        return self.model.read(request["file"].file.read(), self.kind)

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, images):
        return self.model(images)

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return output
