"""Finds the module that a config names: one of ours, or a research module outside the package."""

import importlib
import pkgutil
import types
from typing import NoReturn

from vision.errors import UserError, check_choice


def find(kind: str, name: str, package: str) -> types.ModuleType:
    """Imports `package.name`, or `name` itself if it is dotted, and checks that it has `build`.

    Args:
        kind: "model" or "objective", for messages.
        name: a bare name ("vit"), or a dotted one ("experiments.my_idea.model").
        package: dotted name of the package with our modules.

    Raises:
        UserError: if there is no such module, or it has no `build`. Errors inside the module itself
            pass through.
    """
    dotted = name if "." in name else f"{package}.{name}"
    if not all(dotted.split(".")):  # such as ".vit"
        _refuse(kind, name, package)
    try:
        module = importlib.import_module(dotted)
    except ModuleNotFoundError as error:
        if not (error.name and (dotted + ".").startswith(error.name + ".")):
            raise  # the module exists, but something that it imports does not
        _refuse(kind, name, package)
    if not hasattr(module, "build"):
        ours = ", ".join(names(package))
        raise UserError(
            f"{kind}.name = '{name}': module {dotted} has no build function; built-in: {ours}"
        )
    return module


def names(package: str) -> list[str]:
    """Returns the sorted bare names of a package's modules that define `build`."""
    path = importlib.import_module(package).__path__
    modules = sorted(m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_"))
    return [m for m in modules if hasattr(importlib.import_module(f"{package}.{m}"), "build")]


def _refuse(kind: str, name: str, package: str) -> NoReturn:
    if "." not in name:
        check_choice(f"{kind}.name", name, names(package), ", or a dotted module name")
    raise UserError(
        f"{kind}.name = '{name}': there is no such module on the path; "
        "run from the folder that contains it"
    )
