"""The servers that ours is compared with, as their documentation has them: the same model, input
and answer.

    python experiments/serving/serving_rivals.py fastapi BUNDLE tensor 8090

Each takes the uint8 pixels of one image, or its JPEG, and answers with the five best classes. Needs
nothing of this project, so that it runs in an environment of the rival's own.
"""

import json
import os
import pathlib
import sys

import numpy as np

TOP = 5
# as our own server has them
BATCH = 32
DELAY = 0.002


class Model:
    """The bundle's model in ONNX Runtime, on one thread a core."""

    def __init__(self, directory):
        import onnxruntime

        manifest = json.loads(pathlib.Path(directory, "bundle.json").read_text())
        self.classes = manifest["classes"]
        self.size = manifest["image_size"]
        self.resize = manifest["resize"]
        self.shape = (self.size, self.size, manifest["channels"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        file = str(pathlib.Path(directory, manifest["model"]))
        self._session = onnxruntime.InferenceSession(
            file, options, providers=["CPUExecutionProvider"]
        )

    def read(self, data, kind):
        """Returns uint8 (size, size, channels) of a request, pixels or a JPEG that is resized as
        the bundle says."""
        if kind == "tensor":
            return np.frombuffer(data, np.uint8).reshape(self.shape)
        import cv2
        import simplejpeg
        from PIL import Image

        image = simplejpeg.decode_jpeg(data)
        shorter = int(self.size / self.resize["crop_fraction"])
        (height, width) = image.shape[:2]
        width, height = (shorter * side // min(height, width) for side in (width, height))
        if self.resize["interpolation"] == "area":
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        else:
            kind = Image.Resampling[self.resize["interpolation"].upper()]
            image = np.asarray(Image.fromarray(image).resize((width, height), kind))
        top = round((height - self.size) / 2)
        left = round((width - self.size) / 2)
        return image[top : top + self.size, left : left + self.size]

    def __call__(self, images):
        """Returns the answer to each of uint8 images (B, H, W, channels), an array or a list."""
        name = self._session.get_inputs()[0].name
        (found,) = self._session.run(["probabilities"], {name: np.asarray(images)})
        return [self._answer(row) for row in found]

    def _answer(self, row):
        best = np.argsort(-row)[:TOP]
        return {"top": [[self.classes[i], float(row[i])] for i in best]}


def fastapi(directory, kind, port):
    """A route that calls the model in FastAPI's thread pool: what a tutorial shows."""
    import uvicorn
    from fastapi import FastAPI, Request
    from starlette.concurrency import run_in_threadpool

    model = Model(directory)
    app = FastAPI()

    @app.post("/predict")
    async def predict(request: Request):
        data = await request.body()
        return await run_in_threadpool(lambda: model(model.read(data, kind)[None])[0])

    uvicorn.run(app, port=port, log_level="warning", access_log=False)


def litserve(directory, kind, port):
    """LitServe with one worker, which it gathers batches for."""
    from litserve import LitServer
    from litserve_api import Api

    server = LitServer(Api(directory, kind), accelerator="cpu", workers_per_device=1)
    server.run(port=port, num_api_servers=1, log_level="warning", generate_client_file=False)


def bento(directory, kind, port):
    """BentoML with its own batching, which starts processes of its own."""
    os.environ.update(BUNDLE=directory, KIND=kind, BENTOML_DO_NOT_TRACK="True")
    os.chdir(pathlib.Path(__file__).parent)
    command = [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        "bento_service:Classify",
        "--port",
        str(port),
    ]
    os.execv(sys.executable, command)


SERVERS = {"fastapi": fastapi, "litserve": litserve, "bentoml": bento}

if __name__ == "__main__":
    name, where, what, number = sys.argv[1:]
    SERVERS[name](where, what, int(number))
