"""Clients of a server in another process: ours, and those in scripts/deploy/README.md."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import cv2
import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.support.live_server import serve
from tests.support.tiny_bundle import write_bundle
from vision.bundle.directory import open_bundle
from vision.serving import client
from vision.serving.client import Client, ServerError

pytestmark = pytest.mark.long

PAGE = REPOSITORY / "scripts" / "deploy" / "README.md"
CLASSES = [f"kind {i}" for i in range(10)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    for version in ("1", "2"):
        write_bundle(
            directory / "pets" / version,
            CLASSES,
            side=8,
            channels=3,
            model={"heat": version == "2"},
        )
    return directory


@pytest.fixture(scope="module")
def live(models):
    with serve(models) as server:
        yield server


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def expected(models, images):
    """The bundle's own [(class, probability)] of each image, the most probable first."""
    probabilities = open_bundle(models / "pets" / "2").probabilities_and_embeddings(images)[0]
    return [[(CLASSES[i], float(row[i])) for i in np.argsort(-row)] for row in probabilities]


@pytest.fixture
def photo(tmp_path, images):
    file = tmp_path / "photo.png"
    cv2.imwrite(str(file), images[0, ..., ::-1])
    return file


def close(actual, expected):
    assert [name for name, _ in actual] == [name for name, _ in expected]
    np.testing.assert_allclose([p for _, p in actual], [p for _, p in expected], atol=1e-5)


def test_files_bytes_and_arrays_are_classified(live, photo, images, expected):
    with Client(live.url) as connection:
        assert connection.ready()
        assert [(model["name"], sorted(model["versions"])) for model in connection.models()] == [
            ("pets", ["1", "2"])
        ]
        for image in (photo, str(photo), photo.read_bytes(), images[0]):
            result = connection.classify(image, "pets")
            assert (result.model, result.version, len(result.top)) == ("pets", "2", 5) and result.id
            close(result.top, expected[0][:5])
        assert connection.classify(photo).milliseconds.keys() == {"decode", "queue", "compute"}
        several = connection.classify(images, "pets", top_k=3, version="1")
        assert [result.version for result in several] == ["1"] * 3
        for result, right in zip(several, expected, strict=True):
            close(result.top, right[:3])
        close(connection.classify(np.asfortranarray(images[1]), top_k=99).top, expected[1])


def test_what_is_refused(live, images, tmp_path):
    with Client(live.url) as connection:
        for image, model, status in (
            (b"no image", "pets", 0),
            (images[0], "cats", 404),
            (images[:, :4], "pets", 400),
        ):
            with pytest.raises(ServerError) as error:
                connection.classify(image, model)
            assert error.value.status == status or (not status and error.value.status in (400, 415))
            assert error.value.message and "\n" not in error.value.message
        with pytest.raises(ValueError, match="uint8"):
            connection.classify(images.astype(np.float32))
        with pytest.raises(FileNotFoundError):
            connection.classify(tmp_path / "none.jpg")
        assert connection.classify(images[0]).top  # the connection is still good
    with pytest.raises(ServerError, match="cannot be reached"):
        Client("http://127.0.0.1:9").models()
    assert Client("http://127.0.0.1:9").ready() is False
    with pytest.raises(ValueError, match="not a server URL"):
        Client("localhost:8080")


def test_keys_rates_and_limits(models, photo, tmp_path):
    (tmp_path / "keys").write_text("lab secret-of-the-lab 2\nfree secret-of-all\n")
    with serve(models, keys=tmp_path / "keys", max_body=10_000, grpc_port=0) as live:
        with pytest.raises(ServerError) as error:
            Client(live.url).models()
        assert error.value.status == 401
        with Client(live.url, "secret-of-the-lab") as connection:
            begun = time.perf_counter()
            # waits as Retry-After says
            assert all(connection.classify(photo, "pets").top for _ in range(5))
            assert 1 < time.perf_counter() - begun < 10
        with Client(live.url, "secret-of-all") as connection:
            with pytest.raises(ServerError) as error:
                connection.classify(bytes(5_000_000), "pets")
            assert error.value.status == 413
            assert connection.classify(photo, "pets").top


def test_a_connection_that_the_server_closed_is_opened_again(models, photo):
    with serve(models, grpc_port=0) as live, Client(live.url) as connection:
        assert connection.classify(photo).top
        connection._connection.sock.shutdown(2)
        assert connection.classify(photo).top


def test_the_command(live, photo, tmp_path, capsys):
    assert client.main([live.url, str(photo), "--top-k=2", "--version=1"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{photo}  (pets, version 1)" and len(out) == 3 and "%  kind" in out[1]
    assert client.main([live.url, str(tmp_path / "none.jpg")]) == 1
    assert "none.jpg" in capsys.readouterr().err
    (tmp_path / "note.txt").write_text("no image")
    # the others are asked all the same
    assert client.main([live.url, str(tmp_path / "note.txt"), str(photo)]) == 1
    output = capsys.readouterr()
    assert output.out.count("%") == 5 and output.err.startswith(
        f"{tmp_path / 'note.txt'}: not an image of a known format"
    )
    assert client.main([live.url, str(photo), "--ca-file=/nowhere/at.pem"]) == 1
    assert capsys.readouterr().err == "/nowhere/at.pem: No such file or directory\n"
    command = [sys.executable, "-m", "vision.serving.client", live.url, str(photo)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("%") == 5


def test_tls(models, photo, tmp_path, capsys):
    if not shutil.which("openssl"):
        pytest.skip("no openssl is installed")
    new = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 "
        "-subj /CN=localhost"
    )
    command = [
        *new.split(),
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        "key.pem",
        "-out",
        "cert.pem",
    ]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    pair = {"tls_certificate": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}
    with serve(models, grpc_port=0, **pair) as live:
        assert live.url.startswith("https://")
        assert client.main([live.url, str(photo), "--ca-file", str(pair["tls_certificate"])]) == 0
        assert client.main([live.url, str(photo)]) == 1
        assert "CERTIFICATE_VERIFY_FAILED" in capsys.readouterr().err


def test_it_needs_the_standard_library_alone(live, photo, tmp_path):
    shutil.copy(REPOSITORY / "vision" / "serving" / "client.py", tmp_path / "client.py")
    command = [sys.executable, "-I", "-S", str(tmp_path / "client.py"), live.url, str(photo)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("%") == 5, done.stderr


def test_a_heat_map_comes_where_it_is_asked_for_and_known(live, photo, images):
    def ask(query):
        request = urllib.request.Request(f"{live.url}/classify/pets{query}", photo.read_bytes())
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    assert "heatmap" not in ask("") and "heatmap" not in ask("?heatmap=true&version=1")
    np.testing.assert_allclose(ask("?heatmap=true")["heatmap"], images[0, ..., 0] / 255, atol=6e-4)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        ask("?heatmap=please")
    with Client(live.url) as connection:
        assert [about["heatmap"] for about in connection.models()[0]["about"].values()] == [
            False,
            True,
        ]


def blocks(kind):
    """The examples of the page in a language."""
    text = PAGE.read_text().split("## Model server")[1].split("\n## ")[0]
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


def said_by(block, folder, **places):
    """Runs a block of shell and yields the JSON that it prints, one after the other."""
    if not shutil.which("curl"):
        pytest.skip("no curl is installed")
    for port, url in places.items():
        block = block.replace(f"http://localhost:{port.removeprefix('of_')}", url)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout
    while text.strip():
        document, end = json.JSONDecoder().raw_decode(text.lstrip())
        text = text.lstrip()[end:]
        yield document


def test_the_examples_with_curl(live, photo, expected):
    """As they stand on the page, with a file that is larger than what one argument may be."""
    # what it is, its first bytes tell
    photo.with_name("photo.jpg").write_bytes(photo.read_bytes() + bytes(200_000))
    plain, protocol, _ = blocks("sh")
    answers = [
        entry
        for block in (plain, protocol)
        for entry in said_by(block, photo.parent, of_8080=live.url)
    ]
    assert len(answers) == 5 and not any("error" in answer for answer in answers), answers
    for answer in answers[:2]:
        close([(entry["class"], entry["probability"]) for entry in answer["top"]], expected[0][:5])
    assert (
        answers[3]["outputs"][0]["data"][0]
        == answers[4]["predictions"][0]["labels"][0]
        == expected[0][0][0]
    )


def test_the_examples_for_operators(models, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serve(models, grpc_port=0, admin_port=port):
        states, loaded, back = said_by(
            blocks("sh")[2], tmp_path, of_8082=f"http://127.0.0.1:{port}"
        )
        assert states["pets"]["serving"] == "2" and loaded == {} and back == {"version": "1"}


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_the_examples_in_python(live, images, expected, kind, tmp_path):
    """As they stand on the page, in another process, so that protos are loaded only once."""
    (code,) = [block for block in blocks("python") if f"tritonclient.{kind}" in block]
    code = code.replace("localhost:8080", live.url.removeprefix("http://")).replace(
        "localhost:8081", live.grpc
    )
    np.save(tmp_path / "images.npy", images)
    code = f"import numpy as np\nimages = np.load('images.npy')\n{code}"
    code += (
        "\nimport json\nprint(json.dumps([[n.decode() for n in row] for row in labels.tolist()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    labels = json.loads(done.stdout.splitlines()[-1])
    assert labels == [[name for name, _ in row[:3]] for row in expected]
