"""The servers that ours is compared with, as in their documentation: same model, input, answer.

    python experiments/serving/serving_rivals.py fastapi BUNDLE tensor 8090

Each takes the uint8 pixels of one image, or its JPEG, and answers with the five best classes. It
needs nothing of this project, so that it runs in the rival's own environment.
"""

import json
import os
import pathlib
import sys

import numpy as np

TOP = 5
# as in our own server
BATCH = 32
DELAY = 0.002


class Model:
    """The bundle's model in ONNX Runtime, with one thread per core."""

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
        """Returns a request's image, uint8 (size, size, channels).

        Args:
            data: pixels, or a JPEG, which is resized as in bundle.json.
            kind: "tensor" or "jpeg".
        """
        if kind == "tensor":
            return np.frombuffer(data, np.uint8).reshape(self.shape)
        import cv2
        import simplejpeg
        from PIL import Image

        image = simplejpeg.decode_jpeg(data)
        shorter = int(self.size / self.resize["crop_fraction"])
        height, width = (shorter * side // min(image.shape[:2]) for side in image.shape[:2])
        if self.resize["interpolation"] == "area":
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        else:
            resampling = Image.Resampling[self.resize["interpolation"].upper()]
            image = np.asarray(Image.fromarray(image).resize((width, height), resampling))
        top = round((height - self.size) / 2)
        left = round((width - self.size) / 2)
        return image[top : top + self.size, left : left + self.size]

    def __call__(self, images):
        """Returns the answers for uint8 images (B, H, W, channels), an array or a list."""
        name = self._session.get_inputs()[0].name
        (probabilities,) = self._session.run(["probabilities"], {name: np.asarray(images)})
        return [self._answer(row) for row in probabilities]

    def _answer(self, probabilities):
        best = np.argsort(-probabilities)[:TOP]
        return {"top": [[self.classes[i], float(probabilities[i])] for i in best]}


def fastapi(directory, kind, port):
    """Serves a route that calls the model in FastAPI's thread pool, as in tutorials."""
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
    """Serves with LitServe and one worker, for which it gathers batches."""
    from litserve import LitServer
    from litserve_api import Api

    server = LitServer(Api(directory, kind), accelerator="cpu", workers_per_device=1)
    server.run(port=port, num_api_servers=1, log_level="warning", generate_client_file=False)


def bento(directory, kind, port):
    """Serves with BentoML and its own batching; it starts processes of its own."""
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
    name, directory, kind, port = sys.argv[1:]
    SERVERS[name](directory, kind, int(port))
