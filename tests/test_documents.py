"""The pages keep their word: links, commands, flags, keys, README's model, DESIGN's floors."""

import ast
import os
import re
import runpy
import sys

import pytest
from absl import flags

from scripts import style
from tests.conftest import REPOSITORY
from tests.support.pages import (
    BESIDE,
    FENCE,
    PAGES,
    blocks,
    commands,
    is_parsed,
    programs,
    read,
    slug,
)
from vision import cli, objectives
from vision.config.flags import parse
from vision.config.schema import SECTIONS, all_keys
from vision.errors import UserError

LINKING = PAGES | read(*BESIDE)
# `model.onnx` is a file, `model.dtype` a key
FILES = ("json", "onnx", "tflite", "mlpackage", "ort", "py", "safetensors", "csv", "png")


@pytest.mark.parametrize("page", LINKING)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", LINKING[page])):
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
    text = re.sub(r"^```text.*?^```", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    names = re.findall(r"--config\.([\w.]+)=", text)
    names += re.findall(r"`(\w+\.[\w.]+)(?:=[^`]*)?`", text)
    for name in names:
        section, _, rest = name.partition(".")
        key = rest.partition(".")[0]
        if section in SECTIONS and key not in FILES:
            assert f"{section}.{key}" in all_keys(), name


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


# the others are parsed: tests/test_blocks.py
BY_HELP = {c.program for c in programs() if "/" not in c.program and not is_parsed(c)}


@pytest.mark.parametrize("module", sorted(BY_HELP))
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


def test_the_readme_measures_what_its_configs_say():
    """Each accuracy and time of its table is in the config's docstring, and the first command has
    those of the config that it trains."""
    readme = PAGES["README.md"]
    row = r"^\| `.*--config (configs/\w+\.py)` \| (.*) \| (.*) \|$"
    rows = {config: cells for config, *cells in re.findall(row, readme, re.MULTILINE)}
    assert len(rows) == 3
    for config, (accuracies, times) in rows.items():
        docstring = ast.get_docstring(ast.parse((REPOSITORY / config).read_text()))
        words = re.sub(r"\s+", " ", docstring)
        for pattern, cell in ((r"[\d.]+ ± [\d.]+ %", accuracies), (r"\d+ s\b", times)):
            numbers = re.findall(pattern, cell)
            assert numbers
            assert set(numbers) <= set(re.findall(pattern, words)), config
    script = (REPOSITORY / "scripts" / "train").read_text()
    (default,) = set(re.findall(r"locate (configs/\w+\.py)", script))
    accuracies, times = rows[default]
    comment = r"scripts/train +# .*: ([\d.]+) % in about (\d+) minutes"
    ((percent, minutes),) = re.findall(comment, readme)
    assert set(re.findall(r"([\d.]+) ±", accuracies)) == {percent}
    # the command takes longer than the training, but not by a minute
    fastest = min(map(int, re.findall(r"(\d+) s\b", times)))
    assert 0 <= 60 * int(minutes) - fastest < 60


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
    (picture,) = [
        block for block in blocks(PAGES["DESIGN.md"], "text") if block.startswith("__main__\n")
    ]
    drawn = [tuple(line.split("◄")[0].split()) for line in picture.splitlines()]
    assert drawn[::-1] == [floor for floor in floors if floor]
