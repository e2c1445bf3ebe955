"""From a name in a config to the module that builds it: a file of ours, or a research module outside the package."""

import difflib
import importlib
import pkgutil

from vision.errors import UserError


def find(kind, name, package):
    """Imports `package.name`, or `name` itself where it is dotted, and checks that it has a `build` function.

    Args:
        kind: "model" or "objective", for messages.
        name: a bare name ("vit"), or a dotted one ("experiments.my_idea.model").
        package: the dotted package that holds ours.

    Raises:
        UserError: if there is no such module, or it has no `build`. Errors inside the module itself pass through.
    """
    dotted = name if "." in name else f"{package}.{name}"
    try:
        module = importlib.import_module(dotted)
    except ModuleNotFoundError as error:
        if not (error.name and (dotted + ".").startswith(error.name + ".")):
            raise  # the module exists; something that it imports does not
        raise UserError(_missing(kind, name, package)) from error
    if not hasattr(module, "build"):
        raise UserError(f"{kind} '{name}': module {dotted} has no build function" + _choices(package))
    return module


def names(package):
    """Lists the bare names of a package's modules that define `build`."""
    path = importlib.import_module(package).__path__
    found = sorted(m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_"))
    return [n for n in found if hasattr(importlib.import_module(f"{package}.{n}"), "build")]


def _choices(package):
    return f"; ours are {', '.join(names(package))}"


def _missing(kind, name, package):
    if "." in name:
        return f"no module '{name}' for the {kind}: is it on the path? Run from the folder that holds it"
    near = difflib.get_close_matches(name, names(package), n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"unknown {kind} '{name}'{hint}{_choices(package)}, or a dotted module name"
