"""A client of the server, of Python's standard library alone.

    python -m vision.serving.client http://127.0.0.1:8080 photo.jpg other.png --model pets

Images travel as they are, by POST /classify/MODEL; arrays by the Open Inference Protocol V2 with
its binary extension.
"""

import argparse
import http.client
import json
import pathlib
import ssl
import sys
import time
import urllib.parse
from typing import NamedTuple

TRIES = 4  # of a request that finds the server busy
LONGEST = 10.0  # seconds to wait before one of them


class ServerError(Exception):
    """The server refused a request, or cannot be reached.

    Attributes:
        message: one line.
        status: of HTTP; 0 where there was no answer.
    """

    def __init__(self, message, status=0):
        super().__init__(message)
        self.message = message
        self.status = status


class Result(NamedTuple):
    """What a model says of an image.

    Attributes:
        model, version: which one said it.
        id: of the request, in the server's log.
        top: [(class, probability)], the most probable first.
        milliseconds: {"decode", "queue", "compute"}; empty for arrays, whose answers do not tell.
    """

    model: str
    version: str
    id: str
    top: list
    milliseconds: dict


class Client:
    """A connection to a server; one for each thread.

    Args:
        url: of the server, such as "http://127.0.0.1:8080".
        key: API key, where the server wants one.
        timeout: seconds that an answer may take.
        context: `ssl.SSLContext`, for a server whose certificate the system does not know.
    """

    def __init__(self, url, key="", timeout=60.0, context=None):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url} is no URL of a server: give one such as http://127.0.0.1:8080")
        where = parts.hostname, parts.port
        if parts.scheme == "https":
            self._connection = http.client.HTTPSConnection(*where, timeout=timeout, context=context)
        else:
            self._connection = http.client.HTTPConnection(*where, timeout=timeout)
        self._prefix = parts.path.rstrip("/")
        self._where = f"{parts.scheme}://{parts.netloc}"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._connection.close()

    def ready(self):
        """Returns whether the server takes requests."""
        try:
            self._ask("GET", "/v2/health/ready")
        except ServerError as error:
            if error.status not in (0, 503):
                raise
            return False
        return True

    def models(self):
        """Returns [{"name", "versions", "serving", "about": {version: {"classes", ...}}}] of the
        models."""
        return json.loads(self._ask("GET", "/classify/models")[0])["models"]

    def classify(self, image, model="", top_k=5, version=""):
        """Returns the `Result` of an image; of several, a list of them.

        Args:
            image: path of an image file, the file's bytes, or an array, uint8 (H, W, C) or (N, H,
                W, C), which has the model's size already.
            model: name; "" = the only one there is.
            top_k: how many classes.
            version: "" = as the server decides.

        Raises:
            ServerError: the server refused it, after further tries where it was busy.
            OSError: the file cannot be read.
            ValueError: the array is of another kind; or there are several models, and none is
                named.
        """
        model = model or self._only()
        if hasattr(image, "shape"):
            return self._classify_array(image, model, top_k, version)
        data = (
            bytes(image)
            if isinstance(image, bytes | bytearray | memoryview)
            else pathlib.Path(image).read_bytes()
        )
        query = urllib.parse.urlencode({"top_k": top_k} | ({"version": version} if version else {}))
        path = f"/classify/{urllib.parse.quote(model, safe='')}?{query}"
        said = json.loads(
            self._ask("POST", path, data, {"Content-Type": "application/octet-stream"})[0]
        )
        top = [(one["class"], one["probability"]) for one in said["top"]]
        return Result(said["model"], said["version"], said["id"], top, said["milliseconds"])

    def _only(self):
        names = [known["name"] for known in self.models()]
        if len(names) != 1:
            raise ValueError(f"which model? The server has {', '.join(names) or 'none'}")
        return names[0]

    def _classify_array(self, images, model, top_k, version):
        shape = [1, *images.shape] if len(images.shape) == 3 else [*images.shape]
        if str(images.dtype) != "uint8" or len(shape) != 4:
            raise ValueError(
                f"images are uint8 (H, W, C) or (N, H, W, C), not {images.dtype} {tuple(images.shape)}"
            )
        data = images.tobytes()
        size = {"binary_data_size": len(data)}
        header = {
            "inputs": [{"name": "images", "shape": shape, "datatype": "UINT8", "parameters": size}],
            "outputs": [
                {"name": name, "parameters": {"binary_data": False}}
                for name in ("labels", "scores")
            ],
            "parameters": {"top_k": top_k},
        }
        head = json.dumps(header).encode()
        headers = {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(head)),
        }
        path = f"/v2/models/{urllib.parse.quote(model, safe='')}"
        path += f"/versions/{urllib.parse.quote(version, safe='')}" if version else ""
        body, answered = self._ask("POST", f"{path}/infer", head + data, headers)
        said = json.loads(body)
        outputs = {output["name"]: output for output in said["outputs"]}
        count = outputs["labels"]["shape"][1]
        pairs = list(zip(outputs["labels"]["data"], outputs["scores"]["data"], strict=True))
        request = said.get("id") or answered.get("X-Request-Id", "")
        found = [
            Result(
                said["model_name"],
                said["model_version"],
                request,
                pairs[row * count : (row + 1) * count],
                {},
            )
            for row in range(shape[0])
        ]
        return found[0] if len(images.shape) == 3 else found

    def _ask(self, method, path, body=None, headers=None):
        """Returns (body, headers) of an answer; raises `ServerError`."""
        for left in reversed(range(TRIES)):
            answer, data = self._send(
                method, self._prefix + path, body, self._headers | (headers or {})
            )
            if answer.status == 200:
                return data, answer.headers
            if answer.status != 429 or not left:
                break
            time.sleep(min(_seconds(answer.headers.get("Retry-After")), LONGEST))
        raise ServerError(_reason(data) or answer.reason or "no reason given", answer.status)

    def _send(self, method, path, body, headers):
        """Returns (response, its body); asks again over a new connection where the server had
        closed the kept one."""
        kept = self._connection.sock is not None
        try:
            self._request(method, path, body, headers)
            answer = self._connection.getresponse()
            return answer, answer.read()
        except TimeoutError as error:
            self.close()
            raise ServerError(f"{self._where} did not answer in time") from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if kept:
                return self._send(method, path, body, headers)
            raise ServerError(f"{self._where} cannot be reached: {error}") from error

    def _request(self, *request):
        try:
            self._connection.request(*request)
        except (BrokenPipeError, ConnectionResetError):
            if self._connection.sock is None:
                raise
            # The server may have refused the body before all of it was sent: then its answer is
            # there to be read.


def _seconds(text):
    """Returns the seconds that a Retry-After names, 1 where it names none."""
    try:
        return max(float(text), 0.05)
    except (TypeError, ValueError):
        return 1.0


def _reason(data):
    try:
        return str(json.loads(data)["error"])
    except (ValueError, KeyError, TypeError):
        return ""


def main(argv=None):
    """Prints what a server says of image files; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m vision.serving.client", description="Classifies image files."
    )
    parser.add_argument("url", help="of the server, such as http://127.0.0.1:8080")
    parser.add_argument("images", nargs="+", help="image files")
    parser.add_argument("--model", default="", help="needed where the server has several")
    parser.add_argument("--version", default="")
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--key-file", help="file that holds the API key")
    parser.add_argument(
        "--ca-file", help="file of certificates to trust, PEM, instead of the system's"
    )
    known = parser.parse_args(argv)
    # a class may have a name that the terminal cannot show
    if getattr(sys.stdout, "errors", "") == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        key = pathlib.Path(known.key_file).read_text().strip() if known.key_file else ""
        context = ssl.create_default_context(cafile=known.ca_file) if known.ca_file else None
        with Client(known.url, key, context=context) as client:
            model = known.model or client._only()
            return max(_show(client, image, model, known) for image in known.images)
    except OSError as error:
        print(
            f"{error.filename or known.ca_file or known.url}: {error.strerror or error}",
            file=sys.stderr,
        )
    except (ServerError, ValueError) as error:
        print(error, file=sys.stderr)
    return 1


def _show(client, image, model, known):
    """Prints what the server says of an image; returns 1 where it says nothing."""
    try:
        found = client.classify(image, model, known.top_k, known.version)
    except OSError as error:
        print(f"{image}: {error.strerror or error}", file=sys.stderr)
        return 1
    except ServerError as error:
        if not error.status:  # there is no server
            raise
        print(f"{image}: {error}", file=sys.stderr)
        return 1
    print(f"{image}  ({found.model}, version {found.version})")
    for name, probability in found.top:
        print(f"  {100 * probability:5.1f} %  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
