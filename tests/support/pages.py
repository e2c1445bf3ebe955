"""The Markdown pages of the repository: their blocks, and the commands on them."""

import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from tests.conftest import REPOSITORY
from vision.stages import stages

PLACES = ("*.md", ".github/**/*.md", "docs/**/*.md")
# These have blocks of their own kinds, which tests beside their scripts run.
BESIDE = ("experiments/*/README.md", "scripts/*/README.md")
PROGRAMS = r"(?:python -m (?:vision|scripts)\b|\./scripts/|vision [a-z])"
MODULES = {stage.name: stage.module for stage in stages()}
# Stages that do not read the flags of a config first, and stop by themselves.
ALONE = (
    "vision",
    "vision.config",
    "vision.config.shipped",
    "vision.doctor",
    "vision.serving.client",
)
PLACEHOLDERS = {"DIR", "FILE", "WORD"}
FENCE = re.compile(r"^(`{3,})(\w*)\n(.*?)^\1$", re.DOTALL | re.MULTILINE)


def read(*patterns: str) -> dict[str, str]:
    """Returns {path from the repository: text} of the pages that patterns match."""
    paths = sorted(path for pattern in patterns for path in REPOSITORY.glob(pattern))
    return {path.relative_to(REPOSITORY).as_posix(): path.read_text() for path in paths}


PAGES = read(*PLACES)


class Command(NamedTuple):
    """A command on a page: module or script, its arguments, and the page."""

    program: str
    words: list[str]
    page: str

    def __str__(self) -> str:
        return f"{self.page}: {self.program} {shlex.join(self.words)}"


def fenced(text: str) -> list[tuple[str, str]]:
    """Returns [(language, code)] of a page's blocks."""
    return [(language, code) for _, language, code in FENCE.findall(text)]


def blocks(text: str, language: str = "") -> list[str]:
    """Returns the blocks of one language; those without a language are commands."""
    return [code for name, code in fenced(text) if name == language]


def lines(code: str) -> list[str]:
    """Returns the lines of commands, those that go on after a backslash joined."""
    return [line for line in code.replace("\\\n", "").splitlines() if line.strip()]


def simple_commands(line: str) -> list[list[str]]:
    """Returns the words of each command of a line of the shell, which may join several."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    commands: list[list[str]] = [[]]
    for word in lexer:
        if word in (";", "&&", "||", "|"):
            commands.append([])
        else:
            commands[-1].append(word)
    return [words for words in commands if words]


def commands(text: str) -> list[list[str]]:
    """Returns the words of our own commands on a page, in its blocks and in backticks."""
    parts = [line for code in blocks(text) for line in lines(code)]
    parts += re.findall(r"`([^`]+)`", FENCE.sub("", text).replace("\n", " "))
    every = [words for line in parts if _may_be_ours(line) for words in simple_commands(line)]
    return [words for words in every if re.match(PROGRAMS, " ".join(words))]


def _may_be_ours(line):
    return re.search(rf"(?:^|; |&& ){PROGRAMS}", line)


def programs() -> Iterator[Command]:
    """Yields every command of ours on the pages, unless it leaves something out by "..."."""
    for page, text in PAGES.items():
        for words in commands(text):
            program, rest = (words[2], words[3:]) if words[0] == "python" else (words[0], words[1:])
            if program in ("./scripts/vision", "vision") and rest and rest[0] in MODULES:
                program, rest = MODULES[rest[0]], rest[1:]
            if "..." not in rest:
                yield Command(program, rest, page)


def is_parsed(command: Command) -> bool:
    """Returns whether a command's own stage can read it; of the others, --help names the flags."""
    is_stage = command.program.startswith("vision") and command.program not in ALONE
    return is_stage and not PLACEHOLDERS & set(command.words)


def slug(title: str) -> str:
    """Returns a title's anchor on GitHub."""
    return re.sub(r"[^\w-]", "", title.lower().replace(" ", "-"))
