"""A client for the server that needs only Python's standard library.

    python -m vision.serving.client http://127.0.0.1:8080 photo.jpg other.png --model pets

Images are sent unchanged, with POST /classify/MODEL; arrays use the Open Inference Protocol V2 with
its binary extension.
"""

import argparse
import http.client
import io
import json
import pathlib
import ssl
import sys
import time
import urllib.parse
from collections.abc import Sequence
from typing import Any, NamedTuple

TRIES = 4  # attempts at a request while the server is busy
LONGEST_WAIT = 10.0  # seconds between two attempts, at most


class ServerError(Exception):
    """The server refused a request, or cannot be reached.

    Attributes:
        message: one line.
        status: HTTP status; 0 if there was no response.
    """

    def __init__(self, message: str, status: int = 0):
        super().__init__(message)
        self.message = message
        self.status = status


class Result(NamedTuple):
    """A model's answer to one image.

    Attributes:
        model: name of the model.
        version: name of the version that answered.
        id: the request's ID in the server's log.
        top: [(class, probability)], the most probable first.
        milliseconds: {"decode", "queue", "compute"}; empty for arrays, whose responses do not
            contain it.
        unsure: whether the model is unsure; None if there is no rule for that.
    """

    model: str
    version: str
    id: str
    top: list[tuple[str, float]]
    milliseconds: dict[str, float]
    unsure: bool | None = None


class Client:
    """A connection to a server; each thread needs its own.

    Args:
        url: the server's URL, such as "http://127.0.0.1:8080".
        key: API key, if the server requires one.
        timeout: seconds that a response may take.
        context: `ssl.SSLContext`, for a server whose certificate the system does not know.
    """

    def __init__(
        self,
        url: str,
        key: str = "",
        timeout: float = 60.0,
        context: ssl.SSLContext | None = None,
    ):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url} is not a server URL: use one such as http://127.0.0.1:8080")
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            self._connection = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=timeout, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(
                parts.hostname, parts.port, timeout=timeout
            )
        self._prefix = parts.path.rstrip("/")
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def ready(self) -> bool:
        """Returns whether the server accepts requests."""
        try:
            self._ask("GET", "/v2/health/ready")
        except ServerError as error:
            if error.status not in (0, 503):
                raise
            return False
        return True

    def models(self) -> list[dict[str, Any]]:
        """Returns the models: [{"name", "versions", "serving", "about": {version: {...}}}]."""
        return json.loads(self._ask("GET", "/classify/models")[0])["models"]

    def only_model(self) -> str:
        """Returns the name of the server's only model; raises `ValueError` if it has several."""
        names = [model["name"] for model in self.models()]
        if len(names) != 1:
            raise ValueError(f"which model? The server has {', '.join(names) or 'none'}")
        return names[0]

    def classify(
        self, image: Any, model: str = "", top_k: int = 5, version: str = ""
    ) -> Result | list[Result]:
        """Returns the `Result` of an image, or a list of them for several images.

        Args:
            image: path of an image file, the file's bytes, or an array of the model's image size,
                uint8 (H, W, C) or (N, H, W, C).
            model: name; "" for the server's only model.
            top_k: number of classes.
            version: name; "" if the server may choose.

        Raises:
            ServerError: the server refused the request, after several attempts if it was busy.
            OSError: the file cannot be read.
            ValueError: the array has another type or rank; or there are several models, and none
                is named.
        """
        model = model or self.only_model()
        if hasattr(image, "shape"):
            return self._classify_array(image, model, top_k, version)
        if isinstance(image, bytes | bytearray | memoryview):
            return self._classify_file(bytes(image), model, top_k, version)
        return self._classify_file(pathlib.Path(image).read_bytes(), model, top_k, version)

    def _classify_file(self, data, model, top_k, version):
        parameters = {"top_k": top_k}
        if version:
            parameters["version"] = version
        query = urllib.parse.urlencode(parameters)
        path = f"/classify/{urllib.parse.quote(model, safe='')}?{query}"
        body, _ = self._ask("POST", path, data, {"Content-Type": "application/octet-stream"})
        answer = json.loads(body)
        top = [(entry["class"], entry["probability"]) for entry in answer["top"]]
        names = (answer["model"], answer["version"], answer["id"])
        return Result(*names, top, answer["milliseconds"], answer.get("unsure"))

    def _classify_array(self, images, model, top_k, version):
        shape = [1, *images.shape] if len(images.shape) == 3 else [*images.shape]
        if str(images.dtype) != "uint8" or len(shape) != 4:
            raise ValueError(
                "images must be uint8 (H, W, C) or (N, H, W, C), "
                f"got {images.dtype} {tuple(images.shape)}"
            )
        path = f"/v2/models/{urllib.parse.quote(model, safe='')}"
        if version:
            path += f"/versions/{urllib.parse.quote(version, safe='')}"
        body, request_headers = _infer_request(images.tobytes(), shape, top_k)
        content, headers = self._ask("POST", f"{path}/infer", body, request_headers)
        answer = json.loads(content)
        outputs = {output["name"]: output for output in answer["outputs"]}
        count = outputs["labels"]["shape"][1]
        pairs = list(zip(outputs["labels"]["data"], outputs["scores"]["data"], strict=True))
        names = (answer["model_name"], answer["model_version"])
        request_id = answer.get("id") or headers.get("X-Request-Id", "")
        results = [
            Result(*names, request_id, pairs[row * count : (row + 1) * count], {})
            for row in range(shape[0])
        ]
        return results[0] if len(images.shape) == 3 else results

    def _ask(self, method, path, body=None, headers=None):
        """Returns (body, headers) of the response; raises `ServerError`."""
        all_headers = self._headers | (headers or {})
        for tries_left in reversed(range(TRIES)):
            response, data = self._send(method, self._prefix + path, body, all_headers)
            if response.status == 200:
                return data, response.headers
            if response.status != 429 or not tries_left:
                break
            time.sleep(min(_seconds(response.headers.get("Retry-After")), LONGEST_WAIT))
        raise ServerError(_reason(data) or response.reason or "no reason given", response.status)

    def _send(self, method, path, body, headers):
        """Returns (response, its body).

        Tries again over a new connection if the server has closed the one that was kept open.
        """
        reused = self._connection.sock is not None
        try:
            self._request(method, path, body, headers)
            response = self._connection.getresponse()
            return response, response.read()
        except TimeoutError as error:
            self.close()
            raise ServerError(f"{self._origin} did not respond in time") from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if reused:
                return self._send(method, path, body, headers)
            raise ServerError(f"{self._origin} cannot be reached: {error}") from error

    def _request(self, *request):
        try:
            self._connection.request(*request)
        except (BrokenPipeError, ConnectionResetError):
            if self._connection.sock is None:
                raise
            # The server may have refused the body before all of it was sent. Then its response can
            # still be read.


def _infer_request(data, shape, top_k):
    """Returns (body, headers) of a V2 request: JSON followed by the bytes of a uint8 tensor."""
    tensor = {
        "name": "images",
        "shape": shape,
        "datatype": "UINT8",
        "parameters": {"binary_data_size": len(data)},
    }
    outputs = [
        {"name": name, "parameters": {"binary_data": False}} for name in ("labels", "scores")
    ]
    document = {"inputs": [tensor], "outputs": outputs, "parameters": {"top_k": top_k}}
    head = json.dumps(document).encode()
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }
    return head + data, headers


def _seconds(text):
    """Returns the seconds in a Retry-After header; 1 if it contains none."""
    try:
        return max(float(text), 0.05)
    except (TypeError, ValueError):
        return 1.0


def _reason(data):
    try:
        return str(json.loads(data)["error"])
    except (ValueError, KeyError, TypeError):
        return ""


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a server's answers to image files; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m vision.serving.client", description="Classifies image files."
    )
    parser.add_argument("url", help="the server's URL, such as http://127.0.0.1:8080")
    parser.add_argument("images", nargs="+", help="image files")
    parser.add_argument("--model", default="", help="needed if the server has several")
    parser.add_argument("--version", default="")
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--key-file", help="file that contains the API key")
    parser.add_argument(
        "--ca-file", help="PEM file of certificates to trust, instead of the system's"
    )
    arguments = parser.parse_args(argv)
    # a class may have a name that the terminal cannot show
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        key = pathlib.Path(arguments.key_file).read_text().strip() if arguments.key_file else ""
        context = None
        if arguments.ca_file:
            context = ssl.create_default_context(cafile=arguments.ca_file)
        with Client(arguments.url, key, context=context) as client:
            arguments.model = arguments.model or client.only_model()
            return max(_show(client, image, arguments) for image in arguments.images)
    except OSError as error:
        place = error.filename or arguments.ca_file or arguments.url
        print(f"{place}: {error.strerror or error}", file=sys.stderr)
    except (ServerError, ValueError) as error:
        print(error, file=sys.stderr)
    return 1


def _show(client, image, arguments):
    """Prints the server's answer to an image; returns 1 if there is none."""
    try:
        result = client.classify(image, arguments.model, arguments.top_k, arguments.version)
    except OSError as error:
        print(f"{image}: {error.strerror or error}", file=sys.stderr)
        return 1
    except ServerError as error:
        if not error.status:  # the server cannot be reached
            raise
        print(f"{image}: {error}", file=sys.stderr)
        return 1
    verdict = ": unsure" if result.unsure else ""
    print(f"{image}  ({result.model}, version {result.version}){verdict}")
    for name, probability in result.top:
        print(f"  {100 * probability:5.1f} %  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
