"""Lists the configs that come with this package, with what each one trains.

    python -m vision.config.shipped            # all
    python -m vision.config.shipped cifar10    # those with this word in their name or title

`--config configs/NAME.py` means one of these if the working directory has no such file, so an
installed package needs no checkout. They are the folder configs/ of a checkout, or its copy in a
wheel.
"""

import ast
import functools
import importlib
import pathlib
import sys
import types
from collections.abc import Sequence

from vision import cli
from vision.errors import UserError
from vision.stages import as_called

FOLDER = "configs"


def folder() -> pathlib.Path:
    """Returns the folder of the configs that came with this package."""
    package = pathlib.Path(__file__).parents[1]
    inside = package / FOLDER  # of a wheel
    return inside if inside.is_dir() else package.parent / FOLDER


def locate(path: str) -> str:
    """Returns the path of a config or space, which may be one that came with this package.

    Args:
        path: a file. If there is none, and it begins with configs/, the package's own is meant.

    Returns:
        The path of that file; `path` itself if there is none either.
    """
    first, *rest = pathlib.PurePath(path).parts or ("",)
    if first != FOLDER or pathlib.Path(path).is_file():
        return path
    file = folder().joinpath(*rest)
    if ".." in rest or not file.is_file():
        return path
    _report(path, str(file))
    return str(file)


def names() -> list[str]:
    """Returns the paths of all of these configs, as --config takes them: "configs/digits.py"."""
    return sorted(f"{FOLDER}/{file.name}" for file in folder().glob("*.py"))


def make_importable() -> None:
    """Lets these configs import each other as `configs.NAME`, as they do in a checkout."""
    place = str(folder())
    try:
        package = importlib.import_module(FOLDER)
    except ModuleNotFoundError:
        package = types.ModuleType(FOLDER)
        package.__path__ = []
        sys.modules[FOLDER] = package
    if place not in package.__path__:
        package.__path__ = [*package.__path__, place]


@functools.cache
def _report(path: str, file: str) -> None:
    """Says once which file is meant; on stderr, as stdout may be a table."""
    print(f"note: there is no {path} here: using {file}", file=sys.stderr)


def main(argv: Sequence[str]) -> None:
    if {"-h", "--help"} & set(argv):
        print(as_called((__doc__ or "").strip()))
        return
    if len(argv) > 1 or any(word.startswith("-") for word in argv):
        raise UserError("give at most one word: python -m vision.config.shipped cifar10")
    word = argv[0].lower() if argv else ""
    titles = {name: _title(folder() / pathlib.PurePath(name).name) for name in names()}
    rows = {n: title for n, title in titles.items() if word in f"{n} {title}".lower()}
    if not rows:
        raise UserError(f"no config has '{word}' in its name or title")
    width = max(map(len, rows))
    cli.show(*(f"{name:<{width}}  {title}" for name, title in rows.items()))


def _title(file: pathlib.Path) -> str:
    """Returns the first line of a file's docstring."""
    docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
    return docstring.partition("\n")[0]


if __name__ == "__main__":
    cli.run(main)
