"""The pages keep their word: links, commands, flags, keys, README's model, DESIGN's floors."""

import os
import re
import runpy
import shlex
import sys

import pytest
from absl import flags

from scripts import style
from tests.conftest import REPOSITORY
from vision import cli, objectives
from vision.config.flags import parse
from vision.config.schema import SECTIONS, all_keys
from vision.errors import UserError
from vision.stages import stages

PAGES = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text()
    for path in sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])
}
PROGRAMS = r"(?:python -m (?:vision|scripts)\b|\./scripts/)"
# `model.onnx` is a file, `model.dtype` a key
MODULES = {stage.name: stage.module for stage in stages()}
FILES = ("json", "onnx", "tflite", "mlpackage", "ort", "py", "safetensors", "csv", "png")


def blocks(text, language=""):
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [block for name, block in fenced if name == language]


def commands(text):
    """Returns the commands of a page: lines of its code blocks, and what stands in backticks."""
    lines = "".join(blocks(text)).replace("\\\n", "").splitlines()
    outside = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines += re.findall(r"`([^`]+)`", outside.replace("\n", " "))
    words = [shlex.split(line, comments=True) for line in lines if re.match(PROGRAMS, line)]
    return [line for line in words if line]


def slug(title):
    """Returns a title's anchor on GitHub."""
    return re.sub(r"[^\w-]", "", title.lower().replace(" ", "-"))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        path = (REPOSITORY / page).parent / name if name else REPOSITORY / page
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)", path.read_text(), re.MULTILINE)
            assert anchor in map(slug, titles), target


@pytest.mark.parametrize("page", PAGES)
def test_config_keys_exist(page):
    names = re.findall(r"--config\.([\w.]+)=", PAGES[page])
    names += re.findall(r"`(\w+\.[\w.]+)(?:=[^`]*)?`", PAGES[page])
    for name in names:
        section, _, rest = name.partition(".")
        key = rest.partition(".")[0]
        if section in SECTIONS and key not in FILES:
            assert f"{section}.{key}" in all_keys(), name


def programs():
    """Returns [(module or script, its words, page)] of every command on the pages."""
    every = []
    for page, text in PAGES.items():
        for words in commands(text):
            program, rest = (words[2], words[3:]) if words[0] == "python" else (words[0], words[1:])
            if program == "./scripts/vision" and rest:  # a stage, which is a module
                program, rest = MODULES[rest[0]], rest[1:]
            if "..." not in rest:
                every.append((program, rest, page))
    return every


def test_commands_exist_and_have_their_configs():
    for program, words, page in programs():
        if program.startswith("./"):
            assert (REPOSITORY / program).is_file(), f"{page}: {program}"
        for word in words:
            if word.startswith("configs/"):
                assert (REPOSITORY / word.split(":")[0]).is_file(), f"{page}: {word}"
            if program == "./scripts/test" and word.startswith("tests/"):
                assert (REPOSITORY / word).exists(), f"{page}: {word}"


def test_training_commands_fit_their_objectives():
    """Each config with its overrides is accepted by the objective that it names."""
    for program, words, page in programs():
        is_own = any("my_idea" in word for word in words)  # of the reader, not of this checkout
        if program != "vision.main" or "--config" not in words or is_own:
            continue

        def define_workdir(values):
            flags.DEFINE_string("workdir", "", "", flag_values=values)

        try:
            config, _ = parse(words, "", define_workdir)
            objectives.define(config.objective)
        except UserError as error:
            pytest.fail(f"{page}: {' '.join(words)}: {error}")


@pytest.mark.parametrize("module", sorted({p for p, _, _ in programs() if "/" not in p}))
def test_flags_exist(module, monkeypatch, capsys):
    """`MODULE --help` names every flag that a page gives it."""
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    monkeypatch.setattr(os, "_exit", sys.exit)  # the server's own end
    try:
        runpy.run_module(module, run_name="__main__")
    except SystemExit as ended:
        assert not ended.code
    text = capsys.readouterr().out
    for program, words, page in programs():
        for word in words if program == module else ():
            if word.startswith("--") and not word.startswith("--config."):
                assert re.search(rf"{word.split('=')[0]}\b", text), f"{page}: {module} {word}"


def test_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 150


def test_the_model_of_readme_trains(tmp_path, monkeypatch):
    from vision import main

    (code,) = blocks(PAGES["README.md"], "python")
    (tmp_path / "an_idea").mkdir()
    (tmp_path / "an_idea" / "model.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    (command,) = [words for words in commands(PAGES["README.md"]) if "my_idea" in " ".join(words)]
    argv = [word.replace("experiments.my_idea", "an_idea") for word in command[3:]]
    argv[1] = f"{REPOSITORY}/{argv[1]}:smoke"
    flags = ("--config.parallel.devices=1", "--config.log.tensorboard=False")
    cli.run(main.main, [*argv, *flags, f"--workdir={tmp_path / 'run'}"])
    assert (tmp_path / "run" / "result.json").is_file()
    del sys.modules["an_idea"], sys.modules["an_idea.model"]


def test_design_draws_the_floors_as_they_are():
    rooms = {source.room for source in style.read(REPOSITORY)}
    floors = [tuple(room for room in floor if room in rooms) for floor in style.FLOORS]
    (picture,) = [block for block in blocks(PAGES["DESIGN.md"]) if block.startswith("__main__\n")]
    drawn = [tuple(line.split("◄")[0].split()) for line in picture.splitlines()]
    assert drawn[::-1] == [floor for floor in floors if floor]
