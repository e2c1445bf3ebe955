"""The service that `bentoml serve` imports for `serving_rivals.py`, with BentoML's own batching.

BUNDLE and KIND are environment variables, since BentoML starts the process that imports this.
"""

import os
import pathlib
import typing

import bentoml
from serving_rivals import BATCH, Model


@bentoml.service(workers=1, traffic={"timeout": 60})
class Classify:
    def __init__(self):
        self.model = Model(os.environ["BUNDLE"])
        self.kind = os.environ["KIND"]

    @bentoml.api(batchable=True, max_batch_size=BATCH, max_latency_ms=60_000)
    def predict(self, files: typing.List[pathlib.Path]) -> typing.List[dict]:  # noqa: UP006  (what it can read)
        return self.model([self.model.read(file.read_bytes(), self.kind) for file in files])
