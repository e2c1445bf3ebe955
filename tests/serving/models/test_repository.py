"""Versions come, change, fail and go while requests are answered."""

import asyncio
import os
import shutil

import numpy as np
import pytest

from tests.support.repositories import Telemetry, answer, scans, serve, state, until
from tests.support.tiny_bundle import write_bundle
from vision.bundle.directory import write_sample
from vision.serving.errors import NotFound, Refused, Unavailable
from vision.serving.models import loader as module
from vision.serving.models.repository import Repository
from vision.serving.settings import Settings


@pytest.fixture
def tries(monkeypatch):
    """The directories that were opened, in order."""
    opened = []
    open_warm = module.open_warm

    def note(directory, settings):
        opened.append(f"{directory.parent.name}/{directory.name}")
        return open_warm(directory, settings)

    monkeypatch.setattr(module, "open_warm", note)
    return opened


def test_the_highest_version_answers(put, tmp_path):
    for name in ("digits/9", "digits/10", "digits/best", "cats.v2/1"):
        put(name)

    async def scenario(repository):
        assert repository.ready and repository.models() == {
            "cats.v2": ["1"],
            "digits": ["best", "9", "10"],
        }
        version, shadow = repository.pick("digits", key="user")
        assert (version.model, version.name, shadow) == ("digits", "10", None)
        assert version.bundle.classes[0] == "of 10"
        await answer(version, 5)
        assert (
            repository.pick("digits", "best")[0].name
            == repository.get("digits", "best").name
            == "best"
        )
        assert (
            repository.states()["digits"]["serving"] == "10"
            and state(repository, "9")["state"] == "ready"
        )

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    "model", ["", "cats", "..", "../digits", "digits/1", "/etc", "digits\0", "d" * 5000]
)
def test_what_is_not_there_is_not_found(put, tmp_path, model):
    put("digits/1")

    async def scenario(repository):
        for call in (lambda: repository.pick(model), lambda: repository.get(model)):
            with pytest.raises(NotFound) as error:
                call()
            assert len(error.value.message) < 400 and error.value.message.isprintable()
        for change in (
            repository.load(model, "1"),
            repository.unload(model, "1"),
            repository.roll_back(model),
        ):
            with pytest.raises(NotFound) as error:
                await change
            assert len(error.value.message) < 400 and error.value.message.isprintable()
        if model:  # "" is no version in particular
            for change in (repository.load("digits", model), repository.unload("digits", model)):
                with pytest.raises(NotFound):
                    await change
            with pytest.raises(NotFound):
                repository.pick("digits", model)
        await answer(repository.pick("digits")[0])

    serve(tmp_path, scenario)


def test_a_version_comes_and_goes_without_a_restart(put, tmp_path):
    put("digits/1")

    async def scenario(repository):
        put("digits/2")
        put("cats/1")
        await until(lambda: repository.models() == {"cats": ["1"], "digits": ["1", "2"]})
        second = repository.pick("digits")[0]
        assert second.name == "2"
        shutil.rmtree(tmp_path / "digits/2")
        shutil.rmtree(tmp_path / "cats")
        await until(lambda: repository.models() == {"digits": ["1"]})
        assert "cats" not in repository.states() and repository.pick("digits")[0].name == "1"
        with pytest.raises(Unavailable, match="is being unloaded"):
            await answer(second)

    serve(tmp_path, scenario)


def test_a_version_is_not_loaded_before_it_is_whole(put, tmp_path, tries):
    """No bundle.json, then a model that is cut short, then all of it."""
    put("digits/1")
    complete = put("elsewhere/2")
    shutil.move(tmp_path / "elsewhere", tmp_path / ".elsewhere")
    complete = tmp_path / ".elsewhere/2"

    async def scenario(repository):
        second = tmp_path / "digits/2"
        second.mkdir()
        data = (complete / "model.onnx").read_bytes()
        (second / "model.onnx").write_bytes(data[:100])
        await until(lambda: "2" in repository.states()["digits"]["versions"])
        await scans(repository)
        assert state(repository, "2") == {"state": "waiting", "reason": "it has no bundle.json yet"}
        with pytest.raises(Unavailable, match="not loaded yet"):
            repository.pick("digits", "2")
        shutil.copy(complete / "bundle.json", second)
        await until(lambda: state(repository, "2")["state"] == "refused")
        assert "digits/2/model.onnx has changed" in state(repository, "2")["reason"]
        assert (
            str(tmp_path) not in state(repository, "2")["reason"]
            and repository.pick("digits")[0].name == "1"
        )
        with pytest.raises(NotFound):
            repository.pick("digits", "2")
        await scans(repository, 5)
        (second / "model.onnx").write_bytes(data)
        await until(lambda: repository.pick("digits")[0].name == "2")
        assert state(repository, "2") == {"state": "ready", "reason": ""}
        assert tries == ["digits/1", "digits/2", "digits/2"]

    serve(tmp_path, scenario)


def test_what_changes_between_two_looks_is_left_alone(put, tmp_path, tries):
    put("digits/1")

    async def main():
        repository = Repository(Settings(models=str(tmp_path), max_batch=2, threads=1), Telemetry())
        await repository.start()
        second = put("digits/2")
        for number in range(3):
            await repository._update()
            (second / "notes").write_text("." * number)
        await repository._update()
        assert repository.models() == {"digits": ["1"]} and tries == ["digits/1"]
        await repository._update()
        assert repository.models() == {"digits": ["1", "2"]}
        os.rename(second, tmp_path / ".moved")
        await repository._update()
        os.rename(tmp_path / ".moved", second)
        await repository._update()
        assert repository.models() == {"digits": ["1", "2"]} and tries == ["digits/1", "digits/2"]
        os.rename(second, tmp_path / ".moved")
        await scans(repository, 2)
        assert repository.models() == {"digits": ["1"]}
        await repository.close()

    asyncio.run(main())


def test_a_bad_bundle_in_place_of_one_is_refused_and_the_old_one_serves_on(put, tmp_path, tries):
    put("digits/1")

    async def scenario(repository):
        first = repository.pick("digits")[0]
        put("digits/1", classes=["cat", "dog"])
        await until(lambda: "names 2 classes" in state(repository, "1")["reason"])
        await scans(repository, 5)
        assert state(repository, "1")["state"] == "ready" and repository.pick("digits")[0] is first
        await answer(first)
        put("digits/1", quality={"accuracy": 0.5})
        await until(lambda: repository.pick("digits")[0] is not first)
        assert repository.pick("digits")[0].bundle.quality == {"accuracy": 0.5}
        assert (
            state(repository, "1") == {"state": "ready", "reason": ""} and tries == ["digits/1"] * 3
        )

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 99}, "format 99"),
        ({"classes": 3}, "classes must be a list of text"),
        ({"sha256": {"../../secret": "0"}}, "sha256 must list the model"),
        (
            {"sample": {"file": "sample.png", "probabilities": [1.0] + [0.0] * 9}},
            "sample must name one of its files",
        ),
    ],
)
def test_a_bad_bundle_is_refused_at_the_start(put, tmp_path, changes, reason):
    put("digits/1")
    put("digits/2", **changes)

    async def scenario(repository):
        assert repository.ready and repository.pick("digits")[0].name == "1"
        assert (
            state(repository, "2")["state"] == "refused"
            and reason in state(repository, "2")["reason"]
        )
        with pytest.raises(Refused, match="cannot be loaded: .*"):
            await repository.load("digits", "2")
        await answer(repository.pick("digits")[0])

    serve(tmp_path, scenario)


def test_a_bundle_that_fails_its_own_sample_is_refused(tmp_path):
    image = np.random.default_rng(3).integers(0, 256, (8, 8, 1), np.uint8)
    (tmp_path / "digits/2").mkdir(parents=True)
    wrong = write_sample(tmp_path / "digits/2", image, lambda images: (np.full((1, 10), 0.1), None))
    write_bundle(tmp_path / "digits/2", sample=wrong)
    write_bundle(tmp_path / "digits/1")

    async def scenario(repository):
        assert (
            repository.pick("digits")[0].name == "1"
            and "fails its self-test" in state(repository, "2")["reason"]
        )

    serve(tmp_path, scenario)


def test_traffic_is_followed_and_a_bad_file_changes_nothing(put, tmp_path):
    for name in ("digits/1", "digits/2", "digits/3"):
        put(name)
    file = tmp_path / "digits/traffic.json"
    file.write_text('{"weights": {"1": 1}, "shadow": "3"}')

    def picked(repository):
        return [v.name if v else None for v in repository.pick("digits", key="user")]

    async def scenario(repository):
        assert picked(repository) == ["1", "3"] and repository.get("digits").name == "1"
        # who names a version gets it, and nobody else does
        assert repository.pick("digits", "2")[1] is None
        file.write_text('{"weights": {"1": 1')
        await until(
            lambda: repository.states()["digits"]["reason"] == "traffic.json: it is not valid JSON"
        )
        assert picked(repository) == ["1", "3"]
        # 7 is not there, 2 is the one that answers
        file.write_text('{"weights": {"2": 1, "7": 1}, "shadow": "2"}')
        await until(lambda: picked(repository) == ["2", None])
        assert (
            repository.states()["digits"]["reason"]
            == "traffic.json names 7, but there is no such directory"
        )
        file.unlink()
        await until(lambda: picked(repository) == ["3", None])

    serve(tmp_path, scenario)


def test_links_and_odd_names_lead_nowhere(put, tmp_path):
    root = tmp_path / "models"
    put("models/digits/1")
    put("outside/9")
    (root / "digits/9").symlink_to(tmp_path / "outside/9")
    (root / "digits/2").symlink_to("1")
    (root / "digits/8").symlink_to(root)
    (root / "cats").symlink_to(tmp_path / "outside")
    put("models/digits/.3")
    put("models/digits/a b")
    put("models/-f/1")
    (root / "README").write_text("digits are served here")

    async def scenario(repository):
        assert repository.models() == {"digits": ["1", "2"]}
        for name, model in (("9", "digits"), ("8", "digits"), ("9", "cats")):
            assert state(repository, name, model)["state"] == "refused", name
            assert "outside the models' directory" in state(repository, name, model)["reason"]
        assert repository.states().keys() == {"digits", "cats"}

    serve(root, scenario)


def test_a_file_whose_mode_changes_is_tried_again(put, tmp_path, tries):
    folder = put("digits/1")

    async def scenario(repository):
        (folder / "model.onnx").chmod(0o600)
        await until(lambda: tries == ["digits/1", "digits/1"])

    serve(tmp_path, scenario)


def test_the_directory_may_be_a_link_that_moves(put, tmp_path):
    """As git-sync has it, and who says `current`."""
    put("r1/digits/1"), put("r2/digits/1"), put("r2/digits/2")
    (tmp_path / "current").symlink_to("r1")

    async def scenario(repository):
        assert repository.models() == {"digits": ["1"]}
        (tmp_path / "new").symlink_to("r2")
        os.replace(tmp_path / "new", tmp_path / "current")
        await until(lambda: repository.models() == {"digits": ["1", "2"]})
        shutil.rmtree(tmp_path / "r1")
        await scans(repository)
        await answer(repository.pick("digits", "1")[0])

    serve(tmp_path / "current", scenario)


def test_what_is_left_out_is_said_once(put, tmp_path, caplog):
    put("digits/1"), put("digits/b (new)"), put("my model/1"), put("flat")
    put("deep/1/x")

    async def scenario(repository):
        await scans(repository)
        assert repository.models() == {"digits": ["1"]} and len(repository.left_out) == 3
        for said in ("'digits/b (new)' is ignored", "'my model' is ignored", "move it to flat/1"):
            assert caplog.text.count(said) == 1

    serve(tmp_path, scenario)


def test_closing_answers_what_has_begun(put, tmp_path):
    put("digits/1")

    async def scenario(repository):
        version = repository.pick("digits")[0]
        repository.drain()
        assert not repository.ready and repository.pick("digits")[0] is version
        await answer(version)
        with version.in_use():
            closing = asyncio.create_task(repository.close())
            await asyncio.sleep(0.05)
            late_answer = await version.batcher.submit(np.zeros((3, 8, 8, 1), np.uint8))
            assert len(late_answer.probabilities) == 3 and not closing.done()
        await closing

    serve(tmp_path, scenario)
