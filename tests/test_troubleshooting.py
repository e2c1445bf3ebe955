"""docs/troubleshooting.md: messages that a command prints at once are on the page word for word.

Those of other entries are compared with the code's texts: tests/test_blocks.py.
"""

import importlib
import re
import shlex
import socket

import pytest

from tests.conftest import REPOSITORY
from tests.support.commands import refusal
from tests.support.messages import share_of_templates
from tests.support.pages import PAGES, fenced
from tests.support.tiny_bundle import write_bundle
from vision.errors import UserError
from vision.support import extras

PAGE = PAGES["docs/troubleshooting.md"]
MESSAGES = [code.strip() for language, code in fenced(PAGE) if language == "text"]


@pytest.mark.parametrize(
    "command",
    [
        "vision.main --config configs/digits.py --config.train.step=3",
        "vision.main --config configs/digits.py --config.train.batch_size=0",
        "vision.main --config configs/resnet_mnist.py",
        "vision.main photo",
        "vision.main photos/",
        "vision.evaluation --workdir runs/pet",
    ],
)
def test_a_mistake_is_answered_as_the_page_says(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").touch()
    monkeypatch.chdir(tmp_path)
    name, *words = shlex.split(command)
    module = importlib.import_module("vision.evaluation.__main__" if "eval" in name else name)
    message = refusal(module.main, capsys, *words)
    assert f"error: {message}" in MESSAGES


def test_a_stage_that_lacks_packages(monkeypatch):
    monkeypatch.setattr(extras, "is_missing", lambda package: True)
    with pytest.raises(UserError) as refused:
        extras.require("the audit", "audit", only=("cleanlab", "pandas"))
    assert f"error: {refused.value}" in MESSAGES


def test_a_message_that_mixes_texts_of_the_code_is_noticed():
    (message,) = (text for text in MESSAGES if "does not hold" in text or "is in use by" in text)
    assert share_of_templates(message) > 0.99
    mixed = f"{message}; there is no folder with it, and the hub cannot be reached from there"
    assert share_of_templates(mixed) < 0.9


def test_a_port_that_is_in_use(tmp_path, capsys):
    from vision.serving import __main__ as serving

    write_bundle(tmp_path / "tiny" / "1")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        flags = ("--models", tmp_path, "--http-port", port, "--grpc-port", 0)
        message = refusal(serving.main, capsys, *flags)
    assert f"error: {message}".replace(str(port), "8080") in MESSAGES


def test_every_entry_has_a_remedy():
    entries = re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]
    for entry in entries:
        title = entry.split("\n")[0]
        assert "**Remedy.**" in entry or "| what to do |" in entry, title
