"""Runs a compiled pipeline on this machine, without Kubernetes: to try it, and in tests.

    python -m scripts.kubeflow.local pipelines/collect.yaml --root runs/kubeflow \\
        bundle=models/pets/3 log=predictions count=100

Steps run one after the other, in this environment, which needs this project and kfp; the image is
not used. What they write is below --root. Exits with 1 if a step fails.
"""

import argparse
import pathlib
import re
import warnings

from vision import cli
from vision.errors import RunError, UserError, printable

COLORS = re.compile(r"\x1b\[[\d;]*m")  # of the terminal, in kfp's messages


def main(argv: list[str]) -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("pipeline", type=pathlib.Path, help="YAML of scripts.kubeflow.compile")
    p.add_argument("arguments", nargs="*", metavar="NAME=VALUE")
    p.add_argument("--root", type=pathlib.Path, default=pathlib.Path("runs/kubeflow"))
    a = p.parse_intermixed_args(argv)
    if not a.pipeline.is_file():
        raise UserError(f"there is no {a.pipeline}: python -m scripts.kubeflow.compile writes it")
    try:
        from kfp import components, local
    except ImportError as error:
        raise UserError(
            "this needs kfp: pip install --requirement scripts/kubeflow/requirements.txt"
        ) from error
    warnings.filterwarnings("ignore", message="You may be attemping to run a task")  # kfp's typo
    pipeline = components.load_component_from_file(str(a.pipeline))
    inputs = pipeline.component_spec.inputs or {}
    values = parse(a.arguments, {name: spec.type for name, spec in inputs.items()})
    missing = [name for name, spec in inputs.items() if not spec.optional and name not in values]
    if missing:
        raise UserError(f"{a.pipeline} needs {', '.join(f'{name}=...' for name in missing)}")
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(a.root))
    try:
        pipeline(**values)
    except RuntimeError as error:
        reason = printable(COLORS.sub("", str(error)))
        raise RunError(f"{a.pipeline} did not end: {reason}") from error
    cli.show(f"{a.pipeline} has ended: {a.root}")


def parse(words: list[str], types: dict[str, str]) -> dict[str, str | int]:
    """Returns {name: value} of a pipeline's arguments.

    Args:
        words: NAME=VALUE.
        types: {name: type in the pipeline}, "NUMBER_INTEGER" or another, which is text.

    Raises:
        UserError: one is not of that form, or the pipeline does not have it.
    """
    values: dict[str, str | int] = {}
    for word in words:
        name, mark, text = word.partition("=")
        if not mark or name not in types:
            names = ", ".join(types)
            raise UserError(f"arguments are NAME=VALUE of {names}, got {word!r}")
        is_integer = types[name] in ("Integer", "NUMBER_INTEGER")
        try:
            values[name] = int(text) if is_integer else text
        except ValueError as error:
            raise UserError(f"{name} must be an integer, got {text!r}") from error
    return values


if __name__ == "__main__":
    cli.run(main)
