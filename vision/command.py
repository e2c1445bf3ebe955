"""The command `vision`: starts a stage by its name, exactly as `python -m` starts its module.

    vision                          # the table of stages
    vision train photos/            # python -m vision.main photos/
    vision evaluate --help          # the stage's own help

`python -m vision` and `./scripts/vision` are the same. Nothing heavy is imported here, so that the
table and the message about a mistyped name are there at once.
"""

import contextlib
import difflib
import os
import runpy
import signal
import sys
from collections.abc import Sequence

from vision.errors import printable
from vision.stages import BASICS, CALLED_AS, GROUPS, SYNONYMS, stages
from vision.stages import program as called

EXTRAS = "--extras"  # scripts/vision: prints what a stage needs beside "basics", and ends
EXAMPLE = "{program} train photos/        # a folder with one folder of images per class"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; does not return.

    Args:
        argv: arguments; None for those of this process.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the stage takes over: no traceback
    arguments = list(sys.argv[1:] if argv is None else argv)
    program = called() or "vision"
    if arguments[:1] == [CALLED_AS]:
        arguments = arguments[2:]
    modules = {stage.name: stage.module for stage in stages()}
    if arguments[:1] == [EXTRAS]:
        wanted = [stage.extras for stage in stages() if stage.name in arguments[1:2]]
        print(*(extra for extras in wanted for extra in extras if extra not in BASICS))
        sys.exit(0)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(table(program))
        sys.exit(0)
    if arguments[0] == "--version":
        from vision.version import __version__

        print(f"vision {__version__}")
        sys.exit(0)
    name, *rest = arguments
    if name not in modules:
        print(f"error: {printable(unknown(name, program))}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [name, *rest]
    with contextlib.suppress(OSError):  # it was removed: the stage says so
        sys.path.append(os.getcwd())  # own models and objectives, as for `python -m`
    try:
        runpy.run_module(modules[name], run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        if "--traceback" in rest or (error.name or "vision").partition(".")[0] == "vision":
            raise
        print(f"error: {printable(no_package(error.name, program))}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def no_package(module: str | None, program: str) -> str:
    """Returns the message if a stage imports a package that this Python lacks."""
    return (
        f"{sys.executable} has no module '{module}': is this the environment in which vision was "
        f"installed? (source .venv/bin/activate) {program} doctor lists what is missing"
    )


def table(program: str) -> str:
    """Returns the stages as a table, grouped, with an example.

    Args:
        program: how the command was called, such as "vision".
    """
    width = max(len(stage.name) for stage in stages())
    lines = [f"usage: {program} STAGE ...", "", f"  {EXAMPLE.format(program=program)}"]
    for title, group in GROUPS.items():
        lines += ["", title]
        lines += [f"  {stage.name:<{width}}  {stage.meaning}" for stage in group]
    lines += ["", f"{program} STAGE --help shows its flags; {program} --version, the version."]
    return "\n".join(lines)


def unknown(name: str, program: str) -> str:
    """Returns the message for a name that is not a stage, with the stages that may be meant."""
    names = [stage.name for stage in stages()]
    near: Sequence[str] = SYNONYMS.get(name.lower(), ())
    if not near:
        near = difflib.get_close_matches(name.lower(), names, n=1)
    if name.startswith("-") or os.path.exists(name):
        near = ("train",)
    hint = " or ".join(f"{program} {word}" for word in near)
    question = f"did you mean: {hint}?" if hint else f"{program} --help lists them"
    return f"there is no stage '{name}': {question}"
