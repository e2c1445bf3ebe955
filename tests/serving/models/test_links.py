"""Models behind links: another container's files, as KServe's model cars have them, and the layout
of a volume that Kubernetes updates."""

import contextlib
import os
import shutil
import subprocess
import threading
import time

import pytest

from tests.support import live_server
from tests.support.repositories import answer, scans, serve, state, until
from vision.errors import UserError
from vision.serving.models import links
from vision.serving.settings import Settings, check

CAR = """
mount -t tmpfs none "$1/car" && cp -r "$1/image" "$1/car/models" && echo ready && exec sleep 60
"""


@contextlib.contextmanager
def car(directory):
    """Runs a process whose mounts this one does not see; yields the path of its models here."""
    (directory / "car").mkdir(exist_ok=True)
    command = ["unshare", "--mount", "sh", "-c", CAR, "car", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            if process.stdout.readline() != b"ready\n":
                pytest.skip("mounts of one's own need root")
            yield f"/proc/{process.pid}/root{directory}/car/models"
        finally:
            process.kill()


def test_the_directory_is_of_another_mount_namespace(put, tmp_path):
    put("image/digits/1")
    os.symlink("1", tmp_path / "image/digits/2")
    os.symlink(f"{tmp_path}/image/digits/1", tmp_path / "image/digits/3")  # leads out of the car
    with car(tmp_path) as models:
        (tmp_path / "models").symlink_to(models)
        assert not os.path.exists(os.path.realpath(tmp_path / "models"))

        async def scenario(repository):
            assert repository.models() == {"digits": ["1", "2"]}
            await answer(repository.pick("digits")[0])
            assert "outside" in state(repository, "3")["reason"]
            shutil.copytree(f"{models}/digits/1", f"{models}/digits/4")
            await until(lambda: repository.models() == {"digits": ["1", "2", "4"]})

        serve(tmp_path / "models", scenario)


def test_one_model_is_of_another_mount_namespace(put, tmp_path):
    put("image/1"), put("models/cats/1"), put("outside/1")
    with car(tmp_path) as models:
        (tmp_path / "models/digits").symlink_to(models)
        (tmp_path / "models/dogs").symlink_to(tmp_path / "outside")

        async def scenario(repository):
            assert repository.models() == {"cats": ["1"], "digits": ["1"]}
            await answer(repository.pick("digits")[0])
            (tmp_path / "models/digits").unlink()
            (tmp_path / "models/digits").symlink_to("/proc/4194305/root/models")  # no process's
            await scans(repository)
            assert "which gives: No such file" in repository.states()["digits"]["reason"]
            await answer(repository.pick("digits")[0])  # what is loaded stays

        serve(tmp_path / "models", scenario)


def test_a_start_waits_for_a_link_that_leads_nowhere_yet(put, tmp_path):
    put("release/digits/1")
    (tmp_path / "models").symlink_to(tmp_path / "mounted/models")
    check(Settings(models=str(tmp_path / "models")))
    check(Settings(models=str(tmp_path / "models/inner")))
    assert "models is a link to" in links.awaited(tmp_path / "models/inner")

    def appear():
        time.sleep(0.5)
        (tmp_path / "mounted").mkdir()
        os.rename(tmp_path / "release", tmp_path / "mounted/models")

    thread = threading.Thread(target=appear)
    thread.start()
    with live_server.serve(tmp_path / "models", grpc_port=0) as live:
        assert live.process.poll() is None
    thread.join()
    assert links.awaited(tmp_path / "models") == ""


def test_what_never_appears_is_said(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/digits").symlink_to("/proc/4194305/root/models")
    assert "digits is a link to /proc/4194305/root/models" in links.awaited(tmp_path / "models")
    command = ["--models", tmp_path / "models", "--start-timeout=0.1", "--http-port=0"]
    done = subprocess.run(
        [live_server.sys.executable, "-m", "vision.serving", *command, "--grpc-port=0"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "even after 0.1 seconds" in done.stderr and "process namespace" in done.stderr
    with pytest.raises(UserError, match="there is no directory"):
        check(Settings(models=str(tmp_path / "nothing")))


def test_a_volume_that_kubernetes_updates(put, tmp_path):
    """Its files are links to `..data/`, which is a link to the directory of the last update."""
    put("models/..2026_1/digits/1")
    put("models/..2026_2/digits/2")
    volume = tmp_path / "models"
    (volume / "..data").symlink_to("..2026_1")
    (volume / "digits").symlink_to("..data/digits")
    put("flat/1")
    (volume / "cats/1").mkdir(parents=True)
    shutil.move(tmp_path / "flat/1", volume / "cats/1/..2026_1")
    (volume / "cats/1/..data").symlink_to("..2026_1")
    for path in (volume / "cats/1/..2026_1").iterdir():
        (volume / "cats/1" / path.name).symlink_to(f"..data/{path.name}")

    async def scenario(repository):
        assert repository.models() == {"cats": ["1"], "digits": ["1"]}
        (volume / "..data_tmp").symlink_to("..2026_2")
        os.replace(volume / "..data_tmp", volume / "..data")
        await until(lambda: repository.models() == {"cats": ["1"], "digits": ["2"]})
        await answer(repository.pick("cats")[0])

    serve(volume, scenario)
