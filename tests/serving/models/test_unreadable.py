"""Files and directories of models that cannot be read."""

import asyncio
import os

import pytest

from tests.support.repositories import Telemetry, answer, scans, serve, state, until
from vision.errors import UserError
from vision.serving.models.repository import Repository
from vision.serving.settings import Settings


def test_a_directory_that_cannot_be_read_changes_nothing(put, tmp_path):
    put("models/digits/1")

    async def scenario(repository):
        os.rename(tmp_path / "models", tmp_path / "moved")
        for _ in range(3):
            with pytest.raises(FileNotFoundError):
                await repository._update()
        await answer(repository.pick("digits")[0])
        os.rename(tmp_path / "moved", tmp_path / "models")
        put("models/digits/2")
        await until(lambda: repository.pick("digits")[0].name == "2")

    serve(tmp_path / "models", scenario)

    async def start():
        await Repository(Settings(models=str(tmp_path / "nowhere")), Telemetry()).start()

    with pytest.raises(UserError, match="--models .*nowhere cannot be read"):
        asyncio.run(start())


def test_one_version_that_cannot_be_read_keeps_no_other_back(put, tmp_path, monkeypatch, caplog):
    """As of another user's copy: the test may run as root, who may read everything."""
    for name in ("1", "2", "3"):
        put(f"digits/{name}")
    locked = {str(tmp_path / "digits/2")}
    scandir = os.scandir

    def refuse(path):
        if str(path) in locked:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)

    async def scenario(repository):
        assert repository.models() == {"digits": ["1", "3"]}
        refusal = {"state": "refused", "reason": "its directory cannot be read: Permission denied"}
        assert (
            state(repository, "2") == refusal
            and "digits 2: refused: its directory cannot be read" in caplog.text
        )
        locked.clear()
        (tmp_path / "digits/2").chmod(0o700)
        await until(lambda: state(repository, "2")["state"] == "ready")
        locked.add(str(tmp_path / "digits"))
        await until(
            lambda: "its directory cannot be read" in repository.states()["digits"]["reason"]
        )
        assert repository.models() == {"digits": ["1", "2", "3"]}

    serve(tmp_path, scenario)


def test_traffic_that_cannot_be_read_leaves_things_as_they_are(put, tmp_path, caplog):
    put("digits/1"), put("digits/2")
    (tmp_path / "digits/traffic.json").write_text('{"weights": {"1": 1}}')

    async def scenario(repository):
        (tmp_path / "digits/traffic.json").unlink()
        (tmp_path / "digits/traffic.json").mkdir()  # is as unreadable, to root too
        await until(
            lambda: "traffic.json cannot be read" in repository.states()["digits"]["reason"]
        )
        await scans(repository)
        assert (
            repository.get("digits").name == "1"
            and caplog.text.count("traffic.json cannot be read") == 1
        )
        (tmp_path / "digits/traffic.json").rmdir()
        await until(lambda: repository.get("digits").name == "2")

    serve(tmp_path, scenario)
